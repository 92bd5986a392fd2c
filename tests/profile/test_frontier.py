"""Scores of sizes against a slow loop over every VM, window and step, and stories whose figures can be told by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.profile.scores import DAY, STEP_S, drawn_use, gave, schedule, use_of

from adumbra.profile import frontier
from adumbra.profile.frontier import PerVm, figures, lay_out, origins_every, score, scored
from adumbra.schema.errors import InputError

NAN = math.nan


def slow_score(use, times, amounts):
    """The definitions, one step after the other: sums per VM, and why windows don't count."""
    values, step_s = use.panel.values, use.panel.step_s
    day = round(86400 / step_s)
    vms, steps = values.shape
    out = {
        name: [0.0] * vms
        for name in ["windows", "allocated", "capacity", "measured", "short", "unavoidable", "demand", "unmet"]
    }
    out |= {name: [0.0] * vms for name in ["unavoidable_unmet", "longest_run", "resizes", "kept"]}
    reasons = {"short_history": 0, "few_measured": 0}
    for v in range(vms):
        told = use.provisioned[v]
        there = [x for x in values[v] if not math.isnan(x)]
        capacity = told if told > 0 else max(there, default=NAN)
        size, before, run, previous_end, last_counted = capacity, None, 0, None, None
        for o, origin in enumerate(times.origins):
            wanted = amounts[o][v]
            given_none = math.isnan(wanted)
            size = size if given_none else wanted
            amount = min(size, capacity)
            lived = 0
            for back in range(times.lead_in_steps // day):
                start, end = max(0, origin - (back + 1) * day), max(0, min(steps, origin - back * day))
                lived += any(not math.isnan(x) for x in values[v, start:end])
            window = [values[v, t] if t < steps else NAN for t in range(origin, origin + times.held_steps)]
            measured = sum(not math.isnan(x) for x in window)
            if lived < times.lead_in_steps // day / 2 or measured < times.held_steps / 2:
                reasons["short_history" if lived < times.lead_in_steps // day / 2 else "few_measured"] += 1
                run, before = 0, None
                continue
            if previous_end != origin or last_counted != o - 1:
                run = 0
            out["kept"][v] += given_none
            out["windows"][v] += 1
            out["allocated"][v] += amount
            out["capacity"][v] += capacity
            out["measured"][v] += measured
            if before is not None and abs(amount - before) > 0.01 * before:
                out["resizes"][v] += 1
            before, previous_end, last_counted = amount, origin + times.held_steps, o
            for x in window:
                if math.isnan(x) or x <= amount:
                    run = 0
                elif x <= capacity:
                    run += 1
                    out["longest_run"][v] = max(out["longest_run"][v], run)
                if math.isnan(x):
                    continue
                out["demand"][v] += x
                out["short"][v] += amount < x <= capacity
                out["unavoidable"][v] += x > capacity
                out["unmet"][v] += max(0.0, x - amount)
                out["unavoidable_unmet"][v] += max(0.0, x - capacity)
    out["weeks"] = [w * times.held_steps * step_s / 604800 for w in out["windows"]]
    return out, reasons


def assert_same(point, want, reasons):
    for each in dataclasses.fields(PerVm):
        if each.name != "vms":
            np.testing.assert_allclose(
                getattr(point.per_vm, each.name), want[each.name], rtol=1e-9, atol=1e-9, err_msg=each.name
            )
    assert point.kept == sum(want["kept"])
    counts = point.counts
    assert (counts.short_history, counts.few_measured) == (reasons["short_history"], reasons["few_measured"])
    assert counts.windows == counts.counted + counts.short_history + counts.few_measured
    assert counts.counted == sum(want["windows"])


@st.composite
def schedules(draw, steps=12 * DAY):
    held = draw(st.sampled_from([1, 5, DAY, 3 * DAY]))
    first = draw(st.integers(0, 5 * DAY))
    spaces = draw(st.lists(st.sampled_from([0, 0, 0, 1, 7, DAY]), min_size=1, max_size=12))
    origins = first + np.cumsum([0, *(held + space for space in spaces)])
    kept = origins[origins < steps + DAY]  # some windows reach beyond what was measured
    return schedule(kept, held, draw(st.sampled_from([0, DAY, 2 * DAY, 14 * DAY])))


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), schedules(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.3, 1.0]))
def test_scores_are_what_a_loop_over_all_steps_finds(seed, times, gaps, without):
    use = drawn_use(seed, gaps=gaps)
    rng = np.random.default_rng(seed + 1)
    amounts = rng.lognormal(0.5, 1.0, (len(times.origins), 4))
    amounts[rng.random(amounts.shape) < without] = NAN
    amounts[rng.random(amounts.shape) < 0.1] = 0.0
    assert_same(score(use, times, gave(amounts)), *slow_score(use, times, amounts))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), schedules())
def test_vms_taken_some_at_a_time_score_the_same(seed, times):
    use = drawn_use(seed)
    amounts = np.random.default_rng(seed).lognormal(0.5, 1.0, (len(times.origins), 4))
    whole = score(use, times, gave(amounts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontier, "_AT_ONCE", 50)
        apart = score(use, times, gave(amounts))
    assert apart.counts == whole.counts
    for each in dataclasses.fields(PerVm):
        if each.name != "vms":
            np.testing.assert_allclose(getattr(apart.per_vm, each.name), getattr(whole.per_vm, each.name), rtol=1e-12)


def test_a_point_told_by_hand():
    """Two VMs, one day of 24 hours. The first has 4 cores, gets 2, and uses 1 for 18 hours, 3 for 4, 6 for 2."""
    first = [1.0] * 18 + [3.0] * 4 + [6.0] * 2
    use = use_of([first, [0.5] * 24], [4.0, 12.0])
    point = score(use, schedule([0]), gave([[2.0, 3.0]], dial=0.05))
    got = point.figures
    assert got.vms == 2
    assert got.allocated_percent == pytest.approx(100 * 5 / 16)
    assert got.short_percent == pytest.approx(100 * 4 / 48)
    assert got.unavoidable_percent == pytest.approx(100 * 2 / 48)
    demand = 18 + 12 + 12 + 12
    assert got.unmet_percent == pytest.approx(100 * (4 * 1 + 2 * 4) / demand)
    assert got.unavoidable_unmet_percent == pytest.approx(100 * 2 * 2 / demand)
    assert (got.longest_run_steps, got.longest_run_s) == (4, 4 * STEP_S)
    assert (got.short_median_percent, got.short_worst_percent) == pytest.approx((100 * 4 / 48, 100 * 4 / 24))
    assert got.short_p95_percent == pytest.approx(0.95 * 100 * 4 / 24)
    assert got.over_dial_percent == 50  # 16.7 % is more than 3 x 5 %
    assert (got.allocated_mean, got.provisioned_mean) == (2.5, 8.0)
    assert got.resizes_per_vm_week == 0
    assert point.counts.overloaded_vms == 1
    assert point.steady.vms == 1
    assert (point.steady.allocated_percent, point.steady.short_percent) == (25, 0)


def test_a_vm_of_unknown_size_is_held_against_its_largest_use():
    use = use_of([[1.0] * 47 + [5.0]] * 2, [NAN, 0.0])  # the peak is on the second day
    point = score(use, schedule([0]), gave([[2.5, 50.0]]))
    assert point.counts.own_maximum_vms == 2
    assert point.figures.allocated_percent == pytest.approx(75)  # half, and all: no more than the largest use is counted
    assert point.figures.unavoidable_percent == 0


def test_where_a_rule_gives_no_size_the_one_before_stays():
    use = use_of([[3.0] * 4 * DAY])
    point = score(use, schedule(np.arange(4) * DAY), gave([[NAN], [2.0], [NAN], [4.0]]))
    assert point.kept == 2
    assert point.per_vm.allocated[0] == 8 + 2 + 2 + 4
    assert point.per_vm.short[0] == 2 * DAY
    assert point.figures.longest_run_steps == 2 * DAY
    assert point.per_vm.resizes[0] == 2
    assert point.figures.resizes_per_vm_week == pytest.approx(2 / (4 / 7))


@pytest.mark.parametrize(
    ("before", "after", "resizes"),
    [(1.0, 1.0099, 0), (1.0, 1.0101, 1), (2.0, 1.97, 1), (0.0, 0.0, 0), (0.0, 0.1, 1), (9.0, 10.0, 0)],
)
def test_a_resize_is_a_change_of_more_than_one_in_a_hundred(before, after, resizes):
    point = score(use_of([[0.5] * 2 * DAY]), schedule([0, DAY]), gave([[before], [after]]))
    assert point.per_vm.resizes[0] == resizes  # the last case: both are more than the 8 that are there


@pytest.mark.parametrize(
    ("hours", "run"),
    [
        ([3, 3, 3, 1, 3, 3], 3),
        ([3, NAN, 3, 3, 1, 1], 2),  # a gap ends a run
        ([3, 9, 3, 9, 1, 1], 2),  # what nothing could avoid neither ends nor lengthens it
        ([9, 9, 9, 9, 9, 9], 0),
        ([1, 1, 1, 1, 1, 1], 0),
    ],
)
def test_the_longest_run_short(hours, run):
    point = score(use_of([hours]), schedule([0], held=6), gave([[2.0]]))
    assert point.figures.longest_run_steps == run


def test_a_run_goes_on_over_windows_that_touch_and_no_others():
    use = use_of([[3.0] * 4 * DAY, [3.0] * 4 * DAY])
    runs = score(use, schedule([0, DAY, 3 * DAY]), gave(np.ones((3, 2)))).per_vm.longest_run
    assert list(runs) == [2 * DAY, 2 * DAY]


def test_a_day_counts_after_7_of_14_days_and_with_half_of_itself():
    values = np.full((3, 15 * DAY), 1.0)
    values[1, : 8 * DAY] = NAN  # 6 days
    values[2, : 7 * DAY] = NAN  # 7 days
    values[2, 14 * DAY : 14 * DAY + 12] = NAN
    use = use_of(values)
    counts = lay_out(use, schedule([14 * DAY], lead_in=14 * DAY)).counts
    assert (counts.counted, counts.short_history, counts.few_measured) == (2, 1, 0)
    values[2, 14 * DAY + 12] = NAN
    counts = lay_out(use, schedule([14 * DAY], lead_in=14 * DAY)).counts
    assert (counts.counted, counts.short_history, counts.few_measured) == (1, 1, 1)


def test_nothing_measured_gives_no_figures_and_no_error():
    for use in (use_of(np.full((2, DAY), NAN)), use_of(np.empty((0, DAY)))):
        point = score(use, schedule([0]), gave(np.ones((1, len(use.panel.vms))), dial=0.01))
        assert (point.figures.vms, point.counts.counted) == (0, 0)
        assert math.isnan(point.figures.allocated_percent)
        assert math.isnan(point.figures.short_p95_percent)
        assert math.isnan(point.figures.over_dial_percent)


def test_no_use_at_all_is_never_short():
    point = score(use_of(np.zeros((1, DAY)), [NAN]), schedule([0]), gave([[0.0]]))
    assert (point.figures.short_percent, point.figures.unmet_percent) == (0, 0)
    assert math.isnan(point.figures.allocated_percent)  # of nothing provisioned


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_more_is_never_short_more_often(seed):
    use = drawn_use(seed)
    held = lay_out(use, schedule(origins_every(12 * DAY, 0, DAY), lead_in=0))
    amounts = np.random.default_rng(seed).lognormal(0.0, 1.0, (12, 4))
    less, more = scored(held, gave(amounts)), scored(held, gave(amounts * 1.3))
    for name in ("short_percent", "unmet_percent", "short_worst_percent"):
        assert not getattr(more.figures, name) > getattr(less.figures, name) + 1e-9
    assert not more.figures.allocated_percent < less.figures.allocated_percent


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=4, max_size=4))
def test_some_vms_score_from_their_sums_as_if_scored_alone(seed, chosen):
    use = drawn_use(seed)
    times = schedule(origins_every(12 * DAY, 2 * DAY, DAY), lead_in=2 * DAY)
    amounts = np.random.default_rng(seed).lognormal(0.0, 1.0, (10, 4))
    taken = np.array(chosen)
    some = use_of(use.panel.values[taken], use.provisioned[taken])
    alone = score(some, times, gave(amounts[:, taken], dial=0.01)).figures
    from_sums = figures(score(use, times, gave(amounts)).per_vm.only(taken), STEP_S, dial=0.01)
    np.testing.assert_allclose(dataclasses.astuple(from_sums), dataclasses.astuple(alone), rtol=1e-12)


def test_origins_leave_room_for_a_whole_window():
    assert list(origins_every(100, 10, 30)) == [10, 40, 70]
    assert list(origins_every(99, 10, 30)) == [10, 40]
    assert list(origins_every(20, 10, 30)) == []


@pytest.mark.parametrize(
    ("times", "match"),
    [
        (schedule([0, 10], held=11), "before the ones before are given up"),
        (schedule([10, 0], held=1), "before the ones before are given up"),
        (schedule([], held=1), "no time at which"),
        (schedule([0], held=0), "no time at which"),
        (schedule([-1], held=1), "no time at which"),
    ],
)
def test_a_schedule_that_is_none_is_refused(times, match):
    with pytest.raises(InputError, match=match):
        lay_out(use_of([[1.0] * 48]), times)


@pytest.mark.parametrize(
    ("amounts", "match"),
    [(np.ones((2, 1)), "of the shape"), (np.ones((1, 2)), "of the shape"), ([[-1.0]], "less than nothing")],
)
def test_allocations_that_are_none_are_refused(amounts, match):
    with pytest.raises(InputError, match=match):
        score(use_of([[1.0] * 48]), schedule([0]), gave(amounts))


def test_use_that_is_none_is_refused():
    with pytest.raises(InputError, match="infinite"):
        lay_out(use_of([[math.inf] * 48]), schedule([0]))
    with pytest.raises(InputError, match="fit the VMs"):
        lay_out(use_of([[1.0] * 48], [1.0, 2.0]), schedule([0]))
