"""Costs followed from row to row: they come to the batch's, follow a change, and survive what shouldn't come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.calibration.drift import Tracked, begin, follow
from adumbra.emulate.calibration.regression import Law

COSTS = np.array([0.002, 4e-4, 1.5e-3, 2e-8])


def rows(seed: int, count: int, costs: np.ndarray = COSTS, cv: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, use and requests of rows of 10 s."""
    rng = np.random.default_rng(seed)
    requests = rng.poisson(300 * (1.3 + np.sin(np.arange(count) / 15)) * rng.uniform(0.6, 1.4, count)) + 1.0
    counts = np.column_stack(
        (np.full(count, 10.0), rng.binomial(requests.astype(int), 0.3), requests, requests * rng.uniform(1e3, 2e4, count))
    )
    used = counts @ costs * np.maximum(1 + cv / np.sqrt(requests) * rng.standard_normal(count), 0.05)
    return counts, used, requests


def start(factor: float = 1.0) -> Tracked:
    mean = COSTS * factor
    return begin(Law(mean, np.diag((0.5 * mean) ** 2), 1.0, 0.02, 1.0, 1.0), np.array([10.0, 100, 300, 3e6]))


def followed(state: Tracked, data: tuple[np.ndarray, np.ndarray, np.ndarray], **options: float) -> Tracked:
    for counts, used, works in zip(*data, strict=True):
        state = follow(state, counts, float(used), float(works), **options)
    return state


def test_on_data_whose_law_stays_it_comes_to_the_batch_fit() -> None:
    data = rows(1, 600)
    state = followed(start(1.4), data, wander=0.0)
    weights = 1 / (data[0] @ COSTS * 1 / np.sqrt(data[2]))
    batch, *_ = np.linalg.lstsq(data[0] * weights[:, None], data[1] * weights, rcond=None)
    fresh = rows(2, 200, cv=0.0)[0]
    assert np.median(np.abs(fresh @ state.mean / (fresh @ batch) - 1)) < 0.03
    assert state.changes == 0


@pytest.mark.parametrize("factor", [0.3, 3.0, 8.0])
def test_it_follows_a_law_that_changes_at_once(factor: float) -> None:
    state = followed(start(), rows(3, 150))
    after = rows(4, 60, COSTS * factor)
    late = followed(state, after)
    fresh, used, _ = rows(5, 50, COSTS * factor, cv=0.0)
    assert np.median(np.abs(fresh @ late.mean / used - 1)) < 0.12
    assert late.changes >= 1


def test_it_follows_costs_that_drift_slowly() -> None:
    state = start()
    for part in range(40):
        state = followed(state, rows(100 + part, 10, COSTS * (1 + part / 20)))
    fresh, used, _ = rows(6, 50, COSTS * 3, cv=0.0)
    assert np.median(np.abs(fresh @ state.mean / used - 1)) < 0.12


def test_one_wild_row_is_bounded_and_does_no_lasting_harm() -> None:
    state = followed(start(), rows(7, 200))
    counts, used, works = (each[0] for each in rows(8, 1))
    hit = follow(state, counts, 1e6 * float(used), float(works))
    assert counts @ hit.mean < 2 * (counts @ state.mean)
    healed = followed(hit, rows(9, 40))
    fresh, want, _ = rows(10, 50, cv=0.0)
    assert np.median(np.abs(fresh @ healed.mean / want - 1)) < 0.08


def test_rows_that_cannot_be_change_nothing() -> None:
    state = followed(start(), rows(11, 20))
    for counts, used in (
        (np.zeros(4), 1.0), (np.array([10.0, 1, 1, np.nan]), 1.0), (np.array([10.0, 1, 1, 1]), -1.0),
        (np.array([10.0, 1, 1, 1]), np.inf), (np.array([10.0, -1, 1, 1]), 1.0),
    ):  # fmt: skip
        after = follow(state, counts, used, 1.0)
        assert (after.mean == state.mean).all()
        assert (after.covariance == state.covariance).all()
        assert after.rows == state.rows + 1


amounts = st.one_of(st.just(0.0), st.floats(1e-9, 1e9))


@given(st.lists(st.tuples(amounts, amounts, amounts, amounts, st.one_of(st.just(0.0), st.floats(1e-9, 1e6))), max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_costs_stay_finite_and_above_zero(came: list[tuple[float, ...]]) -> None:
    state = start()
    for *counts, used in came:
        state = follow(state, np.array(counts), used, counts[2])
        assert np.isfinite(state.mean).all()
        assert (state.mean >= 0).all()
        assert np.isfinite(state.covariance).all()
        mean, sd = state.predict(np.array([10.0, 100, 300, 3e6]), 300)
        assert mean >= 0
        assert np.isfinite(sd)


def test_what_is_never_paid_for_does_not_become_less_sure_for_ever() -> None:
    counts, used, works = rows(12, 2000)
    counts[:, 1] = 0
    state = followed(start(), (counts, used, works))
    assert np.sqrt(state.covariance[1, 1]) <= 0.51 * COSTS[1]
