"""Keeps how far a training is in one file, put in place whole: a reader finds the last whole one, or none.
Arrays and a key only, no pickle. A file that is of another training, or broken, counts as none."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = Sequence[NDArray[np.float32 | np.int32]]


def key_of(texts: Sequence[str], arrays: Sequence[NDArray[np.float32]]) -> str:
    """What a training is known by: its settings as text, and what it learns from."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write(path: Path, key: str, arrays: Arrays) -> None:
    """Puts the arrays in place of what the file held, after they have reached the disk. Raises OSError."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, key=np.array(key), **{f"a{i}": np.asarray(part) for i, part in enumerate(arrays)})
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path, key: str, like: Arrays) -> list[NDArray[np.float32 | np.int32]] | None:
    """The arrays that were written under the key, of the same shapes and types as `like`; None where there are none such."""
    try:
        with np.load(path, allow_pickle=False) as held:
            if str(held["key"]) != key:
                return None
            found = [held[f"a{i}"] for i in range(len(like))]
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    fits = all(a.shape == np.shape(b) and a.dtype == np.asarray(b).dtype for a, b in zip(found, like, strict=True))
    return found if fits else None
