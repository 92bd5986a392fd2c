"""A spec and its profile in; networks, firewalls and machines with every name and size out."""

from __future__ import annotations

import dataclasses

import pytest

from adumbra.provision.desired import make_desired
from adumbra.schema.errors import InputError
from adumbra.schema.plans import Kind


def settings_of(network, kind, name):
    return next(item.settings for item in network.desired.items if item.key == (kind.value, name))


def test_a_machine_has_all_that_was_sized_and_declared(shop):
    assert settings_of(shop, Kind.MACHINE, "web-1") == {
        "network": "shop", "subnet": "web", "firewall": "web", "gateway": "internet", "public_address": True,
        "addresses": ["10.20.1.10"], "role": "nginx", "type": "m7i.large",
        "cpu_cores": 2, "memory_gb": 4.0, "bandwidth_mbps": 150, "storage_gb": 20,
    }  # fmt: skip
    assert settings_of(shop, Kind.MACHINE, "db")["public_address"] is False


def test_only_subnets_linked_to_the_internet_get_a_way_out(shop, shop_text, network):
    assert settings_of(shop, Kind.ROUTING, "web")["default_route"] == "0.0.0.0/0"
    assert settings_of(shop, Kind.ROUTING, "data")["default_route"] is None
    closed = network(shop_text.replace("  - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}\n", ""))
    assert Kind.GATEWAY not in {item.kind for item in closed.desired.items}


def ingress(network, group):
    return [
        (rule["from_port"], rule["to_port"], rule["source"]) for rule in settings_of(network, Kind.FIREWALL, group)["ingress"]
    ]


@pytest.mark.parametrize(
    ("edits", "group", "want"),
    [
        ({}, "web", [(80, 80, "0.0.0.0/0"), (443, 443, "0.0.0.0/0")]),
        ({}, "db", [(5432, 5432, "10.20.1.0/24"), (5432, 5432, "10.20.2.0/24")]),
        ({"between: [web, data]": "between: [data, internet]"}, "db", [(5432, 5432, "0.0.0.0/0")]),
        ({"  - {between: [web, data], rtt: 200us, bandwidth: 10Gbps}\n": ""}, "db", [(5432, 5432, "10.20.0.0/16")]),
        ({"ports: [80, 443]": "ports: [82, 81, 443, 80]"}, "web", [(80, 82, "0.0.0.0/0"), (443, 443, "0.0.0.0/0")]),
        ({"ports: [80, 443]": "ports: []"}, "web", []),
        (
            {
                "[10.20.0.0/16]": "[10.20.0.0/16, 'fd00:1::/56']",
                "10.20.2.0/24": "'fd00:1::/64'",
                "[10.20.2.10]": "['fd00:1::10']",
            },
            "db",
            [(5432, 5432, "fd00:1::/64")],
        ),
    ],
    ids=["internet", "linked subnets", "its own link", "no links: the network", "runs of ports", "no ports", "IPv6 takes IPv6"],
)  # fmt: skip
def test_who_may_reach_the_ports(edits, group, want, shop_text, network):
    text = shop_text
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    assert ingress(network(text), group) == want


def test_an_ipv6_machine_needs_no_second_address_to_be_reached(network):
    six = network(
        "{name: n, cidrs: [10.0.0.0/16, '2001:db8::/56'], subnets: [{name: s, cidr: '2001:db8::/64'}], "
        "links: [{between: [s, internet], rtt: 1ms, bandwidth: 1Gbps}], vms: [{name: v, subnet: s}]}"
    )
    assert settings_of(six, Kind.MACHINE, "v")["public_address"] is False
    assert settings_of(six, Kind.ROUTING, "s")["default_route"] == "::/0"


def test_a_profile_of_another_network_or_of_other_vms_is_refused(shop):
    with pytest.raises(InputError, match="with the profile of blog"):
        make_desired(shop.spec, shop.vms, dataclasses.replace(shop.profile, network="blog"))
    with pytest.raises(InputError, match="no sizes for web-2, db"):
        make_desired(shop.spec, shop.vms, dataclasses.replace(shop.profile, vms=shop.profile.vms[:1]))
