"""What is learned from: windows that are over, of machines that were seen, some of them young; as many as there is room for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forecast.risk.histories import FLOOR, fleet

from adumbra.forecast.risk import examples as module
from adumbra.forecast.risk.examples import Pairs, examples, look
from adumbra.forecast.risk.layout import CANDIDATES, COLUMNS, Shape
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.records import NANOSECONDS, Floats, Panel

SHAPE = Shape(3600.0, 24, FLOOR)
FLEET = fleet(6, 20)


def with_values(use: MeasuredUse, values: Floats) -> MeasuredUse:
    return replace(use, panel=replace(use.panel, values=values))


def seen(use: MeasuredUse, known: int, seed: int, shape: Shape = SHAPE) -> tuple[bytes, bytes]:
    described, short = examples(use, shape, known, np.random.default_rng(seed))
    return described.tobytes(), short.tobytes()


@settings(max_examples=60)
@given(
    start_s=st.integers(0, 2**32 - 1),
    step_s=st.sampled_from((60.0, 300.0, 900.0, 3600.0)),
    origin=st.integers(0, 40 * 1440),
)
def test_the_calendar_is_that_of_utc(start_s: int, step_s: float, origin: int) -> None:
    values = np.broadcast_to(np.nan, (1, 40 * 1440))  # takes no room
    use = MeasuredUse(Panel("cpu_cores", ("vm",), start_s * NANOSECONDS, step_s, values), np.array([4.0]))
    shape = Shape(step_s, 1, FLOOR)
    found = look(use, shape, Pairs(np.array([0]), np.array([origin]), np.array([origin]))).described[0, 0]
    when = datetime.fromtimestamp(start_s + origin * step_s, UTC)
    assert found[COLUMNS.index("weekday")] == when.weekday()
    want = when.hour + when.minute / 60 + when.second / 3600
    assert found[COLUMNS.index("hour")] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("held", [1, 24, 72])
@pytest.mark.parametrize("plant", [0.0, 1e6, np.nan])
@pytest.mark.parametrize("known", [100, 333])
def test_nothing_that_is_not_yet_known_is_learned(held: int, plant: float, known: int) -> None:
    values = FLEET.panel.values.copy()
    values[:, known:] = plant
    shape = replace(SHAPE, held=held)
    assert seen(FLEET, known, 5, shape) == seen(with_values(FLEET, values), known, 5, shape)
    values[:, known - 1] = 1e6  # nor is the last known step left out
    assert seen(FLEET, known, 5, shape) != seen(with_values(FLEET, values), known, 5, shape)


def test_the_same_seed_gives_the_same_examples() -> None:
    assert seen(FLEET, 300, 5) == seen(FLEET, 300, 5)
    assert seen(FLEET, 300, 5) != seen(FLEET, 300, 6)


def test_examples_are_bounded_whatever_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS", 40)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    described, short = examples(FLEET, SHAPE, 480, np.random.default_rng(1))
    assert described.shape == (40 * module.CANDIDATES_A_PAIR, len(COLUMNS))
    assert described.dtype == np.float32
    assert ((short >= 0) & (short <= 1)).all()


def test_some_of_what_is_learned_is_of_young_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES_A_PAIR", 1)
    described, _ = examples(fleet(20, 30), SHAPE, 720, np.random.default_rng(1))
    age = described[:, COLUMNS.index("days measured")] * 24
    young = (age < 24).mean()
    assert 0.5 * 0.15 < young < 1.5 * 0.15
    assert {0, 1, 6} <= set(np.round(age[age < 24]).astype(int))


@pytest.mark.parametrize(
    ("values", "known", "why"),
    [
        (np.empty((1, 0)), 0, "no step"),
        (np.full((2, 400), np.nan), 400, "nothing measured"),
        (np.ones((2, 400)), 24, "no window is over"),
        (np.empty((0, 400)), 400, "no VM"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_of_nothing_nothing_is_learned(values: Floats, known: int, why: str) -> None:
    use = MeasuredUse(Panel("cpu_cores", tuple("ab"[: len(values)]), 0, 3600.0, values), np.full(len(values), 4.0))
    assert len(examples(use, SHAPE, known, np.random.default_rng(1))[1]) == 0


def test_windows_of_which_half_was_not_measured_teach_nothing() -> None:
    values = np.where(np.arange(480) % 24 < 13, np.nan, FLEET.panel.values)
    assert len(examples(with_values(FLEET, values), SHAPE, 480, np.random.default_rng(1))[1]) == 0
    values = np.where(np.arange(480) % 24 < 12, np.nan, FLEET.panel.values)
    assert len(examples(with_values(FLEET, values), SHAPE, 480, np.random.default_rng(1))[1]) > 0


def test_of_no_pair_nothing_is_seen() -> None:
    nothing = np.empty(0, np.int64)
    found = look(FLEET, SHAPE, Pairs(nothing, nothing, nothing), future=True)
    assert found.candidates.shape == (0, CANDIDATES)
    assert found.described.shape == (0, CANDIDATES, len(COLUMNS))
