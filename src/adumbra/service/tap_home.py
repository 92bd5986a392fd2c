"""A tap's folder on its own host: who it is, what it followed last, what waits to be sent. One process at a time has it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from adumbra.schema.errors import ConflictError, StoreError
from adumbra.store.files import replace_file

_INSTANCE = re.compile(r"[A-Za-z0-9_-]{16}")


class TapHome:
    """Opened by `with`. instance: the tap's word for itself, the same each time that it is started in this folder.

    Raises ConflictError where another process has the folder, StoreError where it can't be written.
    """

    def __init__(self, home: Path, network: str, source: str, number: int | None = None) -> None:
        told = "\n".join((network, source, str(number)))
        self.folder = home / "taps" / f"{network}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"
        self.spool = self.folder / "spool"
        self.instance = ""
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take()
            self.instance = self._instance()
        except OSError as error:
            self.__exit__()
            raise StoreError(
                f"the tap's folder {self.folder} can't be used ({error.strerror})", "set ADUMBRA_HOME to a folder you can write"
            ) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def remember(self, told: Mapping[str, Any]) -> None:
        """Keeps what the tap is to go on with where it is started while no server answers."""
        replace_file(self.folder / "followed.json", json.dumps(told).encode())

    def remembered(self) -> dict[str, Any] | None:
        """What was kept last; None where nothing was, or it can't be read."""
        try:
            told = json.loads((self.folder / "followed.json").read_bytes())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another process of this host taps that for that network already ({self.folder})",
                "end that one first, or give this one another ADUMBRA_HOME",
            ) from None

    def _instance(self) -> str:
        file = self.folder / "instance"
        known = file.read_text(encoding="ascii").strip() if file.exists() else ""
        if not _INSTANCE.fullmatch(known):
            known = secrets.token_urlsafe(12)
            replace_file(file, known.encode())
        return known
