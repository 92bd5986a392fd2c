"""What is kept of the risk models of one resource: one of all there is, and one that is tried on what came after it.

Learns and looks; decides nothing. No store, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adumbra.forecast.risk.layout import DAY_S, Shape
from adumbra.forecast.risk.model import RiskModel, fit
from adumbra.forecast.risk.walk import WARM_UP_DAYS, Progress, Step, step
from adumbra.forecast.series import resource_named
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import NANOSECONDS

HORIZONS_S: tuple[float, ...] = (DAY_S, 7 * DAY_S)
"""How long the sizes are held that risks are learned for."""

MIN_DAYS = 10.0
_MOST_LOOKS = 10_000


@dataclass(frozen=True, slots=True)
class LearnedRisk:
    """The risks of one resource's sizes, held for a horizon. model: of all there is; before: of what was known at
    `before_end_ns`, so that what came since tells how its expectations are to be set right (None: too little was known)."""

    resource: str
    model: RiskModel
    before: RiskModel | None
    before_end_ns: int

    @property
    def horizon_s(self) -> float:
        return self.model.shape.held * self.model.shape.step_s

    def steps(self, use: MeasuredUse) -> Iterator[Step]:
        """What is expected at past origins by the model of before, a day or more apart, and last at the end of `use` by the
        model of all. At most some 10,000 looks at past origins, whatever the number of VMs."""
        panel, end = use.panel, use.panel.values.shape[1]
        if self.before is not None:
            begin = max(1, round((self.before_end_ns - panel.start_ns) / NANOSECONDS / panel.step_s))
            days = max(1, -(-(end - begin) * len(panel.vms) // (self.model.shape.day * _MOST_LOOKS)))
            for origin in np.arange(end - days * self.model.shape.day, begin - 1, -days * self.model.shape.day)[::-1]:
                yield step(use, self.before, int(origin))
        yield step(use, self.model, end)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "resource": self.resource, "model": self.model.to_dict(), "before_end_ns": self.before_end_ns,
            "before": self.before.to_dict() if self.before else None,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LearnedRisk:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        before = RiskModel.from_dict(plain["before"]) if plain["before"] else None
        model = RiskModel.from_dict(plain["model"])
        return cls(resource_named(plain["resource"]).name, model, before, int(plain["before_end_ns"]))


def learn(use: MeasuredUse, seed: int, progress: Progress) -> tuple[tuple[LearnedRisk, ...], str]:
    """The risks of a resource for each of HORIZONS_S that the history is long enough for; and, where for none, why in words.

    It takes MIN_DAYS, and four times the horizon; a week of sizes can't be judged by ten days.
    """
    panel = use.panel
    found: list[LearnedRisk] = []
    why = f"risks of sizes are learned from {MIN_DAYS:g} days on"
    days = panel.values.shape[1] * panel.step_s / DAY_S
    for number, horizon_s in enumerate(HORIZONS_S):
        if days < max(MIN_DAYS, 4 * horizon_s / DAY_S):
            continue
        progress(number / len(HORIZONS_S), f"{panel.resource}: learning risks")
        try:
            found.append(
                _learn(use, Shape(panel.step_s, round(horizon_s / panel.step_s), resource_named(panel.resource).floor), seed)
            )
        except TooLittleDataError as error:
            why = error.what
    return tuple(found), "" if found else why


def _learn(use: MeasuredUse, shape: Shape, seed: int) -> LearnedRisk:
    known = use.panel.values.shape[1]
    before_known = known - min(WARM_UP_DAYS * shape.day + shape.held, int(0.4 * known))
    try:
        before = fit(use, shape, before_known, seed)
    except TooLittleDataError:
        before = None
    end_ns = use.panel.start_ns + round(before_known * shape.step_s * NANOSECONDS)
    return LearnedRisk(use.panel.resource, fit(use, shape, known, seed), before, end_ns)


def of_horizon(risks: Sequence[LearnedRisk], resource: str, horizon_s: float) -> LearnedRisk | None:
    """The risks of a resource for the least horizon that is no shorter than the one asked for; None where there is none."""
    fitting = [each for each in risks if each.resource == resource and each.horizon_s >= horizon_s * (1 - 1e-9)]
    return min(fitting, key=lambda each: each.horizon_s, default=None)
