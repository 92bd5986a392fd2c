"""What VMs need by risk: the dial decides, memory is held, young VMs and short histories are left to belief."""

import json

import numpy as np
import pytest

from adumbra.forecast.belief import Known
from adumbra.forecast.risk.learned import HORIZONS_S, LearnedRisk, learn, of_horizon
from adumbra.forecast.training import Training
from adumbra.profile.decide import Dial
from adumbra.schema.backtests import MeasuredUse, Risk
from adumbra.schema.records import Panel
from adumbra.schema.sizing import Confidence, Demand, Estimate, SizingPolicy
from adumbra.service.risk_needs import size_now, with_risks

DAY_S, HOUR_S, VMS, DAYS = 86_400.0, 3_600.0, 16, 32
START_NS = 1_767_225_600 * 10**9  # 2026-01-01


def fleet(resource="cpu_cores", days=DAYS, seed=3):
    """A day's pattern, noise, and bursts: those of VM 0 every day, of the others now and then."""
    rng = np.random.default_rng(seed)
    hours = np.arange(days * 24)
    pattern = 1 + 0.5 * np.sin(2 * np.pi * hours / 24)
    values = pattern * rng.lognormal(0, 0.2, (VMS, days * 24)) * rng.uniform(0.2, 2, (VMS, 1))
    values[rng.random(values.shape) < 0.01] *= 3
    values[0, 5::24] *= 4
    vms = tuple(f"vm-{i}" for i in range(VMS))
    return MeasuredUse(Panel(resource, vms, START_NS, HOUR_S, values), np.full(VMS, 16.0))


def needs(vms):
    belief = Estimate(50.0, 60.0, 70.0)
    return [
        Demand(vm, {"cpu_cores": 60.0, "memory_gb": 60.0}, {"cpu_cores": belief}, Confidence.LOW, ("believed",)) for vm in vms
    ]


@pytest.fixture(scope="module")
def risks():
    found, why = learn(fleet(), 1, lambda *_: None)
    assert why == ""
    return found


def test_risks_are_learned_for_the_horizons_that_the_history_is_long_enough_for(risks):
    assert [risk.horizon_s for risk in risks] == list(HORIZONS_S)
    assert of_horizon(risks, "cpu_cores", 3600.0).horizon_s == DAY_S
    assert of_horizon(risks, "cpu_cores", 2 * DAY_S).horizon_s == 7 * DAY_S
    assert of_horizon(risks, "cpu_cores", 8 * DAY_S) is None
    assert of_horizon(risks, "memory_gb", DAY_S) is None
    short, why = learn(fleet(days=9), 1, lambda *_: None)
    assert short == ()
    assert "10 days" in why


def test_they_go_to_plain_data_and_back(risks):
    again = tuple(LearnedRisk.from_dict(json.loads(json.dumps(risk.to_dict()))) for risk in risks)
    use = fleet()
    for one, other in zip(risks, again, strict=True):
        for a, b in zip(one.steps(use), other.steps(use), strict=True):
            np.testing.assert_array_equal(a.short, b.short)
    kept = Training.from_bytes(Training(1, (), {}, risks).to_bytes())
    assert [risk.horizon_s for risk in kept.risks] == list(HORIZONS_S)


@pytest.mark.parametrize("risk", list(Risk))
def test_a_larger_share_short_never_takes_more_and_the_whole_is_between_what_was_used_and_what_there_is(risks, risk):
    use = fleet()
    totals = []
    for share in (0.002, 0.01, 0.05, 0.2):
        found = size_now(of_horizon(risks, "cpu_cores", DAY_S), use, Dial(share, risk))
        assert len(found.decided.vms) == VMS
        assert found.tried >= 10 * VMS
        totals.append(found.decided.amounts.sum())
    assert totals == sorted(totals, reverse=True)
    assert np.median(use.panel.values, axis=1).sum() < totals[-1] < totals[0] <= use.provisioned.sum()


def test_the_need_becomes_the_decided_size_and_says_why(risks):
    use = fleet()
    policy = SizingPolicy(shortfall=0.02, horizon_s=DAY_S)
    panels = {"cpu_cores": use.panel}
    got = with_risks(needs(use.panel.vms), risks, panels, Known(capacity={"cpu_cores": use.provisioned}), policy)
    want = size_now(of_horizon(risks, "cpu_cores", DAY_S), use, Dial(0.02))
    np.testing.assert_allclose([each.need["cpu_cores"] for each in got], want.decided.amounts)
    assert all(each.need["memory_gb"] == 60.0 for each in got)
    assert all(each.reasons[0].startswith("cpu_cores: the least size that keeps 2 % of this VM's time") for each in got)
    assert all(each.reasons[1] == "believed" for each in got)


def test_what_is_emulated_is_sized_for_what_the_emulation_may_be_wrong_by(risks):
    use = fleet()
    policy = SizingPolicy(shortfall=0.02, horizon_s=DAY_S)
    spread = np.where(np.arange(VMS) < 8, np.log(2.0), 0.0)
    panels, has = {"cpu_cores": use.panel}, {"cpu_cores": use.provisioned}
    sure = with_risks(needs(use.panel.vms), risks, panels, Known(capacity=has), policy)
    unsure = with_risks(needs(use.panel.vms), risks, panels, Known({"cpu_cores": spread}, capacity=has), policy)
    ratio = np.array([b.need["cpu_cores"] / a.need["cpu_cores"] for a, b in zip(sure, unsure, strict=True)])
    np.testing.assert_allclose(ratio, 2.0 ** (1.2815515655446004 * (spread > 0)))
    assert all(("as the use is emulated" in each.reasons[0]) == (i < 8) for i, each in enumerate(unsure))


def test_a_young_vm_and_a_longer_horizon_are_left_to_belief(risks):
    use = fleet()
    use.panel.values[3, :-20] = np.nan
    policy = SizingPolicy(shortfall=0.02, horizon_s=DAY_S)
    panels, has = {"cpu_cores": use.panel}, Known(capacity={"cpu_cores": use.provisioned})
    got = with_risks(needs(use.panel.vms), risks, panels, has, policy)
    assert got[3] == needs(use.panel.vms)[3]
    assert got[4] != needs(use.panel.vms)[4]
    longer = with_risks(needs(use.panel.vms), risks, panels, has, SizingPolicy(shortfall=0.02, horizon_s=30 * DAY_S))
    assert list(longer) == needs(use.panel.vms)


def test_memory_is_never_less_than_was_held_in_the_last_window():
    use = fleet("memory_gb")
    found, _ = learn(use, 1, lambda *_: None)
    policy = SizingPolicy(shortfall=0.3, horizon_s=DAY_S, risk=Risk.POOLED)
    got = with_risks(
        needs(use.panel.vms), found, {"memory_gb": use.panel}, Known(capacity={"memory_gb": use.provisioned}), policy
    )
    held = use.panel.values[:, -24:].max(axis=1)
    assert all(each.need["memory_gb"] >= least for each, least in zip(got, held, strict=True))
    free = size_now(of_horizon(found, "memory_gb", DAY_S), use, Dial(0.3, Risk.POOLED)).decided.amounts
    assert (free < held).any()  # else the test would show nothing
