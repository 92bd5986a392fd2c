"""Sets of parameters: drawn from what is believed of a VM, carried through, and told as intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adumbra.emulate.demand import AWAKE_S
from adumbra.emulate.layout import SIMULATED_BY_SET
from adumbra.emulate.parameters import PARAMETER_SETS, parameters
from adumbra.emulate.vm import EmulatedNetwork, spread
from adumbra.schema.calibration import COSTS, HOLDINGS, Calibration, Fit, VmCalibration

KEYS = np.array([5], np.uint64)


def fit(names, mean, sd, noise=0.0, correlation=0.0):
    covariance = np.full((len(names), len(names)), correlation) + (1 - correlation) * np.eye(len(names))
    covariance *= np.outer(sd, sd)
    return Fit(names, tuple(mean), tuple(mean), tuple(tuple(row) for row in covariance.tolist()), noise, 100)


def measured(**fits):
    return VmCalibration("a", fits, {})


COSTLY = {"idle_cores": 0.1, "connection_s": 1e-3, "request_s": 2e-3, "byte_in_s": 1e-8, "byte_out_s": 1e-8, "packet_s": 1e-6}
COSTLY |= {"wake_s": 3e-4}


def test_the_central_set_is_the_prior(vm_of, prior_of):
    memory = {"base_bytes": 5, "connection_bytes": 6, "session_bytes": 7, "cache_bytes": 8, "cache_request_bytes": 9}
    storage = {"base_bytes": 10, "written_per_byte_in": 11, "ops_per_request": 12}
    vm = vm_of(prior=prior_of(cpu=COSTLY, memory=memory, storage=storage), cores=2.5)
    for sets in (0, 3):
        central = parameters([vm], KEYS, sets)[0, 0]
        assert {name: central[name] for name in COSTS} == COSTLY
        assert {name: central[f"memory_{name}"] for name in memory} == memory
        assert {name: central[f"storage_{name}"] for name in storage} == storage
        assert central["server_cores"] == pytest.approx((2.5 - 0.1) / 2)


def test_sets_of_a_prior_are_lognormal_around_it(vm_of, prior_of):
    prior = prior_of(
        cpu=COSTLY, memory={"base_bytes": 5, "session_bytes": 7}, spread={"cpu": 0.5, "memory": 0.3, "storage": 1, "costs": 0.2}
    )
    drawn = parameters([vm_of(prior=prior, cores=64)], KEYS, 20_000)[0, 1:]
    logs = np.log(
        [drawn[name] / COSTLY[name] for name in COSTS] + [drawn["memory_base_bytes"] / 5, drawn["memory_session_bytes"] / 7]
    )
    assert logs.mean(axis=1) == pytest.approx(np.zeros(9), abs=0.02)
    assert logs.std(axis=1) == pytest.approx([np.hypot(0.5, 0.2)] * 7 + [np.hypot(0.3, 0.2)] * 2, rel=0.03)
    among = np.corrcoef(logs)
    assert among[0, 1] == pytest.approx(0.25 / 0.29, abs=0.02)  # what all costs of a resource have in common
    assert among[7, 8] == pytest.approx(0.09 / 0.13, abs=0.02)
    assert abs(among[0, 7]) < 0.03


def test_sets_of_a_calibration_are_its_fits(vm_of, prior_of):
    mean, sd = [0.1, 1e-3, 2e-3, 1e-8, 1e-8, 1e-6, 3e-4], [0.01, 1e-4, 1e-4, 1e-9, 1e-9, 1e-7, 3e-5]
    calibration = measured(
        cpu_cores=fit(COSTS, mean, sd, noise=2.0, correlation=-0.1), memory_gb=fit(HOLDINGS, [100, 10, 5, 2], [9, 1, 0, 0])
    )
    vm = vm_of(
        prior=prior_of(cpu=COSTLY, memory={"cache_bytes": 3}, spread={"cpu": 2, "memory": 2, "storage": 1}),
        cores=64,
        calibration=calibration,
    )
    assert vm.believed.cpu.service_cv == 2.0
    drawn = parameters([vm], KEYS, 20_000)[0]
    assert [drawn[0][name] for name in COSTS] == mean
    found = np.array([drawn[name][1:] for name in COSTS])
    assert found.mean(axis=1) == pytest.approx(mean, rel=0.01)
    assert found.std(axis=1) == pytest.approx(sd, rel=0.03)
    assert np.corrcoef(found)[0, 2] == pytest.approx(-0.1, abs=0.03)
    assert drawn["memory_base_bytes"][1:].std() == pytest.approx(9, rel=0.03)
    assert (drawn["memory_session_bytes"] == 5).all()


def test_a_cost_without_a_name_in_a_fit_is_nothing(vm_of, prior_of, intervals_of):
    """A fit explained all of the use by the costs that it names: what the prior has beside them isn't added."""
    names = tuple(name for name in COSTS if name != "wake_s")
    kept = Calibration("net", "usage.csv", 0, 1, (measured(cpu_cores=fit(names, [COSTLY[n] for n in names], [0] * 6)),))
    calibration = Calibration.from_dict(json.loads(json.dumps(kept.to_dict()))).vms[0]
    prior = prior_of(cpu=COSTLY, spread={"cpu": 0.5, "memory": 0, "storage": 0})
    vm = vm_of(prior=prior, cores=64, calibration=calibration)
    drawn = parameters([vm], KEYS, 20)[0]
    assert vm.believed.cpu.wake_s == 0
    assert (drawn["wake_s"] == 0).all()
    assert (drawn["request_s"] == COSTLY["request_s"]).all()
    assert spread([vm])["cpu_cores"] == [0]
    of = {name: EmulatedNetwork([each], 1).emulate(busy(intervals_of, 3))["cpu_seconds"].sum() for name, each in
          (("all", vm_of(prior=prior, cores=64)), ("named", vm))}  # fmt: skip
    assert of["all"] - of["named"] == pytest.approx(3 * 40 / (1 + 40 * AWAKE_S) * COSTLY["wake_s"], rel=1e-4)


def test_what_is_not_known_of_a_holding_is_in_its_noise(vm_of, prior_of):
    calibration = measured(memory_gb=fit(HOLDINGS, [100, 10, 5, 2], [0, 0, 0, 0], noise=0.2))
    drawn = parameters([vm_of(prior=prior_of(), calibration=calibration)], KEYS, 20_000)[0, 1:]
    assert drawn["memory_base_bytes"].mean() == pytest.approx(100, rel=0.01)
    assert drawn["memory_base_bytes"].std() == pytest.approx(20, rel=0.03)
    assert drawn["memory_connection_bytes"] == pytest.approx(drawn["memory_base_bytes"] / 10)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("scale", [0.5, 1, 10, 1e6])
def test_no_parameter_is_below_zero(vm_of, prior_of, correlation, scale):
    sd = [scale * v for v in COSTLY.values()]
    calibration = measured(cpu_cores=fit(COSTS, COSTLY.values(), sd, correlation=correlation))
    drawn = parameters([vm_of(prior=prior_of(), calibration=calibration)], KEYS, 500)[0]
    for name in drawn.dtype.names:
        assert (drawn[name] >= 0).all(), name
    assert (drawn["server_cores"] > 0).all()


def test_a_vms_sets_depend_on_its_name_and_the_seed_only(vm_of, prior_of):
    calibration = measured(cpu_cores=fit(COSTS, COSTLY.values(), list(COSTLY.values())))
    a, b = vm_of("a", prior_of(request_s=1)), vm_of("b", prior_of(request_s=1))
    c = vm_of("c", prior_of(), calibration=calibration)
    keys = np.array([3, 4, 5], np.uint64)
    whole = parameters([a, b, c], keys, 64)
    assert (parameters([b], keys[1:2], 64)[0] == whole[1]).all()
    assert (parameters([c], keys[2:], 8)[0] == whole[2, :9]).all()
    assert (whole["request_s"][0, 1:] != whole["request_s"][1, 1:]).all()


def busy(intervals_of, count=20, requests=40):
    times = np.linspace(0.01, 0.99, requests).tolist()
    traffic = {"rx_bytes": 40_000, "tx_bytes": 400_000, "rx_packets": 100, "tx_packets": 400, "connections_active": 9}
    return intervals_of([[times]] * count, traffic)


def heavy(prior_of, **more):
    memory = {"base_bytes": 1e8, "connection_bytes": 1e6}
    storage = {"base_bytes": 1e9, "written_per_byte_in": 1.0, "ops_per_request": 2.0}
    return prior_of(request_s=0.005, idle_cores=0.01, memory=memory, storage=storage, **{"cpu": {"service_cv": 1.0}} | more)


@pytest.mark.parametrize("discipline", ["fcfs", "ps"])
def test_intervals_hold_the_central_column_and_are_as_wide_as_the_belief(vm_of, prior_of, intervals_of, discipline):
    prior = heavy(
        prior_of, cpu={"service_cv": 0.5, "discipline": discipline}, spread={"cpu": 0.3, "memory": 0.2, "storage": 0.1}
    )
    out = EmulatedNetwork([vm_of(prior=prior, cores=2)], 1, sets=400).emulate(busy(intervals_of))
    for name in SIMULATED_BY_SET:
        low, central, high = out[f"{name}_low"], out[name], out[f"{name}_high"]
        assert (low <= central).all()
        assert (central <= high).all()
    for name, sd in (("memory_bytes", 0.2), ("storage_ops", 0.1)):
        for end, sign in (("low", -1), ("high", 1)):
            assert np.log(out[f"{name}_{end}"] / out[name]) == pytest.approx(np.full((20, 1), sign * 1.2816 * sd), rel=0.2)
    ratio = out["cpu_seconds_high"] / out["cpu_seconds_low"]
    assert np.median(ratio) == pytest.approx(np.exp(2 * 1.2816 * 0.3), rel=0.15)


def test_four_in_five_of_what_may_be_lie_in_the_interval(vm_of, prior_of, intervals_of):
    """VMs whose true costs are drawn from the belief, each under its own chance: the interval holds 80 % of what they use."""
    prior, traffic = heavy(prior_of, spread={"cpu": 0.4, "memory": 0, "storage": 0}), busy(intervals_of, 12)
    out = EmulatedNetwork([vm_of("a", prior, cores=2)], 1, PARAMETER_SETS).emulate(traffic)
    rng, inside = np.random.default_rng(3), []
    for i in range(150):
        factor = float(np.exp(rng.normal(0, 0.4)))
        truth = heavy(prior_of).model_copy(
            update={"cpu": prior.cpu.model_copy(update={"request_s": 0.005 * factor, "idle_cores": 0.01 * factor})}
        )
        told = EmulatedNetwork([vm_of(f"true-{i}", truth, cores=2)], 2).emulate(traffic)["cpu_seconds"]
        inside.append((told >= out["cpu_seconds_low"]) & (told <= out["cpu_seconds_high"]))
    assert np.mean(inside) == pytest.approx(0.8, abs=0.06)


def test_without_spread_and_chance_there_is_nothing_between_the_ends(vm_of, prior_of, intervals_of):
    prior = heavy(prior_of, cpu={"service_cv": 0}, spread={"cpu": 0, "memory": 0, "storage": 0})
    out = EmulatedNetwork([vm_of(prior=prior)], 1, sets=5).emulate(busy(intervals_of))
    for name in SIMULATED_BY_SET:
        np.testing.assert_array_equal(out[f"{name}_low"], out[name])
        np.testing.assert_array_equal(out[f"{name}_high"], out[name])


def test_without_sets_there_are_no_intervals(vm_of, prior_of, intervals_of):
    out = EmulatedNetwork([vm_of(prior=heavy(prior_of))], 1).emulate(busy(intervals_of, 2))
    assert all(np.isnan(out[f"{name}_{end}"]).all() for name in SIMULATED_BY_SET for end in ("low", "high"))
    quiet = EmulatedNetwork([vm_of(prior=heavy(prior_of))], 1, sets=3).emulate(intervals_of([[[]]]))
    assert np.isnan(quiet["latency_ms_p99_low"]).all()
    assert not np.isnan(quiet["cpu_seconds_low"]).any()


def test_sets_change_nothing_of_the_central_column(vm_of, prior_of, intervals_of):
    one, other = (EmulatedNetwork([vm_of(prior=heavy(prior_of))], 1, sets).emulate(busy(intervals_of)) for sets in (0, 7))
    for name in (*SIMULATED_BY_SET, "rtt_ms_p50"):
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("sets", [-1, 10_000])
def test_numbers_of_sets_that_make_no_sense(vm_of, sets):
    with pytest.raises(ValueError, match="sets of parameters"):
        EmulatedNetwork([vm_of()], 1, sets)


def test_spread_shrinks_with_what_was_measured(vm_of, prior_of):
    names = ("idle_cores", "request_s")
    loads = np.column_stack([np.ones(400), np.random.default_rng(1).uniform(10, 30, 400)])  # a second, and requests in it
    covariance = 0.02**2 * np.linalg.inv(loads.T @ loads)
    calibrated = Fit(names, (0.0, 0.0), (0.1, 0.005), tuple(map(tuple, covariance.tolist())), 1.0, 400)
    unknown, known = vm_of("a", prior_of()), vm_of("b", prior_of(), calibration=measured(cpu_cores=calibrated))
    of = spread([unknown, known])
    use = 0.1 + 0.005 * loads[:, 1].mean()
    assert of["cpu_cores"] == pytest.approx([0.5, 0.02 / np.sqrt(400) / use], rel=1e-4)  # the error of a mean of 400
    assert of["memory_gb"].tolist() == [0.25, 0.25]
    assert of["bandwidth_mbps"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("mean", "sd", "want"),
    [
        ((0.1, 0.005), (0, 0), 0.0),  # known for certain
        ((0.0, 0.0), (1, 1), 0.5),  # nothing that could be used: as the prior
        ((0.1, 0.005), (1e9, 1e9), 0.5),  # never more than the prior
        ((0.1, 0.005), (0, 0.0005), np.sqrt(np.log1p(0.05**2))),  # both add as much
    ],
)
def test_spread_at_its_ends(vm_of, prior_of, mean, sd, want):
    calibration = measured(cpu_cores=fit(("idle_cores", "request_s"), mean, sd))
    assert spread([vm_of(prior=prior_of(), calibration=calibration)])["cpu_cores"][0] == pytest.approx(want)


def test_costs_that_are_nothing_by_the_fit_are_something_in_the_sets_and_what_rows_pay_in_all_stays(vm_of, prior_of):
    """All the work is held for that of the bytes out, by rows that tell costs apart badly: each set has some of the others'."""
    names = ("byte_out_s", "connection_s", "request_s", "byte_in_s", "packet_s", "wake_s")
    load, share = np.array([1e5, 3, 10, 4e3, 100, 5]), 0.01  # a second's counts; of the use, what each cost may come to
    mean = np.array([1e-6, 0, 0, 0, 0, 0])
    width = share * (load @ mean) / load[1:]
    follow = -load[1:] / load[0]
    covariance = np.diag(np.concatenate([[1e-11**2 + follow**2 @ width**2], width**2]))
    covariance[0, 1:] = covariance[1:, 0] = follow * width**2
    calibrated = Fit(names, tuple(mean), tuple(mean), tuple(map(tuple, covariance.tolist())), 1.0, 100)
    vm = vm_of(prior=prior_of(), cores=64, calibration=measured(cpu_cores=calibrated))
    drawn = parameters([vm], KEYS, 20_000)[0]
    assert [drawn[0][name] for name in names] == list(mean)
    sets = np.column_stack([drawn[name][1:] for name in names])
    assert (sets > 0).all()
    assert np.sqrt((sets[:, 1:] ** 2).mean(axis=0)) == pytest.approx(width, rel=0.03)
    assert sets[:, 1:].mean(axis=0) == pytest.approx(width * np.sqrt(2 / np.pi), rel=0.03), "half-normal"
    assert sets @ load == pytest.approx(np.full(20_000, load @ mean), rel=1e-3)
