"""Filters and shares as classic BPF: the kernel, libpcap and a machine of our own agree with plain address arithmetic."""

from __future__ import annotations

import ctypes.util
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import IPV4, IPV6, SYN, Frame, batch, ip, tcp, udp
from tests.tap.bpf_machine import Kernel, Libpcap, run

from adumbra.decode.packets import Decoder
from adumbra.decode.share import share_of
from adumbra.schema.records import Outcome
from adumbra.tap import bpf
from adumbra.tap.bpf import LinkKind, compile_fanout, compile_filter

Prefix = IPv4Network | IPv6Network
SNAP = 384
SHOP = [ip_network("10.20.0.0/16"), ip_network("192.168.7.0/24"), ip_network("2001:db8:20::/48")]
IN4, OUT4, DONOR4, IN6, OUT6 = "10.20.1.10", "198.51.100.7", "192.168.7.3", "2001:db8:20::5", "2001:db8:21::5"
MACS = bytes.fromhex("020000000002020000000001")


def framed(packet: bytes, *tags: int) -> bytes:
    kind = IPV4 if packet[0] >> 4 == 4 else IPV6
    return MACS + b"".join(struct.pack("!HH", tag, 7) for tag in tags) + struct.pack("!H", kind) + packet


def packet(src: str, dst: str) -> bytes:
    return ip(src, dst, 6, tcp(40000, 80, SYN))


ARP = MACS + bytes.fromhex("0806000108000604000102000000000a") + ip_address(IN4).packed * 2
SPANNING_TREE = MACS + bytes.fromhex("0026424203") + bytes(35)
SNAP_IP = MACS + struct.pack("!H", 60) + bytes.fromhex("aaaa030000000800") + packet(IN4, OUT4)
MPLS = MACS + bytes.fromhex("8847000011ff") + packet(IN4, OUT4)
PPPOE = MACS + bytes.fromhex("8864110000010030") + bytes.fromhex("0021") + packet(IN4, OUT4)


@pytest.mark.parametrize(
    ("frame", "taken"),
    [
        (framed(packet(OUT4, IN4)), True),
        (framed(packet(IN4, OUT4)), True),
        (framed(packet(DONOR4, OUT4)), True),
        (framed(packet(OUT4, OUT4)), False),
        (framed(packet("10.19.255.255", "10.21.0.0")), False),
        (framed(packet("10.20.0.0", OUT4)), True),
        (framed(packet(OUT4, "10.20.255.255")), True),
        (framed(packet(OUT6, IN6)), True),
        (framed(packet(IN6, OUT6)), True),
        (framed(packet(OUT6, OUT6)), False),
        (framed(packet(IN4, OUT4), 0x8100), True),
        (framed(packet(OUT4, OUT4), 0x8100), False),
        (framed(packet(OUT4, IN4), 0x88A8, 0x8100), True),
        (framed(packet(OUT6, IN6), 0x88A8, 0x8100), True),
        (framed(packet(OUT6, OUT6), 0x88A8, 0x8100), False),
        (framed(packet(OUT4, IN4), 0x9100, 0x8100, 0x8100), True),
        (framed(packet(OUT4, OUT4), 0x8100, 0x8100, 0x8100, 0x8100), True),  # deeper than is read: taken, told apart later
        (ARP, False),
        (SPANNING_TREE, False),
        (SNAP_IP, True),
        (MPLS, True),
        (PPPOE, True),
        (MACS, False),
        (framed(packet(OUT4, IN4))[:30], False),
        (framed(packet(OUT4, IN4))[:34], True),
    ],
)
def test_what_a_networks_filter_takes(frame: bytes, taken: bool) -> None:
    program = compile_filter(SHOP, SNAP)
    assert run(program, frame) == (SNAP if taken else 0)
    with Kernel(program) as kernel:
        assert kernel.run(frame + bytes(600)) in ((SNAP,) if taken else (0,)) or len(frame) < 34  # and cut to the snap length


@pytest.mark.parametrize(
    ("protocol", "payload", "taken"),
    [
        (17, udp(5000, 4789, bytes(60)), True),
        (17, udp(5000, 8472, bytes(60)), True),
        (17, udp(5000, 6081, bytes(60)), True),
        (17, udp(4789, 5000, bytes(60)), False),
        (17, udp(5000, 53, bytes(60)), False),
        (47, bytes(60), True),
        (4, packet(IN4, OUT4), True),
        (41, packet(IN6, OUT6), True),
        (6, tcp(40000, 80, SYN), False),
    ],
)
@pytest.mark.parametrize(("src", "dst"), [(OUT4, "203.0.113.9"), (OUT6, "2001:db8:99::1")])
def test_tunnels_between_other_addresses_are_taken_when_wanted(
    src: str, dst: str, protocol: int, payload: bytes, taken: bool
) -> None:
    frame = framed(ip(src, dst, protocol, payload), 0x8100)
    assert run(compile_filter(SHOP, SNAP, tunnels=True), frame) == (SNAP if taken else 0)
    assert run(compile_filter(SHOP, SNAP, tunnels=False), frame) == 0


def test_a_tunnels_later_fragments_and_ip_options_do_not_mislead() -> None:
    program = compile_filter(SHOP, SNAP, tunnels=True)
    whole = bytearray(ip(OUT4, "203.0.113.9", 17, udp(5000, 4789, bytes(40))))
    later = whole.copy()
    later[6:8] = b"\x00\xb9"
    assert run(program, framed(bytes(later))) == 0
    options = bytearray(ip(OUT4, "203.0.113.9", 17, b"\x94\x04\x00\x00" + udp(5000, 4789, bytes(40))))
    options[0] = 0x46
    assert run(program, framed(bytes(options))) == SNAP


@pytest.mark.parametrize(
    ("frame", "taken"),
    [
        (packet(OUT4, IN4), True), (packet(IN6, OUT6), True), (packet(OUT4, OUT4), False), (b"\x00" * 40, False), (b"", False),
    ],
)  # fmt: skip
def test_interfaces_without_a_link_header(frame: bytes, taken: bool) -> None:
    assert run(compile_filter(SHOP, SNAP, LinkKind.RAW), frame) == (SNAP if taken else 0)


# ---- any prefixes --------------------------------------------------------------------------------------------------------


@st.composite
def prefixes(draw: st.DrawFn, most: int = 40) -> list[Prefix]:
    """Prefixes of all lengths, many near each other, nested and adjacent."""
    found: list[Prefix] = []
    near = draw(st.integers(0, 2**128 - 1))
    for _ in range(draw(st.integers(0, most))):
        bits = draw(st.sampled_from([32, 128]))
        length = draw(st.integers(0, bits) | st.sampled_from([bits, bits // 2, 24, 32]))
        free = draw(st.integers(0, 2**bits - 1) | st.integers(0, 2**9).map(lambda n, b=bits: (near % 2**b) ^ n))
        made = ip_network((free, length), strict=False) if bits == 32 else IPv6Network((free, length), strict=False)
        found.append(made)
    return found


def edges(wanted: Sequence[Prefix], version: int) -> list[int]:
    """Addresses on and just beside where the prefixes begin and end."""
    top = 2 ** (32 if version == 4 else 128) - 1
    found = {0, top, 0x0A000001}
    for p in wanted:
        if p.version == version:
            first, last = int(p.network_address), int(p.broadcast_address)
            found |= {max(first - 1, 0), first, first + 1 & top, last, min(last + 1, top), first ^ 1 << 31}
    return sorted(found)


def inside(number: int, version: int, wanted: Sequence[Prefix]) -> bool:
    return any(p.version == version and int(p.network_address) <= number <= int(p.broadcast_address) for p in wanted)


@dataclass(frozen=True)
class Pair:
    version: int
    src: int
    dst: int

    def frame(self, tags: Sequence[int] = ()) -> bytes:
        width = 4 if self.version == 4 else 16
        made = bytearray(40 + 20)
        made[0] = self.version << 4 | 5
        at = 12 if self.version == 4 else 8
        made[at : at + 2 * width] = self.src.to_bytes(width, "big") + self.dst.to_bytes(width, "big")
        return framed(bytes(made), *tags)


def pairs(wanted: Sequence[Prefix], rng: random.Random, count: int) -> list[Pair]:
    found = []
    for version in (4, 6):
        ends = edges(wanted, version)
        found += [Pair(version, rng.choice(ends), rng.choice(ends)) for _ in range(count)]
    return found


@settings(max_examples=150, deadline=None)
@given(prefixes(), st.randoms(use_true_random=False), st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=2))
def test_any_prefixes_take_exactly_their_packets(wanted: list[Prefix], rng: random.Random, tags: list[int]) -> None:
    program = compile_filter(wanted, SNAP)
    assert program.note == ""
    with Kernel(program) as kernel:
        for pair in pairs(wanted, rng, 20):
            want = inside(pair.src, pair.version, wanted) or inside(pair.dst, pair.version, wanted)
            frame = pair.frame(tags)
            assert run(program, frame) == (SNAP if want else 0), pair
            assert kernel.run(frame) == (len(frame) if want else 0), pair


@pytest.mark.skipif(ctypes.util.find_library("pcap") is None, reason="needs libpcap")
@settings(max_examples=50, deadline=None)
@given(prefixes(), st.randoms(use_true_random=False))
def test_libpcap_reads_the_program_alike(wanted: list[Prefix], rng: random.Random) -> None:
    program = compile_filter(wanted, SNAP, tunnels=True)
    machine = Libpcap(program)
    for pair in pairs(wanted, rng, 20):
        assert machine.run(pair.frame([0x8100])) == min(run(program, pair.frame([0x8100])), len(pair.frame([0x8100])))


def many(count: int, seed: int = 1) -> list[Prefix]:
    rng = random.Random(seed)
    found: list[Prefix] = [IPv4Network((rng.getrandbits(24) << 8, 24)) for _ in range(count - count // 4)]
    found += [IPv6Network((0x20010DB8 << 96 | rng.getrandbits(32) << 64, 64)) for _ in range(count // 4)]
    return found


def test_hundreds_of_prefixes_are_held_exactly() -> None:
    wanted, rng = many(600), random.Random(2)
    program, shares = compile_filter(wanted, SNAP, tunnels=True), compile_fanout(wanted, tunnels=True)
    assert (program.note, shares.note) == ("", "")
    with Kernel(program) as kernel:
        for pair in pairs(wanted, rng, 500):
            want = inside(pair.src, pair.version, wanted) or inside(pair.dst, pair.version, wanted)
            assert (kernel.run(pair.frame()) > 0) == want


@pytest.mark.parametrize(("count", "most"), [(3000, 4096), (400, 300), (40, 130)])
def test_too_many_prefixes_are_covered_by_fewer_and_it_is_said(count: int, most: int) -> None:
    wanted, rng = many(count), random.Random(3)
    program = compile_filter(wanted, SNAP, tunnels=True, most=most)
    assert len(program) <= most
    assert "ranges of addresses asked for as" in program.note
    with Kernel(program) as kernel:
        for pair in pairs(wanted, rng, 300):
            if inside(pair.src, pair.version, wanted) or inside(pair.dst, pair.version, wanted):
                assert kernel.run(pair.frame()) > 0
        foreign = [Pair(4, rng.getrandbits(32), rng.getrandbits(32)) for _ in range(500)]
        assert sum(kernel.run(pair.frame()) > 0 for pair in foreign) < 495  # it still filters


def test_what_cannot_be_compiled_says_so() -> None:
    with pytest.raises(ValueError, match="allow more instructions"):
        compile_filter(SHOP, SNAP, most=20)
    with pytest.raises(ValueError, match="65536"):
        compile_filter([SHOP[0]] * 70_000, SNAP)
    assert run(bpf.closed_filter(), framed(packet(IN4, OUT4))) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=90), min_size=1, max_size=20), prefixes(6), st.integers(0, 3), st.integers(0, 2**32))
def test_no_packet_that_decoding_finds_in_the_network_is_turned_away(
    tails: list[bytes], wanted: list[Prefix], tags: int, seed: int
) -> None:
    """Random bytes behind plausible headers: what the decoder reads as a packet of the network, the filter takes."""
    rng = random.Random(seed)
    frames = []
    for tail in tails:
        kinds = [0x0800, 0x86DD, 0x8847, 0x8864, 0x0806, 0x0030, 0x8100]
        head = MACS + b"".join(struct.pack("!HH", 0x8100, 1) for _ in range(tags)) + struct.pack("!H", rng.choice(kinds))
        pair = rng.choice(pairs(wanted, rng, 4))
        mid = rng.choice([b"", pair.frame()[14:], bytes.fromhex("aaaa030000000800") + pair.frame()[14:], b"\x00\x00\x11\xff"])
        frames.append(head + mid + tail)
    rows = Decoder().decode(batch([Frame(1, frame) for frame in frames]))
    program = compile_filter(wanted, SNAP)
    for i, frame in enumerate(frames):
        if rows.outcome[i] == Outcome.PARSED:
            version = int(rows.version[i])
            src, dst = (int(hi[i]) << 64 | int(lo[i]) for hi, lo in ((rows.src_hi, rows.src_lo), (rows.dst_hi, rows.dst_lo)))
            if inside(src, version, wanted) or inside(dst, version, wanted):
                assert run(program, frame) == SNAP, frame.hex()


# ---- shares --------------------------------------------------------------------------------------------------------------


def shares(program: bpf.Program, frame: bytes, workers: int) -> set[int]:
    """The worker of a frame in each way that the kernel shows it: received (from the network header on), sent (whole)."""
    kind = struct.unpack("!H", frame[12:14])[0]
    seen = {run(program, frame, {4: 4, 0: kind}), run(program, frame[14:], {4: 3, 0: kind})}
    if kind in (0x8100, 0x88A8):  # received, the outermost tag stands in the header only
        seen.add(run(program, frame[18:], {4: 0, 0: struct.unpack("!H", frame[16:18])[0]}))
    return {share % workers for share in seen}


@settings(max_examples=100, deadline=None)
@given(
    prefixes(12), st.randoms(use_true_random=False), st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=2), st.integers(2, 9)
)
def test_a_packets_share_is_its_remotes(wanted: list[Prefix], rng: random.Random, tags: list[int], workers: int) -> None:
    program = compile_fanout(wanted)
    for pair in pairs(wanted, rng, 20):
        want = share_of(pair.src, pair.dst, pair.version, wanted, workers)
        back = Pair(pair.version, pair.dst, pair.src)
        assert shares(program, pair.frame(tags), workers) == shares(program, back.frame(tags), workers) == {want}


def test_shares_without_a_link_header_and_of_other_protocols() -> None:
    program = compile_fanout(SHOP, LinkKind.RAW)
    want = share_of(int(ip_address(OUT4)), int(ip_address(IN4)), 4, SHOP, 7)
    assert run(program, packet(OUT4, IN4)) % 7 == want == run(compile_fanout(SHOP), packet(OUT4, IN4), {0: IPV4, 4: 0}) % 7
    assert run(compile_fanout(SHOP), ARP[14:], {0: 0x0806, 4: 1}) == 0


def test_tunnels_between_other_addresses_are_one_share() -> None:
    program = compile_fanout(SHOP, tunnels=True)
    mirrored = framed(ip(OUT4, "203.0.113.9", 17, udp(5000, 4789, bytes(60))))
    assert shares(program, mirrored, 1 << 16) == {0}
    plain = framed(ip(OUT4, "203.0.113.9", 17, udp(5000, 53, bytes(60))))
    assert shares(program, plain, 1 << 16) == {
        share_of(int(ip_address(OUT4)), int(ip_address("203.0.113.9")), 4, SHOP, 1 << 16)
    }


def test_prefixes_that_do_not_fit_are_shared_out_by_pairs() -> None:
    wanted = many(3000)
    program = compile_fanout(wanted)
    assert "pairs of addresses" in program.note
    pair = Pair(4, int(wanted[0].network_address), 0x0A000001)
    assert len(shares(program, pair.frame(), 16) | shares(program, Pair(4, pair.dst, pair.src).frame(), 16)) == 1


def test_many_remotes_are_spread_evenly() -> None:
    program, counts = compile_fanout(SHOP), [0] * 4
    for n in range(4000):
        frame = Pair(4, 0xC6120000 + n, int(ip_address(IN4))).frame()
        counts[run(program, frame[14:], {0: IPV4, 4: 0}) % 4] += 1
    assert max(counts) < 1.2 * min(counts)
