"""Several workers on the same frames: each packet is exactly one worker's, and all of a remote's are the same one's."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import BRIDGED, IPV4, Frame, batch, ethernet, gre, ip, tcp, udp, vxlan
from tests.thorough import tries

from adumbra.decode.packets import Decoder
from adumbra.decode.share import OwnFrames, Share, share_of
from adumbra.schema.records import Outcome, Packets
from adumbra.schema.sources import Layer

Prefixes = tuple[IPv4Network | IPv6Network, ...]
NETWORK: Prefixes = (ip_network("10.20.0.0/16"), ip_network("10.21.0.0/17"), ip_network("2001:db8::/48"))
MANY: Prefixes = tuple(ip_network(f"10.{n}.{m}.0/24") for n in range(9) for m in (0, 1, 77)) + NETWORK
COLUMNS = [f.name for f in fields(Packets)]


def number(address: str) -> int:
    return int(ip_address(address))


def inside(address: str, prefixes: Prefixes) -> bool:
    return any(ip_address(address) in prefix for prefix in prefixes if prefix.version == ip_address(address).version)


def assign(packets: Packets, prefixes: Prefixes) -> None:
    """-2 for addresses inside the prefixes, as attribution has it."""
    for hi, lo, vm in ((packets.src_hi, packets.src_lo, packets.src_vm), (packets.dst_hi, packets.dst_lo, packets.dst_vm)):
        for i in range(len(packets)):
            version = int(packets.version[i])
            own = packets.outcome[i] == 0 and any(
                p.version == version and int(p[0]) <= int(hi[i]) << 64 | int(lo[i]) <= int(p[-1]) for p in prefixes
            )
            vm[i] = -2 if own else -1


def metered(frames: list[Frame], share: Share | None, layer: Layer, prefixes: Prefixes) -> list[dict[str, int]]:
    decoder, offered = Decoder(share), batch(frames)
    packets = decoder.decode(offered)
    assign(packets, prefixes)
    while decoder.unwrap(offered, packets, layer):
        assign(packets, prefixes)
    return [{name: int(getattr(packets, name)[i]) for name in COLUMNS} for i in range(len(packets))]


v4 = st.sampled_from(
    ["10.20.0.1", "10.20.255.255", "10.21.127.255", "10.21.128.0", "10.19.255.255", "0.0.0.0", "255.255.255.255"]
)
v6 = st.sampled_from(["2001:db8::1", "2001:db8:0:ffff::1", "2001:db8:1::", "::", "ff02::1", "2001:db7:ffff::1"])
anyone = st.one_of(
    st.tuples(v4, v4),
    st.tuples(v6, v6),
    st.tuples(st.ip_addresses(v=4).map(str), v4),
    st.tuples(v4, st.ip_addresses(v=4).map(str)),
)
payloads = st.sampled_from(
    [(6, tcp(1, 2, 2)), (17, udp(1, 53, b"?")), (17, udp(1, 4789, b"?")), (1, bytes(8)), (132, bytes(12))]
)
packets_of_any = st.builds(lambda ends, payload: ip(*ends, *payload), anyone, payloads)
wrappings = st.sampled_from([
    lambda ends, packet: ip(*ends, 17, udp(9, 4789, vxlan(ethernet(packet)))),
    lambda ends, packet: ip(*ends, 17, udp(9, 6081, b"?" + packet)),
    lambda ends, packet: ip(*ends, 47, gre(ethernet(packet), BRIDGED)),
    lambda ends, packet: ip(*ends, 41 if packet[0] >> 4 == 6 else 4, packet),
    lambda ends, packet: ip(*ends, 47, gre(packet[:30], IPV4)),
])  # fmt: skip
tunnelled = st.builds(lambda wrap, ends, packet: wrap(ends, packet), wrappings, anyone, packets_of_any)
doubly = st.builds(lambda wrap, ends, packet: wrap(ends, packet), wrappings, anyone, tunnelled)
raw = st.one_of(packets_of_any, packets_of_any, tunnelled, doubly).map(ethernet)
broken = st.builds(
    lambda data, at, cut, new: bytes([*data[: at % len(data)], new, *data[at % len(data) + 1 :]])[: cut % (2 * len(data))],
    raw, st.integers(0, 200), st.integers(0, 400), st.integers(0, 255),
)  # fmt: skip
frames_of_any = st.lists(st.one_of(raw, raw, broken, st.just(ethernet(bytes(28), 0x0806))), min_size=1, max_size=12)


@settings(max_examples=tries(60, thorough=150), deadline=None)
@given(frames_of_any, st.integers(2, 5), st.sampled_from(Layer), st.sampled_from([NETWORK, MANY, ()]))
def test_each_packet_is_one_workers(datas: list[bytes], workers: int, layer: Layer, prefixes: Prefixes) -> None:
    frames = [Frame(100 + k, data) for k, data in enumerate(datas)]
    whole = metered(frames, None, layer, prefixes)
    parts = [metered(frames, Share(worker, workers, prefixes), layer, prefixes) for worker in range(workers)]
    for i, want in enumerate(whole):
        owners = [worker for worker in range(workers) if parts[worker][i]["outcome"] != Outcome.ELSEWHERE]
        src, dst = (want[f"{end}_hi"] << 64 | want[f"{end}_lo"] for end in ("src", "dst"))
        parsed = want["outcome"] == Outcome.PARSED
        assert owners == [share_of(src, dst, want["version"], prefixes, workers) if parsed else 0]
        assert parts[owners[0]][i] == want
        assert all(part[i]["time_ns"] == want["time_ns"] for part in parts)
        elsewhere = [parts[worker][i] for worker in range(workers) if worker not in owners]
        assert all((row["src_vm"], row["dst_vm"]) == (-1, -1) for row in elsewhere)


@settings(max_examples=tries(60, thorough=150), deadline=None)
@given(frames_of_any, st.lists(st.integers(0, 60), min_size=12, max_size=12), st.integers(2, 4), st.integers(0, 12))
def test_own_frames_remain_and_the_first_of_each_interval(datas: list[bytes], times: list[int], workers: int, cut: int) -> None:
    frames, interval_ns = [Frame(times[k], data) for k, data in enumerate(datas)], 10
    for worker in range(workers):
        share = Share(worker, workers, NETWORK)
        own, taken = OwnFrames(share, interval_ns), []
        for part in (frames[:cut], frames[cut:]):
            kept = own.take(batch(part))
            taken += [(int(kept.time_ns[i]), bytes(kept.data[kept.offset[i] :][: kept.captured[i]])) for i in range(len(kept))]
        newest, wanted = -1, []
        for frame, row in zip(frames, metered(frames, share, Layer.AUTO, NETWORK), strict=True):
            if frame.time_ns // interval_ns > newest or row["outcome"] != Outcome.ELSEWHERE:
                wanted.append((frame.time_ns, frame.data))
            newest = max(newest, frame.time_ns // interval_ns)
        remaining = iter(taken)
        assert all(each in remaining for each in wanted), "one is missing, or out of order"


def test_frames_of_others_go() -> None:
    frames = [Frame(k, ethernet(ip(f"198.18.0.{k}", "10.20.0.1", 6, tcp(1, 2, 2)))) for k in range(1, 101)]
    kept = [len(OwnFrames(Share(worker, 2, NETWORK), 1000).take(batch(frames))) for worker in range(2)]
    assert sum(kept) == 101, "each is one worker's, and the first, with which time begins, is both's"


@settings(max_examples=300, deadline=None)
@given(anyone, st.integers(1, 9), st.sampled_from([NETWORK, MANY]))
def test_what_counts_is_the_remote_end(ends: tuple[str, str], workers: int, prefixes: Prefixes) -> None:
    src, dst = map(number, ends)
    version = ip_address(ends[0]).version
    here = share_of(src, dst, version, prefixes, workers)
    assert here == share_of(dst, src, version, prefixes, workers)
    if inside(ends[0], prefixes) != inside(ends[1], prefixes):
        remote = dst if inside(ends[0], prefixes) else src
        own = number("10.20.3.4" if version == 4 else "2001:db8::3:4")
        assert here == share_of(own, remote, version, prefixes, workers)


def test_the_hash_is_the_one_that_taps_do_in_the_kernel() -> None:
    """Multiplied by the one, shifted by the other: what a tap's fanout and a decoder's share must both do."""
    from adumbra.decode import kernels
    from adumbra.tap import bpf

    assert (kernels.SHARE_FACTOR, kernels.SHARE_SHIFT) == (bpf.SHARE_FACTOR, bpf.SHARE_SHIFT)
    assert share_of(0x01020304, number("10.20.0.1"), 4, NETWORK, 65536) == (0x01020304 * bpf.SHARE_FACTOR % 2**32) >> 16
    src, folded = number("2001:db8:f:1:2:3:4:5"), 0x20010DB8 ^ 0x000F0001 ^ 0x00020003 ^ 0x00040005
    assert share_of(src, number("2001:db8::1"), 6, NETWORK, 65536) == (folded * bpf.SHARE_FACTOR % 2**32) >> 16


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_remotes_spread_evenly(workers: int) -> None:
    own = number("10.20.0.5")
    neighbours = [share_of(number("198.18.0.0") + k, own, 4, NETWORK, workers) for k in range(4096)]
    strangers = [share_of(int(k), own, 4, NETWORK, workers) for k in np.random.default_rng(1).integers(0, 2**32, 4096)]
    for shares in (neighbours, strangers):
        counts = np.bincount(shares, minlength=workers)
        assert counts.min() > 0.9 * 4096 / workers


@pytest.mark.parametrize(("worker", "workers"), [(-1, 2), (2, 2), (0, 0), (0, 65537)])
def test_a_worker_that_is_none_of_them(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match="there is no worker"):
        Share(worker, workers, NETWORK)


def test_one_worker_of_one_takes_all() -> None:
    frames = [Frame(k, ethernet(ip("10.20.0.1", f"192.0.2.{k}", 6, tcp(1, 2, 2)))) for k in range(50)]
    assert metered(frames, Share(0, 1, NETWORK), Layer.AUTO, NETWORK) == metered(frames, None, Layer.AUTO, NETWORK)
