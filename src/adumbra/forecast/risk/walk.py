"""Walks along the origins of a schedule: what is expected of each VM's candidate sizes, by models that learned before.

Nothing at or after an origin is seen by what is said there. No clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from adumbra.forecast.risk.examples import Pairs
from adumbra.forecast.risk.layout import Shape
from adumbra.forecast.risk.model import RiskModel, fit
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Floats, Ints

Progress = Callable[[float, str], None]

REFIT_DAYS = 10
"""After so many days a model learns anew."""

WARM_UP_DAYS = 20
"""So long before the first origin the walk begins, where the history allows: what came then sets right what is said later."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is expected at one origin of the VMs of which anything is known. vms int64[n]; candidates, short float64[n, A]."""

    origin: int
    vms: Ints
    candidates: Floats
    short: Floats


def walk(use: MeasuredUse, shape: Shape, origins: Ints, seed: int, progress: Progress) -> Iterator[Step]:
    """The steps at `origins` (increasing, int64[O]), and before them at as many as warm up.

    Raises TooLittleDataError where there is too little before the first origin to learn from.
    """
    apart = int(np.min(np.diff(origins))) if len(origins) > 1 else shape.held
    warm = origins[0] - apart * np.arange(round(WARM_UP_DAYS * shape.day / apart), 0, -1)
    every = np.concatenate((warm[warm > shape.held], origins))
    model: RiskModel | None = None
    learned_at = 0
    for number, origin in enumerate(every):
        if model is None or origin - learned_at >= REFIT_DAYS * shape.day:
            progress(number / len(every), f"{use.panel.resource}: learning risks, {number + 1} of {len(every)} times")
            try:
                model, learned_at = fit(use, shape, int(origin), seed), int(origin)
            except TooLittleDataError:
                if model is None and origin >= origins[0]:
                    raise
        if model is not None:
            progress(number / len(every), f"{use.panel.resource}: risks, {number + 1} of {len(every)} times")
            yield step(use, model, int(origin))


def step(use: MeasuredUse, model: RiskModel, origin: int) -> Step:
    """What a model expects at an origin."""
    pairs = Pairs.at(origin, len(use.panel.vms))
    candidates, short = model.curves(use, pairs)
    known = np.isfinite(candidates).all(axis=1)
    return Step(origin, pairs.vms[known], candidates[known], short[known])
