"""Specs in, exact refusals out: file, line, what, how to mend it. And what a spec that is right stands for."""

from __future__ import annotations

import ipaddress
import json
import textwrap

import pytest

from adumbra.schema.errors import SpecError
from adumbra.schema.spec import MAX_PROBLEMS, MAX_VMS, NetworkSpec, Vm, expand_vms, parse_spec, spec_to_dict

SHOP = """\
name: shop
cidrs: [10.20.0.0/16, "2001:db8:20::/48"]
subnets:
  - {name: web, cidr: 10.20.1.0/24}
  - {name: data, cidr: 10.20.2.0/24}
  - {name: six, cidr: "2001:db8:20:6::/64"}
links:
  - {between: [web, data], rtt: 200us, bandwidth: 10Gbps}
  - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}
vms:
  - {name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, type: m7i.large, ports: [80, 443]}
  - {name: db, subnet: data, addresses: [10.20.2.10], role: postgresql, resources: {cpu_cores: 4, memory_gb: 16}}
  - {name: cache, subnet: data, count: 3}
  - {name: v6, subnet: six, addresses: ["2001:db8:20:6::10", "2001:db8:20:6:8000::/65"]}
donors:
  - {from: 192.168.7.0/24, to: 10.20.1.0/24}
targets: {shortfall: 1%, latency_p99: 50ms, loss: 0.1%}
interval: 1s
"""
LINES = SHOP.splitlines()


def changed(line: int, *instead: str) -> str:
    """The shop's spec with one line, from 1, replaced."""
    return "\n".join([*LINES[: line - 1], *instead, *LINES[line:]]) + "\n"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as refused:
        parse_spec(text, "shop.yaml")
    assert refused.value.exit_status == 2
    assert str(refused.value).startswith(refused.value.problems[0])
    assert all("\n" not in problem and len(problem) < 600 for problem in refused.value.problems)
    return refused.value.problems


def test_the_shop_is_right() -> None:
    spec = parse_spec(SHOP)
    assert spec.interval_ns == 10**9
    assert [vm.name for vm in expand_vms(spec)] == ["web-1", "web-2", "db", "cache-1", "cache-2", "cache-3", "v6"]
    assert spec.links[0].rtt == pytest.approx(0.0002)
    assert spec.links[0].bandwidth == 1e10
    assert (spec.targets.shortfall, spec.targets.latency_p99, spec.targets.loss) == (0.01, 0.05, 0.001)
    assert spec.subnet("data").cidr == ipaddress.ip_network("10.20.2.0/24")
    with pytest.raises(KeyError):
        spec.subnet("none")


REFUSALS = [
    # overlapping CIDRs and subnets
    (
        changed(2, "cidrs: [10.20.0.0/16, 10.20.128.0/17, '2001:db8:20::/48']"),
        ("shop.yaml:2: cidrs[1]: 10.20.128.0/17 overlaps 10.20.0.0/16; remove one of them, or make them disjoint"),
    ),
    (
        changed(2, "cidrs: [10.20.0.0/16, '2001:db8:20::/48', '2001:db8::/32']"),
        ("shop.yaml:2: cidrs[1]: 2001:db8:20::/48 overlaps 2001:db8::/32; remove one of them, or make them disjoint"),
    ),
    (
        changed(5, "  - {name: data, cidr: 10.20.1.128/25}"),
        ("shop.yaml:5: subnets[1].cidr: 10.20.1.128/25 overlaps the subnet 10.20.1.0/24; make the subnets disjoint"),
    ),
    (
        changed(6, "  - {name: six, cidr: '2001:db8:21::/64'}"),
        (
            "shop.yaml:6: subnets[2].cidr: 2001:db8:21::/64 lies outside the network's CIDRs (10.20.0.0/16, "
            "2001:db8:20::/48); choose one within, or add its CIDR"
        ),
    ),
    # addresses outside their subnet, given twice
    (
        changed(12, "  - {name: db, subnet: data, addresses: [10.20.1.99]}"),
        (
            "shop.yaml:12: vms[1].addresses[0]: 10.20.1.99 lies outside the subnet data (10.20.2.0/24); "
            "choose addresses within it"
        ),
    ),
    (
        changed(
            12, "  - name: db", "    subnet: data", "    addresses:", "      - 10.20.2.10", "      - 10.20.2.250-10.20.3.5"
        ),
        (
            "shop.yaml:16: vms[1].addresses[1]: 10.20.2.250-10.20.3.5 lies outside the subnet data "
            "(10.20.2.0/24); choose addresses within it"
        ),
    ),
    (
        changed(14, "  - {name: v6, subnet: six, addresses: '2001:db8:20:7::1'}"),
        (
            "shop.yaml:14: vms[3].addresses[0]: 2001:db8:20:7::1 lies outside the subnet six "
            "(2001:db8:20:6::/64); choose addresses within it"
        ),
    ),
    (
        changed(14, "  - {name: v6, subnet: six, addresses: 10.20.1.77}"),
        (
            "shop.yaml:14: vms[3].addresses[0]: 10.20.1.77 lies outside the subnet six "
            "(2001:db8:20:6::/64); choose addresses within it"
        ),
    ),
    (
        changed(13, "  - {name: cache, subnet: web, addresses: 10.20.1.11}"),
        (
            "shop.yaml:13: vms[2].addresses[0]: 10.20.1.11 is given out already by 10.20.1.10-10.20.1.11; "
            "give each VM addresses of its own"
        ),
    ),
    # more VMs than addresses
    (
        changed(11, "  - {name: web, count: 3, subnet: web, addresses: 10.20.1.10-10.20.1.11}"),
        (
            "shop.yaml:11: vms[0].addresses: there are more VMs than addresses: 3 VMs, 2 addresses; add "
            "addresses or lower the count"
        ),
    ),
    (
        changed(13, "  - {name: cache, subnet: data, count: 300}"),
        (
            "shop.yaml:13: vms[2].count: there are more VMs than addresses: 300 VMs need one in "
            "10.20.2.0/24, which has 244 free; enlarge the subnet or lower the count"
        ),
    ),
    (
        changed(13, "  - {name: cache, subnet: data, count: 100001}"),
        (
            "shop.yaml:13: vms[2].count: '100001' is not possible here: input should be less than or equal "
            "to 100000; correct the value"
        ),
    ),
    (
        changed(13, *[f"  - {{name: c{k}, subnet: data, count: 100000}}" for k in range(3)]),
        "shop.yaml:10: vms: there are 300004 VMs, and 100000 is the most; split the network",
    ),
    # names
    (
        changed(13, "  - {name: db, subnet: data}"),
        "shop.yaml:13: vms[2].name: two VMs would be named 'db', here and in 'db'; rename one",
    ),
    (
        changed(13, "  - {name: web-2, subnet: data}"),
        "shop.yaml:13: vms[2].name: two VMs would be named 'web-2', here and in 'web'; rename one",
    ),
    (
        changed(5, "  - {name: web, cidr: 10.20.2.0/24}"),
        "shop.yaml:5: subnets[1].name: there are two subnets named 'web'; rename one",
    ),
    (
        changed(5, "  - {name: internet, cidr: 10.20.2.0/24}"),
        "shop.yaml:5: subnets[1].name: 'internet' is the name of the outside; rename the subnet",
    ),
    (
        changed(13, "  - {name: cache, subnet: dat}"),
        "shop.yaml:13: vms[2].subnet: there is no subnet 'dat'; did you mean 'data'?",
    ),
    (
        changed(13, "  - {name: cache, subnet: zzz}"),
        "shop.yaml:13: vms[2].subnet: there is no subnet 'zzz'; there are: data, six, web",
    ),
    (
        changed(1, "name: Shop Floor"),
        ("shop.yaml:1: name: 'Shop Floor' can't be a name; use 1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"),
    ),
    (
        changed(1, "name: shop-"),
        ("shop.yaml:1: name: 'shop-' can't be a name; use 1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"),
    ),
    (
        changed(1, "name: " + "a" * 64),
        (f"shop.yaml:1: name: '{'a' * 40}' can't be a name; use 1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"),
    ),
    (
        changed(1, "name: 7"),
        ("shop.yaml:1: name: '7' can't be a name; use 1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"),
    ),
    # unknown and missing keys
    (changed(18, "intervall: 1s"), "shop.yaml:18: intervall: unknown key 'intervall'; did you mean 'interval'?"),
    (
        changed(13, "  - {name: cache, subnet: data, adresses: 10.20.2.9}"),
        "shop.yaml:13: vms[2].adresses: unknown key 'adresses'; did you mean 'addresses'?",
    ),
    (
        changed(12, "  - {name: db, subnet: data, resources: {cpu_cores: 4, memory_gb: 16, gpu: 1}}"),
        ("shop.yaml:12: vms[1].resources.gpu: unknown key 'gpu'; there are: bandwidth_mbps, cpu_cores, memory_gb, storage_gb"),
    ),
    (
        changed(16, "  - {from_: 192.168.7.0/24, to: 10.20.1.0/24}"),
        "shop.yaml:16: donors[0]: the key 'from' is missing; add it",
    ),
    (changed(13, "  - {name: cache}"), "shop.yaml:13: vms[2]: the key 'subnet' is missing; add it"),
    (
        changed(13, "  - cache"),
        ("shop.yaml:13: vms[2]: 'cache' is not a mapping of keys to values; see `adumbra check --help` for an example"),
    ),
    # units
    (
        changed(8, "  - {between: [web, data], rtt: 200, bandwidth: 10Gbps}"),
        (
            "shop.yaml:8: links[0].rtt: '200' has no unit that is known here; write it like 200us (ns, us, "
            "µs, ms, s, m, min, h, d)"
        ),
    ),
    (
        changed(8, "  - {between: [web, data], rtt: 200us, bandwidth: 10GB}"),
        (
            "shop.yaml:8: links[0].bandwidth: '10GB' has no unit that is known here; write it like 10Gbps "
            "(bps, kbps, Kbps, Mbps, Gbps, Tbps)"
        ),
    ),
    (
        changed(8, "  - {between: [web, data], rtt: 0us, bandwidth: 10Gbps}"),
        "shop.yaml:8: links[0].rtt: it must be above zero; give a larger value",
    ),
    (
        changed(8, "  - {between: [web, data], rtt: 999999999999d, bandwidth: 10Gbps}"),
        "shop.yaml:8: links[0].rtt: it is too large to be meant; check the number and its unit",
    ),
    (
        changed(8, "  - {between: [web, data], rtt: 1ms, bandwidth: 0.1bps}"),
        "shop.yaml:8: links[0].bandwidth: it is too small to be meant; check the number and its unit",
    ),
    (
        changed(17, "targets: {shortfall: 0.01}"),
        "shop.yaml:17: targets.shortfall: '0.01' has no unit that is known here; write it like 1% (%)",
    ),
    (
        changed(17, "targets: {shortfall: 0%}"),
        ("shop.yaml:17: targets.shortfall: a shortfall can't be 0% or above 50%; give the share of time to accept, such as 1%"),
    ),
    (
        changed(17, "targets: {loss: 101%}"),
        "shop.yaml:17: targets.loss: 101% is not a share; write a percentage from 0% to 100%",
    ),
    (
        changed(18, "interval: 10ms"),
        ("shop.yaml:18: interval: an interval of 10 ms is not possible; give whole milliseconds from 100ms to 1h, such as 1s"),
    ),
    (
        changed(18, "interval: 100500us"),
        ("shop.yaml:18: interval: an interval of 100 ms is not possible; give whole milliseconds from 100ms to 1h, such as 1s"),
    ),
    (
        changed(18, "interval: 61m"),
        (
            "shop.yaml:18: interval: an interval of 1 h 1 min is not possible; give whole milliseconds from "
            "100ms to 1h, such as 1s"
        ),
    ),
    # values of the wrong kind
    (
        changed(2, "cidrs: 10.20.0.0/16"),
        ("shop.yaml:2: cidrs: '10.20.0.0/16' is not possible here: input should be a valid list; correct the value"),
    ),
    (
        changed(2, "cidrs: []"),
        (
            "shop.yaml:2: cidrs: '[]' is not possible here: list should have at least 1 item after "
            "validation, not 0; correct the value"
        ),
    ),
    (
        changed(2, "cidrs: [10.20.0.1/16]"),
        ("shop.yaml:2: cidrs[0]: 10.20.0.1/16 has bits set beyond its prefix length; did you mean 10.20.0.0/16?"),
    ),
    (changed(2, "cidrs: [10.20.0.0]"), "shop.yaml:2: cidrs[0]: '10.20.0.0' is not a prefix; write it like 10.20.0.0/16"),
    (
        changed(2, "cidrs: ['fe80::%eth0/64']"),
        "shop.yaml:2: cidrs[0]: 'fe80::%eth0/64' is not a prefix; write it like 10.20.0.0/16",
    ),
    (
        changed(14, "  - {name: v6, subnet: six, addresses: '2001:db8:20:6::1%eth0'}"),
        (
            "shop.yaml:14: vms[3].addresses: '2001:db8:20:6::1%eth0' is not an address; write 10.20.1.10, "
            "10.20.1.10-10.20.1.19 or 10.20.1.16/28"
        ),
    ),
    (
        changed(12, "  - {name: db, subnet: data, addresses: 10.20.2.10-}"),
        (
            "shop.yaml:12: vms[1].addresses: '10.20.2.10-' is not an address; write 10.20.1.10, "
            "10.20.1.10-10.20.1.19 or 10.20.1.16/28"
        ),
    ),
    (
        changed(12, "  - {name: db, subnet: data, addresses: 10.20.2.10-10.20.2.9}"),
        (
            "shop.yaml:12: vms[1].addresses: the range 10.20.2.10-10.20.2.9 runs backwards or mixes IP "
            "versions; write the lower address first"
        ),
    ),
    (
        changed(12, "  - {name: db, subnet: data, addresses: [[10.20.2.10]]}"),
        (
            "shop.yaml:12: vms[1].addresses: \"['10.20.2.10']\" is not an address; write 10.20.1.10, "
            "10.20.1.10-10.20.1.19 or 10.20.1.16/28"
        ),
    ),
    (
        changed(11, "  - {name: web, count: 2.5, subnet: web}"),
        ("shop.yaml:11: vms[0].count: '2.5' is not possible here: input should be a valid integer; correct the value"),
    ),
    (
        changed(11, "  - {name: web, count: 0, subnet: web}"),
        ("shop.yaml:11: vms[0].count: '0' is not possible here: input should be greater than or equal to 1; correct the value"),
    ),
    (
        changed(11, "  - {name: web, subnet: web, ports: [80, 70000]}"),
        (
            "shop.yaml:11: vms[0].ports[1]: '70000' is not possible here: input should be less than or "
            "equal to 65535; correct the value"
        ),
    ),
    (
        changed(11, "  - {name: web, subnet: web, ports: [true]}"),
        ("shop.yaml:11: vms[0].ports[0]: 'True' is not possible here: input should be a valid integer; correct the value"),
    ),
    (
        changed(12, "  - {name: db, subnet: data, resources: {cpu_cores: true, memory_gb: 16}}"),
        (
            "shop.yaml:12: vms[1].resources.cpu_cores: 'True' is not possible here: input should be a valid "
            "number; correct the value"
        ),
    ),
    (
        changed(12, "  - {name: db, subnet: data, resources: {cpu_cores: 4, memory_gb: '16'}}"),
        (
            "shop.yaml:12: vms[1].resources.memory_gb: '16' is not possible here: input should be a valid "
            "number; correct the value"
        ),
    ),
    (
        changed(12, "  - {name: db, subnet: data, resources: {cpu_cores: 4, memory_gb: 0}}"),
        (
            "shop.yaml:12: vms[1].resources.memory_gb: '0' is not possible here: input should be greater "
            "than 0; correct the value"
        ),
    ),
    # links and donors
    (
        changed(9, "  - {between: [data, web], rtt: 20ms, bandwidth: 1Gbps}"),
        "shop.yaml:9: links[1].between: data and web are linked twice; keep one of the links",
    ),
    (
        changed(9, "  - {between: [web, web], rtt: 20ms, bandwidth: 1Gbps}"),
        ("shop.yaml:9: links[1].between: a link joins two different places, not 'web' twice; name the other"),
    ),
    (
        changed(9, "  - {between: [web, intrenet], rtt: 20ms, bandwidth: 1Gbps}"),
        "shop.yaml:9: links[1].between[1]: there is no subnet 'intrenet'; did you mean 'internet'?",
    ),
    (
        changed(9, "  - {between: [web], rtt: 20ms, bandwidth: 1Gbps}"),
        (
            "shop.yaml:9: links[1].between: \"['web']\" is not possible here: list should have at least 2 "
            "items after validation, not 1; correct the value"
        ),
    ),
    (
        changed(16, "  - {from: 192.168.7.0/25, to: 10.20.1.0/24}"),
        ("shop.yaml:16: donors[0]: 192.168.7.0/25 and 10.20.1.0/24 differ in size; map prefixes of one length and version"),
    ),
    (
        changed(16, "  - {from: 192.168.7.0/24, to: 10.30.1.0/24}"),
        ("shop.yaml:16: donors[0].to: 10.30.1.0/24 lies outside the network's CIDRs; map onto addresses of the network"),
    ),
    (
        changed(16, "  - {from: 10.20.9.0/24, to: 10.20.1.0/24}"),
        ("shop.yaml:16: donors[0].from: 10.20.9.0/24 overlaps the network's own CIDRs; a donor's addresses are the old ones"),
    ),
    (
        changed(16, "  - {from: 192.168.7.0/24, to: 10.20.1.0/24}", "  - {from: 192.168.7.0/25, to: 10.20.2.0/25}"),
        ("shop.yaml:17: donors[1].from: 192.168.7.0/25 overlaps the donor 192.168.7.0/24; give each old address one new one"),
    ),
]


@pytest.mark.parametrize(("text", "want"), REFUSALS, ids=[want[:60] for _, want in REFUSALS])
def test_a_wrong_spec_is_refused_with_its_line(text: str, want: str) -> None:
    assert want in problems(text)[0]


def test_all_problems_are_listed_and_the_first_says_how_many_more() -> None:
    text = changed(12, "  - {name: db, subnet: nowhere, addresses: [10.20.1.10]}").replace("interval: 1s", "interval: 1ms")
    found = problems(text)
    assert [problem.split(":")[1] for problem in found] == ["12", "12", "18"]
    with pytest.raises(SpecError, match=r"\(and 2 more: `adumbra check` lists them\)$"):
        parse_spec(text)


def test_the_list_of_problems_is_bounded() -> None:
    groups = "".join(f"  - {{name: vm{k}, subnet: nowhere}}\n" for k in range(500))
    head = "name: a\ncidrs: [10.0.0.0/8]\nsubnets: [{name: web, cidr: 10.0.0.0/24}]\nvms:\n"
    assert len(problems(head + groups)) == MAX_PROBLEMS
    unknown = "".join(f"k{k}: 1\n" for k in range(500))
    assert len(problems(SHOP + unknown)) == MAX_PROBLEMS


def test_a_further_check_adds_its_problems() -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(SHOP, "shop.yaml", lambda spec: [(("vms", 1, "role"), f"nobody plays {spec.vms[1].role}; cast someone")])
    assert refused.value.problems == ("shop.yaml:12: vms[1].role: nobody plays postgresql; cast someone",)


def test_json_is_read_as_well_and_keeps_its_lines() -> None:
    plain = spec_to_dict(parse_spec(SHOP))
    assert parse_spec(json.dumps(plain)) == parse_spec(SHOP)
    assert parse_spec(json.dumps(plain, indent="\t")) == parse_spec(SHOP)
    plain["vms"][0]["colour"] = "blue"
    lines = json.dumps(plain, indent=1).splitlines()
    at = next(i for i, line in enumerate(lines, 1) if "colour" in line)
    assert problems("\n".join(lines))[0].startswith(f"shop.yaml:{at}: vms[0].colour: unknown key 'colour'")


# ---- what a spec stands for ----------------------------------------------------------------------------------------------


def network(vms: str, *subnets: str) -> NetworkSpec:
    cidrs = ["10.0.0.0/8", '"2001:db8::/32"']
    listed = "".join(f"  - {{name: s{i}, cidr: '{cidr}'}}\n" for i, cidr in enumerate(subnets))
    groups = textwrap.indent(vms, "  ")
    return parse_spec(f"name: n\ncidrs: [{', '.join(cidrs)}]\nsubnets:\n{listed}vms:\n{groups}\n")


def addresses(vms: tuple[Vm, ...]) -> dict[str, list[str]]:
    return {vm.name: [str(block) for block in vm.addresses] for vm in vms}


@pytest.mark.parametrize(
    ("vms", "subnet", "want"),
    [
        ("- {name: a, subnet: s0}", "10.0.0.0/24", {"a": ["10.0.0.10"]}),
        ("- {name: a, subnet: s0}\n- {name: b, subnet: s0}", "10.0.0.0/27", {"a": ["10.0.0.10"], "b": ["10.0.0.11"]}),
        ("- {name: a, subnet: s0}", "10.0.0.0/28", {"a": ["10.0.0.4"]}),
        ("- {name: a, subnet: s0}", "10.0.0.8/29", {"a": ["10.0.0.12"]}),
        ("- {name: a, count: 2, subnet: s0}", "10.0.0.4/30", {"a-1": ["10.0.0.5"], "a-2": ["10.0.0.6"]}),
        ("- {name: a, count: 2, subnet: s0}", "10.0.0.4/31", {"a-1": ["10.0.0.4"], "a-2": ["10.0.0.5"]}),
        ("- {name: a, subnet: s0}", "10.0.0.4/32", {"a": ["10.0.0.4"]}),
        ("- {name: a, subnet: s0}", "2001:db8::/64", {"a": ["2001:db8::a"]}),
        ("- {name: a, subnet: s0}\n- {name: b, subnet: s0, addresses: [10.0.0.10, 10.0.0.0/29]}", "10.0.0.0/24",
         {"a": ["10.0.0.11"], "b": ["10.0.0.10", "10.0.0.0/29"]}),
        ("- {name: a, count: 2, subnet: s0}\n- {name: b, subnet: s0, addresses: 10.0.0.11-10.0.0.19}", "10.0.0.0/24",
         {"a-1": ["10.0.0.10"], "a-2": ["10.0.0.20"], "b": ["10.0.0.11-10.0.0.19"]}),
        ("- {name: a, count: 3, subnet: s0, addresses: [10.0.0.9, 10.0.0.2-10.0.0.3]}", "10.0.0.0/24",
         {"a-1": ["10.0.0.9"], "a-2": ["10.0.0.2"], "a-3": ["10.0.0.3"]}),
        ("- {name: a, subnet: s0, addresses: [10.0.0.0/25]}", "10.0.0.0/24", {"a": ["10.0.0.0/25"]}),
    ],
)  # fmt: skip
def test_addresses_are_settled(vms: str, subnet: str, want: dict[str, list[str]]) -> None:
    assert addresses(expand_vms(network(vms, subnet))) == want


def test_a_subnet_that_is_full_raises() -> None:
    spec = network("- {name: a, count: 2, subnet: s0}", "10.0.0.0/30")
    more = spec.model_copy(update={"vms": [spec.vms[0].model_copy(update={"count": 3})]})
    with pytest.raises(ValueError, match="3 VMs, 2 addresses"):
        expand_vms(more)


def test_as_many_vms_as_are_allowed() -> None:
    vms = expand_vms(network(f"- {{name: a, count: {MAX_VMS}, subnet: s0}}", "10.0.0.0/12"))
    assert len(vms) == len({vm.name for vm in vms}) == MAX_VMS
