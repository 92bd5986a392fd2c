"""The trial of forecasts at several horizons: nothing later is seen, each case sees what it should, its figures are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adumbra.forecast import registry
from adumbra.forecast.evaluation import CASES, Case, Exam, attempt, calibrated, evaluate, lay_out, served, shown
from adumbra.forecast.models.protocol import LEVELS, NOTHING_KNOWN, Covariates
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Panel

PLANTED = 123_456.0
HOUR = 3_600.0
EXAM = Exam(horizons_s=(2 * HOUR, 12 * HOUR), origins=4, burn_in=1, fits=2, vms=20, points=6, context_s=10 * 86_400.0)


def fleet(vms: int = 16, days: int = 21, seed: int = 2) -> tuple[Panel, Covariates]:
    """Machines of 1 to 8 cores that use a quarter of them, with a day's wave; their traffic goes along."""
    rng = np.random.default_rng(seed)
    steps = days * 48
    cores = 2.0 ** rng.integers(0, 4, vms)
    wave = 1 + 0.5 * np.sin(2 * np.pi * np.arange(steps) / 48)
    use = 0.25 * cores[:, None] * wave * rng.gamma(8.0, 1 / 8, (vms, steps))
    panel = Panel("cpu_cores", tuple(f"vm{i}" for i in range(vms)), 1_700_000_000_000_000_000, 1_800.0, use)
    return panel, Covariates(cores, (), {"rx_mbps": 10 * use})


def quiet(_share: float, _what: str) -> None:
    """Progress that nobody watches."""


@pytest.mark.parametrize("name", ["seasonal-naive", "lightgbm", "fleet"])
def test_a_planted_future_is_found_by_no_forecast_and_no_calibration(name: str):
    """Up to an origin all that is said is the same, to the last bit, whatever stands after it, use or traffic."""
    panel, covariates = fleet(vms=8, days=12)
    exam = replace(EXAM, cases=CASES[:3], origins=3, fits=1)
    plan = lay_out(panel, exam, 1)
    last = plan.origins[-1]
    planted, rx = panel.values.copy(), covariates.traffic["rx_mbps"].copy()
    planted[:, last:] = PLANTED
    rx[:, last:] = PLANTED
    said = []
    for values, traffic in ((panel.values, covariates.traffic["rx_mbps"]), (planted, rx)):
        history = replace(panel, values=values)
        known = replace(covariates, traffic={"rx_mbps": traffic})
        done = attempt(history, registry.forecaster(name, 24), plan, exam, 1, known)
        moved = {}
        for (case, horizon_s), trial in done.items():
            of = next(each for each in CASES if each.name == case)
            row = plan.unknown if of.held_out else plan.known
            moved[case, horizon_s] = calibrated(history, trial, row, plan.origins, round(horizon_s / 1_800), of)
        said.append((done, moved))
    for key in said[0][0]:
        np.testing.assert_array_equal(said[0][0][key].quantiles, said[1][0][key].quantiles)
        np.testing.assert_array_equal(said[0][1][key], said[1][1][key])


@pytest.mark.parametrize(
    ("case", "own", "traffic"),
    [(CASES[0], 100, True), (CASES[1], 0, False), (CASES[2], 0, True), (Case("live 6h", True, 6 * HOUR), 12, False)],
)
def test_a_case_shows_what_it_says_and_nothing_after_the_origin(case: Case, own: int, traffic: bool):
    panel, covariates = fleet(vms=3, days=5)
    recent, known = shown(panel, covariates, case, np.array([2, 0]), (20, 120))
    assert recent.vms == ("vm2", "vm0")
    assert recent.start_ns == panel.start_ns + 20 * 1_800 * 10**9
    np.testing.assert_array_equal(np.isfinite(recent.values).sum(axis=1), own)
    np.testing.assert_array_equal(recent.values[:, 100 - own :], panel.values[[2, 0], 120 - own : 120])
    assert known.declared is not None
    np.testing.assert_array_equal(known.declared, covariates.declared[[2, 0]])  # type: ignore[index]
    assert ("rx_mbps" in known.traffic) == traffic
    for values in known.traffic.values():
        assert values.shape[1] == 100


def test_vms_held_out_are_never_learned_from_and_origins_leave_room_for_the_longest_horizon():
    panel, _ = fleet()
    plan = lay_out(panel, EXAM, 3)
    assert not set(plan.learned) & set(plan.unknown)
    assert set(plan.known) <= set(plan.learned)
    assert len(plan.unknown) == 4
    assert list(plan.origins) == sorted(plan.origins)
    assert plan.origins[-1] + 24 <= panel.values.shape[1]
    assert all(at <= origin for at, origin in zip(plan.fitted_at, plan.origins, strict=True))
    assert len(set(plan.fitted_at)) == 2
    assert lay_out(panel, EXAM, 3).origins == plan.origins
    with pytest.raises(TooLittleDataError, match="too few to try forecasts"):
        lay_out(replace(panel, values=panel.values[:, :30]), EXAM, 3)


def test_every_model_has_a_row_for_each_case_and_horizon_and_the_fleet_is_better_than_none():
    panel, covariates = fleet()
    models = {name: registry.forecaster(name, 24) for name in ("seasonal-naive", "fleet", "lightgbm")}
    rows = evaluate(panel, models, replace(EXAM, cases=(CASES[0], CASES[1])), 1, quiet, covariates)
    assert [(row.model, row.case, row.horizon_s) for row in rows] == [
        (name, case, hours * HOUR) for name in models for case in ("history", "declared") for hours in (2, 12)
    ]
    found = {(row.model, row.case, row.horizon_s / HOUR): row for row in rows}
    assert "forecasts no VM without measured use" in found["seasonal-naive", "declared", 2].why
    for key in (("fleet", "declared", 12), ("lightgbm", "declared", 12), ("lightgbm", "history", 12)):
        raw = found[key].raw
        assert raw is not None
        assert raw.wql is not None
        assert raw.wql < 0.4, key
        assert raw.coverage["80"] > 0.5, key
    assert served(rows)[0].startswith("history, 2 h ahead: ")
    assert len(served(rows)) == 4


def test_a_model_that_cannot_learn_is_told_so_in_each_row():
    panel, _ = fleet(vms=4)
    empty = replace(panel, values=np.where(np.arange(panel.values.shape[1]) < 800, np.nan, panel.values))
    rows = evaluate(empty, {"lightgbm": registry.forecaster("lightgbm", 24)}, replace(EXAM, cases=CASES[:1]), 1, quiet)
    assert all(row.raw is None and "can't learn" in row.why for row in rows)
    assert rows[0].to_dict()["raw"] is None


def test_a_calibration_learns_from_horizons_that_have_come_and_mends_a_forecast_that_is_too_narrow():
    panel, _ = fleet(vms=40, days=30, seed=9)
    exam = replace(EXAM, cases=CASES[:1], origins=10, horizons_s=(12 * HOUR,), points=12)
    plan = lay_out(panel, exam, 1)
    done = attempt(panel, registry.forecaster("seasonal-naive", 24), plan, exam, 1, NOTHING_KNOWN)
    trial = next(iter(done.values()))
    middle = trial.quantiles[..., [LEVELS.index(0.5)]]
    narrow = replace(trial, quantiles=middle + 0.3 * (trial.quantiles - middle))
    moved = calibrated(panel, narrow, plan.known, plan.origins, 24, CASES[0])
    np.testing.assert_array_equal(moved[0], narrow.quantiles[0])

    def inside(said: np.ndarray) -> float:
        return float(np.mean((trial.actual[3:] >= said[3:, ..., 1]) & (trial.actual[3:] <= said[3:, ..., 3])))

    assert inside(narrow.quantiles) < 0.5
    assert 0.75 <= inside(moved) <= 0.85
