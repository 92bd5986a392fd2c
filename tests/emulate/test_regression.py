"""The law of costs: never below zero, as good as SciPy's, true to made data, held to its belief where data say little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.calibration.regression import (
    INNER_80,
    Belief,
    Law,
    Sample,
    _covariance,
    _square_of_tail,
    fit,
    fit_level,
    least_squares,
    out_of_sample,
    scattered,
)

TRUE = np.array([0.002, 4e-4, 1.5e-3, 2e-8, 1e-8, 3e-6])
PRIOR = np.array([0.006, 1e-4, 5e-4, 5e-9, 5e-9, 0.0])


def belief(mean: np.ndarray = PRIOR, level_sd: float = 1.0, each_sd: float = 1.0) -> Belief:
    return Belief(mean, level_sd, each_sd, np.arange(len(mean)) > 0)


def made(seed: int, rows: int, cv: float = 1.0, costs: np.ndarray = TRUE) -> Sample:
    """Rows of 10 s under a load that rises and falls, whose requests' work varies."""
    rng = np.random.default_rng(seed)
    rate = 40 * (1.2 + np.sin(np.arange(rows) / rows * 9)) * rng.uniform(0.7, 1.3, rows)
    requests = rng.poisson(rate * 10)
    connections = rng.binomial(requests, 0.3)
    bytes_in, bytes_out = requests * rng.uniform(300, 500, rows), requests * rng.uniform(2e3, 9e3, rows)
    packets = connections * 6 + bytes_out / 1200 * rng.uniform(0.9, 1.1, rows) + requests
    counts = np.column_stack((np.full(rows, 10.0), connections, requests, bytes_in, bytes_out, packets))
    work = counts @ costs
    return Sample(
        counts, work * (1 + cv / np.sqrt(np.maximum(requests, 1)) * rng.standard_normal(rows)).clip(0.05), requests * 1.0
    )


matrices = st.integers(1, 6).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(size, 20), st.integers(0, 2**31), st.floats(1e-9, 1e6))
)


@given(matrices)
@settings(max_examples=200, deadline=None)
def test_least_squares_is_that_of_scipy(drawn: tuple[int, int, int, float]) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    size, rows, seed, scale = drawn
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((rows, size)) + 0.2
    right = rng.standard_normal(rows) * scale
    got = least_squares(left.T @ left, left.T @ right)
    want, _ = optimize.nnls(left, right)
    assert (got >= 0).all()
    assert np.linalg.norm(left @ got - right) <= np.linalg.norm(left @ want - right) * (1 + 1e-7) + 1e-9 * scale


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_least_squares_keeps_the_conditions_of_a_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((9, 6))
    gram, moment = left.T @ left + 1e-3 * np.eye(6), rng.standard_normal(6)
    x = least_squares(gram, moment)
    slope = gram @ x - moment
    assert (x >= 0).all()
    assert (slope[x == 0] >= -1e-8).all()
    assert np.allclose(slope[x > 0], 0, atol=1e-8)


def test_costs_are_found_again_from_made_use() -> None:
    law = fit(made(1, 400), belief())
    rows = made(2, 400, cv=0.0)
    mean, _ = law.predict(rows.counts, rows.works)
    assert np.median(np.abs(mean - rows.used) / rows.used) < 0.03
    assert law.mean[2] == pytest.approx(TRUE[2], rel=0.35)
    assert 0.3 < law.noise < 1.7


@pytest.mark.parametrize("seed", range(4))
def test_what_is_said_of_new_rows_holds_as_often_as_it_says(seed: int) -> None:
    train, rest = made(10 + seed, 120, cv=3.0), made(50 + seed, 400, cv=3.0)
    law = scattered(fit(train, belief()), belief(), *out_of_sample(train, belief(), np.arange(120)))
    mean, sd = law.predict(rest.counts, rest.works)
    inside = np.mean(np.abs(rest.used - mean) <= INNER_80 * sd)
    assert 0.68 < inside < 0.97


def test_with_few_rows_costs_stay_near_what_is_believed_and_with_many_they_follow_the_data() -> None:
    strong = belief(level_sd=0.3, each_sd=0.2)
    few, many = fit(made(3, 13, cv=8.0), strong), fit(made(3, 3000, cv=0.3), strong)
    away = [float(np.abs(np.log(law.mean[2] / TRUE[2]))) for law in (few, many)]
    assert away[1] < away[0]
    assert few.covariance[2, 2] > many.covariance[2, 2]


@pytest.mark.parametrize("times", [100, 1e5, 6e6])
@pytest.mark.parametrize("every", [200, 40])
def test_a_few_wild_rows_move_neither_the_costs_nor_what_is_said_of_their_scatter(times: float, every: int) -> None:
    clean, groups = made(5, 200), np.arange(200)
    wild = Sample(clean.counts, np.where(groups % every == 20, times * clean.used, clean.used), clean.works)
    rows = made(6, 100, cv=0.0)
    laws = [scattered(fit(each, belief()), belief(), *out_of_sample(each, belief(), groups)) for each in (clean, wild)]
    (mean, sd), (wild_mean, wild_sd) = (law.predict(rows.counts, rows.works) for law in laws)
    assert np.median(np.abs(wild_mean / mean - 1)) < 0.1
    assert np.median(wild_sd / sd) < 1.5


@given(st.integers(0, 2**31), st.integers(3, 60), st.floats(0.0, 30.0), st.floats(1e-6, 1e6))
@settings(max_examples=40, deadline=None)
def test_costs_are_never_negative_and_their_covariance_is_one(seed: int, rows: int, cv: float, scale: float) -> None:
    sample = made(seed, rows, cv)
    law = fit(Sample(sample.counts, sample.used * scale, sample.works), belief())
    assert (law.mean >= 0).all()
    assert np.isfinite(law.covariance).all()
    sd = np.sqrt(np.maximum(np.diag(law.covariance), 1e-300))
    assert np.linalg.eigvalsh(law.covariance / np.outer(sd, sd)).min() > -1e-6


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_seconds_measured_in_another_unit_give_the_same_law_in_that_unit(seed: int, unit: float) -> None:
    sample = made(seed, 60)
    plain = fit(sample, belief())
    other = fit(Sample(sample.counts, sample.used * unit, sample.works), belief(PRIOR * unit))
    assert np.allclose(other.mean, plain.mean * unit, rtol=1e-5, atol=1e-12 * unit)


def test_under_a_constant_load_only_the_level_is_learned() -> None:
    counts = np.tile([10.0, 100, 400, 1e5, 2e6, 4000], (30, 1))
    used = np.full(30, 2.0) * np.random.default_rng(1).uniform(0.98, 1.02, 30)
    law = fit_level(Sample(counts, used, np.full(30, 400.0)), belief())
    assert law.mean[1:] / law.level == pytest.approx(PRIOR[1:])
    assert law.mean[0] == PRIOR[0]
    assert counts[0] @ law.mean == pytest.approx(2.0, rel=0.02)
    # the load it was learned from is known well, each cost by itself no better than before
    assert abs(counts[0] @ law.covariance @ counts[0]) < (0.02 * 2.0) ** 2, "of nothing, rounding may make less than that"
    assert np.sqrt(law.covariance[1, 1]) > 0.5 * law.mean[1]


def test_a_wild_row_moves_the_level_little() -> None:
    counts = np.tile([10.0, 100, 400, 1e5, 2e6, 4000], (60, 1))
    used = np.full(60, 2.0) * np.random.default_rng(1).uniform(0.98, 1.02, 60)
    clean = fit_level(Sample(counts, used, np.full(60, 400.0)), belief())
    wild = fit_level(Sample(counts, np.where(np.arange(60) == 7, 6e5, used), np.full(60, 400.0)), belief())
    assert wild.level == pytest.approx(clean.level, rel=0.02)
    assert wild.misfit == pytest.approx(clean.misfit, abs=0.02)


def test_rows_without_use_are_refused() -> None:
    with pytest.raises(ValueError, match="some use"):
        fit(Sample(np.ones((5, 6)), np.zeros(5), np.ones(5)), belief())


def test_rows_are_summed_by_group() -> None:
    sample = Sample(np.arange(8.0).reshape(4, 2), np.array([1.0, 2, 3, 4]), np.ones(4))
    summed = sample.summed(np.array([0, 0, 1, 1]))
    assert summed.counts.tolist() == [[2, 4], [10, 12]]
    assert (summed.used.tolist(), summed.works.tolist()) == ([3, 7], [2, 2])


def test_misfit_is_shared_by_all_costs() -> None:
    law = Law(np.array([1.0, 2.0]), np.zeros((2, 2)), 0.0, 0.1, 1.0, 1.0)
    counts = np.array([[3.0, 4.0]])
    _, sd = law.predict(counts, np.array([0.0]))
    whole = counts @ law.total_covariance() @ counts.T
    assert sd[0] == pytest.approx(1.1) == pytest.approx(float(np.sqrt(whole[0, 0])))


def bytes_only(seed: int, rows: int = 400) -> Sample:
    """Rows of which only the bytes out cost anything, those of short answers less than others: a request's cost is at zero."""
    return made(seed, rows, cv=0.3, costs=np.array([0.002, 0, -5e-5, 0, 2e-7, 0]))


def test_a_cost_of_nothing_may_be_something_and_the_others_make_room_for_it() -> None:
    law = fit(bytes_only(1), belief())
    sd = np.sqrt(np.diag(law.covariance))
    nothing = law.mean == 0
    assert nothing[2]
    assert (sd[nothing] > 0).all()
    typical = bytes_only(1).counts.mean(axis=0)
    use = float(typical @ law.mean)
    assert 1e-4 < sd[2] * typical[2] / use < 0.1, "less than a tenth of the use, or rows would have shown it"
    assert law.covariance[2, 4] < 0
    assert np.sqrt(typical @ law.covariance @ typical) < 0.02 * use


@pytest.mark.parametrize("steep", [0.0, 0.7, 1.5])
def test_the_width_of_a_cost_of_nothing_is_that_of_what_is_left_of_a_normal(steep: float) -> None:
    """Against draws, by plain rejection, of a normal with that curvature and slope at zero: each cost of nothing by itself."""
    rng = np.random.default_rng(2)
    left = rng.standard_normal((30, 4)) + 0.5
    curvature = left.T @ left
    free, slope = np.array([True, False, True, False]), np.array([0.0, steep, 0.0, steep]) * 5.0
    found = _covariance(curvature, slope, free)
    for held in (1, 3):
        alone = free.copy()
        alone[held] = True
        spread = np.linalg.inv(curvature[np.ix_(alone, alone)])
        whole = rng.multivariate_normal(-spread @ slope[alone], spread, 500_000)
        at = int(alone[:held].sum())
        kept = whole[whole[:, at] >= 0]
        assert found[held, held] == pytest.approx((kept[:, at] ** 2).mean(), rel=0.04)
        little = 0.02 * np.sqrt(found[held, held] * found[0, 0])
        assert found[held, 0] == pytest.approx((kept[:, at] * kept[:, 0]).mean(), abs=little)
    assert np.linalg.eigvalsh(found).min() > 0
    assert _covariance(curvature, slope * 0, np.ones(4, np.bool_)) == pytest.approx(np.linalg.inv(curvature))


def test_the_width_of_a_cost_of_nothing_goes_on_where_the_slope_is_steep() -> None:
    widths = [_square_of_tail(slope, 4.0) for slope in (0.0, 10.0, 59.9, 60.1, 1e6)]
    assert widths[0] == pytest.approx(1 / 4)
    assert widths[2] == pytest.approx(widths[3], rel=0.02)
    assert np.all(np.diff(widths) < 0)
    assert widths[-1] == pytest.approx(2e-12)
