"""Along a schedule: every origin once, warmed up before the first, learning anew; nothing ahead of an origin is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tests.forecast.risk.histories import FLOOR, fleet

from adumbra.forecast.risk import examples, model
from adumbra.forecast.risk import walk as module
from adumbra.forecast.risk.layout import Shape
from adumbra.forecast.risk.walk import REFIT_DAYS, WARM_UP_DAYS, Step, walk
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.errors import TooLittleDataError

SHAPE = Shape(3600.0, 24, FLOOR)
FLEET = fleet(10, 45)
ORIGINS = np.arange(33 * 24, 44 * 24, 24)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "PAIRS", 400)
        patch.setattr(model, "_TREES", 10)
        yield


def steps(use: MeasuredUse = FLEET, origins: np.ndarray = ORIGINS, shape: Shape = SHAPE) -> list[Step]:
    return list(walk(use, shape, origins, 1, lambda *_: None))


def with_values(values: np.ndarray) -> MeasuredUse:
    return replace(FLEET, panel=replace(FLEET.panel, values=values))


def as_bytes(step: Step) -> tuple[int, bytes, bytes, bytes]:
    return step.origin, step.vms.tobytes(), step.candidates.tobytes(), step.short.tobytes()


def test_every_origin_comes_once_after_a_warm_up() -> None:
    found = [step.origin for step in steps()]
    assert found == [*range(ORIGINS[0] - WARM_UP_DAYS * 24, ORIGINS[0], 24), *ORIGINS.tolist()]


@pytest.mark.parametrize("plant", [0.0, 1e6, np.nan])
@pytest.mark.parametrize("at", [0, 10])
def test_nothing_ahead_of_an_origin_is_seen(at: int, plant: float) -> None:
    values = FLEET.panel.values.copy()
    values[:, ORIGINS[at] :] = plant
    before = [as_bytes(step) for step in steps() if step.origin <= ORIGINS[at]]
    after = [as_bytes(step) for step in steps(with_values(values)) if step.origin <= ORIGINS[at]]
    assert before == after


def test_models_learn_anew_from_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    learned_at: list[int] = []
    fit = module.fit

    def noted(use: MeasuredUse, shape: Shape, known: int, seed: int) -> model.RiskModel:
        learned_at.append(known)
        return fit(use, shape, known, seed)

    monkeypatch.setattr(module, "fit", noted)
    steps()
    assert (np.diff(learned_at) == REFIT_DAYS * 24).all()
    assert len(learned_at) == 4


def test_vms_of_which_nothing_is_known_yet_are_left_out() -> None:
    values = FLEET.panel.values.copy()
    values[3, : ORIGINS[5] + 1] = np.nan  # of this one the capacity is told all the same
    values[4, : ORIGINS[5] + 1] = np.nan
    use = with_values(values)
    use.provisioned[4] = np.nan
    found = {step.origin: set(step.vms.tolist()) for step in steps(use)}
    use.provisioned[4] = FLEET.provisioned[3]
    assert found[int(ORIGINS[5])] == set(range(10)) - {4}
    assert found[int(ORIGINS[6])] == set(range(10))


def test_a_history_too_short_is_refused_at_the_first_origin() -> None:
    with pytest.raises(TooLittleDataError):
        steps(origins=np.array([48, 72]))


def test_it_begins_to_warm_up_once_there_is_enough() -> None:
    found = [step.origin for step in steps(origins=np.arange(16 * 24, 18 * 24, 24))]
    assert found[-2:] == [16 * 24, 17 * 24]
    assert 24 < found[0] < 16 * 24


@pytest.mark.parametrize(("held", "apart"), [(6, 6), (72, 24), (24, 48)])
def test_windows_may_be_shorter_or_longer_than_the_time_between(held: int, apart: int) -> None:
    origins = np.arange(33 * 24, 36 * 24, apart)
    found = steps(origins=origins, shape=replace(SHAPE, held=held))
    assert [step.origin for step in found][-len(origins) :] == origins.tolist()
    assert all((np.diff([step.origin for step in found]) == apart).tolist())


def test_one_origin_will_do() -> None:
    assert steps(origins=ORIGINS[:1])[-1].origin == ORIGINS[0]
