"""What measured use says of a VM's costs: the rows to fit, the fit, how good it is on time that it didn't see, in words.

Pure: takes what was observed and what was measured, gives a VmCalibration. Stores nothing, reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from adumbra.emulate.calibration import drift, words
from adumbra.emulate.calibration.evidence import Evidence
from adumbra.emulate.calibration.regression import INNER_80, LEAST_MISFIT, Law, fit, fit_level, out_of_sample, scattered
from adumbra.emulate.calibration.tasks import RESOURCES, Task, problem_of, task_of
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import Carried, Fit, VmCalibration
from adumbra.schema.records import Floats, Ints

LEAST_ROWS = 12
"""Rows of measured use, below which nothing is learned; and of held-out ones, below which the error isn't told."""
LEAST_STEPS = LEAST_ROWS // 2
"""Steps of time that weren't known, below which the error isn't told."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Steps of time of which the use wasn't known: start_ns int64[n], what was measured, what the parameters before said, what
    those say that were fitted to the time before them, and the interval in which it is to lie with probability 0.8. float64[n]
    each, in cores or bytes.
    """

    start_ns: Ints
    measured: Floats
    before: Floats
    after: Floats
    low: Floats
    high: Floats

    def error(self, said: Floats) -> float | None:
        """Median of |said - measured| / measured; None where nothing was measured above 0."""
        there = self.measured > 0
        return float(np.median(np.abs(said[there] - self.measured[there]) / self.measured[there])) if there.any() else None

    def coverage(self) -> float | None:
        """The share of what was measured that lies inside the interval; None where there are no rows."""
        inside = (self.low <= self.measured) & (self.measured <= self.high)
        return float(inside.mean()) if len(inside) else None

    @classmethod
    def of(cls, task: Task, before: Floats, mean: Floats, sd: Floats) -> Judged:
        """A task's steps. before, mean, sd: float64[n], of each step's sum."""
        steps = task.steps()
        low, high = np.maximum(mean - INNER_80 * sd, 0.0), mean + INNER_80 * sd
        told = (each / steps.per for each in (steps.rows.used, before, mean, low, high))
        return cls(steps.start_ns, *told)


def calibrate(evidence: Evidence, prior: RolePrior, train_share: float = 1 / 3) -> tuple[VmCalibration, Mapping[str, Judged]]:
    """What was learned of a VM, and the held-out rows by resource.

    The rows' first `train_share` are fitted and judged on the rest; the parameters given are then fitted to all of them.
    """
    fits: dict[str, Fit] = {}
    refused: dict[str, str] = {}
    judged: dict[str, Judged] = {}
    for resource in RESOURCES:
        problem = problem_of(evidence, resource, LEAST_ROWS)
        if problem:
            refused[resource] = problem
            continue
        task = task_of(evidence, resource, prior)
        held_out = _judge(task, train_share)
        fits[resource] = _told(task, _learn(task), held_out)
        if held_out is not None:
            judged[resource] = held_out
    return VmCalibration(evidence.vm, fits, refused), judged


def _learn(task: Task) -> Law:
    """The law of a task's rows, its noise and misfit as rows show them that it didn't see."""
    belief = task.believed
    if task.moves == "level":
        law = fit_level(task.sample, belief)
        return replace(law, misfit=max(law.misfit, LEAST_MISFIT))
    return scattered(fit(task.sample, belief), belief, *out_of_sample(task.sample, belief, task.groups))


def _judge(task: Task, train_share: float) -> Judged | None:
    """Held-out rows, told from the time before them; None where they, or those, are too few."""
    split = int(train_share * (int(task.groups.max()) + 1))
    known, rest = task.part(task.groups < split), task.part(task.groups >= split)
    held_out = int(task.groups.max()) + 1 - split
    if len(known.sample) < LEAST_ROWS or held_out < LEAST_STEPS or not known.sample.used.sum() > 0:
        return None
    steps = rest.steps()
    before = steps.rows.counts @ task.belief.mean + steps.waking
    return Judged.of(rest, before, *_learn(known).predict(steps.rows.counts, steps.rows.works))


def _told(task: Task, law: Law, judged: Judged | None) -> Fit:
    """The fit as it is kept: what emulated VMs follow, what an update goes on from, and what there is to say of it."""
    state = drift.begin(law, task.sample.counts.mean(axis=0))
    return Fit(
        names=task.names,
        before=tuple(task.believed.mean.tolist()),
        mean=tuple(law.mean.tolist()),
        covariance=plain(law.total_covariance()),
        noise=law.noise if task.resource == "cpu_cores" else law.misfit,
        rows=len(task.sample),
        error_before=None if judged is None else judged.error(judged.before),
        error_after=None if judged is None else judged.error(judged.after),
        coverage=None if judged is None else judged.coverage(),
        changed=_words(task, law),
        carried=Carried(plain(state.covariance), state.misfit, tuple(state.scale.tolist()), 0.0, 0, task.end_ns),
    )


def plain(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    """A matrix as it is kept."""
    return tuple(tuple(row) for row in matrix.tolist())


_HARDLY = {
    "level": "the load hardly moved: only its level was learned",
    "rest": "nothing came: only what it uses at rest was learned",
}


def _words(task: Task, law: Law) -> tuple[str, ...]:
    """What the fit says that wasn't believed before, the largest first."""
    parts, before = task.sample.counts.mean(axis=0), task.believed.mean
    said = words.level_of(task.resource, parts, before, law.mean, "the prior")
    if task.moves != "each":
        return (_HARDLY[task.moves], *said)
    return (*said, *words.costs_of(task.names, parts, before, law.mean, "the prior"))
