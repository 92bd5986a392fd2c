"""Learning: models from a network's stored metrics, and forecasts from them. Versioned (models.py), and kept as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adumbra.fanout import IN_PROCESS, Fanout, Part
from adumbra.forecast.demand import forecast as foresee
from adumbra.forecast.gate import Judgement, Serving, judge
from adumbra.forecast.models.protocol import Covariates
from adumbra.forecast.risk.learned import LearnedRisk, learn
from adumbra.forecast.series import COLUMNS, choose_step_s, panel
from adumbra.forecast.training import Training
from adumbra.forecast.training import train as fit
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import ConflictError, InputError, StoreError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Panel, Quantiles, SeriesQuery
from adumbra.schema.sizing import RESOURCES
from adumbra.schema.spec import Vm
from adumbra.schema.state import NewTraining
from adumbra.service import models, networks
from adumbra.service.networks import Network
from adumbra.service.observations import BOUNDED, Progress, capacities, emulated_vms
from adumbra.service.workspace import Workspace, machine_of

TRAINING_SEED = 1
MAX_HORIZON_S = 90 * 86_400.0
FORECAST_POINTS = 240
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Trained:
    """A network's training: which of its trainings it is, what it found, and the models themselves.

    judged: how it did beside the version that served before, and forgotten: the versions that went as it came, where it was
    made just now.
    """

    network: str
    version: int
    training: Training
    judged: Judgement | None = None
    forgotten: tuple[int, ...] = ()

    def found(self) -> Found:
        """The same without the models."""
        return Found(self.network, self.version, self.training.summary(), self.judged, self.forgotten)


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be told of a training: as in Trained, with `summary` (Training.summary) in place of the models."""

    network: str
    version: int
    summary: Mapping[str, Any]
    judged: Judgement | None
    forgotten: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network, "version": self.version, "serves": self.judged is None or self.judged.serves,
            "judgement": self.judged.to_dict() if self.judged else None, "forgotten": list(self.forgotten), **self.summary,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Found:
        """What `to_dict` gave, through JSON or not. Raises KeyError or PlainError for anything else."""
        told = {name: plain[name] for name in ("network", "version", "serves", "judgement", "forgotten")}
        judged = Judgement.from_dict(told["judgement"]) if told["judgement"] is not None else None
        summary = {name: value for name, value in plain.items() if name not in told}
        return cls(told["network"], told["version"], summary, judged, tuple(told["forgotten"]))


def panels(workspace: Workspace, name: str, step_s: float | None = None) -> dict[str, Panel]:
    """What a network's VMs have used of each resource, in the given steps or those that suit what is stored.

    Raises TooLittleDataError where nothing is stored of its VMs.
    """
    network = networks.get(workspace, name)
    span = workspace.metrics.span(name)
    if span is None:
        raise TooLittleDataError(f"nothing of {name} was observed yet", f"run `adumbra observe {name} pcap:FILE`")
    step_s = step_s or choose_step_s(network.spec.interval, (span[1] - span[0]) / NANOSECONDS)
    wanted = tuple(vm.name for vm in network.vms)
    known = set(workspace.metrics.vms(name))
    query = SeriesQuery(network=name, columns=COLUMNS, vms=tuple(vm for vm in wanted if vm in known), step_s=step_s)
    if not query.vms:
        raise TooLittleDataError(
            f"what was observed of {name} is of other VMs than its spec has now", f"run `adumbra observe {name} pcap:FILE`"
        )
    series = workspace.metrics.read(query)
    return {resource: panel(series, resource) for resource in RESOURCES}


def beside(network: Network, vms: Sequence[str]) -> dict[str, Covariates]:
    """What models are told of VMs beside their use, by resource: declared size (of what bounds use: how far a disk will fill
    its size says little of) and role. A size that the spec doesn't tell is none."""
    declared = {vm.name: vm for vm in network.vms}
    roles = tuple(declared[name].role or "" for name in vms)
    sizes = {resource: np.array([_declared(declared[name], resource) for name in vms]) for resource in BOUNDED}
    return {resource: Covariates(sizes.get(resource), roles) for resource in RESOURCES}


def _declared(vm: Vm, resource: str) -> float:
    """The size that the spec tells, NaN where it tells none."""
    told = vm.resources is not None and getattr(vm.resources, resource) is not None
    return float(getattr(machine_of(vm), resource)) if told or vm.type else np.nan


@dataclass(frozen=True, slots=True)
class How:
    """How to train. seed: what all that is drawn by chance follows from; fanout: where each resource is worked on."""

    seed: int = TRAINING_SEED
    fanout: Fanout = IN_PROCESS


def train(
    workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None, how: How | None = None
) -> Trained:
    """Fits, back-tests and calibrates the models of every resource, and keeps them as the next version.

    It serves from then on, unless it would have done worse than the version that serves (gate.judge). Raises
    TooLittleDataError, and InputError for a seed that isn't one.
    """
    how = how or How()
    if not 0 <= how.seed < 2**32:
        raise InputError(f"{how.seed} is no seed", f"give a whole number from 0 to {2**32 - 1}")
    use = panels(workspace, name)
    known = beside(networks.get(workspace, name), next(iter(use.values())).vms)
    training = fit(use, how.seed, Part(progress, 0.0, 0.6), how.fanout, known)
    training = replace(training, risks=_risks(workspace, name, use, how, Part(progress, 0.6, 0.3)))
    summary, artifact, origin = training.summary(), training.to_bytes(), models.origin_of(use, how.seed)
    for attempt in range(_ATTEMPTS):
        progress(0.9, "comparing it with the version that serves")
        judged = judge(training, use, _serving(workspace, name), how.fanout, known)
        new = NewTraining(summary, artifact, origin, judged.to_dict(), judged.serves, judged.against)
        try:
            saved = workspace.state.save_training(name, new, now())
        except ConflictError:  # another process trained, or rolled back, meanwhile
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        progress(1.0, "kept")
        return Trained(name, saved.kept.version, training, judged, saved.forgotten)
    raise AssertionError("the last attempt returns or raises")


def _risks(workspace: Workspace, name: str, use: Mapping[str, Panel], how: How, progress: Part) -> tuple[LearnedRisk, ...]:
    """The risks of sizes of each resource whose history is long enough: a task each, worked on where `fanout` says."""
    emulated = {vm.name: vm for vm in emulated_vms(networks.get(workspace, name))}
    has = capacities([emulated[vm] for vm in next(iter(use.values())).vms])
    tasks = {f"{resource}: risks": MeasuredUse(use[resource], has[resource]) for resource in BOUNDED}  # storage: by its growth
    found = how.fanout.map(_learn_risk, how.seed, tasks, progress)
    return tuple(each for some in found.values() for each in some)


def _learn_risk(seed: int, use: MeasuredUse, progress: Callable[[float, str], None]) -> tuple[LearnedRisk, ...]:
    return learn(use, seed, progress)[0]


def _serving(workspace: Workspace, name: str) -> Serving | None:
    """The version that serves, with its models; None where there is none, or where they can't be read any more."""
    record = workspace.state.training(name)
    if record is None:
        return None
    end_ns = record.origin["end_ns"] if record.origin else None
    try:
        return Serving(record.version, Training.from_bytes(record.artifact), end_ns)
    except StoreError:
        return Serving(record.version, None, end_ns)


def trained(workspace: Workspace, name: str) -> Trained:
    """The training that serves. Raises ConflictError where there is none, StoreError where it can't be read back."""
    networks.get(workspace, name)
    record = workspace.state.training(name)
    if record is None:
        raise ConflictError(f"{name} has no trained model yet", f"run `adumbra train {name}`")
    return Trained(name, record.version, Training.from_bytes(record.artifact))


def forecast(workspace: Workspace, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
    """Calibrated quantiles of each resource's use over the horizon, from the end of what is stored.

    Raises InputError for a horizon that isn't one.
    """
    return foreseen(workspace, name, horizon_s)[1]


def foreseen(workspace: Workspace, name: str, horizon_s: float) -> tuple[int, Mapping[str, Quantiles]]:
    """The same, and the version of the training that it comes from."""
    check_horizon(horizon_s)
    serving = trained(workspace, name)
    training = serving.training
    use = panels(workspace, name, training.step_s)
    known = beside(networks.get(workspace, name), next(iter(use.values())).vms)
    return serving.version, foresee(training, use, horizon_s, FORECAST_POINTS, covariates=known)


def check_horizon(horizon_s: float) -> None:
    """Raises InputError for a horizon that isn't one."""
    if not 1 <= horizon_s <= MAX_HORIZON_S:
        raise InputError(f"a horizon of {horizon_s:g} s is out of range", "give one from 1s to 90d")
