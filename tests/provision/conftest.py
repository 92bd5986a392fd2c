"""Networks to provision: one to read, and a strategy for random ones, all through the real spec parser."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import strategies as st

from adumbra.provision.desired import machine_prices, make_desired
from adumbra.provision.plan import apply_step
from adumbra.schema.plans import Actual, Desired
from adumbra.schema.sizing import Confidence, NetworkProfile, VmProfile
from adumbra.schema.spec import expand_vms, parse_spec

SHOP = """
name: shop
cidrs: [10.20.0.0/16]
subnets:
  - {name: web,  cidr: 10.20.1.0/24}
  - {name: data, cidr: 10.20.2.0/24}
links:
  - {between: [web, data], rtt: 200us, bandwidth: 10Gbps}
  - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}
vms:
  - {name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: nginx, type: m7i.large, ports: [80, 443]}
  - {name: db, subnet: data, addresses: [10.20.2.10], role: postgresql, ports: [5432]}
"""

TYPES = {"c7a.medium": 0.05132, "m7i.large": 0.1008, "m7g.large": 0.0816, "c6a.large": 0.0765}


def vm_profile(vm, type_="m7i.large", storage=20, cores=2):
    return VmProfile(vm, cores, 4.0, 150, storage, type_, TYPES.get(type_, 0.2), {}, Confidence.LOW, ())


class Network:
    """A spec, its VMs, their profile, and what should stand for it. `sizes`: VM -> (type, storage in GB)."""

    def __init__(self, text, sizes=None):
        self.spec = parse_spec(text)
        self.vms = expand_vms(self.spec)
        sized = tuple(vm_profile(vm.name, *(sizes or {}).get(vm.name, ())) for vm in self.vms)
        self.profile = NetworkProfile(self.spec.name, 86_400.0, 0.01, 900.0, "seasonal naive", sized)
        self.prices = machine_prices(self.profile)
        self.desired = make_desired(self.spec, self.vms, self.profile)

    def __repr__(self):
        return f"Network({self.spec.model_dump_json()}, {[(vm.vm, vm.type, vm.storage_gb) for vm in self.profile.vms]})"


def after(items, plan):
    for step in plan.steps:
        items = apply_step(items, step)
    return items


@st.composite
def random_networks(draw):
    """Networks named shop that AWS can hold: one or two IPv4 CIDRs, perhaps an IPv6 one, subnets, links, VM groups."""
    cidrs = [f"10.{draw(st.integers(2, 4))}.0.0/16"]
    cidrs += draw(st.sampled_from([[], ["10.77.0.0/16"], ["2001:db8:7::/56"], ["2001:db8:7::/56", "10.77.0.0/16"]]))
    places = [
        cidr.replace(".0.0/16", f".{third}.0/24") if "." in cidr else cidr.replace("::/56", f":{third}::/64")
        for cidr in cidrs
        for third in (1, 2)
    ]
    names = st.text(string.ascii_lowercase, min_size=1, max_size=2)
    chosen = draw(st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True))
    titles = draw(st.lists(names, min_size=len(chosen), max_size=len(chosen), unique=True))
    subnets = [{"name": title, "cidr": place} for title, place in zip(titles, chosen, strict=True)]
    ends = [*titles, "internet"]
    pairs = st.tuples(st.sampled_from(ends), st.sampled_from(ends)).filter(lambda pair: pair[0] < pair[1])
    links = draw(st.lists(pairs, max_size=3, unique=True)) if len(ends) > 1 else []
    groups = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    vms = []
    for group in groups:
        place = draw(st.sampled_from(subnets))
        vm = {"name": group, "subnet": place["name"], "ports": draw(st.lists(st.integers(80, 83), max_size=3))}
        fixed = draw(st.sampled_from([None, 0, 1]))
        if fixed is not None and not any(other.get("at") == (place["name"], fixed) for other in vms):
            base = place["cidr"].rpartition("0/")[0] if "." in place["cidr"] else place["cidr"].partition("/")[0]
            vm |= {"addresses": [f"{base}{60 + fixed}"], "at": (place["name"], fixed)}
        else:
            vm["count"] = draw(st.integers(1, 3))
        vms.append(vm)
    spec = {
        "name": "shop", "cidrs": cidrs, "subnets": subnets,
        "links": [{"between": list(pair), "rtt": "1ms", "bandwidth": "1Gbps"} for pair in links],
        "vms": [{key: value for key, value in vm.items() if key != "at"} for vm in vms],
    }  # fmt: skip
    names_of_vms = [vm.name for vm in expand_vms(parse_spec(json.dumps(spec)))]
    sizes = {name: (draw(st.sampled_from(sorted(TYPES))), draw(st.integers(8, 30))) for name in names_of_vms}
    return Network(json.dumps(spec), sizes)


@pytest.fixture(scope="session")
def networks():
    """A strategy for random networks."""
    return random_networks()


@pytest.fixture(scope="session")
def network():
    """Network(text, sizes)."""
    return Network


@pytest.fixture(scope="session")
def shop():
    return Network(SHOP)


@pytest.fixture(scope="session")
def shop_text():
    return SHOP


@pytest.fixture(scope="session")
def performed():
    """performed(items, plan): the items once all steps of a plan are carried out, in memory."""
    return after


@pytest.fixture(scope="session")
def nothing():
    return Actual("shop", ()), Desired("shop", ())
