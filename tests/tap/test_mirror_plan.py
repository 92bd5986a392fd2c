"""The planner of mirrors: its u32 rules, gone through as the kernel does, take each packet once; loops are refused."""

from __future__ import annotations

import ipaddress
import json
import struct
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.schema.addresses import parse_prefix
from adumbra.schema.errors import AdumbraError, ConflictError, InputError
from adumbra.schema.live import LivePort
from adumbra.schema.mirrors import (
    LOOPBACK,
    Classifier,
    Clsact,
    Device,
    Earlier,
    HandOver,
    Hook,
    HostState,
    Method,
    MirrorPlan,
    MirrorSpec,
    NftTable,
    OvsMirror,
    Place,
    Rule,
    Scope,
    VethPair,
)
from adumbra.tap.mirrors import nft, u32
from adumbra.tap.mirrors.picks import merged, minus, picks_of
from adumbra.tap.mirrors.plan import MAX_DEVICE_NAME, Others, choose_method, make_plan, sink_plan

HERE = Place("boot", "4:1")
ETH0 = Device("eth0", 2, mac="02:00:00:00:00:02")
TAP0, TAP1 = Device("tap0", 3, "veth", lower="tap1"), Device("tap1", 4, "veth", lower="tap0")
HOST = HostState((Device("lo", 1, link_type=LOOPBACK), ETH0, TAP0, TAP1))
SPEC = MirrorSpec("shop", 7, "eth0", None, Method.TC, ("10.20.0.0/16", "192.168.7.0/24", "2001:db8:20::/48"))
PICKS = picks_of(SPEC)


def planned(spec: MirrorSpec = SPEC, host: HostState = HOST, others: Others | None = None) -> MirrorPlan:
    return make_plan(spec, host, HERE, others or Others(), Random(1))


@st.composite
def prefixes(draw: st.DrawFn, version: int) -> list[str]:
    bits, network = (32, ipaddress.IPv4Network) if version == 4 else (128, ipaddress.IPv6Network)
    made = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(0, bits))
        # few distinct leading bits, so that prefixes lie in each other and beside each other
        number = draw(st.sampled_from([0, 5, 10, 255])) << (bits - 8) | draw(st.integers(0, 3)) << (
            bits - length if length else 0
        )
        made.append(str(network((number & ((1 << bits) - 1), length), strict=False)))
    return list(merged(map(parse_prefix, made)))


def edges(own: list[str], bits: int) -> list[int]:
    """Addresses at and beside the ends of the prefixes."""
    found = set()
    for prefix in map(parse_prefix, own):
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        found |= {first, last, max(first - 1, 0), min(last + 1, (1 << bits) - 1)}
    return sorted(found)


def mirrored(rules: tuple[Rule, ...], packet: bytes) -> int:
    """How often a packet is mirrored, as net/sched/cls_u32.c goes through rules that say "continue"."""

    def walk(table: int) -> int:
        total = 0
        for rule in sorted((rule for rule in rules if rule.table == table), key=lambda rule: rule.node):
            words = ((struct.unpack_from(">I", packet, offset)[0] ^ value) & mask for value, mask, offset in rule.keys)
            if not any(words):
                total += walk(rule.link) if rule.link else 1
        return total

    return walk(0)


def ip_packet(version: int, source: int, destination: int) -> bytes:
    if version == 4:
        return struct.pack(">BBHHHBBHII", 0x45, 0, 28, 0, 0, 64, 17, 0, source, destination) + bytes(40)
    head = struct.pack(">IHBB", 6 << 28, 8, 17, 64)
    return head + source.to_bytes(16, "big") + destination.to_bytes(16, "big") + bytes(40)


@given(st.sampled_from([4, 6]), st.data())
def test_rules_take_each_packet_of_the_network_once_and_no_other(version: int, data: st.DataObject) -> None:
    own = data.draw(prefixes(version))
    bits = 32 if version == 4 else 128
    address = st.sampled_from(edges(own, bits)) | st.integers(0, (1 << bits) - 1)
    source, destination = data.draw(address), data.draw(address)
    picks = [pick for pick in picks_of(replace(SPEC, prefixes=tuple(own))) if pick.hook is Hook.INGRESS]
    rules = u32.rules_for(u32.Shape(version, 0, ()), picks, count(1), 1)
    ours = any(
        ipaddress.ip_address(n.to_bytes(bits // 8, "big")) in parse_prefix(p) for n in (source, destination) for p in own
    )
    assert mirrored(rules, ip_packet(version, source, destination)) == int(ours)


@given(st.sampled_from([4, 6]), st.data())
def test_the_complement_is_all_the_rest(version: int, data: st.DataObject) -> None:
    own = [parse_prefix(p) for p in data.draw(prefixes(version))]
    rest = u32.complement(own, version)
    assert sum(p.num_addresses for p in (*own, *rest)) == 1 << (32 if version == 4 else 128)
    assert not any(a.overlaps(b) for a in own for b in rest)


VMS = {"web": ("10.20.1.10/31",), "db": ("10.20.2.10/32",), "far": ("10.20.3.0/28",), "six": ("2001:db8:20:1::10/127",)}
MEMBERS = merged(parse_prefix(text) for own in VMS.values() for text in own)
INTERESTING = [
    "10.20.1.9", "10.20.1.10", "10.20.1.11", "10.20.1.255", "10.20.2.10", "10.20.3.7", "10.20.9.9", "192.168.7.9", "8.8.8.8",
    "255.255.255.255", "224.0.0.251", "2001:db8:20:1::10", "2001:db8:20:1::11", "2001:db8:20::1", "2001:db8:99::1", "ff02::1",
]  # fmt: skip


def takes(rules: dict[tuple[Hook, int], tuple[Rule, ...]], hook: Hook, source: str, destination: str) -> int:
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    return mirrored(rules.get((hook, a.version), ()), ip_packet(a.version, int(a), int(b)))


def rules_of(spec: MirrorSpec) -> dict[tuple[Hook, int], tuple[Rule, ...]]:
    steps = [step for step in planned(spec).steps if isinstance(step, Classifier)]
    return {(s.hook, {u32.ETH_IPV4: 4, u32.ETH_IPV6: 6}.get(s.protocol, 0)): s.rules for s in steps}


def as_port(vm: str) -> MirrorSpec:
    return replace(SPEC, prefixes=VMS[vm], to_device="tap0", scope=Scope.PORT, vm=vm, members=MEMBERS)


PORTED = ("web", "db", "six")
PORTS = {vm: rules_of(as_port(vm)) for vm in PORTED}
BESIDE = rules_of(replace(SPEC, members=MEMBERS, left=merged(parse_prefix(p) for vm in PORTED for p in VMS[vm])))


@pytest.mark.parametrize("version", [4, 6])
def test_ports_and_the_device_beside_them_take_each_packet_once(version: int) -> None:
    """Whatever bridges it crosses: out of the sender's port, by the outer device, and into every port if it is flooded."""
    addresses = [text for text in INTERESTING if ipaddress.ip_address(text).version == version]
    for source in addresses:
        for destination in addresses:
            if source == destination:
                continue
            taken = sum(takes(rules, Hook.EGRESS, source, destination) for rules in PORTS.values())
            taken += sum(takes(rules, Hook.INGRESS, source, destination) for vm, rules in PORTS.items() if owns(vm, source))
            beside = takes(BESIDE, Hook.INGRESS, source, destination)
            ours = any(ipaddress.ip_address(end) in parse_prefix(p) for end in (source, destination) for p in SPEC.prefixes)
            assert taken + beside == int(ours), (source, destination, taken, beside)
            assert beside == takes(BESIDE, Hook.EGRESS, source, destination)
            assert not beside or not any(owns(vm, destination) for vm in PORTED)


def owns(vm: str, address: str) -> bool:
    return any(ipaddress.ip_address(address) in parse_prefix(p) for p in VMS[vm])


def test_a_vm_that_routes_for_others_copies_nothing_of_theirs() -> None:
    for hook in Hook:
        assert not takes(PORTS["db"], hook, "8.8.8.8", "10.20.1.10")
        assert not takes(PORTS["db"], hook, "10.20.1.10", "8.8.8.8")


@given(prefixes(4), prefixes(4), st.integers(0, (1 << 32) - 1))
def test_what_is_left_of_prefixes_is_exactly_that(own: list[str], others: list[str], number: int) -> None:
    left = minus(own, others)
    for address in (number, *edges(own, 32), *edges(others, 32)):
        inside = [any(ipaddress.ip_address(address) in parse_prefix(p) for p in each) for each in (own, others, left)]
        assert inside[2] is (inside[0] and not inside[1])


def test_open_vswitch_is_no_way_to_mirror_a_port() -> None:
    with pytest.raises(InputError, match="copied twice; use --method tc"):
        planned(replace(as_port("db"), method=Method.OVS), replace(HOST, bridge="br0"))


def test_nftables_take_the_same_by_sets() -> None:
    made = planned(replace(as_port("db"), method=Method.NFT)).steps[-1]
    assert isinstance(made, NftTable)
    rules = [act["add"]["rule"] for act in nft.commands(made, "eth0") if "rule" in act.get("add", {})]
    told = [(r["chain"], [(e["match"]["left"]["payload"]["field"], e["match"]["op"]) for e in r["expr"][:-2]]) for r in rules]
    assert told == [("ingress", [("saddr", "=="), ("daddr", "!=")]), ("egress", [("daddr", "==")])]


def test_a_plan_of_before_there_were_scopes_is_read() -> None:
    for method in Method:
        plan = planned(replace(SPEC, method=method), replace(HOST, bridge="br0"))
        old = json.loads(json.dumps(plan.to_dict()))
        del old["hand_over"]
        for key in ("scope", "vm", "members", "left"):
            del old["spec"][key]
        for step in old["steps"]:
            step.pop("picks", None)
        assert MirrorPlan.from_dict(old) == plan


def test_the_plan_of_a_sink_survives_being_written_down() -> None:
    pair = VethPair("adm7b", "adm7a", "02:ad:0:0:0:1", "02:ad:0:0:0:2", 65535, "adumbra:shop")
    earlier = (Earlier(SPEC, pair, "live:adm7a"), Earlier(replace(SPEC, to_device="tap0"), None, "live:tap1"))
    kept = HandOver((LivePort("web-1", "vnet0"),), earlier)
    sink = replace(SPEC, from_device="", scope=Scope.SINK, prefixes=())
    plan = sink_plan(sink, HOST, HERE, kept, Random(1))
    assert (plan.sink, plan.observe, plan.steps) == ("adm7b", "live:adm7a", (pair,))
    assert MirrorPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    own = sink_plan(replace(sink, to_device="tap0"), HOST, HERE, kept, Random(1))
    assert (own.sink, own.observe, own.steps) == ("tap0", "live:tap1", (pair,))


@pytest.mark.parametrize("protocol", [u32.ETH_VLAN, u32.ETH_QINQ])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", [b"", b"\x00\x05", b"\x60\x05", b"\xe0\x64"])
def test_tagged_packets_are_taken_once(protocol: int, version: int, tag: bytes) -> None:
    """With the tag beside the packet, or one (more) in front of it."""
    own = {4: "10.20.0.0/16", 6: "2001:db8:20::/48"}[version]
    inside, outside = int(parse_prefix(own).network_address) + 9, 9
    classifiers = [
        s for s in planned().steps if isinstance(s, Classifier) and s.protocol == protocol and s.hook is Hook.INGRESS
    ]
    in_front = tag + struct.pack(">H", {4: u32.ETH_IPV4, 6: u32.ETH_IPV6}[version]) if tag else b""
    for source, destination, want in (
        (outside, inside, 1),
        (inside, outside, 1),
        (inside, inside + 1, 1),
        (outside, outside, 0),
    ):
        assert mirrored(classifiers[0].rules, in_front + ip_packet(version, source, destination)) == want


taken = st.frozensets(st.integers(1, 300) | st.integers(0xBF00, 0xFFFF), max_size=40)


@given(taken, st.frozensets(st.integers(1, 60) | st.integers(0x800, 0x810), max_size=50), st.integers(0, 3), st.booleans())
def test_nothing_that_stands_is_named_in_a_plan(
    priorities: frozenset[int], tables: frozenset[int], names: int, has_clsact: bool
) -> None:
    there = tuple(Device(f"adm7{'' if n == 0 else f'x{n}'}{'ab'[n % 2]}", 10 + n) for n in range(names))
    host = replace(
        HOST, devices=HOST.devices + there, qdisc="clsact" if has_clsact else "", priorities=priorities, hash_tables=tables,
        nft_tables=frozenset({"adumbra_shop"}), bridge="br0", ovs_mirrors=frozenset({"adumbra-shop"}),
    )  # fmt: skip
    plan = planned(host=host)
    classifiers = [step for step in plan.steps if isinstance(step, Classifier)]
    ours = [step.priority for step in classifiers]
    assert len(set(ours)) == len(ours)
    assert not priorities & set(ours)
    assert all(1 < each < 0xC000 for each in ours)
    own_tables = [table for step in classifiers for table in step.tables]
    assert len(set(own_tables)) == len(own_tables)
    assert not tables & set(own_tables)
    assert all(0 < each < 0x800 for each in own_tables)
    for step in classifiers:
        assert {rule.table for rule in step.rules} | {rule.link for rule in step.rules} == {0, *step.tables}
        assert len({(rule.table, rule.node) for rule in step.rules}) == len(step.rules)
        assert all(0 < rule.node <= u32.MAX_NODES for rule in step.rules)
    assert any(isinstance(step, Clsact) for step in plan.steps) is not has_clsact
    pair = plan.steps[0]
    assert isinstance(pair, VethPair)
    assert not {pair.inner, pair.outer} & {device.name for device in host.devices}
    assert max(len(pair.inner), len(pair.outer)) <= MAX_DEVICE_NAME
    for method, kind, taken_name in ((Method.NFT, NftTable, "adumbra_shop"), (Method.OVS, OvsMirror, "adumbra-shop")):
        step = planned(replace(SPEC, method=method), host).steps[-1]
        assert isinstance(step, kind)
        assert step.name != taken_name


@pytest.mark.parametrize("method", list(Method))
def test_a_plan_survives_being_written_down(method: Method) -> None:
    plan = planned(replace(SPEC, method=method), replace(HOST, bridge="br0"))
    assert MirrorPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_filters_come_before_those_of_others_where_there_is_room() -> None:
    def first(priorities: set[int]) -> tuple[int, bool]:
        plan = planned(host=replace(HOST, qdisc="clsact", priorities=frozenset(priorities)))
        return min(step.priority for step in plan.steps if isinstance(step, Classifier)), bool(plan.notes)

    assert first(set()) == (100, False)
    assert first({49152}) == (100, False)
    assert first({50}) == (42, False)
    assert first({1, 20}) == (2, True)
    assert first({5, 20}) == (6, True)


def test_only_one_direction_of_loopback_is_mirrored() -> None:
    """Each packet over lo goes out of it and comes in by it."""
    plan = planned(replace(SPEC, from_device="lo"))
    assert {step.hook for step in plan.steps if isinstance(step, Classifier)} == {Hook.INGRESS}


TUNNEL = Device("vx0", 9, "vxlan", lower="eth0", remote="198.51.100.9")
REFUSED = [
    ({"from_device": "eth9"}, (), "there is no device 'eth9'; there are: lo, eth0, tap0, tap1", InputError),
    ({"to_device": "eth9"}, (), "--to: there is no device 'eth9'", InputError),
    ({"to_device": "eth0"}, (), "from eth0 to itself", InputError),
    ({"from_device": "tap0", "to_device": "tap1"}, (), "crosses tap0 again", InputError),
    ({"to_device": "v5"}, (Device("v5", 9, "vlan", lower="eth0"),), "crosses eth0 again", InputError),
    ({"to_device": "vx0"}, (replace(TUNNEL, remote="10.20.0.9"),), "in the network itself", InputError),
    ({"to_device": "tun0"}, (Device("tun0", 9, "tun", link_type=65534),), "can't carry Ethernet frames", InputError),
    ({"from_device": "tun0"}, (Device("tun0", 9, "tun", link_type=65534),), "adumbra observe shop live:tun0", InputError),
    ({"to_device": "p1"}, (Device("p1", 9, master="br0"), Device("br0", 10, "bridge")), "a port of br0", InputError),
]


@pytest.mark.parametrize(("asked", "more", "told", "kind"), REFUSED)
def test_loops_and_nonsense_are_refused(
    asked: dict[str, str], more: tuple[Device, ...], told: str, kind: type[AdumbraError]
) -> None:
    with pytest.raises(kind, match=told):
        planned(replace(SPEC, **asked), replace(HOST, devices=HOST.devices + more))


def test_mirrors_in_a_ring_are_refused() -> None:
    """tap1 is mirrored already: what is sent into tap0 comes out of it."""
    with pytest.raises(ConflictError, match="crosses tap1, which is mirrored itself"):
        planned(replace(SPEC, to_device="tap0"), others=Others((("tap1", "elsewhere"),)))
    with pytest.raises(ConflictError, match="where the mirror of eth0 ends"):
        planned(replace(SPEC, from_device="tap1"), others=Others((("eth0", "tap0"),)))


@pytest.mark.parametrize(("to", "observe"), [(None, "live:adm7a"), ("tap0", "live:tap1"), ("vx0", ""), ("d0", "live:d0")])
def test_it_is_told_where_the_copies_come_out(to: str | None, observe: str) -> None:
    host = replace(HOST, devices=(*HOST.devices, TUNNEL, Device("d0", 10, "dummy")))
    assert planned(replace(SPEC, to_device=to), host).observe == observe


def test_the_method_follows_from_the_host_and_from_how_much_there_is() -> None:
    many = tuple(f"10.{n}.{m}.0/25" for n in range(0, 200, 2) for m in range(0, 200, 2))
    assert choose_method(None, HOST, PICKS) is Method.TC
    assert choose_method(None, HOST, picks_of(replace(SPEC, prefixes=many))) is Method.NFT
    assert choose_method(None, replace(HOST, qdisc="ingress"), PICKS) is Method.NFT
    for wanted, host, told in (
        (Method.NFT, replace(HOST, methods=frozenset({Method.TC})), "install nftables"),
        (Method.OVS, HOST, "a port of a bridge"),
        (None, replace(HOST, methods=frozenset()), "nothing to mirror with"),
    ):
        with pytest.raises(InputError, match=told):
            choose_method(wanted, host, PICKS)
    with pytest.raises(InputError, match="use --method nft"):
        planned(replace(SPEC, prefixes=many))
    with pytest.raises(ConflictError, match="use --method nft"):
        planned(host=replace(HOST, qdisc="ingress"))


def test_a_rule_reads_back_from_the_bytes_that_made_it() -> None:
    cookie = bytes(range(16)).hex()
    rule = Rule(5, 3, ((0x0A140000, 0xFFFF0000, 16), (0x40000000, 0xF0000000, 0)))
    found = u32.read_options(5 << 20 | 3, u32.rule_options(rule, 9, cookie))
    assert found == u32.Found(5, 3, frozenset(rule.keys), 0, 9, alone=True, cookie=cookie, packets=0, bytes=0)
    link = u32.read_options(0x80000001, u32.rule_options(Rule(0, 1, rule.keys, link=5), 9, cookie))
    assert link is not None
    assert (link.link, link.sink, link.alone) == (5, 0, False)
    assert u32.read_options(5 << 20, u32.table_options()) is None


@given(st.binary(max_size=200))
def test_any_bytes_of_a_filter_are_read_without_harm(noise: bytes) -> None:
    u32.read_options(1, noise)


def test_everything_is_a_prefix_too() -> None:
    """0.0.0.0/0 leaves no rest: one rule takes all, in u32 as in nftables, whose sets can't hold it."""
    plan = planned(replace(SPEC, prefixes=("0.0.0.0/0",)))
    rules = next(step for step in plan.steps if isinstance(step, Classifier)).rules
    assert rules == (Rule(0, 1, ()),)
    table = planned(replace(SPEC, prefixes=("0.0.0.0/0",), method=Method.NFT)).steps[-1]
    assert isinstance(table, NftTable)
    made = nft.commands(table, "eth0")
    assert [kind for each in made for act in each.values() for kind in act] == ["table", "chain", "rule", "chain", "rule"]
