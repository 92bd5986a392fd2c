"""Rolling-origin back-test: each model forecasts from past origins what is known since, and the better one is picked.
A model is handed what was known at the origin and nothing after it. No clock; the seed is an argument."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adumbra.forecast import conformal, scores
from adumbra.forecast.adaptive import Adaptive, Held, groups_of, held_by_vm
from adumbra.forecast.models import ensemble
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Fitted, Forecaster, Horizon, foresee_seen, learn
from adumbra.forecast.registry import BASELINE, ENSEMBLE, QUANTILE_MODEL, TITLES
from adumbra.forecast.scores import Cases, Scores
from adumbra.forecast.series import Statistic, resource_named, scale_of, until
from adumbra.forecast.window import Need, foreseen, measured
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Ints, Panel

Progress = Callable[[float, str], None]

ORIGINS = 6
REACH_SHARE = 10  # a horizon is the history's length divided by this: the six of them don't overlap, and 40 % lie before
MIN_STEPS = 12
FITS = 2  # a model learns anew at every third origin; between, it is only handed what has come since
_MAX_SCORED_STEPS = 48
_MAX_SCORED_VMS = 200
MARGIN = 0.01
"""By what share a model that costs more than the baseline and LightGBM has to lose less than either, to be worth it."""

SHARES: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the origins lie (steps known there), when a model learns for each, and how far it is asked to look."""

    origins: tuple[int, ...]
    fitted_at: tuple[int, ...]
    horizon: Horizon


def lay_out(steps: int) -> Layout | None:
    """Six origins whose horizons follow each other up to the history's end; None below MIN_STEPS steps."""
    if steps < MIN_STEPS:
        return None
    reach = max(1, steps // REACH_SHARE)
    origins = tuple(steps - reach * (ORIGINS - i) for i in range(ORIGINS))
    every = ORIGINS // FITS
    fitted_at = tuple(origins[i - i % every] for i in range(ORIGINS))
    return Layout(origins, fitted_at, Horizon.thinned(reach, _MAX_SCORED_STEPS))


@dataclass(frozen=True, slots=True)
class Run:
    """A model's forecasts from every origin, and what came. actual float64[O, V, H]; quantiles float64[O, V, H, L] at
    LEVELS; window_errors float64[O, V, S]: log(what a window turned out to need / what was foreseen), at SHARES; busy
    bool[O, V]: whether more than the resource's floor was foreseen."""

    model: str
    actual: Floats
    quantiles: Floats
    window_errors: Floats
    busy: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WindowErrors:
    """How far a forecast window's need was off, as log ratios float64[n, S] of `groups` groups, at `shares` short."""

    shares: tuple[float, ...]
    errors: Floats
    groups: int

    def bound(self, shortfall: float, level: float) -> conformal.Bound:
        """The log ratio that a new window stays at or below with probability `level` (conformal.bound)."""
        if not self.groups:
            return conformal.Bound(0.0, False)
        grid = np.log(self.shares)
        place = float(np.clip(np.interp(np.log(shortfall), grid, np.arange(len(grid))), 0, len(grid) - 1))
        low = int(place)
        high, part = min(low + 1, len(grid) - 1), place - low
        return conformal.bound(self.errors[:, low] * (1 - part) + self.errors[:, high] * part, self.groups, level)

    def to_dict(self) -> dict[str, Any]:
        return {"shares": list(self.shares), "errors": np.round(self.errors, 4).tolist(), "groups": self.groups}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> WindowErrors:
        shares = tuple(float(share) for share in plain["shares"])
        errors = np.asarray(plain["errors"], np.float64).reshape(-1, len(shares))
        return cls(shares, errors, int(plain["groups"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a back-test found for one resource. scores: model -> its scores, None where it couldn't be scored; coverage:
    interval -> share of held-out values within the calibrated one, each origin's calibrated on those before it; adaptive:
    the calibration that forecasts of steps are moved by (None: nothing was held out); per_vm: the coverage, VM by VM;
    weights: of the ensemble's members, where that was chosen."""

    chosen: str
    why: str
    scores: Mapping[str, Scores | None]
    origins: int
    horizon_steps: int
    vms: int
    calibration: conformal.Calibration
    window: WindowErrors
    coverage: Mapping[str, float]
    adaptive: Adaptive | None = None
    per_vm: tuple[Held, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)


def backtest(
    history: Panel, models: Sequence[Forecaster], seed: int, progress: Progress, covariates: Covariates = NOTHING_KNOWN
) -> Verdict:
    """Scores the models on a panel of what is modelled (series.modelled), and picks one for sizing.

    `models` begins with the baseline, which is also what is fallen back to; covariates: what else is known of the panel's
    VMs. The same arguments give the same verdict.
    """
    layout = lay_out(history.values.shape[1])
    if layout is None:
        return _unscored(history, f"{history.values.shape[1]} steps are too few to score a model on", models)
    row = _scored_rows(history, rng_for(seed, history.resource, "vms", 0))
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for i, model in enumerate(models):
        progress(i / len(models), f"{history.resource}: {TITLES.get(model.name, model.name)}")
        try:
            runs[model.name] = run(history, model, layout, row, seed, covariates=covariates)
        except TooLittleDataError as error:
            failed[model.name] = error.what
    progress(1.0, f"{history.resource}: scored")
    first = until(history, layout.origins[0])
    scale = scale_of(first, resource_named(history.resource).floor)[row]
    naive = naive_errors(first.values[row])
    found: dict[str, Scores | None] = dict.fromkeys(model.name for model in models)
    weights: dict[str, float] = {}
    if len(runs) > 1:
        runs[ENSEMBLE], weights = _together(history, runs, layout, row, scale)
    found |= {name: scores.score(_cases(done, scale, naive)) for name, done in runs.items()}
    if found[models[0].name] is None:
        return _unscored(history, failed.get(models[0].name, "no value follows the first origin"), models)
    chosen, refused = pick(found)
    why = _why(history.resource, chosen, found, failed, (len(layout.origins), len(row))) + refused
    calibration = _fit_offsets(_errors(runs[chosen], scale))
    adaptive, covered, per_vm = _calibrate(history, runs[chosen], layout, row, covariates.of(row).roles)
    window = _window_errors(runs[chosen], resource_named(history.resource).statistic)
    return Verdict(
        chosen, why, found, len(layout.origins), layout.horizon.steps, len(row), calibration, window, covered, adaptive, per_vm,
        weights if chosen == ENSEMBLE else {},
    )  # fmt: skip


def run(
    history: Panel, model: Forecaster, layout: Layout, row: Ints, seed: int, *, covariates: Covariates = NOTHING_KNOWN
) -> Run:
    """One model's forecasts of the VMs `row` from every origin. Raises TooLittleDataError where it can't learn."""
    need = Need(resource_named(history.resource).statistic, SHARES[0])
    fitted: Fitted | None = None
    learned = -1
    actual, quantiles, errors, busy = [], [], [], []
    for origin, at in zip(layout.origins, layout.fitted_at, strict=True):
        if fitted is None or at != learned:
            rng = rng_for(seed, history.resource, model.name, at)
            fitted, learned = learn(model, until(history, at), rng, covariates.until(at)), at
        known = until(history, origin)
        recent = replace(known, vms=tuple(history.vms[i] for i in row), values=known.values[row])
        forecast = foresee_seen(fitted, recent, layout.horizon, covariates.until(origin).of(row)).values
        came = history.values[row, origin : origin + layout.horizon.steps]
        actual.append(came[:, layout.horizon.ahead - 1])
        quantiles.append(forecast)
        floor = resource_named(history.resource).floor
        errors.append(_off(came, forecast, need, floor))
        busy.append(foreseen(forecast, LEVELS, need, came.shape[1]) > floor)
    return Run(model.name, np.stack(actual), np.stack(quantiles), np.stack(errors), np.stack(busy))


def rng_for(seed: int, *parts: str | int) -> Generator:
    """A generator of its own for each purpose, so that what one draws doesn't shift what another does."""
    return np.random.default_rng([seed & 0xFFFFFFFF, *(zlib.crc32(str(part).encode()) for part in parts)])


def _scored_rows(history: Panel, rng: Generator) -> Ints:
    """The VMs that are scored: those with any value, at most 200 of them, by chance."""
    there = np.flatnonzero(np.isfinite(history.values).any(axis=1))
    if len(there) <= _MAX_SCORED_VMS:
        return there
    return np.sort(rng.choice(there, size=_MAX_SCORED_VMS, replace=False))


def _off(came: Floats, forecast: Floats, need: Need, floor: float) -> Floats:
    """log(needed / foreseen) of each VM's window at each of SHARES, [V, S]; both at least the floor."""
    out = np.empty((len(came), len(SHARES)))
    same = need.statistic is not Statistic.SHARE  # peak and growth know no share: one figure for all
    for i, share in enumerate(SHARES):
        if i and same:
            out[:, i] = out[:, 0]
            continue
        asked = replace(need, shortfall=share)
        said = foreseen(forecast, LEVELS, asked, came.shape[1])
        out[:, i] = np.log(np.maximum(measured(came, asked), floor)) - np.log(np.maximum(said, floor))
    return out


def naive_errors(values: Floats) -> Floats:
    """Each VM's mean error of repeating the last value, within the history before the first origin, [V]; NaN: none."""
    steps = np.abs(np.diff(values, axis=1))
    finite = np.isfinite(steps)
    count = finite.sum(axis=1)
    return np.where(count > 0, np.where(finite, steps, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _cases(done: Run, scale: Floats, naive: Floats) -> Cases:
    sound = np.isfinite(done.actual) & np.isfinite(done.quantiles).all(axis=-1)
    spread = np.broadcast_to(scale[None, :, None], done.actual.shape)
    error = np.broadcast_to(naive[None, :, None], done.actual.shape)
    return Cases(LEVELS, done.actual[sound], done.quantiles[sound], spread[sound], error[sound])


def _together(
    history: Panel, runs: Mapping[str, Run], layout: Layout, row: Ints, scale: Floats
) -> tuple[Run, dict[str, float]]:
    """The ensemble of some runs: at each origin with the weights that the origins before call for (equal ones at the
    first), as it would have been; and the weights that all of them call for."""
    actual = next(iter(runs.values())).actual
    said = np.stack([done.quantiles for done in runs.values()])  # [M, O, V, H, L]
    traits = resource_named(history.resource)
    need = Need(traits.statistic, SHARES[0])
    spread = np.broadcast_to(scale[None, :, None], actual.shape)
    quantiles, errors, busy = np.empty_like(said[0]), [], []
    for i, origin in enumerate(layout.origins):
        quantiles[i] = ensemble.averaged(said[:, i], _weights(actual[:i], said[:, :i], spread[:i]))
        came = history.values[row, origin : origin + layout.horizon.steps]
        errors.append(_off(came, quantiles[i], need, traits.floor))
        busy.append(foreseen(quantiles[i], LEVELS, need, came.shape[1]) > traits.floor)
    weights = dict(zip(runs, _weights(actual, said, spread), strict=True))
    return Run(ENSEMBLE, actual, quantiles, np.stack(errors), np.stack(busy)), {n: w for n, w in weights.items() if w > 0}


def _weights(actual: Floats, quantiles: Floats, scale: Floats) -> tuple[float, ...]:
    flat = quantiles.reshape(len(quantiles), -1, len(LEVELS))
    return ensemble.weights_of(actual.reshape(-1), flat, scale.reshape(-1))


def _errors(done: Run, scale: Floats) -> Floats:
    return np.asarray((done.actual[..., None] - done.quantiles) / scale[None, :, None, None])


def _calibrate(
    history: Panel, done: Run, layout: Layout, row: Ints, roles: Sequence[str]
) -> tuple[Adaptive, dict[str, float], tuple[Held, ...]]:
    """The calibration after all origins; and how often the one from earlier origins held at the later ones, in all and of
    each VM. Horizons follow each other, so all of one has come where the next begins."""
    state = Adaptive.start(LEVELS)
    moved = np.full_like(done.quantiles, np.nan)
    for i, origin in enumerate(layout.origins):
        known = until(history, origin)
        groups = groups_of(replace(known, vms=tuple(history.vms[v] for v in row), values=known.values[row]), roles)
        if i:
            moved[i] = state.apply(done.quantiles[i], groups)
        state = state.learn(done.actual[i], done.quantiles[i], groups)
    sound = np.isfinite(done.actual) & np.isfinite(moved).all(axis=-1)
    covered = scores.coverage(done.actual[sound], moved[sound], LEVELS) if sound.any() else {}
    return state, covered, held_by_vm([history.vms[v] for v in row], done.actual, moved, LEVELS)


def _fit_offsets(errors: Floats) -> conformal.Calibration:
    """Errors [O, V, H, L] of which each (origin, VM) with a value is a group."""
    groups = int(np.isfinite(errors).all(axis=-1).any(axis=-1).sum())
    return conformal.calibrate(errors.reshape(-1, errors.shape[-1]), groups, LEVELS)


def _window_errors(done: Run, statistic: Statistic) -> WindowErrors:
    """The errors of windows that were foreseen to need something; of all of them where none was.

    An idle VM that stays idle is foreseen without fault, and would make the forecasts of busy ones look as good.
    """
    flat = done.window_errors.reshape(-1, len(SHARES))
    sound = np.isfinite(flat).all(axis=1)
    busy = sound & done.busy.reshape(-1)
    kept = flat[busy if busy.any() else sound]
    shares = SHARES if statistic is Statistic.SHARE else SHARES[:1]
    return WindowErrors(shares, kept[:, : len(shares)], len(kept))


def pick(found: Mapping[str, Scores | None]) -> tuple[str, str]:
    """The model that serves, and in words which others don't, and why not.

    Of the first (the baseline) and LightGBM the one that loses less at the levels that sizing needs, the baseline where
    neither does; another only where it loses less than both, by MARGIN, and least of such.
    """
    plain = [name for name in found if name in {next(iter(found)), BASELINE, QUANTILE_MODEL}]
    best = plain[0]
    for name in plain[1:]:
        if _upper(found[name]) < _upper(found[best]) * (1 - 1e-9):
            best = name
    to_beat, refused = _upper(found[best]), []
    rival = best
    for name in (name for name in found if name not in plain):
        title = TITLES.get(name, name)
        lost = _upper(found[name])
        if lost < to_beat * (1 - MARGIN) and lost < _upper(found[best]):
            best = name
        elif np.isfinite(lost):
            refused.append(f"{title} is not used: its {lost:.4g} doesn't beat {TITLES.get(rival, rival)} by {100 * MARGIN:g} %")
    refused += [
        f"{TITLES.get(name, name)} is not used: {TITLES.get(best, best)} loses less"
        for name in found
        if name not in plain and name != best and _upper(found[best]) <= _upper(found[name]) < to_beat * (1 - MARGIN)
    ]
    return best, "".join(f"; {each}" for each in refused)


def _upper(scored: Scores | None) -> float:
    return scored.upper if scored is not None else float("inf")


def _why(resource: str, chosen: str, found: Mapping[str, Scores | None], failed: Mapping[str, str], on: tuple[int, int]) -> str:
    """The choice in one sentence, with its numbers."""
    where = f"on {on[0]} origins of {on[1]} VM{'s' if on[1] > 1 else ''}"
    said = {name: f"{scored.upper:.4g}" for name, scored in found.items() if scored is not None}
    others = [name for name in found if name not in {chosen, ENSEMBLE}]
    parts = [
        f"{TITLES.get(name, name)}'s {said[name]}" if name in said
        else f"{TITLES.get(name, name)} could not be scored ({failed.get(name, 'nothing to score')})"
        for name in others
    ]  # fmt: skip
    verb = "was kept" if chosen == next(iter(found)) else "was chosen"
    lost = f"its pinball loss was {said[chosen]}, {' and '.join(parts)}, {where}"
    return f"{resource}: {TITLES.get(chosen, chosen)} {verb}: {lost} (mean of the 90, 95, 99 % levels, per mean use)"


def _unscored(history: Panel, reason: str, models: Sequence[Forecaster]) -> Verdict:
    """The baseline, without a score to its name."""
    baseline = models[0].name
    why = f"{history.resource}: {TITLES.get(baseline, baseline)} was taken without a test: {reason}"
    calibration = conformal.calibrate(np.empty((0, len(LEVELS))), 0, LEVELS)
    window = WindowErrors(SHARES[:1], np.empty((0, 1)), 0)
    return Verdict(baseline, why, {model.name: None for model in models}, 0, 0, len(history.vms), calibration, window, {})
