"""Rows of FlowRecords on their way out, from whatever an exporter sent. Columns only: knows no format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import UNTOLD, FlowRecords, Ints

TCP = 6
SYN, ACK = 0x02, 0x10


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and their order: `order`, int64, increases with the place in which a row was exported."""

    flows: FlowRecords
    order: Ints

    def __len__(self) -> int:
        return len(self.order)


def untold(rows: int) -> Ints:
    """A count that nothing tells."""
    return np.full(rows, UNTOLD, np.int64)


def empty_flows(rows: int) -> FlowRecords:
    """FlowRecords of that many rows, which tell nothing but zeros."""
    return FlowRecords(
        start_ns=np.zeros(rows, np.int64), end_ns=np.zeros(rows, np.int64), version=np.zeros(rows, np.uint8),
        protocol=np.zeros(rows, np.uint8), src_hi=np.zeros(rows, np.uint64), src_lo=np.zeros(rows, np.uint64),
        dst_hi=np.zeros(rows, np.uint64), dst_lo=np.zeros(rows, np.uint64), src_port=np.zeros(rows, np.uint16),
        dst_port=np.zeros(rows, np.uint16), bytes=np.zeros(rows, np.int64), packets=np.zeros(rows, np.int64),
        rate=np.ones(rows, np.int64), attempted=np.zeros(rows, np.int64), established=np.zeros(rows, np.int64),
        failed=np.zeros(rows, np.int64), from_client=np.full(rows, -1, np.int8), src_vm=np.full(rows, -1, np.int32),
        dst_vm=np.full(rows, -1, np.int32),
    )  # fmt: skip


COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(FlowRecords) if f.default is MISSING)


def taken(rows: Rows, which: NDArray[np.bool_] | Ints) -> Rows:
    """The rows that a mask or an index picks."""
    picked = {name: getattr(rows.flows, name)[which] for name in COLUMNS}
    return Rows(FlowRecords(**picked), rows.order[which])


def reversed_ends(rows: Rows) -> Rows:
    """The same rows seen from the other end: source and destination change places; the order is one later."""
    swap = {"src_hi": "dst_hi", "src_lo": "dst_lo", "src_port": "dst_port", "src_vm": "dst_vm"}
    swap |= {there: here for here, there in swap.items()}
    turned = {name: getattr(rows.flows, swap.get(name, name)).copy() for name in COLUMNS}
    return Rows(FlowRecords(**turned), rows.order + 1)


def joined(parts: Sequence[Rows], complete_to_ns: int) -> FlowRecords:
    """All parts' rows, in their order."""
    if not parts:
        return replace(empty_flows(0), complete_to_ns=complete_to_ns)
    order = np.argsort(np.concatenate([part.order for part in parts]), kind="stable")
    columns = {name: np.concatenate([getattr(part.flows, name) for part in parts])[order] for name in COLUMNS}
    return FlowRecords(**columns, complete_to_ns=complete_to_ns)
