"""Locks in files: held as long as the process lives, let go of by the system when it dies. Waits for none."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Self

from adumbra.schema.errors import ConflictError, StoreError


class FileLock:
    """One process at a time holds it, and no child of it. Opened by `with`. what, mend: of the error where it is held."""

    def __init__(self, file: Path, what: str, mend: str) -> None:
        self._path, self._what, self._mend = file, what, mend
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Raises ConflictError where another process holds it, StoreError where the file can't be made."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+")
        except OSError as error:
            raise StoreError(
                f"{self._path} can't be opened ({error.strerror})", "give this user the right to write that folder"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read(20).strip()
            file.close()
            by = f" (process {holder})" if holder.isdecimal() else ""
            raise ConflictError(f"{self._what}{by}", self._mend) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *exc: object) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
