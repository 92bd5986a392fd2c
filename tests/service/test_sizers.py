"""Nothing after an origin is seen: the future is planted, and no sizer's sizes move; one that looks ahead is caught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.usage_samples import usages

from adumbra.forecast.risk import examples, model, walk
from adumbra.profile.rules import RULES
from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule
from adumbra.schema.records import Floats
from adumbra.service.observations import Progress
from adumbra.service.risk_sizer import RiskSizer
from adumbra.service.schedules import Periods, schedule_of
from adumbra.service.sizers import OracleSizer, RuleSizer, Sizer

USAGES = usages()
SCHEDULE = schedule_of(USAGES.resources["cpu_cores"].panel, Periods())
OURS = RiskSizer((0.005, 0.05), tuple(Risk), 86_400.0, seed=1)
SIZERS: list[Sizer] = [*(RuleSizer(rule) for rule in RULES.values()), OURS]
PLANTS = (0.0, 1e6, np.nan)


@pytest.fixture(scope="module", autouse=True)
def learns_in_a_moment() -> Iterator[None]:
    """Ours from fewer pairs and trees, and again every day, so that a model that looks ahead shows at any origin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "PAIRS", 400)
        patch.setattr(model, "_TREES", 20)
        patch.setattr(walk, "REFIT_DAYS", 1)
        yield


def quiet(share: float | None, doing: str) -> None:
    del share, doing


def sees_the_future(sizer: Sizer, use: MeasuredUse, schedule: Schedule, at: int, plant: float) -> bool:
    """Whether any size up to the origin numbered `at` changes, by a bit, with every value after that origin put otherwise."""
    before = sizer.allocations(use, schedule, quiet)
    values = use.panel.values.copy()
    values[:, schedule.origins[at] :] = plant
    after = sizer.allocations(replace(use, panel=replace(use.panel, values=values)), schedule, quiet)
    assert [(each.rule, each.dial, each.risk) for each in before] == [(each.rule, each.dial, each.risk) for each in after]
    return any(
        ours.amounts[: at + 1].tobytes() != theirs.amounts[: at + 1].tobytes()
        for ours, theirs in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("sizer", SIZERS, ids=lambda sizer: sizer.name)
@pytest.mark.parametrize("resource", USAGES.resources)
@settings(max_examples=4, deadline=None)
@given(at=st.integers(0, len(SCHEDULE.origins) - 1), plant=st.sampled_from(PLANTS))
def test_no_sizer_sees_the_future(sizer: Sizer, resource: str, at: int, plant: float) -> None:
    assert not sees_the_future(sizer, USAGES.resources[resource], SCHEDULE, at, plant)


@dataclass(frozen=True)
class PeeksAtOneStep:
    """A sizer that cheats by one step, on one VM."""

    name: str = "peek"

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        amounts = np.nanmax(use.panel.values[:, : schedule.origins[0]], axis=1) + np.zeros((len(schedule.origins), 1))
        amounts[:, 0] = use.panel.values[0, schedule.origins]
        return [Allocations("peek", "peek", amounts)]


@dataclass(frozen=True)
class ScalesByAll:
    """A sizer that cheats without meaning to: it scales each VM by its mean over the whole file."""

    name: str = "scale"

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        mean: Floats = np.nanmean(use.panel.values, axis=1)
        return [Allocations("scale", "scale", np.tile(2 * mean, (len(schedule.origins), 1)))]


@pytest.mark.parametrize("cheat", [OracleSizer(), PeeksAtOneStep(), ScalesByAll()], ids=lambda cheat: cheat.name)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@settings(max_examples=10, deadline=None)
@given(at=st.integers(0, len(SCHEDULE.origins) - 1), plant=st.sampled_from((0.0, 1e6)))
def test_a_sizer_that_cheats_is_caught(cheat: Sizer, at: int, plant: float) -> None:
    assert sees_the_future(cheat, USAGES.resources["cpu_cores"], SCHEDULE, at, plant)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_handed_copies_of_the_lead_in_only(name: str) -> None:
    use = USAGES.resources["cpu_cores"]
    seen = []

    def greedy(past):  # type: ignore[no-untyped-def]
        seen.append(past.values.shape)
        given = RULES[name].allocate(past)
        past.values[:] = -1.0
        past.provisioned[:] = -1.0
        return given

    kept = use.panel.values.tobytes(), use.provisioned.tobytes()
    (spoiling,) = RuleSizer(replace(RULES[name], allocate=greedy)).allocations(use, SCHEDULE, quiet)
    (honest,) = RuleSizer(RULES[name]).allocations(use, SCHEDULE, quiet)
    assert spoiling.amounts.tobytes() == honest.amounts.tobytes()
    assert (use.panel.values.tobytes(), use.provisioned.tobytes()) == kept
    assert set(seen) == {(len(use.panel.vms), SCHEDULE.lead_in_steps)}


def test_a_rule_gives_nothing_for_a_resource_it_does_not_size() -> None:
    use = USAGES.resources["memory_gb"]
    bandwidth = replace(use, panel=replace(use.panel, resource="bandwidth_mbps"))
    assert RuleSizer(RULES["vpa"]).allocations(bandwidth, SCHEDULE, quiet) == ()
    assert len(RuleSizer(RULES["peak"]).allocations(bandwidth, SCHEDULE, quiet)) == 1


def test_a_rules_sizes_are_those_of_the_rule() -> None:
    use = USAGES.resources["cpu_cores"]
    (given_,) = RuleSizer(RULES["peak"]).allocations(use, SCHEDULE, quiet)
    for number, origin in enumerate(SCHEDULE.origins):
        for v in range(len(use.panel.vms)):
            values = [x for x in use.panel.values[v, origin - 336 : origin] if not np.isnan(x)]
            want = max(values) * 1.15 if values else np.nan
            assert given_.amounts[number, v] == pytest.approx(want, nan_ok=True)
