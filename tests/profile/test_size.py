"""Needs in, whole sizes, the cheapest type and the reasons out."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.profile.catalog import capacity, load_catalog
from adumbra.profile.size import ROUNDING, SizingContext, round_up, size
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import RESOURCES, Confidence, Demand, Estimate, NetworkProfile, SizingPolicy

AWS = load_catalog()
CONTEXT = SizingContext("shop", 900.0, "seasonal naive")


def demand(cpu=1.0, memory=2.0, bandwidth=50.0, storage=10.0, declared=None, vm="web-1"):
    need = dict(zip(RESOURCES, (cpu, memory, bandwidth, storage), strict=True))
    estimate = {name: Estimate(amount / 2, amount, amount * 2) for name, amount in need.items()}
    return Demand(vm, need, estimate, Confidence.LOW, ("15 min of traffic is little",), declared)


def sized(*demands, **policy):
    return size(demands, SizingPolicy(**policy), AWS, CONTEXT)


@pytest.mark.parametrize(
    ("resource", "need", "want"),
    [
        ("cpu_cores", 0.0, 1),
        ("cpu_cores", 0.7, 1),
        ("cpu_cores", 2.0, 2),
        ("cpu_cores", 2.0001, 3),
        ("memory_gb", 0.1, 0.5),
        ("memory_gb", 3.1, 3.5),
        ("memory_gb", 7.6, 8.0),
        ("memory_gb", 8.1, 9.0),
        ("bandwidth_mbps", 0.2, 1),
        ("bandwidth_mbps", 99.2, 100),
        ("bandwidth_mbps", 101, 105),
        ("bandwidth_mbps", 1001, 1010),
        ("storage_gb", 0.3, 8),
        ("storage_gb", 19.2, 20),
    ],
)
def test_sizes_round_up_to_steps_that_people_use(resource, need, want):
    got = round_up(resource, need)
    assert got == want
    assert isinstance(got, float if resource == "memory_gb" else int)


@given(st.sampled_from(RESOURCES), st.floats(0, 1e7))
def test_a_size_is_never_below_the_need_and_at_most_a_step_above(resource, need):
    got = round_up(resource, need)
    amount = max(need, ROUNDING[resource].minimum)
    step = next(step for limit, step in ROUNDING[resource].steps if amount <= limit)
    assert amount <= got < amount + step * 1.000001


@pytest.mark.parametrize("need", [-1.0, math.nan, math.inf])
def test_a_need_that_is_no_amount_is_refused(need):
    with pytest.raises(InputError, match="can't be sized"):
        round_up("cpu_cores", need)


def test_the_profile_has_the_documented_format():
    profile = sized(demand(0.7, 3.1, 143, 18, declared="m7i.large"))
    plain = json.loads(json.dumps(profile.to_dict()))
    assert list(plain) == ["network", "horizon_s", "shortfall", "learned_s", "model", "vms", "risk"]
    (vm,) = plain["vms"]
    assert list(vm) == [
        "vm", "cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb",
        "type", "price_per_hour", "estimate", "confidence", "reasons",
    ]  # fmt: skip
    assert (vm["cpu_cores"], vm["memory_gb"], vm["bandwidth_mbps"], vm["storage_gb"]) == (1, 3.5, 145, 18)
    assert vm["type"] == "m7a.medium"
    assert set(vm["estimate"]) == set(RESOURCES)
    assert set(vm["estimate"]["cpu_cores"]) == {"p50", "p90", "p99"}
    assert NetworkProfile.from_dict(plain) == profile


@pytest.mark.parametrize(
    ("given", "policy", "type_", "reason"),
    [
        (demand(declared="m7i.large"), {}, "c7a.medium", "c7a.medium costs 49 % less than the declared m7i.large"),
        (demand(2, 8, declared="m5a.large"), {}, "m5a.large", "the declared m5a.large is right"),
        (demand(2, 12, declared="m7i.large"), {}, "r5a.large", "would be short of memory (8 GB of 12 GB)"),
        (demand(2, 12, declared="m7i.large"), {}, "r5a.large", "r5a.large costs 12 % more than the declared m7i.large"),
        (demand(1, 2, 500, declared="t3.small"), {}, "c8a.medium", "the declared t3.small would be short of bandwidth"),
        (demand(declared="t3.large"), {}, "c7a.medium", "t3.large gives only a share of its cores"),
        (demand(declared="hpc6a.48xlarge"), {}, "c7a.medium", "its price is not known"),
        (demand(declared="m7g.large"), {}, "c6g.medium", "c6g.medium is the cheapest"),
        (demand(declared="m7g.large"), {"arch": "x86_64"}, "c7a.medium", "is not among the types that may be chosen"),
        (demand(2, 3, 3000), {}, "c5n.large", "decided by bandwidth (else c6a.large would do)"),
        (demand(declared="m7i.large"), {"allowed_types": ("t3.large",)}, "t3.large", "t3.large is the cheapest"),
        (demand(9999, declared="m7i.large"), {}, None, "9999 cores of CPU are more than any type that may be chosen has"),
        (demand(storage=40_000), {}, None, "40000 GB of storage are more than any type"),
        (demand(896, 2, 200_000), {}, None, "none that may be chosen has all of it at once"),
        (demand(), {"allowed_types": ("hpc6a.48xlarge",)}, None, "none that may be chosen has a known price"),
    ],
)  # fmt: skip
def test_the_type_and_why(given, policy, type_, reason):
    (vm,) = sized(given, **policy).vms
    assert vm.type == type_
    assert any(reason in said for said in vm.reasons), vm.reasons
    assert vm.reasons[0] == "15 min of traffic is little"
    assert (vm.price_per_hour is None) == (type_ is None)


def test_a_vm_that_no_type_fits_keeps_its_sizes_and_says_what_to_do():
    (vm,) = sized(demand(9999)).vms
    assert vm.cpu_cores == 9999
    assert "spread the load over more VMs" in vm.reasons[-1]


def test_each_vm_keeps_the_architecture_that_it_was_declared_with():
    arm, x86 = sized(demand(declared="m7g.large", vm="a"), demand(declared="m7i.large", vm="b")).vms
    assert (AWS.type(arm.type).arch, AWS.type(x86.type).arch) == ("arm64", "x86_64")


def test_a_declared_type_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="did you mean"):
        sized(demand(declared="m7i.lrge"))


def test_a_resource_without_a_need_is_refused():
    short = Demand("db", {"cpu_cores": 1.0}, {}, Confidence.LOW, ())
    with pytest.raises(InputError, match="db has no need of memory_gb, bandwidth_mbps, storage_gb"):
        sized(short)


@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.floats(0, 2000), st.floats(0, 60_000), st.floats(0, 20_000)), min_size=1, max_size=4
    ),
    st.sampled_from([None, "m7i.large", "m7g.2xlarge", "t3.nano"]),
)
def test_what_is_given_is_never_below_the_need(needs, declared):
    profile = sized(*(demand(*need, declared=declared, vm=f"v{i}") for i, need in enumerate(needs)))
    for vm, need in zip(profile.vms, needs, strict=True):
        for name, amount in zip(RESOURCES, need, strict=True):
            assert getattr(vm, name) >= amount
            if vm.type is not None:
                assert capacity(AWS.type(vm.type), name) >= getattr(vm, name)
    assert sized(*(demand(*need, declared=declared, vm=f"v{i}") for i, need in enumerate(needs))) == profile
