"""Runs real and broken captures through tap, decode and meter, and prints what became of them, as JSON.

Run by itself, so that its kernels can be compiled with NUMBA_BOUNDSCHECK=1: every index beyond an array then raises.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.captures import (
    BRIDGED,
    IPV4,
    IPV6,
    KEY,
    Frame,
    batch,
    corpus,
    erspan,
    ethernet,
    geneve,
    gre,
    ip,
    pcap,
    pcapng,
    tcp,
    udp,
    vxlan,
)  # fmt: skip

from adumbra.decode.packets import LINK_TYPES, Decoder
from adumbra.decode.share import Share
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.schema.errors import SourceError
from adumbra.schema.records import Accounts, Frames, Link
from adumbra.schema.sources import Layer
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.tap.replay import PcapReplay

EVERYWHERE = parse_spec(
    """
name: everywhere
cidrs: [0.0.0.0/0, "::/0"]
subnets: [{name: four, cidr: 0.0.0.0/0}, {name: six, cidr: "::/0"}]
vms:
  - {name: ten, subnet: four, addresses: [10.0.0.0/9]}
  - {name: one, subnet: four, addresses: [10.128.0.1, 10.128.0.2, 127.0.0.1, 192.168.1.1]}
  - {name: home, subnet: four, addresses: [192.168.2.0-192.168.255.255]}
  - {name: rest, subnet: four, addresses: [172.16.0.0/12, 141.81.0.0/16]}
  - {name: link, subnet: six, addresses: ["fe80::/10"]}
  - {name: docs, subnet: six, addresses: ["2001:db8::/33", "2001:db8:8000::1"]}
"""
)
VMS = expand_vms(EVERYWHERE)
SETTINGS = MeterSettings(max_connections=1, max_notes=1)


def balance(accounts: Accounts, offered: int) -> str:
    """What doesn't add up in the accounts of that many frames; "" where all does."""
    if not accounts.offered == offered == sum(accounts.outcomes.values()):
        return f"{offered} offered, {accounts}"
    if accounts.parsed != accounts.attributed + accounts.foreign + accounts.unclaimed:
        return f"parsed is not the sum of its parts: {accounts}"
    return ""


def through(frames: Iterable[Frames], layer: Layer = Layer.AUTO, share: Share | None = None) -> tuple[int, str]:
    """Decodes and meters all frames: how many there were, and what doesn't add up."""
    meter, attribution, decoder = (
        Meter(len(VMS), EVERYWHERE.interval_ns, SETTINGS),
        Attribution(EVERYWHERE, VMS),
        Decoder(share),
    )
    offered, begins = 0, []
    for one in frames:
        offered += len(one)
        packets = attribution.assign(decoder.decode(one))
        while decoder.unwrap(one, packets, layer):
            attribution.assign(packets)
        for closed in meter.add(packets):
            begins += [int(closed.start_ns[0]), int(closed.start_ns[-1])]
    for closed in meter.finish():
        begins += [int(closed.start_ns[0]), int(closed.start_ns[-1])]
    wrong = balance(meter.accounts(), offered)
    return offered, wrong or ("" if begins == sorted(begins) else "intervals out of order")


def captures() -> list[dict[str, Any]]:
    """Every capture of the corpora, in every layer: its name, frames, what ended it early, and what doesn't add up."""
    rows = []
    for path in corpus():
        wrongs = []
        for layer in Layer:
            with PcapReplay(path) as source:
                offered, wrong = through(source, layer)
                ended = source.losses().ended
                wrongs.append(wrong)
        rows.append({"name": path.name, "frames": offered, "ended": ended, "wrong": "".join(wrongs)})
    return rows


def whole_frames() -> list[Frame]:
    """Frames of every kind that are right, to be broken."""
    segment, datagram = tcp(40000, 80, 24, 7, 8, b"hello", b"\1" * 12), udp(53, 9, b"answer")
    four, six, padding = "10.128.0.1", "fe80::1", bytes([1, 4, 0, 0, 0, 0])
    extended = bytes([60, 0]) + padding + bytes([44, 0]) + padding + bytes([17, 0, 0, 1, 0, 0, 0, 1]) + datagram
    packets = [
        ip("198.18.0.1", four, 6, segment), ip(four, "198.18.0.1", 17, datagram), ip(six, "2001:db8::1", 6, segment),
        ip("2001:db8::2", six, 0, extended), ip("127.0.0.1", "127.0.0.1", 1, bytes(8)), ip(four, four, 132, bytes(20)),
        ip(six, six, 51, bytes([6, 4]) + bytes(22) + segment),
    ]  # fmt: skip
    heads = {
        1: bytes.fromhex("020000000002020000000001810000010800"), 0: b"\2\0\0\0", 108: b"\0\0\0\2", 113: bytes(14) + b"\x08\0",
        276: b"\x08\0" + bytes(18), Link.VXLAN: vxlan(ethernet(b"", IPV4)), Link.GENEVE: geneve(b"", IPV4, bytes(8)),
        Link.GRE: gre(b"", IPV6),
    }  # fmt: skip
    wrapped = [Frame(0, ethernet(packet)) for packet in packets]
    for kind, head in ((0x8847, b"\0\1\1\x40"), (0x8864, b"\x11\0\0\1\0\x40\0\x21"), (60, bytes.fromhex("aaaa030000000800"))):
        wrapped += [Frame(0, ethernet(head + packet, kind)) for packet in packets]
    for link in LINK_TYPES:
        wrapped += [Frame(0, heads.get(link, b"") + packet, link=link) for packet in packets]
    foreign = "203.0.113.9", "203.0.113.8"
    for packet in packets:
        frame, kind = ethernet(packet), IPV6 if packet[0] >> 4 == 6 else IPV4
        for protocol, payload in (
            (17, udp(9, 4789, vxlan(frame))), (17, udp(9, 8472, vxlan(packet, flags=12, named=1 if kind == IPV4 else 2))),
            (17, udp(9, 6081, geneve(packet, kind, bytes(12)))), (47, gre(packet, kind, KEY)), (47, gre(frame, BRIDGED)),
            (47, erspan(frame, 1)), (47, erspan(frame, 2)), (47, erspan(frame, 3, optional=True)), (4, packet), (41, packet),
            (17, udp(9, 6081, geneve(ip(*foreign, 17, udp(9, 4789, vxlan(frame))), IPV4))),
        ):  # fmt: skip
            wrapped.append(Frame(0, ethernet(ip(*foreign, protocol, payload))))
    return wrapped


def broken(chance: random.Random, frames: list[Frame]) -> Frame:
    """One of the frames with bytes changed, cut off, doubled or put in, at any time, of any link type."""
    frame = chance.choice(frames)
    data = bytearray(frame.data)
    for _ in range(chance.choice([0, 1, 1, 2, 5, 20])):
        if data:
            data[chance.randrange(len(data))] = chance.choice(
                [0, 1, 0x40, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF, chance.randrange(256)]
            )
    act = chance.choice(["", "", "cut", "double", "insert"])
    if act == "cut":
        del data[chance.randrange(len(data) + 1) :]
    elif act == "double":
        data += data[chance.randrange(len(data) + 1) :]
    elif act == "insert":
        at = chance.randrange(len(data) + 1)
        data[at:at] = chance.randbytes(chance.randrange(20))
    link = frame.link if chance.random() < 0.9 else chance.choice([*LINK_TYPES, 105, 65535])
    begin_ns = 1_700_000_000 * 10**9
    time_ns = begin_ns + chance.randrange(10**13) if chance.random() < 0.999 else chance.choice([0, 1 << 62])
    length = chance.choice([None, len(data) + chance.randrange(3000), 70_000, 1 << 31])
    return Frame(time_ns, bytes(data), length, link)


def mutations(seed: int, count: int) -> dict[str, Any]:
    """Many broken frames, decoded and metered in batches, a thousand to a meter, in any layer; by one worker or several."""
    chance, frames = random.Random(seed), whole_frames()
    told, wrongs = 0, set()
    for _ in range(0, count, 1000):
        made = sorted((broken(chance, frames) for _ in range(1000)), key=lambda f: f.time_ns + chance.randrange(2 * 10**10))
        step = chance.choice([1, 7, 100, 1000])
        share = Share(chance.randrange(3), 3, tuple(EVERYWHERE.cidrs)) if chance.random() < 0.5 else None
        batches = (batch(made[at : at + step]) for at in range(0, 1000, step))
        offered, wrong = through(batches, chance.choice(list(Layer)), share)
        told += offered
        wrongs.add(wrong)
    return {"frames": told, "wrong": sorted(wrongs)}


def damaged_files(seed: int, count: int, folder: Path) -> dict[str, int]:
    """Whole capture files with bytes changed: they end early or are refused, and never fail otherwise."""
    chance, frames = random.Random(seed), whole_frames()
    in_files = [frame for frame in frames if frame.link < 1 << 16]
    told = {"read": 0, "ended": 0, "refused": 0}
    path = folder / "damaged"
    for _ in range(count):
        some = [broken(chance, in_files) for _ in range(chance.randrange(1, 12))]
        some = [Frame(f.time_ns % (1 << 32) * 1000, f.data, f.wire % (1 << 32), some[0].link % (1 << 16)) for f in some]
        order, kind = chance.choice("<>"), chance.choice(["us", "ns", "modified", "pcapng"])
        content = bytearray(pcapng(some, order) if kind == "pcapng" else pcap(some, kind, order, some[0].link))
        for _ in range(chance.choice([0, 1, 3, 10])):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        path.write_bytes(content)
        try:
            with PcapReplay(path) as source:
                _, wrong = through(source)
                assert not wrong, wrong
                told["ended" if source.losses().ended else "read"] += 1
        except SourceError:
            told["refused"] += 1
    return told


def main(folder: Path) -> None:
    told = {"captures": captures(), "mutations": mutations(11, 30_000), "files": damaged_files(12, 400, folder)}
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
