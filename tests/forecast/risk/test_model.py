"""The model's promises: falling curves, nothing of the future, the same for one seed; an answer or a refusal for any fleet."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.forecast.risk.histories import FLOOR, fleet

from adumbra.forecast.risk import examples, model
from adumbra.forecast.risk.examples import Pairs, look
from adumbra.forecast.risk.layout import CANDIDATES, Shape
from adumbra.forecast.risk.model import RiskModel, fit
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Floats, Panel

SHAPE = Shape(3600.0, 24, FLOOR)
KNOWN = 30 * 24
FLEET = fleet(12, 40)


@pytest.fixture(scope="module", autouse=True)
def small() -> None:
    """Fewer pairs and trees, so that a fit takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "PAIRS", 1_000)
        patch.setattr(model, "_TREES", 60)
        yield


@pytest.fixture(scope="module")
def learned(small: None) -> RiskModel:
    return fit(FLEET, SHAPE, KNOWN, 1)


def test_curves_fall_and_are_shares(learned: RiskModel) -> None:
    sizes, short = learned.curves(FLEET, Pairs.at(KNOWN, 12))
    assert sizes.shape == short.shape == (12, CANDIDATES)
    assert (np.diff(sizes, axis=1) >= 0).all()
    assert (np.diff(short, axis=1) <= 0).all()
    assert ((short >= 0) & (short <= 1)).all()
    assert (short[:, 0] > 0.3).all()
    assert (short[:, -1] < 0.02).all()


def test_what_is_expected_comes_to_pass(learned: RiskModel) -> None:
    """Of 12 machines in the next 10 days, at every hour: where 2 to 20 % are expected, so much comes, within a third."""
    origins = np.arange(KNOWN, 39 * 24, 6)
    pairs = Pairs(np.tile(np.arange(12), len(origins)), np.zeros(12 * len(origins), np.int64), np.repeat(origins, 12))
    looks = look(FLEET, SHAPE, pairs, future=True)
    expected = learned.short(looks)
    middle = (expected > 0.02) & (expected < 0.2)
    assert middle.sum() > 1_000
    assert 0.75 < looks.short[middle].mean() / expected[middle].mean() < 1.33


def test_the_same_seed_gives_the_same_model(learned: RiskModel) -> None:
    assert fit(FLEET, SHAPE, KNOWN, 1).to_dict() == learned.to_dict()
    assert fit(FLEET, SHAPE, KNOWN, 2).to_dict() != learned.to_dict()


@pytest.mark.parametrize("plant", [0.0, 1e6, np.nan])
def test_nothing_after_what_is_known_changes_a_model_or_what_it_says(learned: RiskModel, plant: float) -> None:
    values = FLEET.panel.values.copy()
    values[:, KNOWN:] = plant
    planted = replace(FLEET, panel=replace(FLEET.panel, values=values))
    again = fit(planted, SHAPE, KNOWN, 1)
    assert again.to_dict() == learned.to_dict()
    for ours, theirs in zip(
        learned.curves(FLEET, Pairs.at(KNOWN, 12)), again.curves(planted, Pairs.at(KNOWN, 12)), strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()


def test_a_model_is_plain_data_and_back(learned: RiskModel) -> None:
    again = RiskModel.from_dict(json.loads(json.dumps(learned.to_dict())))
    assert again.shape == learned.shape
    for ours, theirs in zip(learned.curves(FLEET, Pairs.at(KNOWN, 12)), again.curves(FLEET, Pairs.at(KNOWN, 12)), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"booster": "no booster"},
        {"booster": ""},
        {"booster": None},
        {"booster": 7},
        {"shape": {"step_s": 3600.0}},
        {"shape": None},
        {"shape": {"step_s": "an hour", "held": 24, "floor": FLOOR}},
    ],
    ids=str,
)
def test_other_data_is_no_model(learned: RiskModel, change: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        RiskModel.from_dict({**learned.to_dict(), **change})


def test_a_shape_that_makes_no_days_is_refused() -> None:
    for step_s, held in ((7.0, 24), (7200.0, 12), (0.5, 24), (float("nan"), 24), (3600.0, 0)):
        with pytest.raises(InputError):
            Shape(step_s, held, FLOOR)


def spiked() -> Floats:
    values = np.full((6, 960), 0.2)
    values[0, 500] = 50.0
    return values


RNG = np.random.default_rng(9)
NOISE = RNG.gamma(2.0, 0.5, (6, 960))
HOSTILE = {
    "too short": NOISE[:, :40],
    "constant": np.full((6, 960), 0.7),
    "all zero": np.zeros((6, 960)),
    "one spike": spiked(),
    "nothing measured": np.full((6, 960), np.nan),
    "half of it gaps": np.where(RNG.random((6, 960)) < 0.5, np.nan, NOISE),
    "one VM": NOISE[:1],
    "one VM of six measured": np.where(np.arange(6)[:, None] == 0, NOISE, np.nan),
    "huge": NOISE * 1e15,
    "tiny": NOISE * 1e-15,
    "no VM": np.empty((0, 960)),
}


@pytest.mark.parametrize("capacity", [np.nan, 0.0, 0.5, 8.0], ids=lambda each: f"of {each}")
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_answer_or_a_refusal(kind: str, capacity: float) -> None:
    values = HOSTILE[kind]
    names = tuple(f"vm-{number}" for number in range(len(values)))
    use = MeasuredUse(Panel("cpu_cores", names, 0, 3600.0, values), np.full(len(values), capacity))
    try:
        found = fit(use, SHAPE, values.shape[1], 1)
    except TooLittleDataError:
        return
    sizes, short = found.curves(use, Pairs.at(values.shape[1], len(values)))
    known = np.isfinite(values).any(axis=1) | (capacity > 0)
    assert np.isfinite(sizes[known]).all()
    assert ((short[known] >= 0) & (short[known] <= 1)).all()
    assert np.isnan(short[~known]).all()


@pytest.mark.parametrize("kind", ["too short", "all zero", "nothing measured", "no VM"])
def test_too_little_is_refused(kind: str) -> None:
    values = HOSTILE[kind]
    use = MeasuredUse(Panel("cpu_cores", tuple("abcdef"[: len(values)]), 0, 3600.0, values), np.full(len(values), 8.0))
    with pytest.raises(TooLittleDataError, match="cpu_cores"):
        fit(use, SHAPE, values.shape[1], 1)


def test_ten_thousand_machines_take_bounded_memory(learned: RiskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 10_000
    values = np.random.default_rng(1).gamma(2.0, 0.5, (many, 40))
    use = MeasuredUse(Panel("cpu_cores", tuple(map(str, range(many))), 0, 3600.0, values), np.full(many, 8.0))
    monkeypatch.setattr(model, "_TREES", 3)
    tracemalloc.start()
    try:
        few = fit(use, SHAPE, 40, 1)
        sizes, short = few.curves(use, Pairs.at(40, many))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes.shape == short.shape == (many, CANDIDATES)
    assert np.isfinite(short).all()
    assert peak < 100e6  # what describes all of them at once would take 123 MB
