"""Every column that describes a candidate, and every candidate, against what NumPy makes of the same history."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forecast.risk import oracle
from tests.forecast.risk.histories import FLOOR, KINDS, Case, cases, history

from adumbra.forecast.risk.examples import Looks, Pairs, look
from adumbra.forecast.risk.layout import CANDIDATES, COLUMNS, EXCEEDED, RISING, Shape
from adumbra.schema.records import NANOSECONDS


def looks(case: Case, future: bool = False) -> Looks:
    return look(case.use(), case.shape, Pairs(*(np.array([each]) for each in (0, case.begin, case.origin))), future)


def calendar(case: Case) -> tuple[int, float]:
    when = datetime.fromtimestamp(case.start_ns // NANOSECONDS + case.origin * case.shape.step_s, UTC)
    return when.weekday(), when.hour + when.minute / 60


def check(case: Case) -> None:
    found = looks(case)
    sizes = found.candidates[0]
    np.testing.assert_allclose(sizes, oracle.candidates(case.past(), case.shape, case.capacity), rtol=1e-12)
    want = oracle.columns(case.past(), case.shape, case.capacity, sizes, calendar(case))
    for number, name in enumerate(COLUMNS):
        np.testing.assert_allclose(found.described[0, :, number], want[name], rtol=2e-6, atol=2e-6, err_msg=name)


@settings(max_examples=40)
@given(case=cases())
def test_every_column_is_what_the_history_says(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("step_s", "days"), [(60.0, 2), (300.0, 16)])
def test_short_steps_too(kind: str, step_s: float, days: int) -> None:
    day = round(86_400 / step_s)
    values = history(kind, days * day, day, np.random.default_rng(1))
    check(Case(values, 7, len(values) - 11, Shape(step_s, day // 2, FLOOR), 2.0, 1_375_000_020 * NANOSECONDS))


@settings(max_examples=40)
@given(case=cases())
def test_candidates_rise_between_the_floor_and_what_the_vm_has(case: Case) -> None:
    sizes = looks(case).candidates[0]
    assert len(sizes) == CANDIDATES
    if case.capacity is None and np.isnan(case.past()).all():
        assert np.isnan(sizes).all()
        return
    there = oracle.measured(sizes)
    assert (np.diff(there) >= 0).all()
    assert (there >= FLOOR).all()
    if case.capacity is not None:
        assert len(there) == CANDIDATES
        assert there[-1] == max(case.capacity, FLOOR)


@settings(max_examples=40)
@given(case=cases())
def test_columns_that_rise_with_the_risk_fall_with_the_size(case: Case) -> None:
    """The model is constrained to be monotone in them: they must be."""
    described = looks(case).described[0, :, :RISING]
    assert not (np.diff(described, axis=0) > 1e-6).any()
    assert len(EXCEEDED) < RISING < len(COLUMNS)


@settings(max_examples=40)
@given(case=cases(), known=st.floats(0, 1), plant=st.sampled_from((0.0, 1e9, np.nan, np.inf)))
def test_nothing_outside_begin_and_origin_is_looked_at(case: Case, known: float, plant: float) -> None:
    case = replace(case, origin=case.begin + round(known * (case.origin - case.begin)))
    values = case.values.copy()
    values[: case.begin], values[case.origin :] = plant, plant
    before, after = looks(case), looks(replace(case, values=values))
    assert before.candidates.tobytes() == after.candidates.tobytes()
    assert before.described.tobytes() == after.described.tobytes()
    assert np.isnan(after.short).all()


@settings(max_examples=40)
@given(case=cases(), back=st.integers(0, 80))
def test_what_came_is_counted_step_by_step(case: Case, back: int) -> None:
    case = replace(case, origin=max(case.begin, len(case.values) - back))
    found = looks(case, future=True)
    window = case.values[case.origin : case.origin + case.shape.held]
    want = oracle.came(window, found.candidates[0], case.capacity)
    if not np.isnan(found.candidates).any():
        np.testing.assert_allclose(found.short[0], want, rtol=1e-12)


def test_use_above_what_the_vm_has_is_no_shortness_of_its_size() -> None:
    values = np.tile([0.5, 2.0, 5.0], 200)  # of 3: a third of the steps could have been had by nobody
    case = Case(values, 0, 480, Shape(3600.0, 24, FLOOR), 3.0, 0)
    found = looks(case, future=True)
    assert found.candidates[0, -1] == 3.0
    assert found.short[0, -1] == 0.0
    below = found.candidates[0] < 0.5
    assert found.short[0, below] == pytest.approx(2 / 3)
    assert found.short[0, (found.candidates[0] >= 0.5) & (found.candidates[0] < 2.0)] == pytest.approx(1 / 3)


@pytest.mark.parametrize("told", [0.0, -1.0, np.nan])
def test_what_cannot_be_what_a_vm_has_is_taken_as_unknown(told: float) -> None:
    case = Case(history("noise", 480, 24, np.random.default_rng(2)), 0, 480, Shape(3600.0, 24, FLOOR), None, 0)
    use = replace(case.use(), provisioned=np.array([told]))
    assert look(use, case.shape, Pairs.at(480, 1)).described.tobytes() == looks(case).described.tobytes()


@pytest.mark.parametrize("kind", ["columns first", "read only", "float32"])
def test_panels_of_any_form_are_taken(kind: str) -> None:
    values = np.round(np.random.default_rng(3).gamma(2.0, 0.5, (3, 480)), 2).astype(np.float32).astype(np.float64)
    use = replace(Case(values[0], 0, 480, Shape(3600.0, 24, FLOOR), 4.0, 0).use(), provisioned=np.full(3, 4.0))
    forms = {"columns first": np.asfortranarray(values), "read only": values.copy(), "float32": values.astype(np.float32)}
    forms["read only"].flags.writeable = False
    shape, pairs = Shape(3600.0, 24, FLOOR), Pairs.at(400, 3)
    plain, formed = (look(replace(use, panel=replace(use.panel, values=each)), shape, pairs) for each in (values, forms[kind]))
    assert plain.described.tobytes() == formed.described.tobytes()
