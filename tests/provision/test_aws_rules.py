"""What AWS can't hold is said before anything is done; what a change costs there is known."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import adumbra.profile
from adumbra.provision.aws_rules import AwsRules, arch_of, root_gib
from adumbra.provision.protocol import Effect
from adumbra.schema.errors import InputError
from adumbra.schema.plans import Item, Kind

RULES = AwsRules("terraform")


def spec(cidrs="[10.0.0.0/16]", subnet="10.0.1.0/24", addresses="", ports="", **more):
    vm = f"{{name: db, subnet: s{addresses and f', addresses: {addresses}'}{ports and f', ports: {ports}'}}}"
    return f"{{name: n, cidrs: {cidrs}, subnets: [{{name: s, cidr: {subnet}}}], vms: [{vm}]}}"


SIX = {"cidrs": "[10.0.0.0/16, '2001:db8::/56']", "subnet": "'2001:db8::/64'"}


@pytest.mark.parametrize(
    ("given", "sizes", "why"),
    [
        ({"cidrs": "['2001:db8::/56']", "subnet": "'2001:db8::/64'"}, (), "needs an IPv4 CIDR.*add one to cidrs"),
        ({"cidrs": "[10.0.0.0/8]"}, (), r"CIDR 10.0.0.0/8 is not of a size.*/16 to /28.*list under cidrs those parts"),
        ({"cidrs": "[10.0.1.0/29]", "subnet": "10.0.1.0/29"}, (), "CIDR 10.0.1.0/29 is not of a size"),
        ({"cidrs": "[10.0.0.0/16, '2001:db8::/32']"}, (), "2001:db8::/32 is not of a size"),
        ({"cidrs": "[10.0.0.0/16, 127.0.0.0/16]"}, (), "127.0.0.0/16 is not for hosts"),
        ({"cidrs": "[10.0.0.0/16, 192.168.0.0/16]"}, (), "192.168.0.0/16 can't be joined to 10.0.0.0/16.*split the network"),
        ({"cidrs": "[203.0.112.0/20, 10.0.0.0/16]"}, (), "10.0.0.0/16 can't be joined to 203.0.112.0/20"),
        ({"cidrs": "[10.9.0.0/16, 198.19.0.0/16]", "subnet": "10.9.1.0/24"}, (), "198.19.0.0/16 is AWS' own"),
        ({"cidrs": "[10.1.0.0/16, 10.0.0.0/16]"}, (), "10.0.0.0/16 can be added"),
        ({"subnet": "10.0.1.0/29"}, (), "subnet s .* make it a /16 to /28"),
        ({**SIX, "subnet": "'2001:db8::/66'"}, (), "make it a /44 to /64, in steps of 4"),
        ({"addresses": "[10.0.1.3]"}, (), r"db has 10.0.1.3.*give it one of 10.0.1.4 to 10.0.1.254"),
        ({"addresses": "[10.0.1.255]"}, (), "db has 10.0.1.255"),
        ({**SIX, "addresses": "['2001:db8::1']"}, (), r"db has 2001:db8::1.*2001:db8::4"),
        ({"addresses": "10.0.1.16/28"}, (), "db has 16 addresses.*m7i.large takes 10; give it at most 10"),
        ({"addresses": "10.0.1.16-10.0.1.20"}, ("c7a.medium", 20), "c7a.medium takes 4"),
        ({**SIX, "addresses": "'2001:db8::1000/116'"}, (), "db has 4096 addresses"),
        ({}, (None, 20), "no instance type fits db; see its reasons in `adumbra profile n`"),
        (SIX, ("t2.large", 20), "db is a t2.large, which can't be in an IPv6 subnet"),
        ({}, ("m7i.large", 20_000), "db needs a disk of 20000 GB, and 16384 GiB is the most"),
        ({"ports": str(list(range(1, 2048, 2)))}, (), "ports of db make 1024 firewall rules"),
    ],
)
def test_what_aws_cannot_hold_is_refused_with_what_to_do(given, sizes, why, network):
    desired = network(spec(**given), {"db": sizes} if sizes else None).desired
    with pytest.raises(InputError, match=why):
        RULES.check(desired)


@pytest.mark.parametrize(
    "given",
    [
        {},
        SIX,
        {"addresses": "[10.0.1.4, 10.0.1.254]"},
        {"addresses": "10.0.1.16-10.0.1.25"},
        {"cidrs": "[172.16.0.0/16, 172.20.0.0/16, 8.8.0.0/16]", "subnet": "172.20.0.0/28"},
        {"cidrs": "[203.0.112.0/20]", "subnet": "203.0.113.0/24"},
        {"cidrs": "['2001:db8::/56', 10.0.0.0/16]"},
    ],
)
def test_what_aws_can_hold_passes(given, network):
    RULES.check(network(spec(**given)).desired)


def test_several_problems_are_counted(network):
    with pytest.raises(InputError, match=r"\(and 1 more\)"):
        RULES.check(network(spec(subnet="10.0.1.0/29"), {"db": (None, 20)}).desired)


def test_the_architecture_follows_from_the_name_for_every_type_of_the_catalogue():
    file = Path(adumbra.profile.__path__[0]) / "data" / "aws-us-east-1.csv"
    with file.open(newline="", encoding="utf-8") as lines:
        wrong = [row["type"] for row in csv.DictReader(lines) if arch_of(row["type"]) != row["arch"]]
    assert wrong == []


@pytest.mark.parametrize(("gb", "gib"), [(8, 8), (20, 20), (10.1, 11)])
def test_a_disk_is_never_smaller_than_asked(gb, gib):
    assert root_gib(gb) == gib
    assert gib >= gb


def machine(**changed):
    plain = {
        "network": "n", "subnet": "s", "firewall": "db", "gateway": None, "public_address": False, "addresses": ["10.0.1.10"],
        "role": "generic", "type": "m7i.large", "cpu_cores": 2, "memory_gb": 4.0, "bandwidth_mbps": 10, "storage_gb": 20,
    }  # fmt: skip
    return Item(Kind.MACHINE, "db", plain | changed)


@pytest.mark.parametrize(
    ("changed", "effect"),
    [
        ({}, Effect.NOTHING),
        ({"storage_gb": 10}, Effect.NOTHING),
        ({"storage_gb": 30}, Effect.LIVE),
        ({"cpu_cores": 1, "firewall": "x", "role": "redis", "public_address": True}, Effect.LIVE),
        ({"type": "r7i.large", "storage_gb": 10}, Effect.RESTART),
        ({"type": "m7g.large"}, Effect.REPLACE),
        ({"subnet": "t"}, Effect.REPLACE),
        ({"addresses": ["10.0.1.11"]}, Effect.REPLACE),
    ],
)
def test_what_a_change_of_a_machine_takes(changed, effect):
    change = RULES.change(machine(), machine(**changed))
    assert change.effect is effect
    assert bool(change.interrupts) == (effect in {Effect.RESTART, Effect.REPLACE})
    assert RULES.change(change.item, machine(**changed)).effect is Effect.NOTHING
    if effect is not Effect.REPLACE:
        assert change.item.settings["storage_gb"] >= 20
