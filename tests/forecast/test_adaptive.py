"""Calibration that follows: it holds where use drifts and the static one fails, within the bound that the papers prove."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.forecast.adaptive import EVERYONE, Adaptive, Groups, Held, groups_of, guaranteed, held_by_vm, unit_of
from adumbra.forecast.conformal import calibrate
from adumbra.forecast.models.protocol import LEVELS
from adumbra.schema.records import Panel

NAN = float("nan")
TAU = np.asarray(LEVELS)
PLACE = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def groups(vms: int, scale: float = 100.0, name: str = "steady") -> Groups:
    return Groups(tuple(f"vm{i}" for i in range(vms)), (name,) * vms, np.full(vms, scale))


def drifting(kind: str, vms: int, steps: int) -> np.ndarray:
    """Use around 100: its level jumps every 200 steps, or its spread grows and shrinks sevenfold, or it climbs."""
    rng, t = np.random.default_rng(0), np.arange(steps)
    jumps = np.cumsum(3 * rng.normal(size=(vms, steps)) * (t % 200 == 199), axis=1)
    level, spread = {
        "jumps": (100 + jumps, 1.0),
        "spread": (100.0, np.exp(np.sin(t / 150))),
        "both": (100 + jumps, np.exp(np.sin(t / 150))),
        "climbs": (100 + 0.01 * t, 1 + t / 1500),
    }[kind]
    return level + spread * rng.normal(size=(vms, steps))


def held(inside: list[np.ndarray]) -> float:
    return float(np.mean(inside))


@pytest.mark.parametrize("kind", ["jumps", "spread", "both", "climbs"])
def test_it_holds_as_often_as_asked_where_use_drifts_and_the_static_one_does_not(kind: str):
    """A forecast that never learns, calibrated on 300 values once, or on each value after it came."""
    use = drifting(kind, 1, 1_300)
    forecast = np.broadcast_to(100 + PLACE, (1, 1, len(LEVELS)))
    static = calibrate(use[0, :300, None] - forecast[0, 0], 300, LEVELS)
    fixed = static.apply(forecast, np.ones(1))[0, 0]
    state, known = Adaptive.start(LEVELS), groups(1)
    inside: dict[str, list[np.ndarray]] = {"80": [], "95": [], "static 80": [], "static 95": []}
    for t in range(use.shape[1]):
        came = use[:, t : t + 1]
        if t >= 300:
            moved = state.apply(forecast, known)[0, 0]
            for name, said in (("", moved), ("static ", fixed)):
                inside[f"{name}80"].append((came >= said[1]) & (came <= said[3]))
                inside[f"{name}95"].append((came >= said[0]) & (came <= said[5]))
        state = state.learn(came, forecast, known)
    assert 0.77 <= held(inside["80"]) <= 0.83
    assert 0.93 <= held(inside["95"]) <= 0.97
    assert not 0.77 <= held(inside["static 80"]) <= 0.83 or not 0.93 <= held(inside["static 95"]) <= 0.97


@settings(max_examples=10)
@given(
    blows=st.lists(st.floats(0, 1000), min_size=30, max_size=60),
    burst=st.integers(1, 5),
    level=st.sampled_from(range(len(LEVELS))),
)
def test_whatever_comes_the_long_run_is_within_the_bound_that_was_proven(blows: list[float], burst: int, level: int):
    """An adversary chooses each value; the share above a level's moved quantile stays near what the level says."""
    forecast = np.broadcast_to(500 + PLACE, (1, 1, len(LEVELS)))
    state, known = Adaptive.start(LEVELS), groups(1, 500.0)
    over, eta, largest = [], [], 0.0
    for blow in np.repeat(blows, burst):
        came = np.array([[blow]])
        if state.offsets:
            error = ((came[..., None] - forecast) / unit_of(forecast, LEVELS, known.scale)[..., None])[0, 0, level]
            base = state.offsets.get("steady", state.offsets[EVERYONE])[level].value
            over.append(float(error > state.shift(known)[0, level] + 1e-9))
            eta.append(float(state.eta.get("steady", state.eta[EVERYONE])[level]))
            largest = max(largest, abs(error - base))
        state = state.learn(came, forecast, known)
    bound = guaranteed(eta, largest)
    assert abs(float(np.mean(over)) - (1 - LEVELS[level])) <= bound + 1e-6
    steady = [max(eta)] * len(eta)
    assert guaranteed(steady, largest) == pytest.approx((2 * largest + steady[0]) / (steady[0] * len(steady)))


def test_what_is_drawn_from_what_is_forecast_is_left_nearly_alone():
    rng = np.random.default_rng(3)
    forecast = np.broadcast_to(100 + PLACE, (50, 20, len(LEVELS)))
    state = Adaptive.start(LEVELS)
    for _ in range(10):
        state = state.learn(100 + rng.normal(size=(50, 20)), forecast, groups(50))
    np.testing.assert_allclose(state.apply(forecast, groups(50)).mean(axis=(0, 1)), 100 + PLACE, atol=0.4)
    assert all(each.promised for each in state.offsets[EVERYONE])


def test_nothing_that_comes_later_moves_what_was_said_before():
    rng = np.random.default_rng(4)
    forecast = np.broadcast_to(100 + PLACE, (3, 5, len(LEVELS)))
    first = Adaptive.start(LEVELS).learn(rng.normal(100, 1, (3, 5)), forecast, groups(3))
    said = first.apply(forecast, groups(3))
    first.learn(np.full((3, 5), 123_456.0), forecast, groups(3))
    np.testing.assert_array_equal(first.apply(forecast, groups(3)), said)


def test_gaps_teach_nothing_and_a_vm_that_is_new_takes_its_groups_errors():
    forecast = np.broadcast_to(100 + PLACE, (2, 4, len(LEVELS)))
    start = Adaptive.start(LEVELS).learn(np.full((2, 4), 110.0), forecast, groups(2))
    same = start.learn(np.full((2, 4), NAN), forecast, groups(2))
    np.testing.assert_array_equal(same.apply(forecast, groups(2)), start.apply(forecast, groups(2)))
    new = Groups(("other",), ("bursty",), np.array([100.0]))
    assert (start.apply(forecast[:1], new)[..., 2] > 105).all()
    assert not any(each.promised for each in start.offsets[EVERYONE][3:])


def test_a_wide_forecast_is_moved_further_than_a_narrow_one():
    rng = np.random.default_rng(5)
    width = np.array([1.0, 10.0])[:, None, None]
    forecast = np.broadcast_to(100 + width * PLACE, (2, 50, len(LEVELS)))
    state = Adaptive.start(LEVELS)
    for _ in range(5):
        state = state.learn(100 + 2 * width[..., 0] * rng.normal(size=(2, 50)), forecast, groups(2, 1.0))
    moved = state.apply(forecast, groups(2, 1.0)) - forecast
    assert 4 < moved[1, 0, 3] / moved[0, 0, 3] < 12


def test_groups_tell_steady_bursty_idle_and_unseen_apart_and_roles_too():
    rng = np.random.default_rng(6)
    spiky = np.full(400, 0.1)
    spiky[::50] = 5.0
    values = np.stack([2 + 0.1 * rng.normal(size=400), rng.gamma(1.0, 1.0, 400), spiky, np.zeros(400), np.full(400, NAN)])
    panel = Panel("cpu_cores", tuple("abcde"), 0, 1.0, values)
    assert groups_of(panel).names == ("steady", "varied", "bursty", "idle", "unseen")
    assert groups_of(panel, ("web", "", "db", "", "")).names == ("steady web", "varied", "bursty db", "idle", "unseen")
    assert groups_of(panel).scale[[0, 4]] == pytest.approx([2, 0], abs=0.02)


def test_it_goes_through_json_and_comes_back_the_same():
    rng = np.random.default_rng(7)
    forecast = np.broadcast_to(100 + PLACE, (2, 4, len(LEVELS)))
    state = Adaptive.start(LEVELS)
    for _ in range(3):
        state = state.learn(rng.normal(101, 1, (2, 4)), forecast, groups(2))
    again = Adaptive.from_dict(json.loads(json.dumps(state.to_dict())))
    np.testing.assert_allclose(again.apply(forecast, groups(2)), state.apply(forecast, groups(2)), rtol=1e-5)
    plain = state.to_dict()
    plain["own"]["vm0"] = [0.0]
    with pytest.raises(ValueError, match="an offset for each level"):
        Adaptive.from_dict(plain)


def test_coverage_is_told_of_each_vm_with_a_value():
    actual = np.array([[[1.0, 9.0], [NAN, 1.0], [NAN, NAN]]])
    quantiles = np.broadcast_to(np.array([0.0, 0.5, 1, 2, 2.5, 10, 11]), (1, 3, 2, 7))
    assert held_by_vm(("a", "b", "c"), actual, quantiles, LEVELS) == (
        Held("a", 0.8, 0.5, 2), Held("b", 0.8, 1.0, 1), Held("a", 0.95, 1.0, 2), Held("b", 0.95, 1.0, 1),
    )  # fmt: skip


def test_what_one_vm_did_after_an_idle_hour_carries_no_other_beyond_what_any_machine_used():
    """Errors count in units of a VM's own use: a sleeper's that wakes are thousands of them."""
    sleeper, busy = Groups(("a",), ("idle",), np.array([0.01])), Groups(("b",), ("steady",), np.array([10.0]))
    state = Adaptive.start(LEVELS).learn(np.full((1, 30), 4.0), np.full((1, 30, len(LEVELS)), 0.01), sleeper)
    forecast = np.broadcast_to(10 + PLACE, (1, 3, len(LEVELS)))
    moved = state.apply(forecast, busy)
    assert (moved >= forecast - 1e-9).all()
    assert (moved <= np.maximum(forecast, 8.0) + 1e-9).all()


def test_a_role_too_rare_to_be_calibrated_alone_is_calibrated_with_its_kind():
    rng = np.random.default_rng(8)
    forecast = np.broadcast_to(100 + PLACE, (60, 4, len(LEVELS)))
    names = ("steady web",) * 15 + ("steady db",) * 15 + ("bursty db",) * 30
    fleet = Groups(tuple(f"vm{i}" for i in range(60)), names, np.full(60, 100.0))
    offset = np.where(np.arange(60) < 30, 5.0, -5.0)[:, None]
    state = Adaptive.start(LEVELS)
    for _ in range(5):
        state = state.learn(100 + offset + rng.normal(size=(60, 4)), forecast, fleet)
    assert {"steady", "bursty", "bursty db", EVERYONE} == set(state.offsets)
    moved = state.apply(forecast, replace(fleet, vms=tuple(f"new{i}" for i in range(60))))[:, 0, LEVELS.index(0.5)]
    assert (moved[:30] > 104).all()
    assert (moved[30:] < 96).all()
