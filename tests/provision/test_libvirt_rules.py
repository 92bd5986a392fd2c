"""What libvirt can't hold is said before anything is done; what a change interrupts there is known; planning comes to rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.provision.libvirt_rules import MAX_CORES, Choices, LibvirtRules, Names, gateway_of
from adumbra.provision.protocol import Effect
from adumbra.schema.addresses import parse_prefix
from adumbra.schema.errors import InputError
from adumbra.schema.plans import Item, Kind

RULES = LibvirtRules(Names("1", "shop"))
QUICK = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def spec(cidrs="[10.0.0.0/16]", subnet="10.0.1.0/24", addresses="", ports=""):
    vm = f"{{name: db, subnet: s{addresses and f', addresses: {addresses}'}{ports and f', ports: {ports}'}}}"
    return f"{{name: n, cidrs: {cidrs}, subnets: [{{name: s, cidr: {subnet}}}], vms: [{vm}]}}"


SIX = {"cidrs": "['2001:db8::/48']", "subnet": "'2001:db8::/64'"}

LAST = {**SIX, "addresses": "['2001:db8::ffff:ffff:ffff:ffff']"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"subnet": "10.0.1.0/31"}, r"subnet s \(10.0.1.0/31\) has no room beside the hypervisor's own address; make it a /30"),
        ({"subnet": "10.0.1.0/32", "addresses": "[10.0.1.0]"}, "has no room"),
        ({**SIX, "subnet": "'2001:db8::/127'"}, "has no room .* make it a /126"),
        ({**SIX, "subnet": "'2001:db8::/96'"}, "no /64, and its bridge announces routes for a /64 only; make it a /64"),
        ({**SIX, "subnet": "'2001:db8::/56'"}, "no /64"),
        ({"cidrs": "[224.1.0.0/16]", "subnet": "224.1.0.0/24"}, "is not for hosts; choose one such as 10.20.0.0/24"),
        ({"cidrs": "['ff02::/48']", "subnet": "'ff02::/64'"}, "is not for hosts"),
        ({"addresses": "[10.0.1.1]"}, "db has 10.0.1.1, and the first 2 .* are kept; give it one of 10.0.1.2 to 10.0.1.254"),
        ({"addresses": "[10.0.1.0]"}, "db has 10.0.1.0"),
        ({"addresses": "[10.0.1.255]"}, "db has 10.0.1.255"),
        ({**SIX, "addresses": "['2001:db8::1']"}, "db has 2001:db8::1, .*give it one of 2001:db8::2 to"),
        ({"addresses": "10.0.1.16/28"}, "db has 16 addresses, and its interface takes 10; give it at most 10"),
        ({"ports": str(list(range(1, 2003, 2)))}, "ports of db make 1001 rules, and 1000 is the most; give runs"),
    ],
)
def test_what_libvirt_cannot_hold_is_refused_with_what_to_do(given, why, network):
    with pytest.raises(InputError, match=f"libvirt can't hold n: .*{why}"):
        RULES.check(network(spec(**given)).desired)


@pytest.mark.parametrize("given", [{"subnet": "10.0.1.0/30", "addresses": "[10.0.1.2]"}, LAST, {}])
def test_the_smallest_and_the_last_are_held(given, network):
    desired = network(spec(**given)).desired
    RULES.check(desired)
    assert RULES.settle(desired).items


def test_more_cores_than_a_machine_has_are_refused_and_head_room_ends_there(shop):
    def with_cores(count):
        items = [replace(i, settings={**i.settings, "cpu_cores": count}) for i in shop.desired.items if i.kind is Kind.MACHINE]
        rest = tuple(item for item in shop.desired.items if item.kind is not Kind.MACHINE)
        return replace(shop.desired, items=(*rest, *items))

    with pytest.raises(InputError, match=r"needs 256 cores, and 255 is the most of one machine; spread .* \(and 2 more\)"):
        RULES.check(with_cores(MAX_CORES + 1))
    most = with_cores(MAX_CORES)
    RULES.check(most)
    machines = [item for item in RULES.settle(most).items if item.kind is Kind.MACHINE]
    assert {item.settings["most_cpu_cores"] for item in machines} == {MAX_CORES}


@pytest.mark.parametrize(
    ("links", "subnets", "outside", "want"),
    [
        ("", 1, "route", {"a": "isolated"}),
        ("", 1, "nat", {"a": "isolated"}),
        ("", 2, "route", {"a": "route", "b": "route"}),
        ("{between: [a, b], rtt: 1ms, bandwidth: 1Gbps}", 2, "nat", {"a": "route", "b": "route"}),
        ("{between: [a, internet], rtt: 1ms, bandwidth: 1Gbps}", 1, "route", {"a": "route"}),
        ("{between: [a, internet], rtt: 1ms, bandwidth: 1Gbps}", 1, "nat", {"a": "nat"}),
        (
            "{between: [a, internet], rtt: 1ms, bandwidth: 1Gbps}, {between: [a, b], rtt: 1ms, bandwidth: 1Gbps}",
            2,
            "nat",
            {"a": "nat", "b": "route"},
        ),
    ],
)
def test_a_subnet_is_forwarded_as_its_links_say(links, subnets, outside, want, network):
    places = ", ".join(f"{{name: {name}, cidr: 10.0.{at}.0/24}}" for at, name in enumerate("ab"[:subnets]))
    vms = "{name: vm, subnet: a}"
    desired = network(f"{{name: n, cidrs: [10.0.0.0/16], subnets: [{places}], links: [{links}], vms: [{vms}]}}").desired
    settled = LibvirtRules(Names("1", "n"), Choices(outside=outside)).settle(desired)
    assert {item.name: item.settings["forward"] for item in settled.items if item.kind is Kind.SUBNET} == want


@pytest.mark.parametrize("choices", [Choices(), Choices("nat", False, 1.0), Choices("route", True, 7.5)])
def test_settling_again_gives_the_same_and_each_thing_its_own_names(choices, networks):
    rules = LibvirtRules(Names("1", "shop"), choices)

    @QUICK
    @given(networks)
    def tried(network):
        rules.check(network.desired)
        settled = rules.settle(network.desired)
        assert rules.settle(settled) == settled
        machines = [item.settings for item in settled.items if item.kind is Kind.MACHINE]
        for name in ("mac", "device"):
            assert len({settings[name] for settings in machines}) == len(machines)
        assert all(len(settings["device"]) <= 15 for settings in machines)
        assert all(settings["most_cpu_cores"] >= settings["cpu_cores"] * choices.headroom for settings in machines)
        assert all(settings["most_memory_gb"] >= settings["memory_gb"] for settings in machines)
        for subnet in (item.settings for item in settled.items if item.kind is Kind.SUBNET):
            assert len(subnet["bridge"]) <= 15
            assert subnet["router"] == str(gateway_of(parse_prefix(subnet["cidr"])))
            assert subnet["router"] not in {lease["address"] for lease in subnet["leases"]}
        assert {item.kind for item in settled.items} <= {Kind.NETWORK, Kind.SUBNET, Kind.FIREWALL, Kind.MACHINE}

    tried()


def resized(draw, item):
    """A machine with other sizes, perhaps stopped."""
    if item.kind is not Kind.MACHINE:
        return item
    sizes = {
        "cpu_cores": draw(st.integers(1, 16)), "memory_gb": draw(st.integers(1, 64)) / 2,
        "storage_gb": draw(st.integers(1, 60)), "bandwidth_mbps": draw(st.integers(1, 1000)),
    }  # fmt: skip
    return replace(item, settings={**item.settings, **sizes})


def test_any_change_comes_to_rest_keeps_disks_and_head_room_and_stops_only_what_runs(networks):
    @QUICK
    @given(networks, networks, st.data())
    def tried(one, other, data):
        sized = [replace(n.desired, items=tuple(resized(data.draw, i) for i in n.desired.items)) for n in (one, other)]
        before, after = ({item.key: item for item in RULES.settle(each).items} for each in sized)
        for key in before.keys() & after.keys():
            was, wanted = before[key], after[key]
            if was.kind is Kind.MACHINE and data.draw(st.booleans()):
                was = replace(was, settings={**was.settings, "running": False})
            assert RULES.change(was, was).effect is Effect.NOTHING
            change = RULES.change(was, wanted)
            assert RULES.change(change.item, wanted).effect is Effect.NOTHING
            assert change.item.key == key
            if change.effect in {Effect.RESTART, Effect.REPLACE}:
                assert change.interrupts
            if was.kind is not Kind.MACHINE or change.effect is Effect.REPLACE:
                continue
            now = change.item.settings
            assert now["running"]
            assert now["storage_gb"] == max(was.settings["storage_gb"], wanted.settings["storage_gb"])
            grown = False
            for name, most in (("cpu_cores", "most_cpu_cores"), ("memory_gb", "most_memory_gb")):
                assert now[name] == wanted.settings[name]
                beyond = now[name] > was.settings[most]
                assert now[most] == (wanted.settings if beyond else was.settings)[most]
                grown |= beyond
            assert (change.effect is Effect.RESTART) == (grown and was.settings["running"])

    tried()


def machine(**given):
    standing = {
        "network": "shop", "subnet": "web", "firewall": "web", "addresses": ["10.20.1.10"], "role": None, "cpu_cores": 2,
        "memory_gb": 4.0, "bandwidth_mbps": 100, "storage_gb": 20, "mac": "02:ad:00:00:00:01", "device": "adt1",
        "most_cpu_cores": 4, "most_memory_gb": 8.0, "running": True,
    }  # fmt: skip
    return Item(Kind.MACHINE, "web-1", standing | given)


@pytest.mark.parametrize(
    ("was", "wanted", "effect", "interrupts"),
    [
        ({}, {"cpu_cores": 4}, Effect.LIVE, ""),
        ({}, {"cpu_cores": 1, "memory_gb": 1.0, "most_cpu_cores": 2, "most_memory_gb": 2.0}, Effect.LIVE, ""),
        ({}, {"cpu_cores": 5, "most_cpu_cores": 10}, Effect.RESTART, "web-1 is stopped and started for its new cores"),
        ({}, {"memory_gb": 8.5, "most_memory_gb": 17.0}, Effect.RESTART, "for its new memory"),
        ({}, {"cpu_cores": 5, "memory_gb": 9.0, "most_cpu_cores": 10, "most_memory_gb": 18.0}, Effect.RESTART, "cores and mem"),
        ({"running": False}, {"cpu_cores": 5, "most_cpu_cores": 10}, Effect.LIVE, ""),
        ({"running": False}, {}, Effect.LIVE, ""),
        ({}, {"storage_gb": 19}, Effect.NOTHING, ""),
        ({}, {"most_cpu_cores": 3, "most_memory_gb": 5.0}, Effect.NOTHING, ""),
        ({}, {"storage_gb": 21, "bandwidth_mbps": 50, "firewall": "db", "role": "nginx"}, Effect.LIVE, ""),
        ({"storage_gb": 0.0}, {}, Effect.LIVE, ""),
        ({"seed": "missing"}, {}, Effect.LIVE, ""),
        ({}, {"addresses": ["10.20.1.11"]}, Effect.REPLACE, "web-1 is destroyed, with its disk, and made anew"),
        ({}, {"subnet": "data"}, Effect.REPLACE, "destroyed"),
        ({"mac": "02:ad:00:00:00:09"}, {}, Effect.REPLACE, "destroyed"),
    ],
)
def test_what_a_machines_change_takes(was, wanted, effect, interrupts):
    change = RULES.change(machine(**was), machine(**wanted))
    assert change.effect is effect
    assert interrupts in change.interrupts
    assert bool(interrupts) == bool(change.interrupts)


def around(kind, **settings):
    return Item(kind, "web", {"network": "shop"} | settings)


def rule(port, source="10.20.1.0/24"):
    return {"protocol": "tcp", "from_port": port, "to_port": port, "source": source}


SUBNET = {"cidr": "10.20.1.0/24", "forward": "route", "bridge": "adb1", "router": "10.20.1.1", "leases": [], "names": []}


@pytest.mark.parametrize(
    ("kind", "was", "wanted", "effect", "interrupts"),
    [
        (Kind.SUBNET, SUBNET, SUBNET | {"leases": [{"mac": "x", "name": "y", "address": "z"}]}, Effect.LIVE, ""),
        (Kind.SUBNET, SUBNET | {"inactive": True}, SUBNET, Effect.LIVE, ""),
        (Kind.SUBNET, SUBNET, SUBNET | {"forward": "nat"}, Effect.LIVE, "machines of subnet web are cut off for a moment"),
        (Kind.SUBNET, SUBNET, SUBNET | {"cidr": "10.20.2.0/24"}, Effect.REPLACE, "subnet web is made anew, with all its machi"),
        (Kind.FIREWALL, {"ingress": [rule(80)]}, {"ingress": [rule(80), rule(81)]}, Effect.LIVE, ""),
        (Kind.FIREWALL, {"ingress": [rule(80)]}, {"ingress": []}, Effect.LIVE, "no longer takes port 80 from 10.20.1.0/24"),
        (Kind.NETWORK, {"inactive": True}, {}, Effect.LIVE, ""),
    ],
)
def test_what_a_change_around_machines_takes(kind, was, wanted, effect, interrupts):
    change = RULES.change(around(kind, **was), around(kind, **wanted))
    assert change.effect is effect
    assert interrupts in change.interrupts
    assert bool(interrupts) == bool(change.interrupts)


def test_names_of_other_owners_and_networks_are_others():
    three = [Names("1", "shop"), Names("2", "shop"), Names("1", "blog")]
    for made in ("device", "mac", "uuid"):
        given = {"device": ("adt", "web-1"), "mac": ("web-1",), "uuid": (Kind.MACHINE, "web-1")}[made]
        assert len({getattr(names, made)(*given) for names in three}) == len(three)
    assert int(three[0].mac("web-1")[:2], 16) & 3 == 2  # locally administered, of one machine
