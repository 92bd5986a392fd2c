"""Files that somebody wrote in YAML or JSON, read as text and no further."""

from __future__ import annotations

from pathlib import Path

from adumbra.schema.errors import InputError


def read_text(path: Path, what: str, length: str, most_bytes: int) -> str:
    """The text of a file. what, length: what it should be, and how long such a thing is, in words.

    Raises InputError where it can't be read or is larger than most_bytes, UnicodeDecodeError where it isn't UTF-8.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise InputError(f"{path} is too large to be {what}", f"{what} is {length} of YAML or JSON")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})", f"give the path of {what} in YAML or JSON") from None
