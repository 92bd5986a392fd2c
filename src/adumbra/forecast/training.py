"""Learns every resource of a network's VMs: back-tests the models, fits the one that is picked, keeps its calibration.
Pure: panels and a seed in, a record out, which goes to plain data and back. No store, no clock, no pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adumbra.fanout import IN_PROCESS, Fanout
from adumbra.forecast import registry
from adumbra.forecast.adaptive import Adaptive, Held
from adumbra.forecast.backtest import MIN_STEPS, REACH_SHARE, Progress, Verdict, WindowErrors, backtest, rng_for
from adumbra.forecast.conformal import Calibration
from adumbra.forecast.models.protocol import NOTHING_KNOWN, Covariates, Fitted, learn
from adumbra.forecast.scores import Scores
from adumbra.forecast.series import modelled, resource_named, seen_steps
from adumbra.schema.errors import InputError, StoreError, TooLittleDataError
from adumbra.schema.records import Panel
from adumbra.schema.sizing import RESOURCES
from adumbra.schema.units import format_duration

if TYPE_CHECKING:  # its libraries take a second to load, and most networks have no risks learned
    from adumbra.forecast.risk.learned import LearnedRisk

FORMAT = 3
_MAX_TEXT_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one resource. learned_s: the longest that any VM was measured, without the gaps; steps: the
    length of the grid; fitted: the picked model, fitted on all of it."""

    resource: str
    vms: tuple[str, ...]
    step_s: float
    steps: int
    learned_s: float
    verdict: Verdict
    fitted: Fitted

    @property
    def chosen(self) -> str:
        return self.fitted.name

    @property
    def reach_s(self) -> float:
        """How far ahead the back-test looked, in seconds; 0 where there was none."""
        return self.verdict.horizon_steps * self.step_s


@dataclass(frozen=True, slots=True)
class Training:
    """A network's trained models: one a resource, in the profile's order. skipped: resource -> why it wasn't learned; risks:
    of sizes, for the resources and horizons that the history is long enough for."""

    seed: int
    resources: tuple[Learned, ...]
    skipped: Mapping[str, str]
    risks: tuple[LearnedRisk, ...] = ()

    def of(self, resource: str) -> Learned:
        """What was learned of a resource. Raises KeyError."""
        for learned in self.resources:
            if learned.resource == resource:
                return learned
        raise KeyError(resource)

    @property
    def learned_s(self) -> float:
        """The longest that any VM was measured in any resource, in seconds, without the gaps."""
        return max(learned.learned_s for learned in self.resources)

    @property
    def step_s(self) -> float:
        """The step of the panels that it was trained on, in seconds."""
        return self.resources[0].step_s

    @property
    def model(self) -> str:
        """The models in one line, as a profile names them: "LightGBM (cpu_cores), seasonal naive (memory_gb)"."""
        chosen: dict[str, list[str]] = {}
        for learned in self.resources:
            chosen.setdefault(registry.TITLES.get(learned.chosen, learned.chosen), []).append(learned.resource)
        if len(chosen) == 1:
            return next(iter(chosen))
        return ", ".join(f"{title} ({', '.join(names)})" for title, names in chosen.items())

    def summary(self) -> dict[str, Any]:
        """What to show of it, as plain data: per resource the model, why, its scores and how its intervals held."""
        return {
            "seed": self.seed,
            "learned_s": self.learned_s,
            "model": self.model,
            "resources": [_summary(learned) for learned in self.resources],
            "skipped": dict(self.skipped),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, all of it."""
        return {
            "format": FORMAT,
            "seed": self.seed,
            "resources": [_to_dict(learned) for learned in self.resources],
            "skipped": dict(self.skipped),
            "risks": [risk.to_dict() for risk in self.risks],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Training:
        """The training that `to_dict` gave. Raises StoreError for anything else, saying to train again."""
        try:
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']}")
            resources = tuple(_from_dict(entry) for entry in plain["resources"])
            risks = tuple(_risk(entry) for entry in plain["risks"])
            return cls(int(plain["seed"]), resources, dict(plain["skipped"]), risks)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StoreError("the stored training can't be read", "train again") from error

    def to_bytes(self) -> bytes:
        """The same, as compressed JSON text: what a state store keeps."""
        return zlib.compress(json.dumps(self.to_dict(), separators=(",", ":")).encode(), 6)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Training:
        """The training that `to_bytes` gave. Raises StoreError for anything else, saying to train again."""
        try:
            inflater = zlib.decompressobj()
            text = inflater.decompress(stored, _MAX_TEXT_BYTES)
            plain = json.loads(text)
        except (zlib.error, ValueError) as error:
            raise StoreError("the stored training can't be read", "train again") from error
        return cls.from_dict(plain)


@dataclass(frozen=True, slots=True)
class _Task:
    """One resource's history, as it was measured, and what else is known of its VMs."""

    history: Panel
    covariates: Covariates


def _risk(plain: Mapping[str, Any]) -> LearnedRisk:
    from adumbra.forecast.risk.learned import LearnedRisk

    return LearnedRisk.from_dict(plain)


def train(
    panels: Mapping[str, Panel],
    seed: int,
    progress: Progress,
    fanout: Fanout = IN_PROCESS,
    covariates: Mapping[str, Covariates] | None = None,
) -> Training:
    """Learns from panels of use (series.panel), one a resource, of the same VMs. Each is a task, worked on where `fanout` says.

    covariates: by resource, what else is known of the panels' VMs; what forecasts are then made from has to tell it too.
    progress is told the share done, 0 to 1, and what is being done. The same panels and seed give the same training.
    A resource without MIN_STEPS measured steps of any VM is skipped, and said so; raises TooLittleDataError where that
    leaves none, and InputError where the panels don't fit together.
    """
    names = _checked(panels)
    beside = covariates or {}
    enough: dict[str, _Task] = {}
    skipped: dict[str, str] = {}
    for name in names:
        history = panels[name]
        most = int(seen_steps(history).max(initial=0))
        if most < MIN_STEPS:
            skipped[name] = f"{most} of {history.values.shape[1]} steps of {format_duration(history.step_s)} hold a value"
            continue
        enough[name] = _Task(history, _of_as_many(beside.get(name, NOTHING_KNOWN), history))
    if not enough:
        told = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        step_s = next(iter(panels.values())).step_s
        raise TooLittleDataError(
            f"nothing can be learned yet ({told})",
            f"observe for at least {MIN_STEPS} intervals, {format_duration(MIN_STEPS * step_s)}, with traffic in them",
        )
    learned = fanout.map(_learn, seed, enough, progress)
    progress(1.0, "trained")
    return Training(seed, tuple(learned.values()), skipped)


def _checked(panels: Mapping[str, Panel]) -> list[str]:
    if not panels:
        raise InputError("there is nothing to learn from", "give the panel of at least one resource")
    first = next(iter(panels.values()))
    for name, history in panels.items():
        resource_named(name)
        if history.resource != name or history.vms != first.vms or history.values.shape[0] != len(history.vms):
            raise InputError(f"the panel given for {name} is of {history.resource}, or of other VMs", "read them together")
    return [name for name in RESOURCES if name in panels]


def _of_as_many(covariates: Covariates, history: Panel) -> Covariates:
    """The covariates. Raises InputError where they are of another number of VMs than the panel."""
    vms = len(history.vms)
    told = (covariates.declared, covariates.roles or None, *covariates.traffic.values())
    if any(each is not None and len(each) != vms for each in told):
        raise InputError(f"what is told beside {history.resource} isn't of its {vms} VMs", "tell it of each, in their order")
    return covariates


def _learn(seed: int, task: _Task, progress: Progress) -> Learned:
    history, covariates = task.history, task.covariates
    known = modelled(history)
    reach = max(1, known.values.shape[1] // REACH_SHARE)
    against = {name: registry.why_not(name, known) for name in registry.LONG}
    names = [*registry.NAMES, *(name for name, why in against.items() if not why)]
    models = [registry.forecaster(name, reach) for name in names]
    verdict = backtest(known, models, seed, lambda done, what: progress(0.75 * done, what), covariates)
    verdict = replace(verdict, why="; ".join([verdict.why, *(why for why in against.values() if why)]))
    progress(0.75, f"{history.resource}: fitting {registry.TITLES.get(verdict.chosen, verdict.chosen)}")
    model = registry.forecaster(verdict.chosen, reach, verdict.weights)
    steps = known.values.shape[1]
    fitted = learn(model, known, rng_for(seed, history.resource, verdict.chosen, steps), covariates)
    learned_s = float(seen_steps(history).max() * history.step_s)
    return Learned(history.resource, history.vms, history.step_s, steps, learned_s, verdict, fitted)


def _summary(learned: Learned) -> dict[str, Any]:
    verdict = learned.verdict
    offsets = zip(verdict.calibration.levels, verdict.calibration.offsets, strict=True)
    return {
        "resource": learned.resource,
        "model": learned.chosen,
        "why": verdict.why,
        "about": learned.fitted.about,
        "learned_s": learned.learned_s,
        "step_s": learned.step_s,
        "steps": learned.steps,
        "origins": verdict.origins,
        "horizon_s": learned.reach_s,
        "scores": {name: scored.to_dict() if scored else None for name, scored in verdict.scores.items()},
        "calibrated_coverage": dict(verdict.coverage),
        "coverage_per_vm": [held.to_dict() for held in verdict.per_vm],
        "ensemble": dict(verdict.weights),
        "promised": {f"{level:g}": offset.promised for level, offset in offsets},
    }


def _to_dict(learned: Learned) -> dict[str, Any]:
    verdict = learned.verdict
    return {
        "resource": learned.resource, "vms": list(learned.vms), "step_s": learned.step_s, "steps": learned.steps,
        "learned_s": learned.learned_s, "fitted": learned.fitted.to_dict(),
        "verdict": {
            "chosen": verdict.chosen, "why": verdict.why, "origins": verdict.origins,
            "horizon_steps": verdict.horizon_steps, "vms": verdict.vms, "coverage": dict(verdict.coverage),
            "scores": {name: scored.to_dict() if scored else None for name, scored in verdict.scores.items()},
            "calibration": verdict.calibration.to_dict(), "window": verdict.window.to_dict(),
            "adaptive": verdict.adaptive.to_dict() if verdict.adaptive else None, "weights": dict(verdict.weights),
            "per_vm": [held.to_dict() for held in verdict.per_vm],
        },
    }  # fmt: skip


def _from_dict(plain: Mapping[str, Any]) -> Learned:
    told = plain["verdict"]
    verdict = Verdict(
        chosen=told["chosen"], why=told["why"], origins=int(told["origins"]), horizon_steps=int(told["horizon_steps"]),
        vms=int(told["vms"]), coverage=dict(told["coverage"]),
        scores={name: Scores.from_dict(scored) if scored else None for name, scored in told["scores"].items()},
        calibration=Calibration.from_dict(told["calibration"]), window=WindowErrors.from_dict(told["window"]),
        adaptive=Adaptive.from_dict(told["adaptive"]) if told["adaptive"] else None,
        weights={str(name): float(weight) for name, weight in told["weights"].items()},
        per_vm=tuple(Held(**each) for each in told["per_vm"]),
    )  # fmt: skip
    return Learned(
        resource_named(plain["resource"]).name, tuple(plain["vms"]), float(plain["step_s"]), int(plain["steps"]),
        float(plain["learned_s"]), verdict, registry.restore(plain["fitted"]),
    )  # fmt: skip
