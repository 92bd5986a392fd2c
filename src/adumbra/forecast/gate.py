"""Whether a new training may take the place of the one that serves: both forecast the same time, which neither learned from.
Pure: panels and trainings in, a judgement out. Keeps nothing, and chooses among versions only; among models see backtest.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adumbra.fanout import IN_PROCESS, Fanout, Progress
from adumbra.forecast import registry, scores
from adumbra.forecast.backtest import MIN_STEPS, REACH_SHARE, rng_for
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates, Fitted, Horizon, foresee_seen, learn
from adumbra.forecast.scores import Cases
from adumbra.forecast.series import modelled, resource_named, scale_of, until
from adumbra.forecast.training import Learned, Training
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.plain import of_plain
from adumbra.schema.records import NANOSECONDS, Floats, Ints, Panel
from adumbra.schema.units import format_duration

TOLERANCE = 0.05
"""By how much the new one may lose more: on a stretch as short as this, chance alone makes that difference."""
ORIGINS = 3
MIN_HISTORY_SHARE = 0.4
"""How much of the history lies before the first origin, at least, whenever the older version stopped learning."""
_MAX_STEPS = 48
_MAX_VMS = 200
_TRACE = 1e-6  # of the mean use: losses below are none


@dataclass(frozen=True, slots=True)
class Serving:
    """The version that serves, None where it can't be read any more, and the end of what it learned from, in ns since the
    epoch, None where that isn't known.
    """

    version: int
    training: Training | None
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Both versions on one resource: pinball loss at the levels that sizing needs, as a share of each VM's mean use."""

    resource: str
    new_model: str
    new_loss: float
    old_model: str
    old_loss: float
    origins: int
    horizon_s: float
    vms: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the new version serves, and why. against: the version that served; None: none did. ratio: the new one's loss
    over the old one's, geometric mean of what was compared; None where nothing could be.
    """

    serves: bool
    why: str
    against: int | None = None
    ratio: float | None = None
    compared: tuple[Compared, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Judgement:
        """The judgement that `to_dict` gave, through JSON or not. Raises PlainError for anything else."""
        return of_plain(cls, plain)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Origins (steps known there) after all that the old version learned from, and how far is looked from each."""

    origins: tuple[int, ...]
    horizon: Horizon


def judge(
    new: Training,
    panels: Mapping[str, Panel],
    serving: Serving | None,
    fanout: Fanout = IN_PROCESS,
    covariates: Mapping[str, Covariates] | None = None,
) -> Judgement:
    """Compares the new training with the one that serves, on what came after the end of what that one learned from.

    The models of `new` have learned from that time too: in their place stand the same models, by the same seed, fitted on
    what was known at the origins. panels, covariates: what `new` was learned from. Where nothing can be compared, the new
    one serves.
    """
    if serving is None:
        return Judgement(True, "it is the first")
    if serving.training is None:
        return _unjudged(serving, "that one can't be read any more")
    if serving.end_ns is None:
        return _unjudged(serving, "until when that one learned was not kept")
    beside = covariates or {}
    old = {learned.resource: learned for learned in serving.training.resources}
    tasks = {
        learned.resource: _Pair(
            learned, old.get(learned.resource), modelled(panels[learned.resource]),
            beside.get(learned.resource, NOTHING_KNOWN),
        )
        for learned in new.resources
    }  # fmt: skip
    results = fanout.map(_compare, (new.seed, serving.end_ns), tasks, lambda *_: None).values()
    found = [each for each in results if isinstance(each, Compared)]
    if not found:
        return _unjudged(serving, next(each for each in results if isinstance(each, str)))
    ratio = math.exp(float(np.mean([math.log((each.new_loss + _TRACE) / (each.old_loss + _TRACE)) for each in found])))
    return Judgement(ratio <= 1 + TOLERANCE, _why(ratio, found, serving), serving.version, ratio, tuple(found))


def _unjudged(serving: Serving, reason: str) -> Judgement:
    return Judgement(True, f"it could not be compared with version {serving.version}, so the newer one serves: {reason}",
                     serving.version)  # fmt: skip


def _why(ratio: float, found: Sequence[Compared], serving: Serving) -> str:
    """The comparison in one sentence."""
    of = ", ".join(f"{each.resource} {each.new_loss:.3g} beside {each.old_loss:.3g}" for each in found)
    first = max(found, key=lambda each: each.horizon_s)
    where = f"on what came since version {serving.version} learned, {first.origins} times {format_duration(first.horizon_s)}"
    much = f"{abs(ratio - 1) * 100:.3g} % {'more' if ratio > 1 else 'less'}"
    verdict = (
        f"it would have lost {much} than version {serving.version}" if abs(ratio - 1) >= 5e-4
        else f"it would have lost as much as version {serving.version}"
    )  # fmt: skip
    allowed = f", which is more than the {TOLERANCE * 100:g} % that are left to chance" if ratio > 1 + TOLERANCE else ""
    return f"{verdict}{allowed} (pinball loss per mean use: {of}; {where})"


@dataclass(frozen=True, slots=True)
class _Pair:
    """What each version learned of a resource, what is modelled of it now, and what else is known of its VMs."""

    new: Learned
    old: Learned | None
    history: Panel
    covariates: Covariates


def _compare(shared: tuple[int, int], pair: _Pair, progress: Progress) -> Compared | str:
    """Both on one resource, or in words why they can't be compared. shared: the seed, and when the old one stopped learning."""
    (seed, end_ns), learned = shared, pair.new
    progress(0.0, learned.resource)
    if (old := pair.old) is None:
        return f"that one knows nothing of {learned.resource}"
    if abs(old.step_s - learned.step_s) > 1e-6 * learned.step_s:
        return f"they work in steps of {format_duration(old.step_s)} and of {format_duration(learned.step_s)}"
    stretch = _stretch(pair.history, end_ns)
    if stretch is None:
        return "too little was measured since that one learned"
    try:
        return _scored(pair, old, seed, stretch)
    except TooLittleDataError as error:
        return error.what


def _stretch(history: Panel, end_ns: int) -> _Stretch | None:
    """Up to ORIGINS origins, evenly spread up to the history's end; None where fewer than MIN_STEPS steps are new."""
    steps = history.values.shape[1]
    known = math.ceil((end_ns - history.start_ns) / (history.step_s * NANOSECONDS) - 1e-6)
    held = steps - max(known, math.ceil(steps * MIN_HISTORY_SHARE))
    if held < MIN_STEPS:
        return None
    reach = max(1, min(steps // REACH_SHARE, held // 2))
    count = min(ORIGINS, held // reach)
    return _Stretch(tuple(steps - reach * (count - i) for i in range(count)), Horizon.thinned(reach, _MAX_STEPS))


def _scored(pair: _Pair, old: Learned, seed: int, stretch: _Stretch) -> Compared | str:
    learned, history = pair.new, pair.history
    rows = _rows(history, seed)
    scale = scale_of(until(history, stretch.origins[0]), resource_named(history.resource).floor)[rows]
    actual, new_said, old_said = [], [], []
    for origin in stretch.origins:
        if origin in {stretch.origins[0], stretch.origins[-1]}:  # between, it is only handed what has come since
            stand_in = _stand_in(learned, seed, until(history, origin), pair.covariates.until(origin))
        actual.append(history.values[rows, origin:][:, stretch.horizon.ahead - 1])
        new_said.append(_forecasts(stand_in, pair, origin, stretch.horizon, rows))
        old_said.append(_forecasts(old.fitted, pair, origin, stretch.horizon, rows))
    said = [np.stack(each) for each in (actual, new_said, old_said)]
    return _compared(learned, old, stretch, said, scale)


def _stand_in(learned: Learned, seed: int, known: Panel, covariates: Covariates) -> Fitted:
    """The new version's model, as it would have been with what was known."""
    steps = known.values.shape[1]
    model = registry.forecaster(learned.chosen, max(1, learned.steps // REACH_SHARE))
    return learn(model, known, rng_for(seed, known.resource, learned.chosen, steps), covariates)


def _compared(learned: Learned, old: Learned, stretch: _Stretch, said: Sequence[Floats], scale: Floats) -> Compared | str:
    """The losses of both, where both say something and something came. said: what came [O, V, H], the new one's quantiles
    [O, V, H, L], and the old one's.
    """
    actual, new_said, old_said = said
    sound = np.isfinite(actual) & np.isfinite(new_said).all(axis=-1) & np.isfinite(old_said).all(axis=-1)
    spread = np.broadcast_to(scale[None, :, None], actual.shape)[sound]
    nothing = np.full(len(spread), np.nan)
    losses = [scores.score(Cases(LEVELS, actual[sound], each[sound], spread, nothing)) for each in (new_said, old_said)]
    if losses[0] is None or losses[1] is None:
        return "nothing was measured that both could be held against"
    return Compared(
        learned.resource, learned.chosen, losses[0].upper, old.chosen, losses[1].upper, len(stretch.origins),
        stretch.horizon.steps * learned.step_s, int(sound.any(axis=(0, 2)).sum()),
    )  # fmt: skip


def _rows(history: Panel, seed: int) -> Ints:
    """The VMs with any value, at most _MAX_VMS of them, by chance."""
    there = np.flatnonzero(np.isfinite(history.values).any(axis=1))
    if len(there) <= _MAX_VMS:
        return there
    return np.sort(rng_for(seed, history.resource, "gate").choice(there, size=_MAX_VMS, replace=False))


def _forecasts(fitted: Fitted, pair: _Pair, origin: int, horizon: Horizon, rows: Ints) -> Floats:
    """What a model says at an origin, knowing nothing after it: [V, H, L]."""
    known = until(pair.history, origin)
    recent = replace(known, vms=tuple(known.vms[row] for row in rows), values=known.values[rows])
    return foresee_seen(fitted, recent, horizon, pair.covariates.until(origin).of(rows)).values
