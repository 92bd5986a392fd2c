"""Lets uncompiled kernels run as compiled ones do, and meters be small: what differs between the two is put right here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adumbra.meter import connection_kernels, flow_records, flows, intervals, kernels, scan_kernels, segment_kernels
from adumbra.tap import replay

SMALL = (
    (flows, "_LEAST_ENTRIES", 8), (flows, "_LEAST_PEERS", 16), (flows, "_LEAST_NOTES", 512), (intervals, "_CELLS_A_BATCH", 64),
    (flow_records, "_LEAST_PEERS", 16), (flow_records, "_CELLS_A_BATCH", 64), (replay, "_BUFFER_BYTES", 256),
    (replay, "BATCH_FRAMES", 16),
)  # fmt: skip
"""Least sizes of what grows: with these a meter is made in less than a millisecond, and tables grow within a few packets."""


class _Record:
    """A row of a table, its fields by name. What is narrower than 64 bits is read as 64, as compiled code computes with it."""

    __slots__ = ("_row",)

    def __init__(self, row: np.void) -> None:
        object.__setattr__(self, "_row", row)

    def __getattr__(self, name: str) -> Any:
        value = self._row[name]
        return value if value.itemsize == 8 else np.int64(value)

    def __setattr__(self, name: str, value: Any) -> None:
        # A number that the field can't hold is cut off; Python's own would raise.
        self._row[name] = np.int64(value) if isinstance(value, int) else value


class _Records(np.ndarray):
    """A table of records: an index beyond it or below 0 is an error."""

    def __getitem__(self, at: Any) -> Any:
        got = super().__getitem__(at)
        if not isinstance(got, np.void):
            return got
        if at < 0 if not isinstance(at, tuple) else min(at) < 0:
            raise IndexError(f"row {at} is below 0")
        return _Record(got)


class _Tables:
    """NumPy, but that tables of records are made readable by name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def zeros(shape: Any, dtype: Any = float) -> Any:
        made = np.zeros(shape, dtype)
        return made if made.dtype.names is None else made.view(_Records)


def be_small() -> None:
    """Gives all that grows its least sizes, for good."""
    for module, name, least in SMALL:
        setattr(module, name, least)


def let_python_read_records() -> None:
    """Once, before any kernel runs uncompiled."""
    plain: Callable[..., Any] = flows._aligned
    flows._aligned = lambda rows, dtype: plain(rows, dtype).view(_Records)
    flows.np = flow_records.np = _Tables()
    kernels.prefetch = lambda *_: None  # an instruction to the processor
    for module in (connection_kernels, kernels, scan_kernels, segment_kernels):
        for constant, value in list(vars(module).items()):
            if type(value) is int and constant.isupper():  # as wide as when compiled, so that ~A fits where A does
                setattr(module, constant, np.int64(value))
