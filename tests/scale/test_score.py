"""Predicted against measured, on series whose score is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.scale.score import Compared, Score, figures, needed, score, wilson, word
from adumbra.schema.sizing import Estimate

NAN = np.nan


def compared(predicted: list[float], measured: list[float], **given: object) -> Compared:
    one, other = np.array(predicted, np.float64), np.array(measured, np.float64)
    return Compared("cpu_cores", one, other, **{"unseen": np.ones(len(one), np.bool_), **given})  # type: ignore[arg-type]


def test_bias_and_error_are_over_the_steps_in_which_both_are_known() -> None:
    found = score(compared([2, 3, NAN, 5, NAN], [1, 2, 4, NAN, NAN]))
    assert (found.paired, found.only_predicted, found.only_measured) == (2, 1, 1)
    assert (found.bias, found.error) == (1.0, 0.75)  # |2-1|/1 and |3-2|/2
    assert found.predicted is not None
    assert found.measured is not None
    assert (found.predicted.mean, found.measured.mean, found.measured.p50) == (2.5, 1.5, 1.5)
    assert found.promise is None


def test_a_gap_is_no_zero() -> None:
    gap, zero = score(compared([1, 1], [1, NAN])), score(compared([1, 1], [1, 0]))
    assert (gap.paired, gap.bias, gap.measured.mean if gap.measured else None) == (1, 0.0, 1.0)
    assert (zero.paired, zero.bias, zero.measured.mean if zero.measured else None) == (2, 0.5, 0.5)
    assert zero.error == 0.0, "of what used nothing no ratio is told"


def test_coverage_is_the_share_inside_with_the_interval_of_that_share() -> None:
    measured = [1.0] * 8 + [9.0] * 2
    found = score(compared([1.0] * 10, measured, low=np.full(10, 0.5), high=np.full(10, 1.0)))
    assert found.coverage is not None
    assert (found.coverage.count, found.coverage.of, found.coverage.share) == (8, 10, 0.8)
    assert (found.coverage.low, found.coverage.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert score(compared([1.0], [1.0])).coverage is None


def test_only_time_that_was_not_learned_from_is_judged() -> None:
    unseen = np.array([False, False, True, True])
    found = score(compared([1, 1, 1, 1], [1, 1, 2, 2], unseen=unseen, low=np.zeros(4), high=np.ones(4)))
    assert (found.paired, found.judged, found.bias, found.error) == (4, 2, -1.0, 0.5)
    assert found.coverage is not None
    assert (found.coverage.count, found.coverage.of) == (0, 2)
    none = score(compared([1, 1], [1, 1], unseen=np.zeros(2, np.bool_), low=np.zeros(2), high=np.ones(2)))
    assert (none.judged, none.bias, none.error, none.coverage) == (0, None, None, None)
    assert none.measured is not None


def test_the_promise_is_held_against_the_size_and_the_dial() -> None:
    measured = [float(each) for each in range(1, 101)]
    found = score(compared(measured, measured), 0.05, 90.0, Estimate(80, 94, 99)).promise
    assert found is not None
    assert found.short is not None
    assert (found.short.count, found.short.of, found.needed) == (10, 100, 95.0)
    assert found.short.is_above(0.05), "ten in a hundred is beyond chance"
    assert found.estimate == Estimate(80, 94, 99)
    unsized = score(compared(measured, measured), 0.05).promise
    assert unsized is not None
    assert (unsized.short, unsized.provisioned) == (None, None)


def test_what_must_never_be_short_needs_the_most_and_few_steps_say_nothing_of_a_small_share() -> None:
    values = np.arange(1.0, 101.0)
    assert needed(values, 0.01, never=True) == 100.0
    assert needed(values, 0.01, never=False) == 99.0
    assert needed(values[:50], 0.01, never=False) is None
    assert needed(values[:0], 0.01, never=True) is None


@pytest.mark.parametrize(
    ("count", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilsons_interval_is_that_of_the_textbook(count: int, of: int, low: float, high: float) -> None:
    found = wilson(count, of)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert wilson(0, 0) is None


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_wilsons_interval_holds_the_share(given: tuple[int, int]) -> None:
    found = wilson(*given)
    assert found is not None
    assert 0.0 <= found.low <= found.share <= found.high <= 1.0


def test_nothing_makes_no_figures() -> None:
    assert figures(np.zeros(0)) is None
    empty = score(compared([], [], low=np.zeros(0), high=np.zeros(0)), 0.01, 2.0)
    assert (empty.paired, empty.predicted, empty.coverage) == (0, None, None)
    assert word([empty]) == "not measured"
    assert word([]) == "not measured"


def of(measured: float, *, predicted: float = 1.0, steps: int = 100, **given: object) -> Score:
    made = compared([predicted] * steps, [measured] * steps, low=np.full(steps, 0.8), high=np.full(steps, 1.2), **given)
    return score(made, 0.01, 2.0)


@pytest.mark.parametrize(
    ("scores", "want"),
    [
        ([of(1.0)], "as predicted"),
        ([of(1.0, steps=10)], "too little yet"),
        ([of(3.0)], "short of CPU"),
        ([of(1.5)], "uses more CPU"),
        ([of(0.5)], "uses less CPU"),
        ([of(1.0), of(3.0), of(3.0)], "short of CPU"),
        ([of(1.0, unseen=np.zeros(100, np.bool_))], "not judged yet"),
    ],
)  # fmt: skip
def test_a_word_says_what_matters_most(scores: list[Score], want: str) -> None:
    assert word(scores) == want
