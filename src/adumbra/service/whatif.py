"""What if: the traffic that was seen, or a multiple of it, on other machines than those declared. Changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adumbra.emulate.demand import demand_table, load_of
from adumbra.emulate.trial import USUAL_LOSS, Asked, Candidate, Traffic, Trial, Tried, shortcomings, sweep
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm, keys_of
from adumbra.fanout import IN_PROCESS, Fanout, Part
from adumbra.profile.catalog import load_catalog
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Floats, Intervals
from adumbra.schema.sizing import InstanceType, Machine
from adumbra.schema.units import format_duration
from adumbra.service import networks, replays
from adumbra.service.networks import Network
from adumbra.service.observations import EMULATION_SEED, Progress, emulated_vms
from adumbra.service.workspace import Workspace

MAX_FACTOR = 1000.0
MAX_REQUESTS = 20_000_000
"""The most requests of one VM that are followed, some 800 MB: of longer or busier times, ask for less."""
_VMS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. factor: times the traffic seen; vms: of which VMs (none: all); type: to put them on (None: as declared);
    last_s: over how much of the stored time, from its end; every_type: to try the whole catalogue; bounds: to tell the 80 %
    interval of the first choice, too, which takes most of the time.
    """

    factor: float = 1.0
    vms: tuple[str, ...] = ()
    type: str | None = None
    last_s: float | None = 86_400.0
    every_type: bool = False
    bounds: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A VM on a machine: what it would show, its price, and why it isn't enough (nothing: it is)."""

    type: str | None
    machine: Machine
    arch: str | None
    core_speed: float | None
    price_per_hour: float | None
    tried: Tried
    short: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.short

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found of one VM: as declared under the traffic as it was (now), and under that which is asked about (declared);
    and the choices that were asked for.

    interval: simulated column -> its mean over time, and the 80 % interval of that, for the first choice. assumed: the spec
    says nothing of its size, so that what stands as declared is what a VM is usually taken for.
    """

    vm: str
    now: Choice
    declared: Choice
    choices: tuple[Choice, ...]
    interval: Mapping[str, tuple[float, float, float]]
    assumed: bool = False

    @property
    def cheapest(self) -> Choice | None:
        """Of the choices that fit, the one of the lowest price; None where none does."""
        fitting = [choice for choice in self.choices if choice.fits and choice.price_per_hour is not None]
        return min(fitting, key=lambda choice: (choice.price_per_hour, choice.type), default=None)

    def to_dict(self) -> dict[str, Any]:
        cheapest = self.cheapest
        return {
            "vm": self.vm,
            "now": self.now.to_dict(),
            "declared": self.declared.to_dict(),
            "assumed": self.assumed,
            "choices": [choice.to_dict() for choice in self.choices],
            "interval": {name: list(values) for name, values in self.interval.items()},
            "cheapest": cheapest.type if cheapest else None,
        }


@dataclass(frozen=True, slots=True)
class Answers:
    """What was found of each VM that was asked for, from the traffic between start_ns and end_ns. observed_s: how much of that
    time anything is stored of.
    """

    network: str
    factor: float
    start_ns: int
    end_ns: int
    observed_s: float
    vms: tuple[Answer, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network, "traffic": self.factor, "start_ns": self.start_ns, "end_ns": self.end_ns,
            "observed_s": self.observed_s, "vms": [answer.to_dict() for answer in self.vms],
        }  # fmt: skip


def what_if(
    workspace: Workspace,
    name: str,
    question: Question,
    progress: Progress = lambda *_: None,
    fanout: Fanout = IN_PROCESS,
) -> Answers:
    """Answers a question for each VM asked for; each VM is a task of its own, worked on where `fanout` says.

    Raises InputError, NotFoundError, TooLittleDataError; ClusterError where tasks can't be worked on there.
    """
    network = networks.get(workspace, name)
    if not 0 < question.factor <= MAX_FACTOR:
        raise InputError(f"{question.factor:g} times the traffic is out of range", f"give a factor up to {MAX_FACTOR:g}")
    if question.last_s is not None and not question.last_s > 0:
        raise InputError("no time was asked for", "give a length such as 24h, or all")
    chosen = _chosen(workspace, network, question.vms)
    if question.type:
        load_catalog().type(question.type)  # it is there
    # Less than an interval is an interval: nothing is known of its parts.
    last_s = None if question.last_s is None else max(question.last_s, network.spec.interval)
    between = replays.span(workspace, name, last_s)
    answers: list[Answer] = []
    observed: list[Intervals] = []
    at_once = max(_VMS_AT_ONCE, 2 * fanout.width)
    for first in range(0, len(chosen), at_once):
        some = chosen[first : first + at_once]
        whole = [_replayed(workspace, name, some, between, factor) for factor in dict.fromkeys((1.0, question.factor))]
        observed.append(whole[0])
        tasks = {vm.name: (vm, [_alone(each, row) for each in whole]) for row, vm in enumerate(some)}
        part = Part(progress, first / len(chosen), len(some) / len(chosen))
        answers += fanout.map(_answer, (network, question), tasks, part).values()
    progress(1.0, f"{len(chosen)} VMs")
    start_ns = min(int(each.start_ns[0]) for each in observed)
    end_ns = max(int(each.start_ns[-1]) + each.interval_ns for each in observed)
    observed_s = max(len(each) * each.interval_ns for each in observed) / NANOSECONDS
    return Answers(name, question.factor, start_ns, end_ns, observed_s, tuple(answers))


def _chosen(workspace: Workspace, network: Network, vms: Sequence[str]) -> list[EmulatedVm]:
    stored = set(workspace.metrics.vms(network.name))
    emulated = {vm.name: vm for vm in emulated_vms(network)}
    unknown = [vm for vm in vms if vm not in emulated]
    if unknown:
        raise InputError(f"{network.name} has no VM {unknown[0][:64]!r}", f"there are: {', '.join(list(emulated)[:8])}")
    chosen = [emulated[vm] for vm in (dict.fromkeys(vms) or emulated) if vm in stored]
    if not chosen:
        raise InputError(f"nothing of these VMs of {network.name} was observed", f"run `adumbra observe {network.name} SOURCE`")
    return list(replays.with_arrivals(workspace, network.name, chosen))


def _replayed(workspace: Workspace, name: str, vms: Sequence[EmulatedVm], between: tuple[int, int], factor: float) -> Intervals:
    """What is stored of some VMs, with `factor` times the traffic. Raises TooLittleDataError where nothing is."""
    parts = list(replays.replay(workspace, name, [vm.name for vm in vms], between, factor))
    if not parts:
        asked_s = (between[1] - between[0]) / NANOSECONDS
        names = ", ".join(vm.name for vm in vms[:3]) + (" and others" if len(vms) > 3 else "")
        raise TooLittleDataError(
            f"nothing of {names} was observed in the last {format_duration(asked_s)}", "ask for more time with --last"
        )
    return joined(parts)


def _answer(
    shared: tuple[Network, Question], task: tuple[EmulatedVm, Sequence[Intervals]], progress: Callable[[float, str], None]
) -> Answer:
    """Of one VM. Its task: itself, and its own traffic as it was, and, where that is other, as asked."""
    (network, question), (vm, traffic) = shared, task
    progress(0.0, vm.name)
    catalog, declared = load_catalog(), next(each for each in network.vms if each.name == vm.name)
    targets = network.spec.targets
    asked = Asked(
        shortfall=targets.shortfall,
        latency_ms_p99=targets.latency_p99 * 1e3 if targets.latency_p99 is not None else None,
        loss=targets.loss if targets.loss is not None else USUAL_LOSS,
    )
    stands_on = catalog.type(declared.type) if declared.type and declared.resources is None else None
    own = Candidate(vm.machine, vm.core_speed)
    as_seen = traffic_of(vm, traffic[0])
    asked_for = as_seen if len(traffic) == 1 else traffic_of(vm, traffic[1])
    now = _choice(stands_on, vm.machine, Trial(as_seen).of(own), asked)
    types = catalog.by_price if question.every_type else [catalog.type(question.type)] if question.type else []
    machines = [machine_of_type(each, vm.machine.storage_gb) for each in types]
    on_own, *on_types = sweep(asked_for, [own, *map(candidate_of, types, machines)])
    then = _choice(stands_on, vm.machine, on_own, asked)
    choices = [_choice(*found, asked) for found in zip(types, machines, on_types, strict=True)]
    assumed = declared.type is None and declared.resources is None
    if question.every_type or not question.bounds:
        return Answer(vm.name, now, then, tuple(choices) or (then,), {}, assumed)
    put = replace(vm, machine=machines[0], core_speed=candidate_of(types[0], machines[0]).core_speed) if types else vm
    return Answer(vm.name, now, then, tuple(choices) or (then,), _interval(put, traffic[-1]), assumed)


def _choice(type: InstanceType | None, machine: Machine, tried: Tried, asked: Asked) -> Choice:
    short = shortcomings(tried, machine, asked)
    if type is not None and type.burstable:
        short = (*short, "its CPU is whole in bursts only")
    if type is None:
        return Choice(None, machine, None, None, None, tried, short)
    return Choice(type.name, machine, type.arch, type.core_speed, type.price_per_hour, tried, short)


def machine_of_type(type: InstanceType, storage_gb: float) -> Machine:
    return Machine(type.cpu_cores, type.memory_gb, type.bandwidth_mbps, storage_gb, type.peak_bandwidth_mbps)


def candidate_of(type: InstanceType, machine: Machine) -> Candidate:
    return Candidate(machine, type.core_speed or 1.0)


def joined(parts: list[Intervals]) -> Intervals:
    first = parts[0]
    return replace(
        first,
        start_ns=np.concatenate([part.start_ns for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        one_sided=np.concatenate([part.one_sided for part in parts]),
    )


def _alone(intervals: Intervals, row: int) -> Intervals:
    """The intervals of one VM only."""
    columns = {name: np.ascontiguousarray(values[:, row : row + 1]) for name, values in intervals.columns.items()}
    return replace(intervals, columns=columns, one_sided=np.ascontiguousarray(intervals.one_sided[:, row : row + 1]))


def traffic_of(vm: EmulatedVm, intervals: Intervals) -> Traffic:
    """A VM's traffic, drawn; its memory as the emulated VM would use it. Raises InputError for more than can be followed."""
    none = np.zeros((len(intervals), 1), np.int64)
    load = load_of(intervals, none, demand_table([vm.believed]), keys_of([vm], EMULATION_SEED))[:, 0]
    requests = int((load["seen"] + load["drawn"]).sum())
    if requests > MAX_REQUESTS:
        raise InputError(f"{requests:,} requests of {vm.name} are too many to follow", "ask for less time with --last")
    memory = EmulatedNetwork([vm], EMULATION_SEED).emulate(intervals)["memory_bytes"]
    return Traffic.of(
        vm,
        intervals.start_ns,
        intervals.interval_ns,
        load,
        seed=EMULATION_SEED,
        memory_bytes=float(np.nanmax(memory, initial=0.0)),
    )


def _interval(vm: EmulatedVm, intervals: Intervals) -> dict[str, tuple[float, float, float]]:
    """Means over the time of what the emulated VM shows, each with the mean of its 80 % interval."""
    from adumbra.emulate.parameters import PARAMETER_SETS

    columns = EmulatedNetwork([vm], EMULATION_SEED, PARAMETER_SETS).emulate(intervals)

    def mean(values: Floats) -> float:
        return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan

    shown = ("cpu_utilization", "latency_ms_p99", "memory_bytes", "dropped_ratio")
    return {name: (mean(columns[name]), mean(columns[f"{name}_low"]), mean(columns[f"{name}_high"])) for name in shown}
