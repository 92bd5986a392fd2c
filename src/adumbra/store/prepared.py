"""A batch as a remote store is to send it, and the bytes in which it waits for that. Pure; keeps nothing, sends nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from adumbra.schema.records import Floats, MetricBatch, Origin
from adumbra.store.batches import check_batch

_FORMAT = 1
_LEVEL = 1
_MOST_BYTES = 2**31
_KINDS: dict[str, type[np.generic]] = {"i": np.int64, "f": np.float64, "b": np.bool_}


@dataclass(frozen=True, slots=True)
class Gone:
    """A VM that is no more: its labels, and the end of the last interval that was told of it, in ns since the epoch."""

    vm: str
    subnet: str
    role: str
    end_ns: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch, ready to be sent. For stores of counters (store/accumulate.py) its SUM columns are totals.

    bases: of such columns, the total before an interval, float64[k, V]: 0 where the interval doesn't follow one whose total is
    known, so that a total begins there, and NaN elsewhere. gone: VMs whose series end here. before: of such columns,
    float64[V], the totals before the first interval, which become bases where what told them was lost.
    """

    batch: MetricBatch
    bases: Mapping[str, Floats] = field(default_factory=dict)
    gone: tuple[Gone, ...] = ()
    before: Mapping[str, Floats] = field(default_factory=dict)

    def after_gap(self) -> Prepared:
        """The same where what went before it may not have arrived: each total has its base, from the first interval on."""
        bases = dict(self.bases)
        for name, totals in self.before.items() if len(self.batch) else ():
            column = np.asarray(self.batch.columns[name], np.float64)
            base = np.array(bases.get(name, np.full(column.shape, np.nan)))
            base[0] = np.where(np.isnan(base[0]) & ~np.isnan(column[0]), totals, base[0])
            bases[name] = base
        return replace(self, bases=bases)


def dump(prepared: Prepared) -> bytes:
    """The same as bytes, compressed."""
    batch = prepared.batch
    arrays: list[tuple[str, NDArray[np.generic]]] = [("start_ns", batch.start_ns), ("one_sided", batch.one_sided)]
    arrays += [(f"column {name}", np.asarray(values)) for name, values in batch.columns.items()]
    arrays += [(f"base {name}", values) for name, values in prepared.bases.items()]
    before = np.array([*prepared.before.values()], np.float64).reshape(len(prepared.before), len(batch.vms))
    header = {
        "format": _FORMAT, "network": batch.network, "interval_s": batch.interval_s, "vms": batch.vms, "source": batch.source,
        "origin": batch.origin.value, "subnets": batch.subnets, "roles": batch.roles,
        "gone": [[each.vm, each.subnet, each.role, each.end_ns] for each in prepared.gone],
        "before": list(prepared.before), "arrays": [[name, values.dtype.kind] for name, values in arrays],
    }  # fmt: skip
    told = json.dumps(header).encode()
    parts = [len(told).to_bytes(4, "little"), told]
    parts += [np.ascontiguousarray(values, _KINDS[values.dtype.kind]).tobytes() for _, values in arrays]
    parts.append(before.tobytes())
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def load(raw: bytes) -> Prepared:
    """What `dump` made bytes of. Raises ValueError for anything else."""
    try:
        return _load(zstandard.ZstdDecompressor().decompress(raw, max_output_size=_MOST_BYTES))
    except (zstandard.ZstdError, KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"these bytes are no prepared batch: {error}") from error


def _load(plain: bytes) -> Prepared:
    begin = 4 + int.from_bytes(plain[:4], "little")
    header: dict[str, Any] = json.loads(plain[4:begin])
    if header["format"] != _FORMAT:
        raise ValueError(f"a prepared batch of format {header['format']} can't be read")
    vms = tuple(map(str, header["vms"]))
    found: dict[str, NDArray[Any]] = {}
    for name, kind in header["arrays"]:
        rows = len(found["start_ns"]) if found else _rows(plain, begin, header)
        size = rows * (len(vms) if found else 1) * np.dtype(_KINDS[kind]).itemsize
        values = np.frombuffer(plain[begin : begin + size], _KINDS[kind])
        found[name] = values.reshape(rows, len(vms)) if found else values
        begin += size
    before = np.frombuffer(plain[begin:], np.float64).reshape(len(header["before"]), len(vms))
    batch = MetricBatch(
        str(header["network"]), float(header["interval_s"]), vms, found["start_ns"],
        {name.removeprefix("column "): values for name, values in found.items() if name.startswith("column ")},
        found["one_sided"], str(header["source"]), Origin(header["origin"]), tuple(header["subnets"]), tuple(header["roles"]),
    )  # fmt: skip
    check_batch(batch)
    bases = {name.removeprefix("base "): values for name, values in found.items() if name.startswith("base ")}
    return Prepared(
        batch, bases, tuple(Gone(str(vm), str(a), str(b), int(end)) for vm, a, b, end in header["gone"]),
        dict(zip(map(str, header["before"]), before, strict=True)),
    )  # fmt: skip


def _rows(plain: bytes, begin: int, header: Mapping[str, Any]) -> int:
    """How many intervals the arrays after the header are of."""
    cell = sum(np.dtype(_KINDS[kind]).itemsize for name, kind in header["arrays"] if name != "start_ns")
    own = len(plain) - begin - 8 * len(header["before"]) * len(header["vms"])
    rows, left = divmod(own, 8 + cell * len(header["vms"]))
    if left or rows < 0:
        raise ValueError("a prepared batch has not the length that it says")
    return rows
