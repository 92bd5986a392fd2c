"""A calibration that is gone on from: new rows are told before they are learned from, and one is as good as two in turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adumbra.emulate.calibration import drift
from adumbra.emulate.calibration.calibrate import calibrate
from adumbra.emulate.calibration.evidence import Evidence
from adumbra.emulate.calibration.tasks import FITTED
from adumbra.emulate.calibration.update import update
from adumbra.emulate.roles import bundled_priors
from adumbra.schema.calibration import COSTS, HOLDINGS, VmCalibration
from adumbra.schema.records import NANOSECONDS

PRIOR = bundled_priors().prior("nginx")
REQUEST_S = 2e-3
LENGTH_S = 10.0


def rows(first: int, last: int, factor: float = 1.0, seed: int = 1) -> Evidence:
    """Rows of 10 s, from number `first` to `last`, of a server whose requests cost `factor` times REQUEST_S."""
    rng = np.random.default_rng(seed + first)
    number = np.arange(first, last)
    requests = rng.poisson(200 * (1.2 + np.sin(number / 8))).astype(float)
    counts = np.zeros((len(number), len(COSTS)))
    counts[:, 0], counts[:, COSTS.index("request_s")] = LENGTH_S, requests
    counts[:, COSTS.index("byte_out_s")] = requests * rng.uniform(1e3, 5e3, len(number))
    used = 0.01 + factor * REQUEST_S * requests / LENGTH_S * (1 + rng.normal(0, 0.05, len(number)))
    held = np.ones((len(number), len(HOLDINGS)))
    held[:, 1:] = 0.0
    return Evidence(
        "web", (number * round(LENGTH_S) * NANOSECONDS).astype(np.int64), LENGTH_S, counts, requests, held,
        {"cpu_cores": used}, np.full(len(number), LENGTH_S), np.zeros(len(number), np.bool_),
    )  # fmt: skip


@pytest.fixture(scope="module")
def known() -> VmCalibration:
    return calibrate(rows(0, 120), PRIOR)[0]


def request_s(vm: VmCalibration) -> float:
    fit = vm.fits["cpu_cores"]
    typical = rows(0, 500).counts.mean(axis=0)[[COSTS.index(name) for name in FITTED]]
    return float((typical @ np.array(fit.mean) - 0.01 * LENGTH_S) / typical[FITTED.index("request_s")])


def test_costs_that_changed_are_followed_and_what_it_was_worth_is_told(known: VmCalibration) -> None:
    after, judged = update(rows(120, 220, factor=2.0), PRIOR, known)
    fit = after.fits["cpu_cores"]
    assert request_s(known) == pytest.approx(REQUEST_S, rel=0.1)
    assert request_s(after) == pytest.approx(2 * REQUEST_S, rel=0.1)
    assert fit.error_before is not None
    assert fit.error_after is not None
    assert fit.error_before == pytest.approx(0.45, abs=0.05)
    assert fit.error_after < 0.15
    assert judged["cpu_cores"].after[0] == pytest.approx(judged["cpu_cores"].before[0]), "told before any of it was learned"
    assert fit.rows == 220
    assert fit.changed[0] == "100 new rows"
    assert "what things cost has changed" in fit.changed
    assert any("times what the last calibration said" in each for each in fit.changed)
    assert fit.before == known.fits["cpu_cores"].mean


def test_what_was_learned_in_two_turns_is_what_would_have_been_in_one(known: VmCalibration) -> None:
    whole, half, rest = rows(120, 220, factor=1.3), np.arange(100) < 47, np.arange(100) >= 47
    once = update(whole, PRIOR, known)[0].fits["cpu_cores"]
    first = update(whole.part(half), PRIOR, known)[0]
    twice = update(whole.part(rest), PRIOR, first)[0].fits["cpu_cores"]
    assert twice.mean == pytest.approx(once.mean, rel=1e-12)
    assert np.allclose(twice.covariance, once.covariance, rtol=1e-9, atol=0)
    assert twice.carried == once.carried
    assert np.array(twice.covariance)[2, 2] != np.array(known.fits["cpu_cores"].covariance)[2, 2]


def test_rows_that_were_learned_from_are_left_out(known: VmCalibration) -> None:
    overlapping = update(rows(0, 220), PRIOR, known)[0].fits["cpu_cores"]
    assert overlapping.rows == 220
    assert overlapping.changed[0] == "100 new rows"
    same, judged = update(rows(0, 120), PRIOR, known)
    assert judged == {}
    assert same.fits["cpu_cores"].mean == known.fits["cpu_cores"].mean
    assert same.fits["cpu_cores"].changed == ("as it was: no row is later than what it learned from",)


def test_what_was_never_learned_is_not_gone_on_from(known: VmCalibration) -> None:
    with_memory = replace(rows(120, 220), used=rows(120, 220).used | {"memory_gb": np.full(100, 1e8)})
    after, _ = update(with_memory, PRIOR, known)
    assert set(after.fits) == {"cpu_cores"}
    assert "nothing to go on from" in after.refused["memory_gb"]
    assert update(rows(120, 220), PRIOR, known)[0].refused == {"memory_gb": "it was not measured"}
    nothing, judged = update(rows(120, 220), PRIOR, VmCalibration("web", {}, {}))
    assert (nothing.fits, judged) == ({}, {})
    assert "nothing to go on from" in nothing.refused["cpu_cores"]


def test_use_of_nothing_teaches_nothing(known: VmCalibration) -> None:
    idle = replace(rows(120, 220), used={"cpu_cores": np.zeros(100)})
    assert update(idle, PRIOR, known)[0].fits["cpu_cores"].changed == ("as it was: what was measured is 0 throughout",)


def test_a_plain_calibration_follows_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter goes row by row: a calibration whose rows are fitted at once doesn't pay for it."""

    def followed(*_: object) -> None:
        raise AssertionError("a row was followed")

    monkeypatch.setattr(drift, "follow", followed)
    assert calibrate(rows(0, 120), PRIOR)[0].fits


def test_memory_of_gigabytes_is_learned_and_followed(known: VmCalibration) -> None:
    """Nothing was paid for clients or a cache: what these might hold is no number, and stays out of the way of the rest."""

    def held(first: int, last: int, each: float) -> Evidence:
        made = rows(first, last)
        made.holdings[:, 1] = made.works / 10
        return replace(made, used={"memory_gb": 20e9 + each * made.holdings[:, 1]})

    learned = calibrate(held(0, 120, 3e8), PRIOR)[0]
    after, _ = update(held(120, 300, 9e8), PRIOR, learned)
    fit = after.fits["memory_gb"]
    assert fit.mean[:2] == pytest.approx([20e9, 9e8], rel=0.2)
    assert fit.mean[2:] == (0, 0)
    assert np.isfinite(fit.covariance).all()
