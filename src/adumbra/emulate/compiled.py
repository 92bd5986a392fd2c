"""How the emulator's kernels are compiled, and when what is kept of that on disk is out of date. Compiles nothing itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit


def _sources() -> str:
    """A mark of all that a kernel of this package may call: Numba itself looks at the file of the caller alone."""
    folder = Path(__file__).parent
    files = [
        folder / "compiled.py",
        folder / "queueing.py",
        *sorted(folder.rglob("*layout.py")),
        *sorted(folder.rglob("*kernels.py")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_SOURCES = _sources()


def _cached(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    if config.DISABLE_JIT:  # it runs as Python, for a debugger
        return dispatcher
    cache = dispatcher._cache  # noqa: SLF001 Numba has no public way to say what else a cached function depends on
    by_caller = cache._index_key  # noqa: SLF001
    cache._index_key = lambda signature, codegen: (*by_caller(signature, codegen), _SOURCES)  # noqa: SLF001
    return dispatcher


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel that allocates nothing, so that references to arrays need not be counted."""
    return _cached(function, _nrt=False)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of such kernels that is always compiled into them."""
    return _cached(function, _nrt=False, inline="always")
