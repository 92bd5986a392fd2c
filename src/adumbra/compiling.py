"""How kernels are compiled, and when what Numba keeps of them on disk is out of date. Compiles nothing itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from numba import config, njit


class Kernels:
    """Compiles the kernels of a package. `sources`: the files that any of them may call.

    Numba itself looks at the file of the caller alone: what it keeps is marked with the hash of all of them.
    """

    def __init__(self, sources: Iterable[Path]) -> None:
        self._mark = hashlib.sha256(b"".join(file.read_bytes() for file in (Path(__file__), *sources))).hexdigest()

    def compiled(self, function: Callable[..., Any]) -> Any:
        """A kernel that allocates nothing, so that references to arrays need not be counted: that took a third of the time."""
        return self._cached(function, _nrt=False)

    def inlined(self, function: Callable[..., Any]) -> Any:
        """A part of such kernels that is always compiled into them.

        By LLVM: Numba's own inlining made the meter 3 to 7 % faster, and took 100 s to compile in place of 45.
        """
        return self._cached(function, _nrt=False, forceinline=True)

    def allocating(self, function: Callable[..., Any]) -> Any:
        """A kernel that allocates arrays; for what runs once an interval, not once a packet."""
        return self._cached(function)

    def _cached(self, function: Callable[..., Any], **options: Any) -> Any:
        dispatcher = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        if config.DISABLE_JIT:  # it runs as Python, for a debugger or a fuzzer
            return dispatcher
        cache = dispatcher._cache  # noqa: SLF001 Numba has no public way to say what else a cached function depends on
        by_caller = cache._index_key  # noqa: SLF001
        cache._index_key = lambda signature, codegen: (*by_caller(signature, codegen), self._mark)  # noqa: SLF001
        return dispatcher
