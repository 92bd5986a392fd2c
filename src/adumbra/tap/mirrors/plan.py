"""Plans a mirror: refuses what would loop or can't work, and names every priority, handle, table and device. Pure.

Reads what stands from a HostState; touches nothing and asks nobody.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from itertools import count
from random import Random

from adumbra.schema.addresses import parse_prefix
from adumbra.schema.errors import ConflictError, InputError
from adumbra.schema.mirrors import (
    LOOPBACK,
    Classifier,
    Clsact,
    Device,
    DeviceRef,
    HandOver,
    Hook,
    HostState,
    Method,
    MirrorPlan,
    MirrorSpec,
    MirrorStep,
    NftTable,
    OvsMirror,
    Pick,
    Place,
    Rule,
    Scope,
    VethPair,
)
from adumbra.tap.mirrors import u32
from adumbra.tap.mirrors.picks import picks_of

MAX_TC_RULES = 8192
MAX_DEVICE_NAME = 15
_SINK_MTU = 65535
_FIRST_PRIORITY = 100
_LAST_PRIORITY = 0xBFFF  # the kernel gives out those from 0xC000 itself
_LAST_TABLE = 0x7FF  # the kernel gives out those from 0x800 itself
_TUNNELS = frozenset(
    {"vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "ip6erspan", "ipip", "sit", "ip6tnl"}
)
_VLANS = (u32.ETH_VLAN, u32.ETH_QINQ)
_TAGGED_SHAPES = 2  # of an IP version, under the ethertype of a tag
_DEVICES_SHOWN = 20
_METHODS = {
    Method.TC: "tc: clsact, u32 and mirred in the kernel",
    Method.NFT: "nft: install nftables",
    Method.OVS: "ovs: install and start Open vSwitch, and make the device a port of a bridge",
}


@dataclass(frozen=True, slots=True)
class Others:
    """The mirrors that are there already: device to the sink that it is mirrored to, and whose clsact is ours. `pair`: devices
    that were made for this very mirror, and stand.
    """

    sinks: tuple[tuple[str, str], ...] = ()
    clsact: frozenset[str] = frozenset()
    pair: VethPair | None = None


@dataclass(frozen=True, slots=True)
class _Copying:
    """From which device, which packets, to which one; `token` marks what is made for it."""

    source: Device
    sink: str
    token: str
    picks: tuple[Pick, ...]

    @property
    def hooks(self) -> tuple[Hook, ...]:
        return tuple(hook for hook in Hook if any(pick.hook is hook for pick in self.picks))


def choose_method(wanted: Method | None, host: HostState, picks: tuple[Pick, ...]) -> Method:
    """The method asked for, or the first that this host has the means for: tc, unless the prefixes are too many; nft; ovs.

    Raises InputError where there is none.
    """
    if wanted is not None:
        if wanted not in host.methods or (wanted is Method.OVS and not host.bridge):
            raise InputError(f"this host can't mirror by {wanted.value} here", f"needed is {_METHODS[wanted]}")
        return wanted
    if Method.TC in host.methods and host.qdisc != "ingress" and _tc_rules(picks) <= MAX_TC_RULES:
        return Method.TC
    if Method.NFT in host.methods:
        return Method.NFT
    if Method.OVS in host.methods and host.bridge:
        return Method.OVS
    raise InputError("this host has nothing to mirror with", f"give it one of these: {'; '.join(_METHODS.values())}")


def make_plan(spec: MirrorSpec, host: HostState, place: Place, others: Others, rng: Random) -> MirrorPlan:
    """The steps that make the mirror on this host as it is. Raises InputError or ConflictError saying what to do instead."""
    source = _device(host, spec.from_device, "--from")
    check(spec, host, others)
    token = rng.randbytes(8).hex()
    steps: list[MirrorStep] = []
    notes: list[str] = []
    if spec.to_device is None:
        pair = others.pair or make_pair(spec, host, rng)
        steps.append(pair)
        sink, observe = pair.inner, f"live:{pair.outer}"
    else:
        sink, observe = spec.to_device, _observed(_device(host, spec.to_device, "--to"))
    picks = tuple(p for p in picks_of(spec) if source.link_type != LOOPBACK or p.hook is Hook.INGRESS)
    copying = _Copying(source, sink, token, picks)
    match spec.method:
        case Method.TC:
            steps += _tc(spec, host, copying, others)
            notes += _behind(host, steps)
        case Method.NFT:
            steps.append(_nft(spec, host, copying))
        case Method.OVS:
            steps.append(_ovs(spec, host, copying))
            notes.append(f"Open vSwitch copies all that crosses {source.name}; the tap picks out what is the network's")
    return MirrorPlan(spec, place, sink, observe, tuple(steps), tuple(notes))


def sink_plan(spec: MirrorSpec, host: HostState, place: Place, kept: HandOver, rng: Random) -> MirrorPlan:
    """The plan that holds the device to which the copies of a network's ports are sent: `to_device`, or the pair of the first
    of the mirrors that stood before, or a new pair. The pairs of all of them stay, for whoever observes them.
    """
    pairs = [each.pair for each in kept.earlier if each.pair is not None]
    if spec.to_device is not None:
        observe = _observed(_device(host, spec.to_device, "--to"))
        return MirrorPlan(spec, place, spec.to_device, observe, tuple(pairs), hand_over=kept)
    if not pairs:
        pairs = [make_pair(spec, host, rng)]
    return MirrorPlan(spec, place, pairs[0].inner, f"live:{pairs[0].outer}", tuple(pairs), hand_over=kept)


def check(spec: MirrorSpec, host: HostState, others: Others) -> None:
    """Refuses a mirror that would feed on its own copies, or whose frames would have no sense. Raises as make_plan does."""
    source = _device(host, spec.from_device, "--from")
    if spec.method is not Method.OVS and not source.has_ethernet:
        raise InputError(
            f"{source.name} carries no Ethernet frames, and its copies could not be told from noise",
            f"observe it itself: `adumbra observe {spec.network} live:{source.name}`",
        )
    mirrored = dict(others.sinks)
    if spec.to_device is None:
        for device, end in mirrored.items():
            if source.name in _reach(host, end):
                raise ConflictError(
                    f"{source.name} is where the mirror of {device} ends", f"mirror {device} itself, or another device"
                )
        return
    sink = _device(host, spec.to_device, "--to")
    elsewhere = "give another device, or leave --to out and one is made"
    if sink.name == source.name:
        raise InputError(f"a mirror from {source.name} to itself would never end", elsewhere)
    if not sink.has_ethernet:
        raise InputError(f"{sink.name} can't carry Ethernet frames", elsewhere)
    if sink.master and sink.master != host.bridge:
        raise InputError(
            f"{sink.name} is a port of {sink.master}, which would spread the copies as if they were sent", elsewhere
        )
    reached = _reach(host, sink.name)
    if source.name in reached:
        raise InputError(f"what is sent to {sink.name} crosses {source.name} again, and would be mirrored for ever", elsewhere)
    for device, _ in sorted(mirrored.items()):
        if device in reached and device != source.name:
            raise ConflictError(f"what is sent to {sink.name} crosses {device}, which is mirrored itself", elsewhere)
    _check_tunnel(spec, sink)


def _check_tunnel(spec: MirrorSpec, sink: Device) -> None:
    if not sink.remote:
        return
    remote = ipaddress.ip_address(sink.remote)
    if any(remote in parse_prefix(prefix) for prefix in (*spec.prefixes, *spec.members)):
        raise InputError(
            f"the tunnel {sink.name} leads to {remote}, which is in the network itself: its packets would be mirrored too",
            "end the tunnel at an address outside the network's CIDRs and donors",
        )


def _reach(host: HostState, name: str) -> frozenset[str]:
    """The devices that a packet sent to this one comes by: what lies below it, a veth's other end, and its bridge."""
    reached: set[str] = set()
    ahead = [name]
    while ahead:
        device = host.device(ahead.pop())
        if device is None or device.name in reached:
            continue
        reached.add(device.name)
        if device.lower and device.kind not in _TUNNELS:
            ahead.append(device.lower)
        if device.kind == "veth" and device.lower:
            other = host.device(device.lower)
            ahead += [other.master] if other and other.master else []
    return frozenset(reached)


def _device(host: HostState, name: str, option: str) -> Device:
    device = host.device(name)
    if device is None:
        known = [each.name for each in host.devices]
        more = f" and {len(known) - _DEVICES_SHOWN} more" if len(known) > _DEVICES_SHOWN else ""
        raise InputError(
            f"{option}: there is no device {name[:40]!r}", f"there are: {', '.join(known[:_DEVICES_SHOWN]) or 'none'}{more}"
        )
    return device


def _observed(sink: Device) -> str:
    """The source to observe where the copies were sent to a device of the user's."""
    if sink.kind in _TUNNELS:
        return ""
    return f"live:{sink.lower}" if sink.kind == "veth" and sink.lower else f"live:{sink.name}"


def make_pair(spec: MirrorSpec, host: HostState, rng: Random) -> VethPair:
    """A pair of devices with names that nobody has. Raises InputError where none is left."""
    taken = {device.name for device in host.devices}
    number = 0
    while True:
        stem = f"adm{spec.network_id}" + (f"x{number}" if number else "")
        outer, inner = f"{stem}a", f"{stem}b"
        if not taken & {outer, inner}:
            break
        number += 1
    if len(outer) > MAX_DEVICE_NAME:
        raise InputError("no name is left for a device of the mirror's own", "make a device yourself and give it with --to")
    macs = [":".join(f"{octet:02x}" for octet in b"\x02\xad" + rng.randbytes(4)) for _ in range(2)]
    return VethPair(inner, outer, macs[0], macs[1], _SINK_MTU, f"adumbra:{spec.network}")


def _ref(device: Device) -> DeviceRef:
    return DeviceRef(device.name, device.index, device.mac)


def _tc(spec: MirrorSpec, host: HostState, copying: _Copying, others: Others) -> list[MirrorStep]:
    source = copying.source
    if host.qdisc == "ingress":
        raise ConflictError(
            f"{source.name} has an ingress qdisc of someone else's, beside which there is no room for clsact",
            "use --method nft",
        )
    if _tc_rules(copying.picks) > MAX_TC_RULES:
        raise InputError(f"{len(spec.prefixes)} prefixes need too many u32 rules", "use --method nft, whose sets hold them all")
    steps: list[MirrorStep] = []
    ours = source.name in others.clsact
    if not host.qdisc or ours:
        steps.append(Clsact(_ref(source), shared=bool(host.qdisc)))
    protocols = _protocols(copying.picks, tagged=spec.scope is Scope.DEVICE)
    priorities = iter(_free_priorities(host.priorities, len(protocols) * len(copying.hooks)))
    tables = iter(sorted(frozenset(range(1, _LAST_TABLE + 1)) - host.hash_tables))
    for hook in copying.hooks:
        for protocol in protocols:
            rules: list[Rule] = []
            for shape in u32.shapes(protocol):
                first = 1 + sum(1 for rule in rules if rule.table == 0)
                try:
                    rules += u32.rules_for(shape, [pick for pick in copying.picks if pick.hook is hook], tables, first)
                except StopIteration:
                    raise ConflictError(f"{source.name} has no u32 hash table left", "use --method nft") from None
            if not rules:
                continue
            own = tuple(sorted({rule.table for rule in rules} - {0}))
            cookie = _cookie(copying.token)
            steps.append(Classifier(_ref(source), hook, protocol, next(priorities), copying.sink, cookie, own, tuple(rules)))
    return steps


def _protocols(picks: tuple[Pick, ...], *, tagged: bool) -> list[int]:
    """The ethertypes under which the picks' packets come; `tagged` where VLANs may cross the device."""
    versions = {parse_prefix(prefix).version for pick in picks for prefix in pick.prefixes}
    return [p for p, version in ((u32.ETH_IPV4, 4), (u32.ETH_IPV6, 6)) if version in versions] + list(_VLANS if tagged else ())


def _cookie(token: str) -> str:
    """What marks our filters: 16 bytes, as many as an action's cookie holds. "adumbra\\0" and the mirror's own token."""
    return b"adumbra\0".hex() + token


def _tc_rules(picks: tuple[Pick, ...]) -> int:
    """How many u32 rules the picks need, tagged frames too; MAX_TC_RULES + 1 where they don't fit a table."""
    total = 0
    for hook in Hook:
        own = [pick for pick in picks if pick.hook is hook]
        root = 0
        for version in (4, 6):
            rules = u32.rules_for(u32.Shape(version, 0, ()), own, count(1), 1)
            tables = Counter(rule.table for rule in rules)
            root += _TAGGED_SHAPES * tables.pop(0, 0)
            if max([root, *tables.values()]) > u32.MAX_NODES:
                return MAX_TC_RULES + 1
            total += (1 + _TAGGED_SHAPES * len(_VLANS)) * len(rules)
    return total


def _free_priorities(taken: frozenset[int], count: int) -> range:
    """The priorities of our filters, in one row: before those of others where there is room, for they may drop packets.

    No two directions share one, as u32 would then show the one's rules among the other's.
    """
    first = _FIRST_PRIORITY
    if taken and min(taken) < first + count:
        first = min(taken) - count
    if first < 2:  # a filter that is added without a priority gets the first one's less 1, and 0 is none
        first = next((at for at in range(2, _LAST_PRIORITY) if not taken & set(range(at, at + count))), 0)
    if not first:
        raise ConflictError("no priorities are left for filters", "use --method nft")
    return range(first, first + count)


def _behind(host: HostState, steps: list[MirrorStep]) -> list[str]:
    ours = [step.priority for step in steps if isinstance(step, Classifier)]
    before = sorted(each for each in host.priorities if each < min(ours))
    if not before:
        return []
    return [f"filters of others stand before ours (priority {before[0]}): what they drop or redirect is not mirrored"]


def _nft(spec: MirrorSpec, host: HostState, copying: _Copying) -> NftTable:
    stem = f"adumbra_{spec.network.replace('-', '_')}"
    name = next(
        name for name in (stem, *(f"{stem}_{n}" for n in range(2, 2 + len(host.nft_tables)))) if name not in host.nft_tables
    )
    picks = () if spec.scope is Scope.DEVICE and not spec.left else copying.picks
    owner = f"adumbra {copying.token}"
    return NftTable(name, _ref(copying.source), copying.sink, copying.hooks, spec.prefixes, owner, picks)


def _ovs(spec: MirrorSpec, host: HostState, copying: _Copying) -> OvsMirror:
    if spec.scope is Scope.PORT or spec.left:
        raise InputError(
            f"Open vSwitch copies all that crosses {spec.from_device}, and packets would be copied twice", "use --method tc"
        )
    if not host.bridge:
        raise InputError(f"{spec.from_device} is no port of an Open vSwitch bridge", "use --method tc or --method nft")
    stem = f"adumbra-{spec.network}"
    name = next(
        name for name in (stem, *(f"{stem}-{n}" for n in range(2, 2 + len(host.ovs_mirrors)))) if name not in host.ovs_mirrors
    )
    return OvsMirror(host.bridge, name, spec.from_device, copying.sink, copying.sink not in host.bridge_ports, copying.token)
