"""Turns metric batches into InfluxDB's line protocol. Pure: sends nothing, knows no server.

Up to three lines tell of a VM and interval, one for each provenance of its columns; the one of what was observed is always
there, and `one_sided` in it marks that the interval is. Counts are those of the interval, times are its start in ns. What is
not known is left out. (docs.influxdata.com, Line protocol reference.)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from adumbra.schema.metrics import BY_NAME, Provenance, provenance
from adumbra.schema.records import NANOSECONDS, Ints, MetricBatch, Origin
from adumbra.store.names import storable

MEASUREMENT = "adumbra_vm"
PRESENT, SOURCE = "one_sided", "source"
"""The fields beside the catalogue's, on the line of what was observed: 0 or 1 in each row that is there, and its source."""

_TAGS = ("interval", "network", "origin", "provenance", "role", "subnet", "vm")
_BLOCK_VALUES = 100_000
_BLOCK_ROWS = 20_000
_WHOLE_MOST = 2.0**63
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f%\\\ud800-\udfff]")
_ESCAPED = re.compile(r"([,= ])")


def tag(text: str) -> str:
    """A tag's value. What the protocol has no way to write there (backslashes, line ends) becomes %XX, and so does %."""
    return _UNWRITABLE.sub(lambda odd: "".join(f"%{byte:02X}" for byte in odd[0].encode("utf-8", "surrogatepass")), text)


def untag(value: str) -> str:
    """What `tag` made a value of."""
    return unquote(value, errors="surrogatepass")


def interval_tag(interval_ns: int) -> str:
    """The length of an interval as a tag's value: 1s, 0.25s, 300s. Exact."""
    whole, rest = divmod(interval_ns, NANOSECONDS)
    return (f"{whole}.{rest:09d}".rstrip("0") if rest else f"{whole}") + "s"


def interval_ns(value: str) -> int:
    """What `interval_tag` made a value of. Raises ValueError for anything else."""
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?s", value):
        raise ValueError(f"{value[:30]!r} is no interval")
    return int(Decimal(value[:-1]) * NANOSECONDS)


def column_tags(name: str, origin: Origin) -> set[str]:
    """The provenances that a column's values may be under: by whether the interval was seen one-sidedly there may be two."""
    live = origin is Origin.LIVE
    return {provenance(name, one_sided=sided, live=live).value for sided in (False, True)}


def line(tags: Mapping[str, str], fields: Mapping[str, float | int | str], time_ns: int) -> bytes:
    """One line of plain values; what the catalogue calls whole is written so. Tags without a value are left out."""
    told = (f"{_escaped(name)}={_value(name, value)}" for name, value in fields.items())
    return _head(tags) + b" " + ",".join(told).encode() + b" %d\n" % time_ns


def blocks(batch: MetricBatch, cells: NDArray[np.bool_] | None = None) -> Iterator[bytes]:
    """The batch's lines in pieces of a few MB at most, each VM's intervals together, as the database will have them.

    cells, bool[k, V]: of these only, and without what marks a row as being there: to amend it.
    """
    columns = {name: np.asarray(values) for name, values in batch.columns.items()}
    wanted = np.ones(batch.one_sided.shape, np.bool_) if cells is None else cells
    at_vm, at_interval = np.nonzero(wanted.T)
    at_once = max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // (len(columns) + 1)))
    for first in range(0, len(at_vm), at_once):
        place = at_interval[first : first + at_once], at_vm[first : first + at_once]
        lines = list[bytes]()
        sided = batch.one_sided[place]
        for one_sided in (False, True):
            chosen = np.nonzero(sided == one_sided)[0]
            if len(chosen):
                rows = _Rows(batch.start_ns[place[0][chosen]], place[1][chosen], one_sided, cells is None)
                at = place[0][chosen], place[1][chosen]
                lines += _lines(batch, rows, {name: values[at] for name, values in columns.items()})
        if lines:
            yield b"".join(lines)


@dataclass(frozen=True, slots=True)
class _Rows:
    """n rows that were all seen in the same way: their times and VMs; marked: whether they are to be told as being there."""

    start_ns: Ints
    vm: Ints
    one_sided: bool
    marked: bool


def _heads(batch: MetricBatch, told: str, vms: Sequence[int]) -> list[bytes]:
    """What the lines of these VMs with values of that provenance begin with."""
    common = interval_tag(round(batch.interval_s * NANOSECONDS)), batch.network, batch.origin.value, told
    nothing = ("",) * len(batch.vms)
    subnets, roles = batch.subnets or nothing, batch.roles or nothing
    return [_head_of((*common, roles[vm], subnets[vm], batch.vms[vm])) for vm in vms]


@functools.lru_cache(maxsize=100_000)
def _head_of(values: tuple[str, ...]) -> bytes:
    return _head(dict(zip(_TAGS, values, strict=True)))


def _lines(batch: MetricBatch, rows: _Rows, columns: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """The lines of rows, a template for each set of columns that are known in some of them."""
    live = batch.origin is Origin.LIVE
    groups: dict[str, list[str]] = {Provenance.OBSERVED.value: []} if rows.marked else {}
    for name in columns:
        groups.setdefault(provenance(name, one_sided=rows.one_sided, live=live).value, []).append(name)
    for told, names in groups.items():
        marks = b""
        if rows.marked and told == Provenance.OBSERVED.value:
            marks = f"{PRESENT}={int(rows.one_sided)},{SOURCE}={_value(SOURCE, batch.source)}".encode().replace(b"%", b"%%")
        for chosen, known in _patterns([columns[name] for name in names], len(rows.vm)):
            fields = [name for name, is_known in zip(names, known, strict=True) if is_known]
            if fields or marks:
                written = [b"%s=%%b%s" % (name.encode(), b"i" if BY_NAME[name].whole else b"") for name in fields]
                template = b"%b " + b",".join([*written, marks] if marks else written) + b" %d\n"
                values = [_texts(columns[name][chosen], whole=BY_NAME[name].whole) for name in fields]
                begun = _heads(batch, told, rows.vm[chosen].tolist())
                yield from map(template.__mod__, zip(begun, *values, rows.start_ns[chosen].tolist(), strict=True))


def _patterns(columns: list[NDArray[Any]], rows: int) -> Iterator[tuple[Ints | slice, NDArray[np.bool_]]]:
    """The rows, by which of the columns are known in them: their places, and bool[C]."""
    known = np.array([np.isfinite(values) for values in columns]).reshape(len(columns), rows)
    if known.all():
        yield slice(None), np.ones(len(columns), np.bool_)
        return
    patterns, of_row = np.unique(np.packbits(known, axis=0).T, axis=0, return_inverse=True)
    order = np.argsort(of_row.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(of_row.ravel(), minlength=len(patterns)))
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        yield order[first:end], known[:, order[first]]


def _texts(values: NDArray[Any], *, whole: bool) -> list[bytes]:
    """Each value as text, from which just the same value is read: one call for all of them is what makes this fast."""
    if whole:
        values = (
            values if values.dtype.kind in "iu" else np.rint(np.clip(values, -_WHOLE_MOST, _WHOLE_MOST - 1024)).astype(np.int64)
        )
    else:
        values = values.astype(np.float64, copy=False)
    return to_json(values.tolist())[1:-1].split(b",")


def _head(tags: Mapping[str, str]) -> bytes:
    told = (f",{_escaped(name)}={_escaped(tag(value))}" for name, value in sorted(tags.items()) if value)
    return (MEASUREMENT + "".join(told)).encode()


def _escaped(text: str) -> str:
    return _ESCAPED.sub(r"\\\1", text)


def _value(name: str, value: float | int | str) -> str:
    if isinstance(value, str):
        told = "".join(char if char.isprintable() else " " for char in storable(value))
        return '"' + told.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{int(value)}i" if name in BY_NAME and BY_NAME[name].whole else repr(float(value))
