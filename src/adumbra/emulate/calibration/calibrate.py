"""What measured use says of a VM's costs: the rows to fit, the fit, how good it is on time that it didn't see, in words.

Pure: takes what was observed and what was measured, gives a VmCalibration. Stores nothing, reads no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from adumbra.emulate.calibration import drift
from adumbra.emulate.calibration.evidence import Evidence
from adumbra.emulate.calibration.regression import (
    INNER_80,
    LEAST_MISFIT,
    Belief,
    Law,
    Sample,
    fit,
    fit_level,
    out_of_sample,
    scattered,
)
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import COSTS, HOLDINGS, Fit, VmCalibration
from adumbra.schema.records import Floats, Ints

FITTED: tuple[str, ...] = tuple(name for name in COSTS if name != "wake_s")
"""The costs of CPU that are fitted. Waking isn't: over the rates that a VM sees, nearly as large a share of its requests comes
alone, so that rows don't tell it from a request's own cost, and what the prior believes of it would be carried to busier times.
"""
LEAST_ROWS = 12
"""Rows of measured use, below which nothing is learned; and of held-out ones, below which the error isn't told."""
MOST_ROWS = 20_000  # that a fit looks at; more are added up to fewer
JUDGED_S = 10.0
"""The error is told over so much time at least: a second more or less in the clocks says nothing of the costs."""
LEAST_MOVE = 0.1
"""Coefficient of variation of the load over the rows, below which costs can't be told apart."""
_REQUEST = COSTS.index("request_s")
_IDLE_MOVE = 1e-9  # of the load beside the rest's: nothing came at all
_EACH_SD = 1.0  # how unsure each cost is by itself, relative to its own, where the role doesn't say
_LEAST_LEVEL_SD = 0.25
_TOLD = 0.03  # a cost that makes less of the use than this isn't spoken of
_CHANGED = 1.25  # a factor that is worth a word


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out rows: start_ns int64[n], what was measured, what the parameters before said, what those fitted to the time
    before them say, and the interval in which it is to lie with probability 0.8; live: what costs say that are followed from
    row to row (drift.py), always told before its use was measured. float64[n] each, in cores or bytes.
    """

    start_ns: Ints
    measured: Floats
    before: Floats
    after: Floats
    low: Floats
    high: Floats
    live: Floats

    def error(self, said: Floats) -> float | None:
        """Median of |said - measured| / measured; None where nothing was measured above 0."""
        there = self.measured > 0
        return float(np.median(np.abs(said[there] - self.measured[there]) / self.measured[there])) if there.any() else None

    def coverage(self) -> float | None:
        """The share of what was measured that lies inside the interval; None where there are no rows."""
        inside = (self.low <= self.measured) & (self.measured <= self.high)
        return float(inside.mean()) if len(inside) else None


@dataclass(frozen=True, slots=True)
class _Task:
    """One resource's rows and what the prior says of its costs. waking: float64[n], what waking takes of each by the prior,
    beside the costs in `names`.
    """

    resource: str
    names: tuple[str, ...]
    sample: Sample
    start_ns: Ints
    belief: Belief
    groups: Ints  # rows that are judged together
    unit: float  # a group's sum over this (and its rows) is in the unit of `Judged`
    waking: Floats

    @property
    def believed(self) -> Belief:
        """The prior as the law has it that is fitted: what waking takes is in the cost of a request, by the rows' mean."""
        mean, requests = self.belief.mean.copy(), float(self.sample.counts[:, _REQUEST].sum())
        mean[_REQUEST] += float(self.waking.sum()) / requests if requests > 0 else 0.0
        return replace(self.belief, mean=mean)


def calibrate(evidence: Evidence, prior: RolePrior, train_share: float = 1 / 3) -> tuple[VmCalibration, Mapping[str, Judged]]:
    """What was learned of a VM, and the held-out rows by resource.

    The rows' first `train_share` are fitted and judged on the rest; the parameters given are then fitted to all of them.
    """
    fits: dict[str, Fit] = {}
    refused: dict[str, str] = {}
    judged: dict[str, Judged] = {}
    for resource in ("cpu_cores", "memory_gb"):
        problem = _problem(evidence, resource)
        if problem:
            refused[resource] = problem
            continue
        task = _task(evidence, resource, prior)
        held_out = _judge(task, train_share)
        law = _learn(task)
        fits[resource] = _told(task, law, held_out)
        if held_out is not None:
            judged[resource] = held_out
    return VmCalibration(evidence.vm, fits, refused), judged


def _problem(evidence: Evidence, resource: str) -> str:
    """Why nothing can be learned of a resource, or ""."""
    used = evidence.used.get(resource)
    if used is None or np.isnan(used).all():
        return (
            "it was not measured" if used is None or evidence.offered == 0 else "no traffic was observed while it was measured"
        )
    rows = int((~np.isnan(used)).sum())
    if rows < LEAST_ROWS:
        return f"there are {rows} rows with both traffic and use, and {LEAST_ROWS} are the least"
    if not np.nansum(used) > 0:
        return "what was measured is 0 throughout"
    return ""


def _task(evidence: Evidence, resource: str, prior: RolePrior) -> _Task:
    used = evidence.used[resource]
    there = ~np.isnan(used)
    start_ns = evidence.start_ns[there]
    if resource == "cpu_cores":
        counts = evidence.counts[there]
        fitted = [COSTS.index(name) for name in FITTED]
        sample = Sample(counts[:, fitted], used[there] * evidence.length_s, evidence.works[there])
        waking = prior.cpu.wake_s * counts[:, COSTS.index("wake_s")]
        mean = np.array([getattr(prior.cpu, name) for name in FITTED])
        names, spread, unit = FITTED, prior.spread.cpu, evidence.length_s
    else:
        sample = Sample(evidence.holdings[there], used[there], np.zeros(int(there.sum())))
        waking = np.zeros(len(sample))
        mean = np.array([getattr(prior.memory, name) for name in HOLDINGS])
        names, spread, unit = HOLDINGS, prior.spread.memory, 1.0
    moves = np.arange(len(names)) > 0  # what is used at rest is not the role's work, nor on one scale with it
    noise = float(np.clip(prior.cpu.service_cv, 0.1, 10.0))
    belief = Belief(mean, max(spread, _LEAST_LEVEL_SD), prior.spread.costs or _EACH_SD, moves, noise)
    groups = _groups(start_ns, max(JUDGED_S, evidence.length_s))
    if len(sample) > MOST_ROWS:
        every = np.arange(len(sample), dtype=np.int64) // math.ceil(len(sample) / MOST_ROWS)
        sample, unit = sample.summed(every), unit * float(np.bincount(every)[0])
        waking = np.bincount(every, waking).astype(np.float64)
        start_ns = start_ns[np.searchsorted(every, np.arange(len(sample)))]
        groups = _groups(start_ns, max(JUDGED_S, evidence.length_s))
    return _Task(resource, names, sample, start_ns, belief, groups, unit, waking)


def _groups(start_ns: Ints, length_s: float) -> Ints:
    """Which rows are judged together: those that begin in the same stretch of so many seconds; numbered from 0."""
    return np.unique(start_ns // round(length_s * 1e9), return_inverse=True)[1].astype(np.int64)


def _moves(task: _Task) -> str:
    """What the rows can tell: "each" cost, the "level" of those that move, or what is used at "rest" only."""
    belief = task.believed
    rest = task.sample.counts[:, 0] * belief.mean[0]
    load = task.sample.counts @ np.where(belief.moves, np.maximum(belief.mean, 1e-15), 0.0)
    if not load.mean() > _IDLE_MOVE * max(float(rest.mean()), 1e-300):
        return "rest"
    return "each" if float(load.std() / load.mean()) >= LEAST_MOVE else "level"


def _learn(task: _Task) -> Law:
    """The law of a task's rows, its noise and misfit as rows show them that it didn't see."""
    belief = task.believed
    if _moves(task) == "level":
        law = fit_level(task.sample, belief)
        return replace(law, misfit=max(law.misfit, LEAST_MISFIT))
    return scattered(fit(task.sample, belief), belief, *out_of_sample(task.sample, belief, task.groups))


def _judge(task: _Task, train_share: float) -> Judged | None:
    """Held-out rows, told from the time before them; None where they, or those, are too few."""
    split = int(train_share * (int(task.groups.max()) + 1))
    first, rest = task.groups < split, task.groups >= split
    held_out = int(task.groups.max()) + 1 - split
    known = task.sample.part(first)
    if first.sum() < LEAST_ROWS or held_out < LEAST_ROWS / 2 or not known.used.sum() > 0:
        return None
    law = _learn(
        replace(task, sample=known, start_ns=task.start_ns[first], groups=task.groups[first], waking=task.waking[first])
    )
    at = np.unique(task.groups[rest], return_inverse=True)[1]
    rows = task.sample.part(rest).summed(at)
    per = np.bincount(at) * task.unit
    mean, sd = law.predict(rows.counts, rows.works)
    begins = task.start_ns[rest][np.searchsorted(at, np.arange(len(rows)))]
    return Judged(
        start_ns=begins,
        measured=rows.used / per,
        before=(rows.counts @ task.belief.mean + np.bincount(at, task.waking[rest])) / per,
        after=mean / per,
        low=np.maximum(mean - INNER_80 * sd, 0.0) / per,
        high=(mean + INNER_80 * sd) / per,
        live=_followed(law, known, rows) / per,
    )


def _followed(law: Law, known: Sample, rows: Sample) -> Floats:
    """What the law says of each row once it has seen those before it."""
    state = drift.begin(law, known.counts.mean(axis=0))
    said = np.empty(len(rows))
    for number in range(len(rows)):
        said[number], _ = state.predict(rows.counts[number], rows.works[number])
        state = drift.follow(state, rows.counts[number], float(rows.used[number]), float(rows.works[number]))
    return said


def _told(task: _Task, law: Law, judged: Judged | None) -> Fit:
    return Fit(
        names=task.names,
        before=tuple(task.believed.mean.tolist()),
        mean=tuple(law.mean.tolist()),
        covariance=tuple(tuple(row) for row in law.total_covariance().tolist()),
        noise=law.noise if task.resource == "cpu_cores" else law.misfit,
        rows=len(task.sample),
        error_before=None if judged is None else judged.error(judged.before),
        error_after=None if judged is None else judged.error(judged.after),
        coverage=None if judged is None else judged.coverage(),
        changed=_words(task, law),
    )


_SAID = {
    "idle_cores": ("at rest it uses {} of a core", 1.0, ""),
    "connection_s": ("a connection costs {}", 1.0, "s"),
    "request_s": ("a request costs {}", 1.0, "s"),
    "byte_in_s": ("a MB in costs {}", 1e6, "s"),
    "byte_out_s": ("a MB out costs {}", 1e6, "s"),
    "packet_s": ("a thousand packets cost {}", 1e3, "s"),
    "base_bytes": ("at rest it holds {}", 1.0, "B"),
    "connection_bytes": ("an open connection holds {}", 1.0, "B"),
    "session_bytes": ("a client that is remembered holds {}", 1.0, "B"),
    "cache_request_bytes": ("a request not seen before leaves {} in its cache", 1.0, "B"),
}


def _words(task: _Task, law: Law) -> tuple[str, ...]:
    """What the fit says that wasn't believed before, the largest first."""
    parts, believed = task.sample.counts.mean(axis=0), task.believed.mean
    before, after = parts * believed, parts * law.mean
    total_before, total_after = float(before.sum()), float(after.sum())
    said = []
    moves = _moves(task)
    if moves != "each":
        load = "the load hardly moved: only its level was learned"
        said.append(load if moves == "level" else "nothing came: only what it uses at rest was learned")
    if total_before > 0:
        verb = "takes" if task.resource == "cpu_cores" else "holds"
        said.append(f"the same traffic {verb} {_times(total_after / total_before)} what the prior said")
    order = np.argsort(-np.maximum(before / max(total_before, 1e-300), after / max(total_after, 1e-300)))
    for j in order if moves == "each" else ():
        share = max(before[j] / max(total_before, 1e-300), after[j] / max(total_after, 1e-300))
        old, new = float(believed[j]), float(law.mean[j])
        ratio = new / old if old > 0 else math.inf
        if share < _TOLD or 1 / _CHANGED < ratio < _CHANGED:
            continue
        text, scale, unit = _SAID[task.names[j]]
        figure = f"{new * scale:.2g}" if not unit else _amount(new * scale, unit)
        if new == 0:
            said.append(
                f"{text.format('nothing that shows')} ({_amount(old * scale, unit) if unit else f'{old:.2g}'} by the prior)"
            )
        else:
            said.append(text.format(figure) + (f", {_times(ratio)} the prior" if old > 0 else ", nothing by the prior"))
    return tuple(said)


def _times(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "about"
    return f"{ratio:.3g} times" if ratio < 100 else f"{ratio:.0f} times"


def _amount(value: float, unit: str) -> str:
    """A time or a size in the unit that reads best."""
    steps = (
        ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
        if unit == "s"
        else ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
    )
    for step, name in steps:
        if value >= step:
            return f"{value / step:.3g} {name}"
    return f"{value / steps[-1][0]:.2g} {steps[-1][1]}"
