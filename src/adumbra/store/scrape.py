"""The latest interval of each VM as a page for Prometheus to scrape: totals of what adds up, and what else it stood at.

Keeps no history, serves nothing, adds no time: a scrape's is Prometheus' own. Names and labels are those of remote writes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import BY_NAME, METRICS, NAMES, Kind, Rollup
from adumbra.schema.own_metrics import Reading
from adumbra.schema.records import NANOSECONDS, Floats, MetricBatch, Origin
from adumbra.store.batches import check_batch
from adumbra.store.names import storable
from adumbra.store.series import BESIDE, INTERVAL_END, ONE_SIDED, Slot, interval_label, slots_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_VMS = 20_000
"""How many rows a page has room for, by default: of all networks, each VM once for its shadow and once for the live one."""
_EXACT = 2.0**53
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class _Latest:
    """What is known of a network's VMs, by origin. labels: (vm, subnet, role) of each; values: float64[V], by column.

    tails: the end of each VM's label set, as it stands on the page.
    """

    network: str
    origin: Origin
    labels: tuple[tuple[str, str, str], ...]
    values: Mapping[str, Floats]
    slots: tuple[Slot, ...]
    tails: tuple[str, ...]
    end_ns: int
    interval_ms: int


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric in Prometheus' sense. `name`: of a counter with `_total`, of a histogram without `_bucket`."""

    name: str
    kind: Kind
    help: str


@dataclass(frozen=True, slots=True)
class _Rows:
    """A series of each VM of a network, where known is true. labels: of the series, without those of the VM."""

    name: str
    labels: tuple[tuple[str, str], ...]
    latest: _Latest
    values: Floats
    known: NDArray[np.bool_]


class LatestIntervals:
    """Takes batches as a store does, and shows what they come to. Threads may share it; a page holds up no write.

    columns: those to be shown. Rows beyond `most_vms` are left out, and counted.
    """

    def __init__(self, columns: Collection[str] = NAMES, most_vms: int = MOST_VMS) -> None:
        self.columns = frozenset(columns)
        self.most_vms = most_vms
        self._turn = threading.Lock()
        self._latest: dict[tuple[str, Origin], _Latest] = {}
        self._closed: dict[tuple[str, Origin], int] = {}
        self._left_out: dict[str, int] = {}

    def write(self, batch: MetricBatch) -> int:
        """Takes a batch, each once: its counts are added to the totals, its last interval is the latest. Always 0.

        VMs that the network no longer has are no longer shown. Raises ValueError for a batch whose shapes don't fit.
        """
        check_batch(batch)
        if not len(batch):
            return 0
        key = (batch.network, batch.origin)
        with self._turn:
            others = sum(len(each.labels) for other, each in self._latest.items() if other != key)
            room = max(0, self.most_vms - others)
            self._latest[key] = _brought_up(self._latest.get(key), batch, self.columns, room)
            self._closed[key] = self._closed.get(key, 0) + len(batch)
            if left := max(0, len(batch.vms) - room):
                self._left_out[batch.network] = self._left_out.get(batch.network, 0) + left * len(batch)
        return 0

    def forget(self, network: str) -> None:
        """A network is deleted: nothing of it is shown any more."""
        with self._turn:
            for origin in Origin:
                self._latest.pop((network, origin), None)
                self._closed.pop((network, origin), None)
            self._left_out.pop(network, None)

    def readings(self) -> list[Reading]:
        """How many intervals came, and what found no room: for telemetry.Telemetry.watch."""
        with self._turn:
            closed, left_out = dict(self._closed), dict(self._left_out)
        return [
            *(Reading("adumbra_intervals_closed_total", count, (net, origin.value)) for (net, origin), count in closed.items()),
            *(Reading("adumbra_latest_rows_left_out_total", count, (net,)) for net, count in left_out.items()),
        ]

    def page(self) -> Iterator[bytes]:
        """The page in pieces, in Prometheus' text format: much faster than prometheus-client's way by `collect`."""
        for family, rows in self._families():
            lines = [f"# HELP {family.name} {_told(family.help)}\n# TYPE {family.name} {family.kind.value}\n"]
            for each in rows:
                lines += _lines(each)
            yield "".join(lines).encode()

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client, when this is registered with one of its registries."""
        from prometheus_client.metrics_core import Metric

        for family, rows in self._families():
            metric = Metric(family.name.removesuffix("_total"), family.help, family.kind.value)
            for each in rows:
                values = each.values.tolist()
                for at in np.flatnonzero(each.known):
                    told = zip(("vm", "subnet", "role"), each.latest.labels[at], strict=True)
                    labels = {name: storable(value) for name, value in (*each.labels, *told) if value}
                    metric.add_sample(each.name, labels, values[at])
            yield metric

    def _families(self) -> Iterator[tuple[_Family, list[_Rows]]]:
        with self._turn:
            every = tuple(self._latest.values())
        by_family: dict[str, list[_Rows]] = {}
        for latest in every:
            for slot in latest.slots:
                rows = _rows(latest, slot)
                if rows.known.any():
                    by_family.setdefault(_family_of(slot), []).append(rows)
            by_family.setdefault(INTERVAL_END, []).append(_reach(latest))
        for family in _shown():
            if family.name in by_family:
                yield family, by_family[family.name]


def exposition(registry: CollectorRegistry, latest: LatestIntervals | None = None) -> bytes:
    """The page that a server shows at /metrics, as CONTENT_TYPE: what a registry has, and the latest intervals.

    `latest` isn't to be registered there as well, or it would be told twice, and slowly.
    """
    from prometheus_client import generate_latest

    return b"".join([generate_latest(registry), *(latest.page() if latest else ())])


def _brought_up(before: _Latest | None, batch: MetricBatch, columns: frozenset[str], room: int) -> _Latest:
    nothing = ("",) * len(batch.vms)
    labels = tuple(zip(batch.vms, batch.subnets or nothing, batch.roles or nothing, strict=True))[:room]
    names = tuple(name for name in batch.columns if name in columns)
    same = before is not None and before.labels == labels
    totals = before.values if before and same else _carried(before, labels)
    values: dict[str, Floats] = {ONE_SIDED: batch.one_sided[-1, :room].astype(np.float64)}
    for name in names:
        column = np.asarray(batch.columns[name][:, :room], np.float64)
        values[name] = _total(totals.get(name), column) if BY_NAME[name].rollup is Rollup.SUM else column[-1].copy()
    kept = {name: total for name, total in totals.items() if name not in values and BY_NAME[name].rollup is Rollup.SUM}
    told = (*names, *kept)
    return _Latest(
        batch.network,
        batch.origin,
        labels,
        {**values, **kept},
        slots_of(told, live=batch.origin is Origin.LIVE),
        before.tails if before and same else _tails(labels),
        int(batch.start_ns[-1]) + round(batch.interval_s * NANOSECONDS),
        round(batch.interval_s * 1000),
    )


def _total(before: Floats | None, counts: Floats) -> Floats:
    """The totals float64[V] with counts [k, V] added; what was never known is NaN."""
    known = ~np.isnan(counts)
    added = np.where(known, counts, 0.0).sum(axis=0)
    if before is None:
        return np.where(known.any(axis=0), added, np.nan)
    return np.where(known.any(axis=0), np.where(np.isnan(before), 0.0, before) + added, before)


def _carried(before: _Latest | None, labels: Sequence[tuple[str, str, str]]) -> dict[str, Floats]:
    """The totals by these VMs; those that weren't there are NaN, as are those of other subnets and roles."""
    if before is None:
        return {}
    old = {label: place for place, label in enumerate(before.labels)}
    places = np.array([old.get(label, -1) for label in labels], np.int64)
    return {
        name: np.where(places >= 0, values[places], np.nan) if len(values) else np.full(len(labels), np.nan)
        for name, values in before.values.items()
        if name in BY_NAME and BY_NAME[name].rollup is Rollup.SUM
    }


def _rows(latest: _Latest, slot: Slot) -> _Rows:
    values = latest.values[slot.column] * slot.scale
    known = ~np.isnan(values)
    if slot.where is not None:
        known &= (latest.values[ONE_SIDED] == 1.0) == slot.where
    labels = (("le", slot.le), *_place(latest), ("provenance", slot.provenance))
    return _Rows(slot.name, tuple((name, value) for name, value in labels if value), latest, values, known)


def _reach(latest: _Latest) -> _Rows:
    nobody = _Latest(latest.network, latest.origin, (("", "", ""),), {}, (), ("} ",), latest.end_ns, latest.interval_ms)
    labels = (("interval", interval_label(latest.interval_ms)), *_place(latest))
    return _Rows(INTERVAL_END, labels, nobody, np.array([latest.end_ns / NANOSECONDS]), np.ones(1, np.bool_))


def _place(latest: _Latest) -> tuple[tuple[str, str], ...]:
    return ("network", latest.network), ("origin", latest.origin.value)


def _lines(rows: _Rows) -> Iterator[str]:
    """A line for each VM that the series is known of."""
    head = f"{rows.name}{{{_labels(rows.labels)}"
    tails, values = rows.latest.tails, rows.values
    if not rows.known.all():
        tails, values = tuple(compress(tails, rows.known.tolist())), values[rows.known]
    whole = bool(np.all((values == np.floor(values)) & (np.abs(values) < _EXACT)))
    numbers = values.astype(np.int64).tolist() if whole else values.tolist()
    return (f"{head}{tail}{number!r}\n" for tail, number in zip(tails, numbers, strict=True))


def _tails(labels: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    return tuple(f",{_labels((('role', role), ('subnet', subnet), ('vm', vm)))}}} " for vm, subnet, role in labels)


def _labels(pairs: Sequence[tuple[str, str]]) -> str:
    return ",".join(f'{name}="{storable(value).translate(_ESCAPES)}"' for name, value in pairs if value)


def _told(help: str) -> str:
    return help.replace("\\", r"\\").replace("\n", r"\n")


def _family_of(slot: Slot) -> str:
    return BY_NAME[slot.column].family if slot.column in BY_NAME else slot.name


@lru_cache(maxsize=1)
def _shown() -> tuple[_Family, ...]:
    """Every family that there may be, in the catalogue's order."""
    known = {metric.family: _Family(metric.family, metric.kind, metric.help) for metric in METRICS}
    return (*known.values(), *(_Family(name, Kind.GAUGE, told) for name, told in BESIDE.items()))
