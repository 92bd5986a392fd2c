"""The series of the Prometheus family: which a column becomes, under what name and labels, and the bytes of these. Pure.

Labels: network, origin (shadow, live), vm, subnet, role, provenance; `le` of a histogram's bucket. What is empty is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from adumbra.schema.metrics import BY_NAME, SIMULATED_WHERE_ONE_SIDED, provenance
from adumbra.schema.records import Bytes, Ints
from adumbra.schema.units import parse_duration_s
from adumbra.store.names import storable

ONE_SIDED = "adumbra_vm_one_sided_ratio"
INTERVAL_END = "adumbra_network_interval_end_seconds"
BESIDE: dict[str, str] = {
    ONE_SIDED: "1 in intervals in which only one direction of the VM's traffic was seen, 0 in others.",
    INTERVAL_END: "When the last stored interval of the network ended, in seconds since the epoch, by interval length.",
}
"""The gauges beside the catalogue's metrics, and what each says."""

STALE_BITS = 0x7FF0000000000002
"""The NaN that says that a series has ended (Prometheus' model/value)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A series of every VM. `column`: where its values come from; `where`: only in rows that are one-sided, or that aren't."""

    column: str
    name: str
    le: str = ""
    provenance: str = ""
    scale: float = 1.0
    where: bool | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """Encoded labels of many: those of number i are data[at[i] : at[i + 1]]."""

    data: Bytes
    at: Ints

    def __len__(self) -> int:
        return len(self.at) - 1


@lru_cache(maxsize=64)
def slots_of(columns: tuple[str, ...], *, live: bool) -> tuple[Slot, ...]:
    """The series that these columns of the catalogue become, and the one that tells which rows are one-sided."""
    return (Slot(ONE_SIDED, ONE_SIDED), *(slot for name in columns for slot in _slots(name, live=live)))


def _slots(column: str, *, live: bool) -> list[Slot]:
    metric = BY_NAME[column]
    told = (metric.prometheus, metric.le)
    by_side = [provenance(column, one_sided=sided, live=live).value for sided in (False, True)]
    if column in SIMULATED_WHERE_ONE_SIDED:
        return [Slot(column, *told, by_side[sided], metric.scale, bool(sided)) for sided in (False, True)]
    slots = [Slot(column, *told, by_side[0], metric.scale)]
    if metric.le == "+Inf":
        slots.append(Slot(column, f"{metric.family}_count", "", by_side[0], metric.scale))
    return slots


@lru_cache(maxsize=256)
def slot_labels(slots: tuple[Slot, ...], network: str, origin: str) -> Texts:
    """The labels of each slot's series, up to those of the VM: sorted by name, as the receivers want them."""
    beside = (("network", network), ("origin", origin))
    return _joined(
        _labels((("__name__", slot.name), ("le", slot.le), *beside, ("provenance", slot.provenance))) for slot in slots
    )


@lru_cache(maxsize=32)
def vm_labels(vms: tuple[str, ...], subnets: tuple[str, ...], roles: tuple[str, ...]) -> Texts:
    """The labels of each VM, which come after a slot's."""
    nothing = ("",) * len(vms)
    each = zip(roles or nothing, subnets or nothing, vms, strict=True)
    return _joined(_labels((("role", role), ("subnet", subnet), ("vm", vm))) for role, subnet, vm in each)


@lru_cache(maxsize=256)
def end_labels(network: str, origin: str, interval_ms: int) -> Texts:
    """The labels of the series that tells how far a network's intervals of one length reach."""
    pairs = (("__name__", INTERVAL_END), ("interval", interval_label(interval_ms)), ("network", network), ("origin", origin))
    return _joined([_labels(pairs)])


def interval_label(interval_ms: int) -> str:
    return f"{interval_ms}ms" if interval_ms % 1000 else f"{interval_ms // 1000}s"


def interval_of(label: str) -> int | None:
    """The length in ns that a label says; None for what is no length."""
    try:
        return round(parse_duration_s(label) * 1e9) or None
    except ValueError:
        return None


def _labels(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Label messages (field 1 of TimeSeries) of the pairs whose value isn't empty."""
    return b"".join(
        _field(0x0A, _field(0x0A, name.encode()) + _field(0x12, storable(value).encode())) for name, value in pairs if value
    )


def _field(tag: int, content: bytes) -> bytes:
    size, length = bytearray([tag]), len(content)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes(size) + content


def _joined(texts: Iterable[bytes]) -> Texts:
    listed = list(texts)
    at = np.zeros(len(listed) + 1, np.int64)
    np.cumsum([len(text) for text in listed], out=at[1:])
    return Texts(np.frombuffer(b"".join(listed), np.uint8), at)


def matcher(name: str, values: Sequence[str]) -> str:
    """A PromQL matcher for a label of one of these values."""
    if len(values) == 1:
        return f"{name}={quoted(values[0])}"
    return f"{name}=~{quoted('|'.join(map(_literally, values)))}"


_SPECIAL = frozenset("\\.+*?()|[]{}^$")


def _literally(text: str) -> str:
    """RE2 that matches just this text."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def quoted(text: str) -> str:
    """A PromQL string."""
    plain = storable(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in plain) + '"'
