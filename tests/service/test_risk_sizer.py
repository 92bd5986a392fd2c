"""Ours end to end, on a fleet made up: the share of time asked for comes; and only what is over is learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.forecast.risk.histories import fleet

from adumbra.forecast.risk import examples, model
from adumbra.forecast.risk.walk import Step
from adumbra.profile.decide import Dial
from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Panel
from adumbra.service.risk_sizer import Book, RiskSizer, came

DIALS = (0.01, 0.03, 0.08)
FLEET = fleet(25, 60)
SCHEDULE = Schedule(np.arange(35 * 24, 60 * 24, 24), 24, 14 * 24)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "PAIRS", 1_500)
        patch.setattr(model, "_TREES", 60)
        yield


@pytest.fixture(scope="module")
def sized(small: None) -> Sequence[Allocations]:
    return RiskSizer(DIALS, tuple(Risk), 86_400.0, seed=1).allocations(FLEET, SCHEDULE, lambda *_: None)


def short_of(given: Allocations) -> np.ndarray:
    """The share of time that each VM was short."""
    windows = np.stack([FLEET.panel.values[:, origin : origin + 24] for origin in SCHEDULE.origins])
    above = (windows > given.amounts[:, :, None]) & (windows <= FLEET.provisioned[:, None])
    return np.asarray(above.mean(axis=(0, 2)))


def test_there_is_one_for_each_dial(sized: Sequence[Allocations]) -> None:
    assert [(each.risk, each.dial) for each in sized] == [(risk, share) for risk in Risk for share in DIALS]
    for each in sized:
        assert each.amounts.shape == (25, 25)
        assert np.isfinite(each.amounts).all()
        assert (each.amounts <= FLEET.provisioned).all()


@pytest.mark.parametrize("number", range(2 * len(DIALS)))
def test_the_share_asked_for_is_the_share_that_comes(sized: Sequence[Allocations], number: int) -> None:
    given = sized[number]
    assert given.dial is not None
    short = short_of(given)
    assert 0.7 < short.mean() / given.dial < 1.3
    assert (short > 3 * given.dial).mean() <= 0.1


def test_more_risk_takes_less(sized: Sequence[Allocations]) -> None:
    for risk in Risk:
        totals = [each.amounts.sum() for each in sized if each.risk is risk]
        assert totals == sorted(totals, reverse=True)


def test_pooled_takes_less_than_each_on_its_own(sized: Sequence[Allocations]) -> None:
    total = {(each.risk, each.dial): each.amounts.sum() for each in sized}
    for share in DIALS:
        assert total[Risk.POOLED, share] < total[Risk.PER_VM, share]


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(TooLittleDataError):
        RiskSizer((0.01,), (Risk.PER_VM,), 86_400.0, 1).allocations(FLEET, Schedule(np.array([24]), 24, 24), lambda *_: None)


def test_only_what_is_over_is_learned_from() -> None:
    panel = Panel("cpu_cores", ("a",), 0, 3600.0, np.full((1, 96), 5.0))
    book = Book.of(Dial(0.05), 1)
    step = Step(24, np.array([0]), np.array([[1.0, 2.0]]), np.array([[0.04, 0.0]]))
    book.size(step, 1.0)
    use = MeasuredUse(panel, np.array([8.0]))
    book.settle(use, 24, 47)
    assert (len(book.open), book.memory.came[0]) == (1, 0.0)
    book.settle(use, 24, 48)
    assert (len(book.open), book.memory.came[0]) == (0, 1.0)


def test_what_came_leaves_out_gaps_and_what_nobody_could_have_had() -> None:
    values = np.array([[1.0, 3.0, 9.0, np.nan], [np.nan, np.nan, np.nan, 3.0], [3.0, 3.0, 9.0, 1.0]])
    use = MeasuredUse(Panel("cpu_cores", ("a", "b", "c"), 0, 3600.0, values), np.array([4.0, 4.0, np.nan]))
    step = Step(0, np.arange(3), np.full((3, 1), 2.0), np.full((3, 1), 0.01))
    decided = Book.of(Dial(0.05), 3).size(step, 1.0)
    np.testing.assert_allclose(came(use, 0, 4, decided), [1 / 3, np.nan, 3 / 4])
    some = replace(decided, vms=decided.vms[2:], amounts=decided.amounts[2:])
    np.testing.assert_allclose(came(use, 0, 4, some), [3 / 4])
