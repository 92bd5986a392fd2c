"""A network as its page shows it: state, what is known, sizes against what was declared, sources, jobs, events. Reads only."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adumbra.profile.money import HOURS_PER_MONTH
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import JobRecord, JobState, SourceRecord
from adumbra.schema.records import NANOSECONDS
from adumbra.schema.sizing import RESOURCES, Confidence, Estimate, Machine, NetworkProfile
from adumbra.schema.spec import NetworkSpec, Vm, expand_vms, parse_spec
from adumbra.schema.state import NetworkRecord, NetworkState, ObservationRecord, TrainingVersion
from adumbra.service.pictures.prices import Costs, costs, declared_price
from adumbra.service.workspace import Workspace, machine_of

STATES: Mapping[NetworkState, str] = {
    NetworkState.SHADOWING: "its shadow watches; no sizes yet",
    NetworkState.READY: "it has sizes, and can be activated",
    NetworkState.ACTIVATING: "its VMs are being made",
    NetworkState.ACTIVE: "its VMs stand",
    NetworkState.FAILED: "a step failed; activating again goes on from there",
    NetworkState.DELETING: "it is being deleted",
}
_ORDER = (Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)


@dataclass(frozen=True, slots=True)
class Glance:
    """A network in a line. learned_s: of how much time its models learned, None before any; watched_s: how much is stored;
    confidence: of the VM that is known least."""

    name: str
    state: NetworkState
    vms: int
    learned_s: float | None
    watched_s: float
    last_ns: int | None
    confidence: Confidence | None
    costs: Costs
    sources: int
    troubled: int
    jobs: int


def glances(workspace: Workspace, records: Sequence[NetworkRecord]) -> tuple[Glance, ...]:
    """Networks at a glance, in the order given."""
    busy: dict[str, int] = {}
    for job in workspace.state.jobs.open():
        busy[job.network] = busy.get(job.network, 0) + 1
    watched: dict[str, list[SourceRecord]] = {}
    for source in workspace.state.sources.open():
        watched.setdefault(source.network, []).append(source)
    return tuple(_glance(workspace, each, watched.get(each.name, []), busy.get(each.name, 0)) for each in records)


def _glance(workspace: Workspace, record: NetworkRecord, sources: Sequence[SourceRecord], jobs: int) -> Glance:
    _, vms = understood(record.spec_text, record.name)
    profile = kept_profile(workspace, record.name)
    span = workspace.metrics.span(record.name)
    return Glance(
        name=record.name, state=record.state, vms=len(vms), learned_s=profile.learned_s if profile else None,
        watched_s=(span[1] - span[0]) / NANOSECONDS if span else 0.0, last_ns=span[1] if span else None,
        confidence=least([vm.confidence for vm in profile.vms]) if profile else None, costs=costs(vms, profile),
        sources=len(sources), troubled=sum(bool(each.trouble) for each in sources), jobs=jobs,
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def understood(text: str, name: str) -> tuple[NetworkSpec, tuple[Vm, ...]]:
    """A spec that was accepted once, and its VMs."""
    spec = parse_spec(text, name)
    return spec, expand_vms(spec)


def kept_profile(workspace: Workspace, name: str) -> NetworkProfile | None:
    """The newest profile, None where there is none."""
    kept = workspace.state.profile(name)
    return None if kept is None else NetworkProfile.from_dict(kept.profile)


def least(confidences: Sequence[Confidence]) -> Confidence | None:
    return min(confidences, key=_ORDER.index, default=None)


@dataclass(frozen=True, slots=True)
class Size:
    """One resource of a VM: what is declared and what is proposed, in its unit; the need as believed."""

    resource: str
    declared: float | None
    proposed: float | None
    estimate: Estimate | None


@dataclass(frozen=True, slots=True)
class VmSizes:
    """A VM's sizes against what was declared. assumed: the spec declares none, so that a usual machine stands for it.
    declared_month, proposed_month: dollars; priced_as: the type whose price stands for the declared resources, "" for its own.
    told: the reasons that speak of this VM's size and type; the rest of reasons is about how all was learned."""

    vm: str
    subnet: str
    role: str
    sizes: tuple[Size, ...]
    declared_type: str | None
    proposed_type: str | None
    declared_month: float | None
    proposed_month: float | None
    priced_as: str
    assumed: bool
    confidence: Confidence | None
    told: tuple[str, ...]
    reasons: tuple[str, ...]


def vm_sizes(vms: Sequence[Vm], profile: NetworkProfile | None) -> tuple[VmSizes, ...]:
    """Of each VM of the spec, in its order; without a profile, or in one of an older spec, nothing is proposed."""
    sized = {each.vm: each for each in profile.vms} if profile is not None else {}
    rows = []
    for vm in vms:
        machine, found, priced = _machine(vm), sized.get(vm.name), declared_price(vm)
        assumed = vm.type is None and vm.resources is None
        sizes = tuple(
            Size(
                name,
                None if assumed or machine is None else float(getattr(machine, name)),
                float(getattr(found, name)) if found else None,
                found.estimate.get(name) if found else None,
            )
            for name in RESOURCES
        )
        reasons = found.reasons if found else ()
        rows.append(VmSizes(
            vm.name, vm.subnet, vm.role, sizes, vm.type, found.type if found else None, _month(priced.price_per_hour),
            _month(found.price_per_hour if found else None), (priced.type or "") if priced.chosen else "", assumed,
            found.confidence if found else None, _about_type(reasons, found.type if found else None), reasons,
        ))  # fmt: skip
    return tuple(rows)


def _month(per_hour: float | None) -> float | None:
    return None if per_hour is None else per_hour * HOURS_PER_MONTH


def _machine(vm: Vm) -> Machine | None:
    try:
        return machine_of(vm)
    except AdumbraError:
        return None


def _about_type(reasons: Sequence[str], type: str | None) -> tuple[str, ...]:
    """The reasons that say why this type, and what goes for this size; the first, which says from how much was learned."""
    if not reasons:
        return ()
    of_type = [each for each in reasons if type and each.startswith(type)]
    limits = [each for each in reasons if "not carried beyond" in each or "the history holds none" in each]
    return tuple(dict.fromkeys((*of_type, *limits, reasons[0])))


@dataclass(frozen=True, slots=True)
class Observed:
    """A source that is or was watched. state: in a word; figures: where its packets went, in words; trouble: what is wrong."""

    id: int | None
    network: str
    source: str
    state: str
    going: bool
    where: str
    seen_ns: int | None
    restarts: int
    figures: tuple[tuple[str, int], ...]
    lost: int
    trouble: str


def sources_of(workspace: Workspace, name: str) -> tuple[Observed, ...]:
    """The sources that were asked for, then the observations of commands that were not, each newest first."""
    asked = [_of_source(each) for each in workspace.state.sources.of(name)]
    known = {each.source for each in asked}
    told = {each.source: each for each in reversed(workspace.state.observations(name))}
    filled = [_filled(each, told.get(each.source)) for each in asked]
    return (*filled, *(_of_observation(each) for each in reversed(told.values()) if each.source not in known))


def _filled(source: Observed, told: ObservationRecord | None) -> Observed:
    """A source whose tap said nothing yet, with what its observation said."""
    if source.figures or told is None:
        return source
    from dataclasses import replace

    found = _of_observation(told)
    return replace(source, figures=found.figures, lost=found.lost, trouble=source.trouble or found.trouble)


def _of_source(record: SourceRecord) -> Observed:
    figures, lost, ended = accounts_told(record.accounts)
    going = not record.state.over
    where = record.host or record.place.value
    return Observed(
        record.id, record.network, record.source, record.state.value, going, where, record.seen_ns, record.restarts, figures,
        lost, record.trouble or ended,
    )  # fmt: skip


def _of_observation(record: ObservationRecord) -> Observed:
    figures, lost, ended = accounts_told(record.accounts)
    return Observed(
        None, record.network, record.source, record.state.value, record.state.value == "running", "command",
        record.finished_ns or record.started_ns, 0, figures, lost, str(record.accounts.get("error", "")) or ended,
    )  # fmt: skip


_FIGURES = ("offered", "attributed", "foreign", "unclaimed", "late", "untracked", "uncounted")
FIGURE_MEANS = {
    "offered": "frames that the source gave",
    "attributed": "packets of the network's VMs",
    "foreign": "packets of other networks",
    "unclaimed": "packets to addresses of the network that no VM has",
    "late": "packets that came after their interval was closed",
    "untracked": "packets whose connection found no room",
    "uncounted": "peers, requests and times that found their tables full",
    "unreadable": "frames that could not be read",
    "dropped": "frames that the capturing side lost",
}


def accounts_told(raw: Mapping[str, Any]) -> tuple[tuple[tuple[str, int], ...], int, str]:
    """Of a source's accounts, or the observation that holds them: figures above zero, what was lost in all, how it ended."""
    inner = raw.get("accounts")
    accounts: Mapping[str, Any] = inner if isinstance(inner, Mapping) else raw
    outcomes = accounts.get("outcomes") or {}
    losses = accounts.get("losses") or {}
    figures = [(name, int(accounts.get(name) or 0)) for name in _FIGURES]
    unreadable = sum(int(outcomes.get(name) or 0) for name in ("link_truncated", "ip_truncated", "ip_malformed"))
    dropped = int(losses.get("dropped") or 0)
    figures += [("unreadable", unreadable), ("dropped", dropped)]
    lost = unreadable + dropped + sum(int(accounts.get(name) or 0) for name in ("late", "untracked", "uncounted"))
    shown = tuple(each for each in figures if each[1] > 0 or each[0] in {"offered", "attributed"})
    return (shown if accounts.get("offered") is not None else ()), lost, str(losses.get("ended") or "")


@dataclass(frozen=True, slots=True)
class Working:
    """A job, as progress: share 0 to 1, None where that isn't known."""

    id: int
    kind: str
    state: JobState
    share: float | None
    doing: str
    by: str
    created_ns: int
    finished_ns: int | None
    trouble: str


def working(record: JobRecord) -> Working:
    return Working(
        record.id, record.kind.value, record.state, record.share, record.doing, record.by, record.created_ns,
        record.finished_ns, record.trouble,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Learned:
    """What the serving models know: of how much time, how often their 80 % interval held, and by which model, by resource."""

    version: int
    learned_s: float
    models: tuple[tuple[str, str], ...]
    held: tuple[tuple[str, float], ...]
    made_ns: int


def learned_of(versions: Sequence[TrainingVersion]) -> Learned | None:
    """Of the version that serves; None where none does."""
    for each in versions:
        if each.serves:
            found = each.summary.get("resources", [])
            held = [
                (str(one["resource"]), float(one["calibrated_coverage"]["80"]))
                for one in found
                if (one.get("calibrated_coverage") or {}).get("80") is not None
            ]
            models = [(str(one["resource"]), str(one["model"])) for one in found]
            return Learned(each.version, float(each.summary.get("learned_s", 0.0)), tuple(models), tuple(held), each.created_ns)
    return None


@dataclass(frozen=True, slots=True)
class Overview:
    """All that a network's page shows at first sight."""

    name: str
    state: NetworkState
    version: int
    spec: NetworkSpec
    vms: tuple[Vm, ...]
    watched: tuple[int, int] | None
    profile: NetworkProfile | None
    profiled_ns: int | None
    confidence: Confidence | None
    costs: Costs
    learned: Learned | None
    sizes: tuple[VmSizes, ...]

    @property
    def watched_s(self) -> float:
        return 0.0 if self.watched is None else (self.watched[1] - self.watched[0]) / NANOSECONDS


def overview(workspace: Workspace, name: str) -> Overview:
    """Raises NotFoundError for a network that isn't there."""
    record = workspace.state.network(name)
    spec, vms = understood(record.spec_text, name)
    kept = workspace.state.profile(name)
    profile = None if kept is None else NetworkProfile.from_dict(kept.profile)
    return Overview(
        name, record.state, record.version, spec, vms, workspace.metrics.span(name), profile,
        None if kept is None else kept.created_ns, least([vm.confidence for vm in profile.vms]) if profile else None,
        costs(vms, profile), learned_of(workspace.state.trainings(name)), vm_sizes(vms, profile),
    )  # fmt: skip
