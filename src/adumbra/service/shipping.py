"""Metrics that are sent here by a tap, or by work on another host: checked against their network, then stored.

What stands where two taps tell of the same interval: for each VM, what was told first with traffic in it. A tap that saw
none of a VM's traffic takes nothing away from one that did; traffic that two saw in one interval is not mixed: it is counted,
and said.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.errors import ConflictError, InputError, NotFoundError
from adumbra.schema.jobs import SourceRecord, SourceState
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, SeriesQuery
from adumbra.schema.spec import NetworkSpec, expand_vms, parse_spec
from adumbra.schema.state import NetworkRecord, NetworkState
from adumbra.service.workspace import Workspace
from adumbra.store.ranges import Span, runs_of
from adumbra.store.shipments import Claim, Overlap

AHEAD_S = 300.0
"""How far a tap's clock may be ahead of the server's."""
STOPPED_S = 30.0
"""For so long after a source was stopped its tap may tell of what it still saw."""
_KNOWN_NETWORKS = 64
_NAMED = 3
_MOST_SPANS = 100


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends metrics. instance: the tap's word for itself, "" for work that isn't a tap; source: the number of its source,
    None where it has none."""

    instance: str = ""
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a batch. replaced: rows that replaced something; duplicates: rows that were left out because another tap
    had told of them; trouble: that in words; state: of its source, if it has one."""

    replaced: int
    duplicates: int = 0
    trouble: str = ""
    state: SourceState | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What batches of a network are checked against: its VMs with their labels, and its intervals' length."""

    labels: dict[str, tuple[str, str]]
    interval_ns: int


def accept(workspace: Workspace, name: str, batch: MetricBatch, sender: Sender, now_ns: int) -> Accepted:
    """Stores a batch that was sent; again is harmless. Raises InputError for one that isn't of that network, ConflictError
    where its source isn't observed any more, or by another tap, StoreBusyError where it is to be sent again. Of a network that
    is deleted meanwhile nothing is left (NotFoundError): one that has its name later is another.
    """
    batch = _checked(workspace, name, batch, now_ns)
    source = _source(workspace, name, batch, sender)
    state = source.state if source else None
    if not len(batch) or not batch.vms:
        return Accepted(0, state=state)
    if not sender.instance or batch.origin is Origin.LIVE:
        with _only_there(workspace, name):
            return Accepted(workspace.metrics.write(batch), state=state)
    with _turn_of(name), _only_there(workspace, name):
        claim = workspace.state.shipments.claim(name, sender.instance, _spans(batch), now_ns)
        sorted_out = _sort_out(workspace, batch, sender.instance, claim)
        if claim.beside or any(held.instance != sender.instance for held in claim.held):
            batch = _anew(batch)
        replaced = sum(workspace.metrics.write(part) for part in parts(batch, sorted_out.keep))
        workspace.state.shipments.settle(name, sender.instance, claim, now_ns)
    if not sorted_out.duplicates.any():
        return Accepted(replaced, state=state)
    trouble = _tell(workspace, batch, sorted_out, sender, now_ns)
    return Accepted(replaced, int(sorted_out.duplicates.sum()), trouble, state)


@contextmanager
def _only_there(workspace: Workspace, name: str) -> Iterator[None]:
    """Metrics are written within: those of a network that is gone by then are removed again. Raises NotFoundError there."""
    try:
        yield
    finally:
        try:
            workspace.state.network(name)
        except NotFoundError:
            workspace.metrics.delete_network(name)
            raise


def _anew(batch: MetricBatch) -> MetricBatch:
    """The batch where what is stored right before it may be another tap's, whose totals its own don't go on from."""
    return replace(batch, before={name: np.full_like(totals, np.nan) for name, totals in batch.before.items()})


def amend(workspace: Workspace, name: str, batch: MetricBatch, now_ns: int) -> int:
    """Puts a batch's columns in the place of what is stored for its intervals. Gives how many rows were."""
    batch = _checked(workspace, name, batch, now_ns)
    return workspace.metrics.amend(batch) if len(batch) and batch.vms and batch.columns else 0


def forget(workspace: Workspace, name: str) -> int:
    """Removes what was measured of a network, and who told of it; the network stays. Gives how many rows there were."""
    workspace.state.network(name)
    deleted = workspace.metrics.delete_network(name)
    workspace.state.shipments.forget(name)
    return deleted


# What a batch is checked against

_KNOWN: OrderedDict[tuple[int, int, str], _Known] = OrderedDict()
_KNOWN_TURN = threading.Lock()


def _checked(workspace: Workspace, name: str, batch: MetricBatch, now_ns: int) -> MetricBatch:
    """The batch, with its VMs' labels as their network has them. Raises InputError for what isn't of that network."""
    if batch.network != name:
        raise InputError(f"the batch is of {batch.network[:63]!r}, not of {name}", "send it to the network that it is of")
    record = workspace.state.network(name)
    if record.state is NetworkState.DELETING:
        raise NotFoundError(f"there is no network {name!r}: it is being deleted", "create it again")
    known = _known(record.id, record.version, record.spec_text)
    interval_ns = round(batch.interval_s * NANOSECONDS)
    strange = [vm for vm in batch.vms if vm not in known.labels]
    if strange or interval_ns != known.interval_ns:
        known = _formerly(workspace, record, batch, interval_ns) or _refused(name, strange, batch.interval_s, known)
    if len(batch):
        _check_times(batch, interval_ns, now_ns)
    labels = [known.labels[vm] for vm in batch.vms]
    return replace(batch, subnets=tuple(each[0] for each in labels), roles=tuple(each[1] for each in labels))


def _check_times(batch: MetricBatch, interval_ns: int, now_ns: int) -> None:
    first, last = int(batch.start_ns[0]), int(batch.start_ns[-1])
    if first < 0 or np.any(batch.start_ns % interval_ns):
        raise InputError("the batch has intervals that don't begin at multiples of their length", "send whole intervals")
    if last > now_ns + AHEAD_S * NANOSECONDS:
        raise InputError(
            f"the batch is of a time {(last - now_ns) / NANOSECONDS:,.0f} s to come", "set the clock of the host that taps"
        )


def _refused(name: str, strange: list[str], interval_s: float, known: _Known) -> _Known:
    if strange:
        raise InputError(f"{name} has no VM {strange[0][:63]!r}", "send metrics of the network's own VMs only")
    raise InputError(
        f"the batch is of intervals of {interval_s:g} s, and {name} has {known.interval_ns / NANOSECONDS:g} s",
        "send intervals of the length that its spec declares",
    )


def _formerly(workspace: Workspace, record: NetworkRecord, batch: MetricBatch, interval_ns: int) -> _Known | None:
    """The earlier spec that a batch fits: it may have waited long. None where none does."""
    for version in workspace.state.network_versions(record.name):
        known = _known(record.id, version.version, version.spec_text)
        if known.interval_ns == interval_ns and all(vm in known.labels for vm in batch.vms):
            return known
    return None


def _known(network_id: int, version: int, spec_text: str) -> _Known:
    key = network_id, version, spec_text
    with _KNOWN_TURN:
        if key in _KNOWN:
            _KNOWN.move_to_end(key)
            return _KNOWN[key]
    spec: NetworkSpec = parse_spec(spec_text, "spec")
    known = _Known({vm.name: (vm.subnet, vm.role or "") for vm in expand_vms(spec)}, spec.interval_ns)
    with _KNOWN_TURN:
        _KNOWN[key] = known
        while len(_KNOWN) > _KNOWN_NETWORKS:
            _KNOWN.popitem(last=False)
    return known


def _source(workspace: Workspace, name: str, batch: MetricBatch, sender: Sender) -> SourceRecord | None:
    """The source that a batch is of. Raises ConflictError where it isn't observed any more, or by another tap."""
    if sender.source is None:
        return None
    source = workspace.state.sources.get(sender.source)
    if source.network != name:
        raise NotFoundError(f"{name} has no source {sender.source}", "register the tap anew")
    if source.instance and source.instance != sender.instance:
        raise ConflictError(f"{source.source} is observed by another tap now", "end this one, or stop that one")
    until_ns = (source.seen_ns or 0) + round(STOPPED_S * NANOSECONDS)
    if source.state is SourceState.STOPPED and len(batch) and int(batch.start_ns[-1]) > until_ns:
        raise ConflictError(f"{source.source} isn't to be observed for {name} any more", "it was stopped: end the tap")
    return source


# Two taps

_TURNS: dict[str, threading.Lock] = {}
_TURNS_TURN = threading.Lock()


def _turn_of(name: str) -> threading.Lock:
    """Batches of one network take turns in this server; those of other servers by their claims."""
    with _TURNS_TURN:
        if len(_TURNS) > 100_000:
            _TURNS.clear()
        return _TURNS.setdefault(name, threading.Lock())


@dataclass(frozen=True, slots=True)
class _SortedOut:
    """keep, duplicates: bool[k, V], the rows to be stored, and those that another tap had told of; first: that tap."""

    keep: NDArray[np.bool_]
    duplicates: NDArray[np.bool_]
    first: str = ""


def _spans(batch: MetricBatch) -> list[Span]:
    interval_ns = round(batch.interval_s * NANOSECONDS)
    runs = runs_of(interval_ns, batch.start_ns)
    if len(runs) > _MOST_SPANS:  # time in between that nobody told of is claimed with it, and still taken from others
        return [(runs[0].first_ns, runs[-1].end_ns)]
    return [(run.first_ns, run.end_ns) for run in runs]


def _sort_out(workspace: Workspace, batch: MetricBatch, instance: str, claim: Claim) -> _SortedOut:
    shape = (len(batch), len(batch.vms))
    nothing = np.zeros(shape, np.bool_)
    others = [held for held in claim.held if held.instance != instance]
    shared = _within(batch, [held.span for held in others])
    if not shared.any():
        return _SortedOut(np.ones(shape, np.bool_), nothing)
    told = _within(batch, [held.span for held in claim.held if held.instance == instance and held.settled])
    begun = _within(batch, [held.span for held in claim.held if held.instance == instance and not held.settled])
    asked = shared & ~told
    theirs, same = _stored_traffic(workspace, batch, asked)
    ours = _traffic(batch)
    keep = np.where(shared[:, None], asked[:, None] & ~theirs & (ours | ~same.there), True)
    again = begun[:, None] & same.equal  # a server died between storing and settling
    duplicates = asked[:, None] & theirs & ours & ~again
    met = _within(batch, [others[0].span])[:, None] & duplicates
    first = others[0].instance if met.any() else next(
        (held.instance for held in others if (_within(batch, [held.span])[:, None] & duplicates).any()), others[0].instance
    )  # fmt: skip
    return _SortedOut(keep, duplicates, first)


@dataclass(frozen=True, slots=True)
class _Same:
    """there, equal: bool[k, V], whether anything is stored, and whether just what the batch says."""

    there: NDArray[np.bool_]
    equal: NDArray[np.bool_]


_COUNTS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")


def _stored_traffic(workspace: Workspace, batch: MetricBatch, asked: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], _Same]:
    """Where traffic is stored, bool[k, V], and how that is to the batch's."""
    shape = (len(batch), len(batch.vms))
    theirs, there, equal = (np.zeros(shape, np.bool_) for _ in range(3))
    known = set(workspace.metrics.vms(batch.network))
    rows = np.array([number for number, vm in enumerate(batch.vms) if vm in known], np.int64)
    if not asked.any() or not len(rows):
        return theirs, _Same(there, equal)
    interval_ns = round(batch.interval_s * NANOSECONDS)
    at = np.flatnonzero(asked)
    span = int(batch.start_ns[at[0]]), int(batch.start_ns[at[-1]]) + interval_ns
    names = tuple(batch.vms[number] for number in rows)
    series = workspace.metrics.read(SeriesQuery(batch.network, _COUNTS, names, *span, batch.interval_s))
    if not series.steps:
        return theirs, _Same(there, equal)
    step = (batch.start_ns - series.start_ns) // interval_ns
    inside = asked & (step >= 0) & (step < series.steps)
    cells = np.ix_(np.flatnonzero(inside), rows)
    stored = {name: values[:, step[inside]].T for name, values in series.values.items()}
    theirs[cells] = np.nan_to_num(stored["rx_packets"]) + np.nan_to_num(stored["tx_packets"]) > 0
    there[cells] = ~np.isnan(series.one_sided[:, step[inside]].T)
    equal[cells] = np.all(
        [stored[name] == np.asarray(batch.columns[name], np.float64)[cells] for name in _COUNTS if name in batch.columns],
        axis=0,
    )
    return theirs, _Same(there, equal)


def _traffic(batch: MetricBatch) -> NDArray[np.bool_]:
    packets = [np.nan_to_num(np.asarray(batch.columns[name], np.float64)) for name in _COUNTS[:2] if name in batch.columns]
    return np.asarray(sum(packets) > 0) if packets else np.zeros((len(batch), len(batch.vms)), np.bool_)


def _within(batch: MetricBatch, spans: list[Span]) -> NDArray[np.bool_]:
    """Which of the batch's intervals meet any of the spans."""
    ends = batch.start_ns + round(batch.interval_s * NANOSECONDS)
    met = np.zeros(len(batch), np.bool_)
    for begin, end in spans:
        met |= (batch.start_ns < end) & (ends > begin)
    return met


def parts(batch: MetricBatch, keep: NDArray[np.bool_]) -> Iterator[MetricBatch]:
    """The rows of a batch that are to be kept, as batches: the VMs of which the same intervals are, together."""
    if keep.all():
        yield batch
        return
    masks, which = np.unique(keep, axis=1, return_inverse=True)
    for number in range(masks.shape[1]):
        rows, vms = np.flatnonzero(masks[:, number]), np.flatnonzero(which.reshape(-1) == number)
        if len(rows):
            cells = np.ix_(rows, vms)
            yield replace(
                batch, start_ns=batch.start_ns[rows], one_sided=batch.one_sided[cells], vms=_some(batch.vms, vms),
                columns={name: np.asarray(values)[cells] for name, values in batch.columns.items()},
                subnets=_some(batch.subnets, vms), roles=_some(batch.roles, vms),
                before={name: totals[vms] for name, totals in batch.before.items()},
            )  # fmt: skip


def _some(labels: tuple[str, ...], which: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(labels[number] for number in which) if labels else ()


def _tell(workspace: Workspace, batch: MetricBatch, found: _SortedOut, sender: Sender, now_ns: int) -> str:
    """Notes a second tap of the same traffic, with both. Gives what is to be said to the later one."""
    rows = int(found.duplicates.sum())
    vms = [batch.vms[number] for number in np.flatnonzero(found.duplicates.any(axis=0))]
    about = ", ".join(vms[:_NAMED]) + (f" and {len(vms) - _NAMED} more" if len(vms) > _NAMED else "")
    by_instance = {each.instance: each for each in workspace.state.sources.of(batch.network) if each.instance}
    first, later = (_called(by_instance.get(instance), instance) for instance in (found.first, sender.instance))
    message = f"{later} sees traffic of {about} that {first} had told of: what was told first stands, and is not mixed."
    overlap = Overlap(found.first, sender.instance, rows, message, now_ns, now_ns)
    if workspace.state.shipments.note_overlap(batch.network, overlap):
        for instance in (found.first, sender.instance):
            if instance in by_instance:
                workspace.state.sources.warn(by_instance[instance].id, message)
    return message


def _called(source: SourceRecord | None, instance: str) -> str:
    if source is None:
        return f"the tap {instance[:12]}"
    return f"{source.source} on {source.host or 'the server'}"
