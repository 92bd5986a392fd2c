"""Files that must be there whole after a power cut: replaced at once, or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` in a file's place: written beside it, forced to disk, renamed, and the folder forced to disk too."""
    beside = path.with_name(f"{path.name}.new")
    try:
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(file: int, content: bytes) -> None:
    """All of it, however many writes that takes."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def sync_folder(path: Path) -> None:
    """Forces to disk which files a folder has."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
