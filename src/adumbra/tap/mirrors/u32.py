"""The u32 rules that pick a network's packets, and their form in netlink messages. Pure: no sockets.

Each packet is mirrored once at most, and the filters behind ours always see it too: a rule that mirrored says "continue".
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from adumbra.schema.addresses import Prefix, parse_prefix
from adumbra.schema.mirrors import End, Pick, Rule

ETH_IPV4, ETH_IPV6, ETH_VLAN, ETH_QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
MAX_NODES = 0xFFE
"""Rules that one hash table can hold: node numbers have 12 bits (linux/pkt_cls.h), the last is the kernel's to give."""

_SOURCE, _DESTINATION = {4: 12, 6: 8}, {4: 16, 6: 24}
_ETHERTYPE = {4: ETH_IPV4, 6: ETH_IPV6}
_TAG_BYTES = 4
_TERMINAL = 1
_CONTINUE, _EGRESS_MIRROR = -1, 2
_HASH, _LINK, _DIVISOR, _SEL, _ACT = 2, 3, 4, 5, 7
_ACT_KIND, _ACT_OPTIONS, _ACT_STATS, _ACT_COOKIE = 1, 2, 4, 6
_MIRRED_PARMS, _STATS_BASIC, _STATS_PKT64 = 2, 1, 8
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_SELECTOR, _KEY, _MIRRED = struct.Struct("=BBBx2sHhh4s"), struct.Struct(">II"), struct.Struct("=IIiiiiI")

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """A form in which IP packets lie behind the network header: IP version, offset in bytes, and what tells the form."""

    version: int
    offset: int
    guard: tuple[Key, ...]


def shapes(protocol: int) -> tuple[Shape, ...]:
    """The forms of frames that the kernel hands out under an ethertype.

    The outer VLAN tag is in the packet's metadata, so that IP follows at once, or an inner tag does; an outer tag that is
    still in the frame looks like that too. Two tags behind the first are not looked behind.
    """
    if protocol in _ETHERTYPE.values():
        return (Shape(4 if protocol == ETH_IPV4 else 6, 0, ()),)
    at_once = tuple(Shape(version, 0, ((version << 28, 0xF0000000, 0),)) for version in (4, 6))
    behind_tag = tuple(
        Shape(version, _TAG_BYTES, ((_ETHERTYPE[version], 0xFFFF, 0), (version << 28, 0xF0000000, _TAG_BYTES)))
        for version in (4, 6)
    )
    return at_once + behind_tag


def rules_for(shape: Shape, picks: Sequence[Pick], tables: Iterator[int], first_node: int) -> tuple[Rule, ...]:
    """Rules that take the packets of each pick. Raises StopIteration where `tables` has too few numbers.

    Root rules are numbered from `first_node`, those of a table from 1. u32 can't negate, so "unless" is spelt out in a table of
    its own: the prefixes that make up the rest of the address space. Rules of tables come first.
    """
    behind: list[Rule] = []
    root: list[Rule] = []
    for pick in picks:
        near, far = (_DESTINATION, _SOURCE) if pick.end is End.TO else (_SOURCE, _DESTINATION)
        unless = _of_version(pick.unless, shape.version)
        rest = complement(unless, shape.version)
        if not rest:
            continue
        link = 0
        own = _of_version(pick.prefixes, shape.version)
        if unless and own:
            link = next(tables)
            behind += [Rule(link, node, keys(far[shape.version] + shape.offset, p)) for node, p in enumerate(rest, 1)]
        for prefix in own:
            condition = shape.guard + keys(near[shape.version] + shape.offset, prefix)
            root.append(Rule(0, first_node + len(root), condition, link))
    return (*behind, *root)


def _of_version(prefixes: Sequence[str], version: int) -> list[Prefix]:
    found = (prefix for prefix in map(parse_prefix, prefixes) if prefix.version == version)
    return list(ipaddress.collapse_addresses(found))  # type: ignore[type-var]


def keys(offset: int, prefix: Prefix) -> tuple[Key, ...]:
    """What a prefix asks of the words of an address at an offset. Words of which it asks nothing are left out."""
    words = prefix.max_prefixlen // 32
    value, mask = int(prefix.network_address), int(prefix.netmask)
    found = (
        ((value >> shift) & 0xFFFFFFFF, (mask >> shift) & 0xFFFFFFFF, offset + 4 * n)
        for n, shift in enumerate(range(32 * (words - 1), -1, -32))
    )
    return tuple(key for key in found if key[1])


def complement(prefixes: Iterable[Prefix], version: int) -> tuple[Prefix, ...]:
    """The fewest prefixes that cover all addresses but those of the given ones, which are of that version."""
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    end = (1 << (32 if version == 4 else 128)) - 1
    rest: list[Prefix] = []
    at = 0
    for prefix in sorted(prefixes, key=lambda p: int(p.network_address)):
        first = int(prefix.network_address)
        if first > at:
            rest += ipaddress.summarize_address_range(make(at), make(first - 1))
        at = max(at, int(prefix.broadcast_address) + 1)
    if at <= end:
        rest += ipaddress.summarize_address_range(make(at), make(end))
    return tuple(rest)


@dataclass(frozen=True, slots=True)
class Found:
    """A u32 node as the kernel tells it. `table` is its hash table's full number; `sink` the index of the device that it
    mirrors to (0: it mirrors to none), `alone` whether that is all it does, and for later filters to go on from.
    """

    table: int
    node: int
    keys: frozenset[Key]
    link: int
    sink: int
    alone: bool
    cookie: str
    packets: int
    bytes: int


def table_options() -> bytes:
    """The options of a request for a hash table with one bucket."""
    return _attribute(_DIVISOR, struct.pack("=I", 1))


def rule_options(rule: Rule, sink: int, cookie: str) -> bytes:
    """The options of a request for a rule that mirrors to the device with index `sink`, marked by `cookie` (hex)."""
    flags = 0 if rule.link else _TERMINAL
    selector = _SELECTOR.pack(flags, 0, len(rule.keys), b"\0\0", 0, 0, 0, b"\0\0\0\0")
    selector += b"".join(_KEY.pack(mask, value) + struct.pack("=ii", offset, 0) for value, mask, offset in rule.keys)
    options = _attribute(_HASH, struct.pack("=I", rule.table << 20)) if rule.table else b""
    options += _attribute(_SEL, selector)
    if rule.link:
        return options + _attribute(_LINK, struct.pack("=I", rule.link << 20))
    parameters = _attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _CONTINUE, 0, 0, _EGRESS_MIRROR, sink))
    action = _attribute(_ACT_KIND, b"mirred\0") + _attribute(_ACT_OPTIONS | _NESTED, parameters)
    action += _attribute(_ACT_COOKIE, bytes.fromhex(cookie))
    return options + _attribute(_ACT | _NESTED, _attribute(1 | _NESTED, action))


def read_options(handle: int, options: bytes) -> Found | None:
    """What the kernel tells of a u32 node; None where the handle is that of a hash table."""
    if not handle & 0xFFF:
        return None
    values = dict(attributes(options))
    selector = values.get(_SEL, b"")
    found = []
    for at in range(_SELECTOR.size, len(selector) - 15, 16):
        mask, value = _KEY.unpack_from(selector, at)
        found.append((value, mask, struct.unpack_from("=i", selector, at + 8)[0]))
    link = struct.unpack("=I", values[_LINK])[0] >> 20 if _LINK in values else 0
    actions = [dict(attributes(body)) for _, body in attributes(values.get(_ACT, b""))]
    sink, alone, cookie, packets, count = _mirrors(actions)
    return Found(handle >> 20, handle & 0xFFF, frozenset(found), link, sink, alone, cookie, packets, count)


def _mirrors(actions: list[dict[int, bytes]]) -> tuple[int, bool, str, int, int]:
    if not actions or actions[0].get(_ACT_KIND, b"").rstrip(b"\0") != b"mirred":
        return 0, False, "", 0, 0
    action = actions[0]
    parameters = dict(attributes(action.get(_ACT_OPTIONS, b""))).get(_MIRRED_PARMS, b"")
    if len(parameters) < _MIRRED.size:
        return 0, False, "", 0, 0
    _, _, control, _, _, what, sink = _MIRRED.unpack_from(parameters)
    counts = dict(attributes(action.get(_ACT_STATS, b"")))
    size, packets = struct.unpack_from("=QI", counts.get(_STATS_BASIC, bytes(12)))
    if len(counts.get(_STATS_PKT64, b"")) == 8:
        packets = struct.unpack("=Q", counts[_STATS_PKT64])[0]
    alone = len(actions) == 1 and control == _CONTINUE and what == _EGRESS_MIRROR
    return sink, alone, action.get(_ACT_COOKIE, b"").hex(), packets, size


def _attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute: length, type, value, padded to 4 bytes."""
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The netlink attributes in `data`: type and value."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3
