"""How well models forecast an hour, a day and a week ahead: VMs with a history, and VMs that have next to none of their own.
Rolling origin; fits and calibrates on nothing later than the origin. No clock; the seed is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adumbra.forecast import scores
from adumbra.forecast.adaptive import Adaptive, groups_of
from adumbra.forecast.backtest import Progress, naive_errors, pick, rng_for
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Fitted, Forecaster, Horizon, foresee, learn
from adumbra.forecast.registry import TITLES
from adumbra.forecast.scores import Cases, Scores
from adumbra.forecast.series import SECONDS_PER_DAY, resource_named, scale_of
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Ints, Panel
from adumbra.schema.units import format_duration

HORIZONS_S: tuple[float, ...] = (3_600.0, SECONDS_PER_DAY, 7 * SECONDS_PER_DAY)
HISTORY = "history"
_GROUPED_S = 14 * SECONDS_PER_DAY


@dataclass(frozen=True, slots=True)
class Case:
    """What a model is shown of a VM. held_out: whether the VM is kept from fitting; known_s: how much of its own use is
    shown (None: all); traffic: whether its traffic of the last week is."""

    name: str
    held_out: bool
    known_s: float | None
    traffic: bool = False


CASES: tuple[Case, ...] = (
    Case(HISTORY, False, None),
    Case("declared", True, 0.0),
    Case("traffic", True, 0.0, traffic=True),
    Case("live 1h", True, 3_600.0),
    Case("live 1d", True, SECONDS_PER_DAY),
    Case("live 7d", True, 7 * SECONDS_PER_DAY),
)


@dataclass(frozen=True, slots=True)
class Exam:
    """How models are tried. origins: in all, of which the first burn_in only calibrate; fits: how often a model learns
    anew; vms: at most so many are forecast, of which held_out are kept from fitting; points: forecasts in a horizon;
    first: the share of the history before the first origin; context_s: what is shown of a VM's past, at most."""

    horizons_s: tuple[float, ...] = HORIZONS_S
    cases: tuple[Case, ...] = CASES
    origins: int = 12
    burn_in: int = 4
    fits: int = 2
    vms: int = 160
    held_out: float = 0.25
    points: int = 24
    first: float = 0.4
    context_s: float = 28 * SECONDS_PER_DAY


@dataclass(frozen=True, slots=True)
class Row:
    """How one model did in one case at one horizon; calibrated: the same forecasts moved by what was known of their errors
    at each origin. None where it gave no forecast, and `why` says so."""

    model: str
    case: str
    horizon_s: float
    vms: int
    raw: Scores | None
    calibrated: Scores | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("model", "case", "horizon_s", "vms", "why")}
        return {
            **told,
            "raw": self.raw.to_dict() if self.raw else None,
            "calibrated": self.calibrated.to_dict() if self.calibrated else None,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the origins lie, where a model learns for each, and which VMs are learned from, forecast, and held out."""

    origins: tuple[int, ...]
    fitted_at: tuple[int, ...]
    learned: Ints
    known: Ints
    unknown: Ints


def lay_out(history: Panel, exam: Exam, seed: int) -> Plan:
    """Origins evenly spread, each moved by chance so that all times of day come; VMs by chance. Raises TooLittleDataError."""
    steps = history.values.shape[1]
    furthest = round(max(exam.horizons_s) / history.step_s)
    first, last = round(exam.first * steps), steps - furthest
    room = (last - first) // max(exam.origins - 1, 1)
    if room < 1 or furthest < 1:
        raise TooLittleDataError(
            f"{steps} steps are too few to try forecasts of {furthest} steps from {exam.origins} origins",
            "give a longer history, or ask for shorter horizons",
        )
    rng = rng_for(seed, history.resource, "exam", steps)
    origins = np.sort(first + room * np.arange(exam.origins) + rng.integers(0, max(room // 2, 1), exam.origins))
    origins = np.minimum(origins, last)
    every = -(-exam.origins // max(exam.fits, 1))
    fitted_at = tuple(int(origins[i - i % every]) for i in range(exam.origins))
    there = np.flatnonzero(np.isfinite(history.values).any(axis=1))
    mixed = rng.permutation(there)
    out = round(exam.held_out * len(there))
    learned, unknown = np.sort(mixed[out:]), mixed[:out]
    share = min(1.0, exam.vms / max(len(there), 1))
    known = learned if share == 1.0 else np.sort(mixed[out:][: max(1, round(share * len(learned)))])
    return Plan(tuple(map(int, origins)), fitted_at, learned, known, np.sort(unknown[: round(share * out)]))


@dataclass(frozen=True, slots=True)
class Trial:
    """One model's forecasts in one case at one horizon: actual float64[O, V, H], quantiles float64[O, V, H, L]."""

    actual: Floats
    quantiles: Floats


Trials = dict[tuple[str, float], Trial]


def evaluate(  # noqa: PLR0917
    history: Panel,
    models: Mapping[str, Forecaster],
    exam: Exam,
    seed: int,
    progress: Progress,
    covariates: Covariates = NOTHING_KNOWN,
) -> list[Row]:
    """A row for each model, case and horizon. Raises TooLittleDataError where the history holds no such horizon."""
    plan = lay_out(history, exam, seed)
    rows = []
    for i, (name, model) in enumerate(models.items()):
        progress(i / len(models), f"{history.resource}: {name}")
        try:
            done = attempt(history, model, plan, exam, seed, covariates)
        except TooLittleDataError as error:
            rows += [Row(name, case.name, h, 0, None, None, error.what) for case in exam.cases for h in exam.horizons_s]
            continue
        rows += judged(name, done, history, plan, exam)
    progress(1.0, f"{history.resource}: evaluated")
    return rows


def attempt(  # noqa: PLR0917
    history: Panel, model: Forecaster, plan: Plan, exam: Exam, seed: int, covariates: Covariates = NOTHING_KNOWN
) -> Trials:
    """All of one model's forecasts, by case and horizon. Raises TooLittleDataError where it can't learn."""
    fitted: Fitted | None = None
    at_last = -1
    told: dict[tuple[str, float], list[tuple[Floats, Floats]]] = {}
    for origin, at in zip(plan.origins, plan.fitted_at, strict=True):
        if fitted is None or at != at_last:
            fitted = learn(
                model, _cut(history, plan.learned, 0, at), rng_for(seed, history.resource, model.name, at),
                covariates.until(at).of(plan.learned),
            )  # fmt: skip
            at_last = at
        since = max(0, origin - round(exam.context_s / history.step_s))
        for case in exam.cases:
            rows = plan.unknown if case.held_out else plan.known
            recent, known = shown(history, covariates, case, rows, (since, origin))
            for horizon_s in exam.horizons_s:
                horizon = Horizon.thinned(round(horizon_s / history.step_s), exam.points)
                said = foresee(fitted, recent, horizon, known).values
                came = history.values[rows][:, origin + horizon.ahead - 1]
                told.setdefault((case.name, horizon_s), []).append((came, said))
    return {key: Trial(np.stack([a for a, _ in each]), np.stack([q for _, q in each])) for key, each in told.items()}


def shown(history: Panel, covariates: Covariates, case: Case, rows: Ints, span: tuple[int, int]) -> tuple[Panel, Covariates]:
    """What a case lets a model see of the VMs `rows` in the steps [since, origin): copies, so that nothing lies behind."""
    since, origin = span
    recent = _cut(history, rows, since, origin)
    known = covariates.until(origin).of(rows, since)
    if case.known_s is not None:
        recent.values[:, : max(0, origin - since - round(case.known_s / history.step_s))] = np.nan
    if case.held_out and not case.traffic:
        known = replace(known, traffic={})
    return recent, known


def _cut(history: Panel, rows: Ints, since: int, until: int) -> Panel:
    start_ns = history.start_ns + round(since * history.step_s * 1e9)
    return replace(
        history, vms=tuple(history.vms[i] for i in rows), start_ns=start_ns, values=history.values[rows, since:until].copy()
    )  # fmt: skip


def judged(name: str, done: Trials, history: Panel, plan: Plan, exam: Exam) -> list[Row]:
    """The scores of one model's forecasts, raw and calibrated as they came in."""
    rows = []
    for case in exam.cases:
        row = plan.unknown if case.held_out else plan.known
        before = _cut(history, row, 0, plan.origins[0])
        scale = scale_of(_cut(history, row, 0, history.values.shape[1]), resource_named(history.resource).floor)
        naive = naive_errors(before.values)
        for horizon_s in exam.horizons_s:
            trial = done[case.name, horizon_s]
            if not _sound(trial.actual, trial.quantiles)[exam.burn_in :].any():
                rows.append(Row(name, case.name, horizon_s, len(row), None, None, "it forecasts no VM without measured use"))
                continue
            steps = round(horizon_s / history.step_s)
            moved = calibrated(history, trial, row, plan.origins, steps, case)
            raw, held = (
                _scored(trial.actual[exam.burn_in :], said[exam.burn_in :], scale, naive) for said in (trial.quantiles, moved)
            )
            rows.append(Row(name, case.name, horizon_s, len(row), raw, held))
    return rows


def calibrated(  # noqa: PLR0917
    history: Panel, trial: Trial, row: Ints, origins: Sequence[int], steps: int, case: Case
) -> Floats:
    """Forecasts [O, V, H, L] moved by an adaptive calibration that learns of a horizon's errors once all of it has come.

    A VM that is held out has no errors of its own yet: it is calibrated by those of every second of the others.
    """
    folds = [np.arange(len(row)) % 2 == k for k in (0, 1)] if case.held_out else [np.ones(len(row), np.bool_)]
    span = round(_GROUPED_S / history.step_s)
    kinds = [
        [groups_of(shown(history, NOTHING_KNOWN, case, row[fold], (max(0, o - span), o))[0]) for o in origins] for fold in folds
    ]
    moved = np.empty_like(trial.quantiles)
    for k, fold in enumerate(folds):
        teacher = folds[1 - k] if case.held_out else fold
        state, fed = Adaptive.start(LEVELS), 0
        for i, origin in enumerate(origins):
            while fed < i and origins[fed] + steps <= origin:
                known = kinds[1 - k if case.held_out else k][fed]
                state = state.learn(trial.actual[fed, teacher], trial.quantiles[fed, teacher], known)
                fed += 1
            moved[i, fold] = state.apply(trial.quantiles[i, fold], kinds[k][i])
    return moved


def _sound(actual: Floats, quantiles: Floats) -> Any:
    return np.isfinite(actual) & np.isfinite(quantiles).all(axis=-1)


def _scored(actual: Floats, quantiles: Floats, scale: Floats, naive: Floats) -> Scores | None:
    sound = _sound(actual, quantiles)
    spread = np.broadcast_to(scale[None, :, None], actual.shape)
    error = np.broadcast_to(naive[None, :, None], actual.shape)
    return scores.score(Cases(LEVELS, actual[sound], quantiles[sound], spread[sound], error[sound]))


def served(rows: Sequence[Row]) -> list[str]:
    """For each case and horizon, in words, which model would serve there and which others not, by backtest.pick's gate.

    The baseline is the first model with a score: seasonal naive, or of a VM without a history the fleet's use.
    """
    out = []
    for case, horizon_s in dict.fromkeys((row.case, row.horizon_s) for row in rows):
        found = {row.model: row.raw for row in rows if (row.case, row.horizon_s) == (case, horizon_s) and row.raw is not None}
        if found:
            chosen, refused = pick(found)
            out.append(f"{case}, {format_duration(horizon_s)} ahead: {TITLES.get(chosen, chosen)} serves{refused}")
    return out
