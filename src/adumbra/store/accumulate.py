"""Turns the counts of intervals into totals, as stores of counters have them. Sends nothing, knows no database.

A series of totals begins at 0 with each stretch of intervals that follow each other, and tells that 0 too, as its base. So what
an interval counted is always the difference to the value before, whatever was missed, stopped, or put in between later; and to
`increase()` a stretch is what it is: a counter that began anew. (A total that went on after a gap would leap, once something
is put into the gap.) Observing the same again gives the very same series.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import METRICS, Rollup
from adumbra.schema.records import NANOSECONDS, Floats, Ints, MetricBatch, Origin
from adumbra.store.accumulate_kernels import run_on
from adumbra.store.prepared import Gone, Prepared

COUNTED: tuple[str, ...] = tuple(metric.name for metric in METRICS if metric.rollup is Rollup.SUM)
"""The columns that are totals in a store of counters."""
_PLACE = {name: place for place, name in enumerate(COUNTED)}
_NEVER = -(1 << 62)


@dataclass(slots=True)
class _Running:
    """A network's totals: float64[C, V], and the end of the last interval in which each was known, int64[C, V] in ns.

    labels: (vm, subnet, role) of each; a VM whose labels change is told under other names, and so begins anew.
    """

    source: str
    labels: tuple[tuple[str, str, str], ...]
    columns: tuple[str, ...]
    totals: Floats
    known_ns: Ints
    end_ns: int


class Accumulator:
    """The totals of all networks that were written. Holds 16 bytes a VM and counter."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, Origin], _Running] = {}

    def add(self, batch: MetricBatch) -> Prepared:
        """The batch with totals in place of counts, on from the batch before of the same network and origin.

        The totals begin anew where the source is another, or the batch begins before the last one's end. A batch that tells
        what was counted before it goes on from that, whatever was added here: the same batch always becomes the same totals,
        also in another process, with a base where what goes before isn't known to be the same here.
        """
        key = (batch.network, batch.origin)
        before = self._running.get(key)
        if not len(batch) or not batch.vms:
            return Prepared(batch)
        running = _continued(before, batch)
        gone = () if before is None else _gone(before, running.labels)
        columns: dict[str, NDArray[np.generic]] = {**batch.columns}
        bases: dict[str, Floats] = {}
        ends_ns = batch.start_ns + round(batch.interval_s * NANOSECONDS)
        carried = _told(running, batch)
        before_it = {name: running.totals[_PLACE[name]].copy() for name in batch.columns if name in _PLACE}
        for name in before_it:
            at, counts = _PLACE[name], np.asarray(batch.columns[name])
            totals, base = np.empty(counts.shape), np.empty(counts.shape)
            if run_on(counts, batch.start_ns, ends_ns, running.totals[at], running.known_ns[at], totals, base):
                bases[name] = base
            columns[name] = totals
            if name in carried:
                at_first = np.where(np.isnan(totals[0]), np.nan, carried[name])
                bases[name] = np.concatenate([np.where(np.isnan(base[:1]), at_first, base[:1]), base[1:]])
        running.end_ns = int(ends_ns[-1])
        self._running[key] = running
        return Prepared(replace(batch, columns=columns), bases, gone, before_it)

    def telling(self, batch: MetricBatch) -> MetricBatch:
        """The batch as it is, with what was counted before it: for another process, which makes the totals."""
        if not len(batch) or not batch.vms or batch.before:
            self.add(batch)
            return batch
        running = _continued(self._running.get((batch.network, batch.origin)), batch)
        before = {name: _known(running, name, batch) for name in batch.columns if name in _PLACE}
        self.add(batch)
        return replace(batch, before=before)

    def forget(self, network: str) -> tuple[Prepared, ...]:
        """A network is deleted: what tells that the series of its VMs end, one of each origin that it had."""
        keys = [key for key in self._running if key[0] == network]
        return tuple(_ended(network, key[1], self._running.pop(key)) for key in keys)


def _continued(before: _Running | None, batch: MetricBatch) -> _Running:
    """What the batch's totals go on from, by its VMs."""
    shape = (len(COUNTED), len(batch.vms))
    nothing = ("",) * len(batch.vms)
    labels = tuple(zip(batch.vms, batch.subnets or nothing, batch.roles or nothing, strict=True))
    running = _Running(batch.source, labels, tuple(batch.columns), np.zeros(shape), np.full(shape, _NEVER, np.int64), 0)
    if before is None or before.source != batch.source or int(batch.start_ns[0]) < before.end_ns:
        return running
    if before.labels == labels:
        return replace(running, totals=before.totals, known_ns=before.known_ns)
    old = {label: place for place, label in enumerate(before.labels)}
    for place, label in enumerate(labels):
        if label in old:
            running.totals[:, place], running.known_ns[:, place] = before.totals[:, old[label]], before.known_ns[:, old[label]]
    return running


def _known(running: _Running, name: str, batch: MetricBatch) -> Floats:
    """The total of each VM at the batch's beginning, NaN where its last known interval doesn't end there."""
    at = _PLACE[name]
    return np.where(running.known_ns[at] == batch.start_ns[0], running.totals[at], np.nan)


def _told(running: _Running, batch: MetricBatch) -> dict[str, Floats]:
    """Has the totals go on from what the batch tells. Gives, by column, those that aren't known here, NaN elsewhere."""
    carried: dict[str, Floats] = {}
    for name, told in batch.before.items():
        if name in _PLACE:
            at, known = _PLACE[name], ~np.isnan(told)
            other = known & ~(_known(running, name, batch) == told)
            if other.any():
                carried[name] = np.where(other, told, np.nan)
            running.totals[at] = np.where(known, told, running.totals[at])
            running.known_ns[at] = np.where(known, batch.start_ns[0], _NEVER)
    return carried


def part_of(batch: MetricBatch, rows: slice, vms: slice) -> MetricBatch:
    """Some rows in a row, and some VMs, of a batch; of what was counted before it, what was before its first row."""
    begun = rows.indices(len(batch))[0]
    before = {name: told[vms] for name, told in batch.before.items()}
    if begun and before and begun < len(batch):
        totals = Accumulator()
        totals.add(part_of(batch, slice(begun), vms))
        alone = part_of(replace(batch, before={}), slice(begun, begun + 1), vms)
        before = {name: told for name, told in totals.telling(alone).before.items() if name in before}
    return replace(
        batch, vms=batch.vms[vms], start_ns=batch.start_ns[rows], one_sided=batch.one_sided[rows, vms],
        columns={name: np.asarray(values)[rows, vms] for name, values in batch.columns.items()},
        subnets=batch.subnets[vms], roles=batch.roles[vms], before=before,
    )  # fmt: skip


def _gone(before: _Running, labels: tuple[tuple[str, str, str], ...]) -> tuple[Gone, ...]:
    if before.labels == labels:
        return ()
    there = set(labels)
    return tuple(Gone(*label, before.end_ns) for label in before.labels if label not in there)


def _ended(network: str, origin: Origin, running: _Running) -> Prepared:
    nothing = np.zeros((0, 0))
    columns: dict[str, NDArray[np.generic]] = dict.fromkeys(running.columns, nothing)
    none = np.zeros(0, np.int64)
    batch = MetricBatch(network, 1.0, (), none, columns, nothing.astype(np.bool_), running.source, origin)
    return Prepared(batch, {}, _gone(running, ()))
