"""Goes on from what was learned of a VM as new rows come: each is told, then learned from, and what is older fades. Pure.

Takes the last calibration and the rows, gives the next one. Stores nothing, reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from adumbra.emulate.calibration import drift, words
from adumbra.emulate.calibration.calibrate import LEAST_STEPS, Judged, plain
from adumbra.emulate.calibration.evidence import Evidence
from adumbra.emulate.calibration.regression import with_misfit
from adumbra.emulate.calibration.tasks import RESOURCES, Task, problem_of, task_of
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import Carried, Fit, VmCalibration

NEVER_LEARNED = "it was not calibrated, so there is nothing to go on from: calibrate without --update"


def update(evidence: Evidence, prior: RolePrior, known: VmCalibration) -> tuple[VmCalibration, Mapping[str, Judged]]:
    """What is known of a VM after new rows, and these, by resource, each step told by what was learned before it.

    Rows that begin before the last one ended that a fit learned from are left out. A fit without new rows stays as it is, and
    says why.
    """
    fits: dict[str, Fit] = {}
    judged: dict[str, Judged] = {}
    for resource, fit in known.fits.items():
        if fit.carried is None:
            fits[resource] = _as_it_was(fit, "it was learned from response times, which can't be gone on from")
            continue
        rows = evidence.part(evidence.start_ns >= fit.carried.end_ns)
        problem = problem_of(rows, resource, 1) if len(rows.start_ns) else "no row is later than what it learned from"
        if problem:
            fits[resource] = _as_it_was(fit, problem)
            continue
        fits[resource], judged[resource] = _followed(task_of(rows, resource, prior), fit, fit.carried)
    refused = {each: problem_of(evidence, each, 1) or NEVER_LEARNED for each in RESOURCES if each not in fits}
    return replace(known, fits=fits, refused=refused), judged


def untouched(known: VmCalibration) -> VmCalibration:
    """What is known of a VM of which nothing new was measured."""
    fits = {resource: _as_it_was(fit, "nothing new was measured") for resource, fit in known.fits.items()}
    return replace(known, fits=fits)


def _as_it_was(fit: Fit, why: str) -> Fit:
    return replace(fit, changed=(f"as it was: {why}",))


def _followed(task: Task, fit: Fit, carried: Carried) -> tuple[Fit, Judged]:
    steps = task.steps()
    rows = steps.rows
    state = drift.Tracked(
        np.array(fit.mean), np.array(carried.covariance), fit.noise, carried.misfit, np.array(carried.scale), carried.surprise,
        fit.rows, carried.changes,
    )  # fmt: skip
    said = np.empty((2, len(rows)))
    for number, (counts, used, works) in enumerate(zip(rows.counts, rows.used, rows.works, strict=True)):
        said[:, number] = state.predict(counts, works)
        state = drift.follow(state, counts, float(used), float(works))
    judged = Judged.of(task, rows.counts @ np.array(fit.mean), *said)
    enough = len(rows) >= LEAST_STEPS
    after = Fit(
        names=fit.names,
        before=fit.mean,
        mean=tuple(state.mean.tolist()),
        covariance=plain(with_misfit(state.mean, state.covariance, state.misfit)),
        noise=fit.noise,
        rows=fit.rows + len(task.sample),
        error_before=judged.error(judged.before) if enough else None,
        error_after=judged.error(judged.after) if enough else None,
        coverage=judged.coverage() if enough else None,
        changed=_words(task, fit, state),
        carried=Carried(
            plain(state.covariance), state.misfit, tuple(state.scale.tolist()), state.surprise, state.changes, task.end_ns
        ),
    )
    return after, judged


def _words(task: Task, fit: Fit, state: drift.Tracked) -> tuple[str, ...]:
    parts, before, believer = task.sample.counts.mean(axis=0), np.array(fit.mean), "the last calibration"
    changes = state.changes - (fit.carried.changes if fit.carried else 0)
    broke = [f"what things cost was seen to have changed {changes} times" if changes > 1 else "what things cost has changed"]
    return (
        f"{len(task.sample):,} new rows",
        *(broke if changes else ()),
        *words.level_of(task.resource, parts, before, state.mean, believer),
        *words.costs_of(task.names, parts, before, state.mean, believer),
    )
