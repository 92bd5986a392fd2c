"""The back-test of sizes: scores that a plain count gives as well, comparisons with a known answer, and hostile histories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.service.usage_samples import START_NS, VMS, usages

from adumbra.profile.money import UnitPrices
from adumbra.profile.rules import RULES
from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule, Usages
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel
from adumbra.service.backtests import DECLARED, OURS, SHORTFALLS, BacktestReport, BacktestRequest, backtest, sizers_of
from adumbra.service.observations import Progress
from adumbra.service.schedules import Periods
from adumbra.service.sizers import ORACLE, RuleSizer, Sizer

DAY_S = 86_400.0


@dataclass(frozen=True)
class Scaled:
    """A stand-in for a sizer with a dial: a rule's sizes, times one factor a setting of the dial."""

    rule: str
    factors: tuple[tuple[float, float], ...]
    risk: Risk = Risk.PER_VM
    name: str = OURS

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        (given,) = RuleSizer(RULES[self.rule]).allocations(use, schedule, progress)
        return [
            replace(given, rule=OURS, amounts=given.amounts * times, dial=dial, risk=self.risk) for dial, times in self.factors
        ]


@dataclass(frozen=True)
class Refuses:
    """A sizer that can't size from what there is."""

    name: str = "refuses"

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        raise TooLittleDataError("nothing can be learned from 3 windows", "give more")


def report_with(
    *extra: Sizer, given: Usages | None = None, rules: Sequence[str] = tuple(RULES), **asked: object
) -> BacktestReport:
    """Of rules, the oracle and some more; what Adumbra itself would take long to learn is left out."""
    request = BacktestRequest(rules=tuple(RULES[name] for name in rules), **asked)  # type: ignore[arg-type]
    others = (sizer for sizer in sizers_of(request) if sizer.name != OURS)
    return backtest(given or usages(), request, sizers=(*others, *extra))


@pytest.fixture(scope="module")
def report() -> BacktestReport:
    return report_with(
        Scaled("peak", ((0.01, 1.0), (0.05, 0.7))),
        Scaled("crane", ((0.01, 1.1), (0.05, 0.8)), Risk.POOLED),
        prices=UnitPrices({"cpu_cores": 0.04}, "a price list"),
    )


def test_what_is_in_it(report: BacktestReport) -> None:
    assert [each.resource for each in report.resources] == ["cpu_cores", "memory_gb"]
    for found in report.resources:
        assert [each.given.rule for each in found.scored] == [*RULES, ORACLE, *[OURS] * 4]
    assert report.first_ns == START_NS + 14 * 86_400 * 10**9
    assert report.end_ns == START_NS + 20 * 86_400 * 10**9
    assert report.notes == ("3 rows came twice; the later ones stand",)


def counted_plainly(use: MeasuredUse, schedule: Schedule, amounts: Floats) -> tuple[float, float, list[float]]:
    """Allocated and short, in %, over all and of each origin, by loops: nothing is shared with what is tested."""
    allocated = provisioned = measured = short = 0.0
    of_origins = []
    last = use.provisioned.copy()
    for o, origin in enumerate(schedule.origins):
        here = there = 0
        for v in range(len(use.panel.vms)):
            if not np.isnan(amounts[o, v]):
                last[v] = amounts[o, v]
            before = use.panel.values[v, origin - 336 : origin].reshape(14, 24)
            window = use.panel.values[v, origin : origin + 24]
            if sum(not np.isnan(day).all() for day in before) < 7 or np.isnan(window).sum() > 12:
                continue
            size = min(last[v], use.provisioned[v])
            allocated += size
            provisioned += use.provisioned[v]
            for x in window:
                if not np.isnan(x):
                    there += 1
                    here += bool(x > size) - bool(x > use.provisioned[v])
        measured, short = measured + there, short + here
        of_origins.append(float(here))
    return 100 * allocated / provisioned, 100 * short / measured, of_origins


def test_a_plain_count_gives_the_same(report: BacktestReport) -> None:
    for found in report.resources:
        for each in found.scored:
            allocated, short, of_origins = counted_plainly(found.use, found.schedule, each.given.amounts)
            assert each.point.figures.allocated_percent == pytest.approx(allocated)
            assert each.point.figures.short_percent == pytest.approx(short)
            assert each.over_time.short.tolist() == of_origins
            assert each.over_time.measured.sum() == each.point.per_vm.measured.sum()


def test_the_oracle_is_never_short_and_what_was_provisioned_is_all(report: BacktestReport) -> None:
    for found in report.resources:
        by_rule = {each.given.rule: each.point.figures for each in found.scored}
        assert by_rule[ORACLE].short_percent == 0.0
        assert by_rule[DECLARED].allocated_percent == pytest.approx(100.0)
        assert by_rule[DECLARED].short_percent == 0.0


def test_ours_beside_itself_saves_nothing(report: BacktestReport) -> None:
    """Our sizes of the first dial are the rule's own: at its shortness we allocate what it does, in every draw."""
    for found in report.resources:
        (same,) = [each for each in found.comparisons if each.found.rule == "peak" and each.risk is Risk.PER_VM]
        assert same.found.ours_percent == pytest.approx(same.found.theirs_percent)
        assert (same.saving.estimate, same.saving.low) == pytest.approx((0.0, 0.0), abs=1e-9)
        assert {each.found.rule for each in found.comparisons} == set(RULES) - {DECLARED}


def test_a_saving_that_is_known() -> None:
    """Where use is constant nobody is ever short, and 80 % of a rule's sizes saves 20 %, in every draw."""
    steps = 20 * 24
    use = np.tile(np.linspace(1.0, 2.0, 8)[:, None], (1, steps))
    vms = tuple("abcdefgh")
    given = Usages("flat", {"cpu_cores": MeasuredUse(Panel("cpu_cores", vms, START_NS, 3600.0, use), np.full(8, 10.0))})
    found = report_with(Scaled("azure-14d", ((0.01, 0.8),)), given=given, rules=["azure-14d"]).resources[0]
    (saving,) = [each.saving for each in found.comparisons]
    assert (saving.estimate, saving.low, saving.high) == pytest.approx((20.0, 20.0, 20.0))
    beaten = {each.given.rule: each.beaten for each in found.scored}
    assert beaten == {"azure-14d": True, ORACLE: False, OURS: False}


def test_money_of_what_has_a_price(report: BacktestReport) -> None:
    cpu, memory = report.resources
    declared = next(each for each in cpu.scored if each.given.rule == DECLARED)
    assert declared.cost is not None
    vms = np.flatnonzero(declared.point.per_vm.counted)
    assert declared.cost.allocated == pytest.approx(0.04 * 730 * cpu.use.provisioned[vms].sum())
    assert all(each.cost is None for each in memory.scored)


def test_the_same_again_and_another_seed(report: BacktestReport) -> None:
    ours = Scaled("crane", ((0.01, 1.1), (0.05, 0.8)))
    first, again = (report_with(ours, seed=3, rules=["crane", "peak"]).to_dict() for _ in range(2))
    assert json.dumps(first, default=str) == json.dumps(again, default=str)
    other = report_with(ours, seed=4, rules=["crane", "peak"])
    fewer = report_with(ours, seed=3, rules=["peak"])

    def intervals(of: BacktestReport, rule: str) -> list[tuple[float, float]]:
        return [(c.saving.low, c.saving.high) for each in of.resources for c in each.comparisons if c.found.rule == rule]

    whole = report_with(ours, seed=3, rules=["crane", "peak"])
    assert intervals(whole, "peak") != intervals(other, "peak")
    assert intervals(whole, "peak") == intervals(fewer, "peak"), "whatever else is asked for, the draws are the same"


def test_a_sizer_that_can_not_is_said_and_the_others_stay() -> None:
    found = report_with(Refuses(), rules=["peak"]).resources[0]
    assert [each.given.rule for each in found.scored] == ["peak", ORACLE]
    assert "cpu_cores: refuses gave no sizes: nothing can be learned from 3 windows; give more" in found.notes


def test_the_notes_tell_what_was_not_scored(report: BacktestReport) -> None:
    said = "\n".join(report.resources[0].notes)
    assert "55 of 60 windows" in said
    assert "1 VM used more than provisioned in over 1 % of the time" in said


def test_vms_of_which_nothing_was_provisioned() -> None:
    given = usages()
    use = given.resources["cpu_cores"]
    unknown = replace(use, provisioned=np.where(np.arange(len(VMS)) < 2, np.nan, use.provisioned))
    found = report_with(given=replace(given, resources={"cpu_cores": unknown}), rules=["peak", "declared"]).resources[0]
    assert any("isn't told of 2 VMs" in note for note in found.notes)
    assert all(0 < each.point.figures.allocated_percent <= 100 for each in found.scored)


def test_a_rule_that_sizes_no_vm_is_not_shown() -> None:
    found = report_with(given=one_vm(np.full(HOURS, 0.7), np.nan), rules=["peak", "declared"]).resources[0]
    assert [each.given.rule for each in found.scored] == ["peak", ORACLE]
    assert "cpu_cores: declared gave no VM a size" in found.notes


def one_vm(values: Floats, provisioned: float = 4.0) -> Usages:
    use = MeasuredUse(Panel("cpu_cores", ("only",), START_NS, 3600.0, values[None, :]), np.array([provisioned]))
    return Usages("one.csv", {"cpu_cores": use})


HOURS = 20 * 24
SPIKE = np.where(np.arange(HOURS) == 400, 3.9, 0.2)
HOSTILE = {
    "constant": np.full(HOURS, 0.7),
    "zero": np.zeros(HOURS),
    "spike": SPIKE,
    "half gaps": np.where(np.arange(HOURS) % 2 == 0, 0.5, np.nan),
    "above what was provisioned": np.full(HOURS, 5.0),
    "not provisioned": np.full(HOURS, 0.7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_hostile_vm_is_scored(name: str) -> None:
    given = one_vm(HOSTILE[name], np.nan if name == "not provisioned" else 4.0)
    found = report_with(Scaled("peak", ((0.01, 1.0),)), given=given).resources[0]
    figures = [each.point.figures for each in found.scored]
    assert all(np.isfinite(each.short_percent) for each in figures)
    assert all(np.isfinite(each.allocated_percent) for each in figures)
    assert all(np.isnan(each.saving.low) for each in found.comparisons), "one VM says nothing of how VMs differ"


REFUSED = [
    (one_vm(np.full(HOURS, np.nan)), {}, TooLittleDataError, "480|none counts"),
    (one_vm(np.full(24, 1.0)), {}, TooLittleDataError, "a history of 1 d"),
    (usages(), {"resources": ("storage_gb",)}, InputError, r"doesn't tell of 'storage_gb'; it tells of: cpu_cores, memory_gb"),
    (usages(), {"resources": ("speed",)}, InputError, "doesn't tell of 'speed'"),
    (Usages("none.csv", {}), {}, TooLittleDataError, "nothing is measured in none.csv"),
    (usages(), {"periods": Periods(resize_s=5000.0)}, InputError, "--resize"),
]


@pytest.mark.parametrize(("given", "asked", "error", "says"), REFUSED)
def test_what_is_refused(given: Usages, asked: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        report_with(given=given, **asked)  # type: ignore[arg-type]


def test_a_resource_without_samples_is_left_out_and_the_other_scored() -> None:
    given = usages()
    memory = given.resources["memory_gb"]
    nothing = replace(memory, panel=replace(memory.panel, values=np.full_like(memory.panel.values, np.nan)))
    found = report_with(given=replace(given, resources={**given.resources, "memory_gb": nothing}), rules=["peak"])
    assert [each.resource for each in found.resources] == ["cpu_cores"]
    assert any(note.startswith("memory_gb was left out: of 60 windows") for note in found.notes)


def test_progress_goes_forward(report: BacktestReport) -> None:
    told: list[tuple[float | None, str]] = []
    request = BacktestRequest(rules=(RULES["peak"], RULES["crane"]), resources=("cpu_cores",))
    assert [sizer.name for sizer in sizers_of(request)] == ["peak", "crane", OURS, ORACLE]
    found = backtest(usages(), request, lambda share, doing: told.append((share, doing)))
    shares = [share for share, _ in told if share is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert "cpu_cores: crane, 6 of 6 times" in [doing for _, doing in told]
    dials = [each.given.dial for each in found.resources[0].shown if each.given.rule == OURS]
    assert dials == [*SHORTFALLS, *SHORTFALLS], "of each kind of risk, the settings that were asked for"
