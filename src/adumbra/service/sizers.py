"""Who gives sizes in a back-test: rules, which see only what lies before each origin, and the oracle. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adumbra.profile.rules import Past, Rule, tomorrows_maximum
from adumbra.schema.backtests import Allocations, MeasuredUse, Schedule
from adumbra.service.observations import Progress

ORACLE = "oracle"
_VMS_AT_ONCE = 2_000  # whose past is copied at a time: 14 days of 5-minute steps of so many VMs are 65 MB


class Sizer(Protocol):
    """Gives a size for every VM at every origin of a schedule; several where it has a dial.

    What it gives at an origin may depend on use.panel.values[:, :origin] and on nothing after it. Raises TooLittleDataError
    where it can't size this resource from what there is.
    """

    @property
    def name(self) -> str:
        """What progress and notes call it."""
        ...

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]: ...


@dataclass(frozen=True, slots=True)
class RuleSizer:
    """One of the rules that people size by. It is handed copies of the lead-in, so that it can neither see nor change more."""

    rule: Rule

    @property
    def name(self) -> str:
        return self.rule.name

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        """One, or none for a resource that the rule doesn't size."""
        panel = use.panel
        if panel.resource not in self.rule.resources:
            return ()
        amounts = np.full((len(schedule.origins), len(panel.vms)), np.nan)
        for number, origin in enumerate(schedule.origins):
            progress(number / len(amounts), f"{panel.resource}: {self.name}, {number + 1} of {len(amounts)} times")
            for first in range(0, len(panel.vms), _VMS_AT_ONCE):
                some = slice(first, first + _VMS_AT_ONCE)
                past = panel.values[some, max(0, origin - schedule.lead_in_steps) : origin].copy()
                provisioned = use.provisioned[some].copy()
                amounts[number, some] = self.rule.allocate(Past(panel.resource, past, panel.step_s, provisioned))
        return (Allocations(self.rule.name, self.rule.title, amounts),)


@dataclass(frozen=True, slots=True)
class OracleSizer:
    """The largest use of the very time a size is held for. It sees the future: the bound of what can be had, and no rule."""

    name: str = ORACLE

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        values, held = use.panel.values, schedule.held_steps
        progress(0.0, f"{use.panel.resource}: the oracle")
        amounts = np.array([tomorrows_maximum(values[:, origin : origin + held]) for origin in schedule.origins])
        return (Allocations(self.name, "the largest use of the time to come (nobody can know it)", amounts),)
