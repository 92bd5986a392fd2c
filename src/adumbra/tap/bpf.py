"""Compiles prefixes into classic BPF programs: which frames a socket takes, and which worker's share each is.

Pure: gives instructions, attaches none. A program is built from its end backwards, as classic BPF only jumps forwards.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from adumbra.schema.addresses import Prefix

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS (linux/bpf_common.h)
MAX_PREFIXES = 65_536
SHARE_FACTOR = 0x9E3779B1  # 2^32 divided by the golden ratio, odd (Knuth, TAOCP 3, 6.4)
SHARE_SHIFT = 16

# linux/bpf_common.h and linux/filter.h
LD_W_ABS, LD_H_ABS, LD_B_ABS, LD_W_IND, LD_H_IND, LD_B_IND, LD_IMM, LD_MEM = 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x00, 0x60
LDX_IMM, LDX_MEM, ST, STX, TAX, RET_K, RET_A = 0x01, 0x61, 0x02, 0x03, 0x07, 0x06, 0x16
ADD_X, MUL_K, AND_K, LSH_K, RSH_K, XOR_X = 0x0C, 0x24, 0x54, 0x64, 0x74, 0xAC
JA, JEQ, JGE, JSET = 0x05, 0x15, 0x35, 0x45
ANCILLARY = 0xFFFFF000  # SKF_AD_OFF
AD_PROTOCOL, AD_PACKET_TYPE = ANCILLARY + 0, ANCILLARY + 4
PACKET_OUTGOING = 4

_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)
_LABELLED = (0x8847, 0x8848, 0x8864)  # MPLS, PPPoE: their IP headers stand where no fixed offset tells
_MAX_TAGS = 3  # in the frame; one more may be in the ring's header only
_TUNNEL_PORTS = (4789, 8472, 6081)  # VXLAN, VXLAN as Linux had it, Geneve
_TUNNEL_PROTOCOLS = (47, 4, 41)  # GRE, IPv4 and IPv6 in IP
_UDP = 17
_HEADERS = ((6, 8, 24, 128), (4, 12, 16, 32))  # IP version, where source and destination stand, their bits


class LinkKind(Enum):
    """What a frame begins with: an Ethernet header, or the IP packet itself (tun, WireGuard)."""

    ETHERNET = 1
    RAW = 101


@dataclass(frozen=True, slots=True)
class Instruction:
    """One classic BPF instruction: struct sock_filter."""

    code: int
    on_true: int
    on_false: int
    value: int


@dataclass(frozen=True, slots=True)
class Program:
    """A classic BPF program. `note` says in words what it doesn't hold exactly, "" where it holds all that was asked."""

    instructions: tuple[Instruction, ...]
    note: str = ""

    def packed(self) -> bytes:
        """As an array of struct sock_filter, in this machine's byte order."""
        return b"".join(struct.pack("=HBBI", i.code, i.on_true, i.on_false, i.value) for i in self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)


class ProgramTooLongError(Exception):
    """The prefixes don't fit into as many instructions."""


def closed_filter() -> Program:
    """Takes nothing."""
    return Program((Instruction(RET_K, 0, 0, 0),))


def compile_filter(
    prefixes: Sequence[Prefix],
    snap_bytes: int,
    link: LinkKind = LinkKind.ETHERNET,
    *,
    tunnels: bool = False,
    most: int = MAX_INSTRUCTIONS,
) -> Program:
    """A filter that takes the first `snap_bytes` of each IP packet from or to one of the prefixes.

    Reads Ethernet with up to three VLAN tags, beside one that is only in the ring's header. Takes whole what it can't read
    at a fixed offset (MPLS, PPPoE, SNAP, more tags), and with `tunnels` also VXLAN, Geneve, GRE and IP in IP between any
    addresses: decoding and attribution tell exactly. Other protocols, such as ARP, are not taken. Where the prefixes need
    more than `most` instructions, the smallest gaps between them are taken too, and `note` says so.
    No prefixes: no packet but tunnels and those that can't be read. Raises ValueError for more than MAX_PREFIXES.
    """
    if len(prefixes) > MAX_PREFIXES:
        raise ValueError(f"{len(prefixes)} prefixes are more than the {MAX_PREFIXES} that a filter is made from")
    exact = wanted = _ranges(prefixes)
    while True:
        try:
            made = _filter(wanted, snap_bytes, link, tunnels=tunnels, most=most)
        except ProgramTooLongError:
            wanted = _widened(wanted)
            continue
        note = ""
        if wanted != exact:
            note = (
                f"the kernel's filter holds the {_count(exact)} ranges of addresses asked for as {_count(wanted)} that "
                "cover them; packets of what lies between are turned away after decoding"
            )
        return Program(made, note)


def compile_fanout(
    prefixes: Sequence[Prefix],
    link: LinkKind = LinkKind.ETHERNET,
    *,
    tunnels: bool = False,
    most: int = MAX_INSTRUCTIONS,
) -> Program:
    """The share of each packet, before the kernel takes it modulo the workers: all packets of one remote have the same.

    With h the address's 32-bit words xored, times SHARE_FACTOR modulo 2^32, right by SHARE_SHIFT: h of the source where only
    the destination is in the prefixes, of the destination where only the source is, of both xored otherwise. What isn't IP
    at a fixed offset is in share 0, and so are, with `tunnels`, tunnels between other addresses, since any remote's packets
    may be in them. Runs where PACKET_FANOUT_CBPF does: a received frame begins at its network header, one that is sent at its
    link header. Where the prefixes don't fit, all packets have the share of both addresses, and `note` says so.
    """
    exact = _ranges(prefixes)
    try:
        return Program(_fanout(exact, link, tunnels=tunnels, most=most))
    except ProgramTooLongError:
        note = (
            f"{_count(exact)} ranges of addresses are too many for the kernel to tell remote addresses by: "
            "the traffic is shared out by pairs of addresses, so that a remote may be seen by several workers"
        )
        return Program(_fanout({4: (), 6: ()}, link, tunnels=tunnels, most=most), note)


# ---- what is looked for --------------------------------------------------------------------------------------------------


Range = tuple[int, int]  # the first and the last address
Ranges = dict[int, tuple[Range, ...]]  # by IP version; in order, none touching the next


def _ranges(prefixes: Sequence[Prefix]) -> Ranges:
    """The fewest ranges of the same addresses."""
    found: dict[int, list[Range]] = {4: [], 6: []}
    for prefix in sorted(prefixes, key=lambda p: (p.version, int(p.network_address))):
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        known = found[prefix.version]
        if known and first <= known[-1][1] + 1:
            known[-1] = (known[-1][0], max(last, known[-1][1]))
        else:
            known.append((first, last))
    return {version: tuple(known) for version, known in found.items()}


def _widened(wanted: Ranges) -> Ranges:
    """The ranges with the smallest quarter of the gaps between them filled, at least one, of each IP version."""
    made = {version: _filled(ranges) for version, ranges in wanted.items()}
    if made == wanted:
        raise ValueError("the filter doesn't fit even with one range of each IP version; allow more instructions")
    return made


def _filled(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    gaps = sorted(range(1, len(ranges)), key=lambda i: ranges[i][0] - ranges[i - 1][1])
    kept = sorted(gaps[max(1, len(gaps) // 4) :])
    begins, ends = [0, *kept], [*kept, len(ranges)]
    return tuple((ranges[i][0], ranges[j - 1][1]) for i, j in zip(begins, ends, strict=True)) if ranges else ()


def _count(wanted: Ranges) -> int:
    return sum(map(len, wanted.values()))


# ---- assembling ----------------------------------------------------------------------------------------------------------


class _Assembler:
    """Instructions from the last to the first. A place is counted from the program's end, so that it never moves.

    Conditional jumps reach 255 instructions; to what lies further they go by a JA behind them, which later ones share.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: list[Instruction] = []  # the last instruction first
        self._nearest: dict[int, int] = {}  # a place -> the nearest place from where it is reached

    def finished(self, start: int) -> tuple[Instruction, ...]:
        self._go_to(start)
        return tuple(reversed(self._made))

    def give(self, code: int, value: int = 0) -> int:
        return self._emit(Instruction(code, 0, 0, value))

    def steps(self, steps: Sequence[tuple[int, int]], then: int) -> int:
        """A straight run of (code, value), after which `then` follows. Gives its place."""
        self._go_to(then)
        for code, value in reversed(steps):
            self._emit(Instruction(code, 0, 0, value))
        return len(self._made) - 1

    def when(self, code: int, value: int, then: int, otherwise: int) -> int:
        """A conditional jump. Gives its place, or that of both ends where they are one."""
        if then == otherwise:
            return then
        if code == JGE and value == 0:
            return then
        for place in (then, otherwise, then):  # a JA for one may push the other out of reach
            if len(self._made) - 1 - self._nearest[place] > 255:
                self._nearest[place] = self._jump(place)
        on_true, on_false = (len(self._made) - 1 - self._nearest[place] for place in (then, otherwise))
        return self._emit(Instruction(code, on_true, on_false, value))

    def cases(self, values: Sequence[int], then: int, otherwise: int) -> int:
        """Goes to `then` where A is one of the values."""
        for value in reversed(values):
            otherwise = self.when(JEQ, value, then, otherwise)
        return otherwise

    def _go_to(self, place: int) -> None:
        if place != len(self._made) - 1:
            self._jump(place)

    def _jump(self, place: int) -> int:
        return self._emit(Instruction(JA, 0, 0, len(self._made) - 1 - place))

    def _emit(self, instruction: Instruction) -> int:
        if len(self._made) >= self._most:
            raise ProgramTooLongError
        self._made.append(instruction)
        place = len(self._made) - 1
        self._nearest[place] = place
        return place


def _search(out: _Assembler, wanted: Sequence[Range], place: tuple[int, int], hit: int, miss: int) -> int:
    """Whether the address at X + place[0], or what is left of it, in place[1] bits, is in one of the ranges.

    Gives the place of the code that finds out: one word at a time, and a lower word only within the few values of the upper
    one where a range begins or ends.
    """
    at, bits = place
    shift, low = bits - 32, (1 << bits - 32) - 1
    if not wanted:
        return miss
    whole: list[tuple[int, int]] = []  # values of this word that are all in a range
    partly: dict[int, list[Range]] = {}
    for first, last in wanted:
        begin, end = first >> shift, last >> shift
        if begin == end and (first & low, last & low) != (0, low):
            partly.setdefault(begin, []).append((first & low, last & low))
            continue
        if first & low:
            partly.setdefault(begin, []).append((first & low, low))
            begin += 1
        if last & low != low:
            partly.setdefault(end, []).append((0, last & low))
            end -= 1
        if begin <= end:
            whole.append((begin, end))
    ends = [(begin, end, hit) for begin, end in whole]
    ends += [(value, value, _search(out, below, (at + 4, shift), hit, miss)) for value, below in partly.items()]
    pieces: list[tuple[int, int]] = [(0, miss)]  # from which value of this word on, what follows
    for begin, end, then in sorted(ends):
        if pieces[-1][0] == begin:
            pieces.pop()
        if not pieces or pieces[-1][1] != then:
            pieces.append((begin, then))
        if end < 0xFFFFFFFF:
            pieces.append((end + 1, miss))
    return out.steps([(LD_W_IND, at)], _halved(out, pieces))


def _halved(out: _Assembler, pieces: list[tuple[int, int]]) -> int:
    """Finds the piece that A lies in by halving: place of the code."""
    if len(pieces) == 1:
        return pieces[0][1]
    if len(pieces) == 3 and pieces[0][1] == pieces[2][1] and pieces[2][0] == pieces[1][0] + 1:
        return out.when(JEQ, pieces[1][0], pieces[1][1], pieces[0][1])
    middle = len(pieces) // 2
    above = _halved(out, pieces[middle:])
    return out.when(JGE, pieces[middle][0], above, _halved(out, pieces[:middle]))


# ---- the filter ----------------------------------------------------------------------------------------------------------


def _filter(wanted: Ranges, snap_bytes: int, link: LinkKind, *, tunnels: bool, most: int) -> tuple[Instruction, ...]:
    out = _Assembler(most)
    take, leave = out.give(RET_K, snap_bytes), out.give(RET_K, 0)
    ends = {}
    for version, source, target, bits in _HEADERS:
        miss = _tunnelled(out, version, take, leave) if tunnels else leave
        second = _search(out, wanted[version], (target, bits), take, miss)
        ends[version] = _search(out, wanted[version], (source, bits), take, second)
    if link is LinkKind.RAW:
        return out.finished(_raw_start(out, ends, leave))
    place = take  # more tags than are looked at
    snap = out.steps([(LD_W_IND, 1)], out.when(JEQ, 0xAA030000, take, leave))  # the SNAP header's inner bytes (RFC 1042)
    for tags in range(_MAX_TAGS, -1, -1):
        rest = out.cases(_LABELLED, take, out.when(JGE, 0x0600, leave, snap))
        kinds = out.cases(_TAGS, place, rest)
        at = 14 + 4 * tags
        kinds = out.when(JEQ, _IPV4, ends[4], out.when(JEQ, _IPV6, ends[6], kinds))
        place = out.steps([(LDX_IMM, at), (LD_H_ABS, at - 2)], kinds)
    return out.finished(place)


def _raw_start(out: _Assembler, ends: dict[int, int], other: int) -> int:
    version = out.when(JEQ, 0x40, ends[4], out.when(JEQ, 0x60, ends[6], other))
    return out.steps([(LDX_IMM, 0), (LD_B_ABS, 0), (AND_K, 0xF0)], version)


def _tunnelled(out: _Assembler, version: int, take: int, leave: int) -> int:
    """Whether the IP packet at X is a tunnel's."""
    port = out.cases(_TUNNEL_PORTS, take, leave)
    if version == 6:
        udp = out.steps([(LD_H_IND, 42)], port)
        return out.steps([(LD_B_IND, 6)], out.cases(_TUNNEL_PROTOCOLS, take, out.when(JEQ, _UDP, udp, leave)))
    read = out.steps([(LD_B_IND, 0), (AND_K, 0x0F), (LSH_K, 2), (ADD_X, 0), (TAX, 0), (LD_H_IND, 2)], port)
    udp = out.steps([(LD_H_IND, 6)], out.when(JSET, 0x1FFF, leave, read))  # a later fragment has no ports
    return out.steps([(LD_B_IND, 9)], out.cases(_TUNNEL_PROTOCOLS, take, out.when(JEQ, _UDP, udp, leave)))


# ---- the shares ----------------------------------------------------------------------------------------------------------

_BASE, _SOURCE_IN, _FOLD = 0, 1, 2  # scratch memory


def _fanout(wanted: Ranges, link: LinkKind, *, tunnels: bool, most: int) -> tuple[Instruction, ...]:
    out = _Assembler(most)
    none = out.give(RET_K, 0)
    spread = out.steps([(LD_MEM, _FOLD), (MUL_K, SHARE_FACTOR), (RSH_K, SHARE_SHIFT)], out.give(RET_A))
    ends = {}
    for version, source, target, bits in _HEADERS:
        sources, targets = range(source, source + bits // 8, 4), range(target, target + bits // 8, 4)
        by_source, by_target = _fold(out, sources, spread), _fold(out, targets, spread)
        by_both = _fold(out, [*sources, *targets], spread)
        foreign = _tunnelled(out, version, none, by_both) if tunnels else by_both
        if not wanted[version]:
            ends[version] = foreign
            continue
        hit = out.steps([(LD_MEM, _SOURCE_IN)], out.when(JEQ, 1, by_both, by_source))
        miss = out.steps([(LD_MEM, _SOURCE_IN)], out.when(JEQ, 1, by_target, foreign))
        second = _search(out, wanted[version], (target, bits), hit, miss)
        inside = out.steps([(LD_IMM, 1), (ST, _SOURCE_IN)], second)
        outside = out.steps([(LD_IMM, 0), (ST, _SOURCE_IN)], second)
        ends[version] = _search(out, wanted[version], (source, bits), inside, outside)
    return out.finished(_fanout_start(out, link, ends, none))


def _fold(out: _Assembler, words: Sequence[int], then: int) -> int:
    """Xors the words at the base + each into scratch memory: place of the code."""
    steps = [(LD_IMM, 0), (ST, _FOLD)]
    for word in words:
        steps += [(LDX_MEM, _BASE), (LD_W_IND, word), (LDX_MEM, _FOLD), (XOR_X, 0), (ST, _FOLD)]
    return out.steps(steps, then)


def _fanout_start(out: _Assembler, link: LinkKind, ends: dict[int, int], none: int) -> int:
    """Finds the IP header: place of the code, which leaves X and the base at it."""
    kept = {version: out.steps([(STX, _BASE)], end) for version, end in ends.items()}
    if link is LinkKind.RAW:
        return _raw_start(out, kept, none)
    received, sent = none, none
    for tags in range(_MAX_TAGS, -1, -1):
        at = 4 * tags
        first = (LD_H_ABS, at - 2) if tags else (LD_W_ABS, AD_PROTOCOL)
        received = out.steps([(LDX_IMM, at), first], _by_ethertype(out, kept, received, none))
        sent = out.steps([(LDX_IMM, at + 14), (LD_H_ABS, at + 12)], _by_ethertype(out, kept, sent, none))
    return out.steps([(LD_W_ABS, AD_PACKET_TYPE)], out.when(JEQ, PACKET_OUTGOING, sent, received))


def _by_ethertype(out: _Assembler, ends: dict[int, int], tagged: int, other: int) -> int:
    return out.when(JEQ, _IPV4, ends[4], out.when(JEQ, _IPV6, ends[6], out.cases(_TAGS, tagged, other)))
