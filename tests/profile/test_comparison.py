"""Paired differences against a plain bootstrap, and curves whose reading can be told by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.profile.scores import DAY, drawn_use, per_vm, point, points_of, schedule

from adumbra.profile import comparison
from adumbra.profile.comparison import better_at_same_risk, bootstrap, dominated, pareto
from adumbra.profile.frontier import PerVm, origins_every
from adumbra.schema.errors import InputError

SUMS = [each.name for each in dataclasses.fields(PerVm) if each.name != "vms"]


def rng(seed=1):
    return np.random.default_rng(seed)


def drawn_sums(seed, vms=40):
    chance = rng(seed)
    return per_vm(chance.uniform(10, 60, vms), chance.poisson(4, vms)), per_vm(
        chance.uniform(15, 65, vms), chance.poisson(5, vms)
    )


def test_a_difference_is_what_a_plain_bootstrap_finds():
    ours, theirs = drawn_sums(3)
    got = bootstrap(ours, theirs, rng(), draws=4000)
    chance = rng(99)
    allocated, short = [], []
    for _ in range(4000):
        taken = chance.integers(0, 40, 40)
        allocated.append(100 * (ours.allocated[taken].sum() - theirs.allocated[taken].sum()) / ours.capacity[taken].sum())
        short.append(100 * (ours.short[taken].sum() - theirs.short[taken].sum()) / ours.measured[taken].sum())
    assert got.allocated.estimate == pytest.approx((ours.allocated.sum() - theirs.allocated.sum()) / 40)
    assert got.short.estimate == pytest.approx((ours.short.sum() - theirs.short.sum()) / 400)
    for interval, draws in ((got.allocated, allocated), (got.short, short)):
        spread = np.std(draws)
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.15 * spread)
    assert got.chance_allocates_less == pytest.approx(np.mean(np.array(allocated) < 0), abs=0.03)
    assert got.chance_short_less == pytest.approx(np.mean(np.array(short) < 0), abs=0.03)
    both = np.mean((np.array(allocated) < 0) & (np.array(short) <= 0))
    assert got.chance_better == pytest.approx(both, abs=0.03)
    assert (got.vms, got.draws) == (40, 4000)


def test_pairing_tells_a_small_difference_between_vms_that_differ_much():
    allocated = np.linspace(5, 95, 50)
    got = bootstrap(per_vm(allocated - 1, np.ones(50)), per_vm(allocated, np.ones(50)), rng())
    assert (got.allocated.low, got.allocated.high) == pytest.approx((-1, -1))
    assert (got.chance_allocates_less, got.chance_short_less, got.chance_better) == (1, 0, 1)


def test_a_rule_does_not_differ_from_itself():
    ours, _ = drawn_sums(4)
    got = bootstrap(ours, ours, rng())
    assert (got.allocated.estimate, got.allocated.low, got.allocated.high) == (0, 0, 0)
    assert (got.chance_allocates_less, got.chance_short_less) == (0, 0)


def test_vms_that_were_never_scored_are_not_drawn():
    ours, theirs = drawn_sums(9)
    nothing = np.zeros(20)
    silent = dataclasses.replace(per_vm(nothing, nothing, capacity=0.0, measured=0.0), windows=nothing)

    def with_silent(sums):
        both = {name: np.concatenate([getattr(sums, name), getattr(silent, name)]) for name in SUMS}
        return PerVm(tuple(f"vm-{i}" for i in range(60)), **both)

    assert bootstrap(with_silent(ours), with_silent(theirs), rng(3)) == bootstrap(ours, theirs, rng(3))


@pytest.mark.parametrize("vms", [0, 1])
def test_one_vm_says_nothing_of_how_vms_differ(vms):
    got = bootstrap(per_vm([10.0] * vms, [1.0] * vms), per_vm([20.0] * vms, [1.0] * vms), rng())
    assert got.vms == vms
    assert math.isnan(got.allocated.low)
    assert math.isnan(got.chance_better)
    assert math.isnan(got.allocated.estimate) == (vms == 0)


def test_the_same_chance_gives_the_same_interval_however_many_are_drawn_at_once(monkeypatch):
    ours, theirs = drawn_sums(5)
    whole = bootstrap(ours, theirs, rng(7), draws=100)
    monkeypatch.setattr(comparison, "_AT_ONCE", 130)
    assert bootstrap(ours, theirs, rng(7), draws=100) == whole


def test_other_vms_can_not_be_paired():
    ours, _ = drawn_sums(6)
    with pytest.raises(InputError, match="other VMs, or of other times"):
        bootstrap(ours, ours.only(np.arange(40) < 39), rng())
    with pytest.raises(InputError, match="no curve"):
        better_at_same_risk([], point(ours), rng())


def curve_of(*pairs):
    """Points of ten VMs alike: (allocated %, steps short of 1000)."""
    return [point(per_vm([allocated] * 10, [short] * 10), "adumbra") for allocated, short in pairs]


@pytest.mark.parametrize(
    ("pairs", "short", "want"),
    [
        ([(40, 1), (20, 100)], 10, 30),  # half way between 0.1 % and 10 %, as logarithms go
        ([(20, 100), (40, 1)], 10, 30),  # in any order
        ([(40, 1), (20, 100)], 1, 40),
        ([(40, 1), (20, 100)], 100, 20),
        ([(40, 1), (20, 100)], 900, 20),  # cheapest of ours, short more rarely still
        ([(40, 1), (20, 100)], 0.5, math.nan),  # none of ours is as safe
        ([(40, 1), (45, 10), (20, 100)], 10, 40),  # a point that another one beats counts as that one
        ([(40, 0), (20, 100)], 0, 40),  # never short, as often as never
        ([(30, 10)], 10, 30),
        ([(30, 10), (25, 10)], 10, 25),
    ],
)
def test_our_curve_read_at_a_rules_shortness(pairs, short, want):
    got = better_at_same_risk(curve_of(*pairs), point(per_vm([50] * 10, [short] * 10), "peak"), rng(), draws=50)
    assert got.rule == "peak"
    assert got.theirs_percent == pytest.approx(50)
    assert got.ours_percent == pytest.approx(want, nan_ok=True)
    assert got.reached == (not math.isnan(want))
    assert got.allocated.estimate == pytest.approx(want - 50, nan_ok=True)
    assert got.of_theirs.estimate == pytest.approx(2 * (want - 50), nan_ok=True)
    if got.reached:  # the VMs are all alike, so that draws don't differ
        assert (got.allocated.low, got.allocated.high) == pytest.approx((want - 50, want - 50))
        assert (got.reached_share, got.chance_less) == (1, 1)
    else:
        assert (got.reached_share, got.chance_less) == (0, 0)
        assert math.isnan(got.allocated.low)


def test_a_curve_against_a_rule_on_one_point_is_the_paired_difference():
    ours, theirs = drawn_sums(8)
    theirs = per_vm(theirs.allocated, np.full(40, 500))  # short far more often, in every draw
    whole = bootstrap(ours, theirs, rng(2), draws=300)
    got = better_at_same_risk([point(ours)], point(theirs), rng(2), draws=300)
    assert got.allocated == pytest.approx(whole.allocated)
    assert got.chance_less == whole.chance_allocates_less


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_a_curve_needs_as_much_as_itself_at_its_own_points(seed):
    use = drawn_use(seed, vms=6)
    times = schedule(origins_every(12 * DAY, 2 * DAY, DAY), lead_in=2 * DAY)
    curve = points_of(use, times, [0.5, 1.0, 1.5, 2.0, 4.0])
    for each, beaten in zip(curve, dominated(curve), strict=True):
        got = better_at_same_risk(curve, each, rng(), draws=20)
        assert got.reached
        assert got.ours_percent <= each.figures.allocated_percent + 1e-9
        if not beaten:
            assert got.allocated.estimate == pytest.approx(0, abs=1e-9)
        assert got.allocated.high <= 1e-9  # in each draw too


def test_which_points_are_dominated():
    points = curve_of((30, 10), (40, 5), (40, 10), (30, 11), (20, 20), (30, 10))
    assert dominated(points) == (False, False, True, True, False, False)
    assert [each.figures.allocated_percent for each in pareto(points)] == pytest.approx([40, 30, 30, 20])
    assert dominated([]) == ()
    assert pareto([]) == ()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_a_point_is_dominated_where_one_is_no_worse_in_both_and_better_in_one(pairs):
    want = tuple(any((a <= b and s <= t) and (a < b or s < t) for a, s in pairs) for b, t in pairs)
    assert dominated(curve_of(*pairs)) == want
