"""Writes captures for tests: pcap and pcapng from their blocks up, packets from their headers up. Reads them back by replay."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from adumbra.schema.records import Frames, Losses
from adumbra.tap.replay import PcapReplay

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
IPV4, IPV6 = 0x0800, 0x86DD
NO_MORE = struct.pack("<HH", 0, 0)


@dataclass(frozen=True)
class Frame:
    """A frame as a capture holds it: when, what was captured, its length on the wire (None: all was captured), link type."""

    time_ns: int
    data: bytes
    length: int | None = None
    link: int = 1

    @property
    def wire(self) -> int:
        return len(self.data) if self.length is None else self.length

    def cut(self, snap: int) -> Frame:
        return replace(self, data=self.data[:snap], length=self.wire)


# ---- pcap ----------------------------------------------------------------------------------------------------------------

PCAP_MAGICS = {"us": 0xA1B2C3D4, "ns": 0xA1B23C4D, "modified": 0xA1B2CD34}


def pcap(
    frames: Iterable[Frame], kind: str = "us", order: str = "<", link: int = 1, version: tuple[int, int] = (2, 4)
) -> bytes:
    """A pcap file: `kind` of the magics above, byte order "<" or ">"; times finer than the kind's unit are cut off."""
    unit_ns = 1 if kind == "ns" else 1000
    extra = b"\0" * 8 if kind == "modified" else b""  # the record's interface, protocol and packet type
    parts = [struct.pack(order + "IHHiIII", PCAP_MAGICS[kind], *version, 0, 0, 262144, link)]
    for frame in frames:
        seconds, rest = divmod(frame.time_ns, 10**9)
        parts.append(struct.pack(order + "IIII", seconds, rest // unit_ns, len(frame.data), frame.wire) + extra + frame.data)
    return b"".join(parts)


# ---- pcapng --------------------------------------------------------------------------------------------------------------


def options(*given: tuple[int, bytes], order: str = "<") -> bytes:
    """pcapng options (code, value), padded, with the end of options."""
    if not given:
        return b""
    parts = [struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4) for code, value in given]
    return b"".join(parts) + NO_MORE


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    total = 12 + len(body) + -len(body) % 4
    return struct.pack(order + "II", kind, total) + body + b"\0" * (-len(body) % 4) + struct.pack(order + "I", total)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link: int = 1, snap: int = 0, resolution: int | None = None, offset_s: int | None = None, order: str = "<"
) -> bytes:
    given = []
    if resolution is not None:
        given.append((9, bytes([resolution])))
    if offset_s is not None:
        given.append((14, struct.pack(order + "q", offset_s)))
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options(*given, order=order), order)


def enhanced(
    ticks: int, data: bytes, face: int = 0, length: int | None = None, dropped: int | None = None, order: str = "<"
) -> bytes:
    """An enhanced packet block."""
    head = struct.pack(
        order + "IIIII", face, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) if length is None else length
    )
    told = options((4, struct.pack(order + "Q", dropped)), order=order) if dropped is not None else b""
    return block(6, head + data + b"\0" * (-len(data) % 4) + told, order)


def simple(data: bytes, length: int | None = None, order: str = "<") -> bytes:
    """A simple packet block."""
    return block(3, struct.pack(order + "I", len(data) if length is None else length) + data, order)


def obsolete(ticks: int, data: bytes, face: int = 0, dropped: int = 0xFFFF, order: str = "<") -> bytes:
    """A packet block, which enhanced packet blocks have replaced."""
    head = struct.pack(order + "HHIIII", face, dropped, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(2, head + data, order)


def statistics(face: int = 0, dropped: int | None = None, dropped_by_system: int | None = None, order: str = "<") -> bytes:
    """An interface statistics block."""
    given = [(5, dropped), (7, dropped_by_system)]
    told = [(code, struct.pack(order + "Q", count)) for code, count in given if count is not None]
    return block(5, struct.pack(order + "III", face, 0, 0) + options(*told, order=order), order)


def pcapng(frames: Iterable[Frame], order: str = "<") -> bytes:
    """A pcapng file of one section, whose only interface has times in ns."""
    frames = list(frames)
    link = frames[0].link if frames else 1
    head = section(order) + interface(link, resolution=9, order=order)
    return head + b"".join(enhanced(f.time_ns, f.data, length=f.wire, order=order) for f in frames)


# ---- packets -------------------------------------------------------------------------------------------------------------


def ethernet(packet: bytes, kind: int | None = None) -> bytes:
    kind = kind if kind is not None else IPV6 if packet[:1] and packet[0] >> 4 == 6 else IPV4
    return bytes.fromhex("020000000002020000000001") + struct.pack(">H", kind) + packet


def ip(src: str, dst: str, protocol: int, payload: bytes, length: int | None = None) -> bytes:
    """An IPv4 or IPv6 packet, by its addresses; `length` overrides its length field."""
    source, target = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if source.version == 4:
        total = 20 + len(payload) if length is None else length
        head = struct.pack(">BBHHHBBH", 0x45, 0, total, 1, 0, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(payload) if length is None else length, protocol, 64)
    return head + source.packed + target.packed + payload


def tcp(sport: int, dport: int, flags: int, seq: int = 0, ack: int = 0, payload: bytes = b"", options: bytes = b"") -> bytes:
    words = (20 + len(options)) // 4
    return struct.pack(">HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, words << 4, flags, 65535, 0, 0) + options + payload


def udp(sport: int, dport: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


# ---- tunnels: what a UDP datagram or an IP packet holds around a frame or packet -----------------------------------------

CHECKSUM, KEY, SEQUENCE = 0x8000, 0x2000, 0x1000
BRIDGED, ERSPAN, ERSPAN3 = 0x6558, 0x88BE, 0x22EB


def vxlan(frame: bytes, vni: int = 7, flags: int = 0x08, named: int = 0) -> bytes:
    """VXLAN around a frame; with other flags, around what they say (named: VXLAN-GPE's next protocol)."""
    return struct.pack(">BBHI", flags, 0, named, vni << 8) + frame


def geneve(inner: bytes, kind: int = BRIDGED, options: bytes = b"", vni: int = 7) -> bytes:
    """Geneve around an Ethernet frame, or an IP packet with `kind` its ethertype; options of whole words."""
    return struct.pack(">BBHI", len(options) // 4, 0, kind, vni << 8) + options + inner


def gre(inner: bytes, kind: int, bits: int = 0) -> bytes:
    """GRE of that protocol, with the fields that its bits say."""
    fields = sum(1 for bit in (CHECKSUM, KEY, SEQUENCE) if bits & bit)
    return struct.pack(">HH", bits, kind) + b"\0\0\0\7" * fields + inner


def erspan(frame: bytes, form: int, *, optional: bool = False) -> bytes:
    """ERSPAN of type 1, 2 or 3 in GRE; `optional`: with type 3's platform subheader."""
    if form == 1:
        return gre(frame, ERSPAN)
    if form == 2:
        return gre(struct.pack(">HHI", 1 << 12 | 100, 5, 9) + frame, ERSPAN, SEQUENCE)
    head = struct.pack(">HHIHH", 2 << 12 | 100, 5, 77, 0, optional) + bytes(8 * optional)
    return gre(head + frame, ERSPAN3, SEQUENCE)


def batch(frames: Sequence[Frame], filler: int = 0xAA) -> Frames:
    """Frames as a tap gives them: one after the other, with 80 bytes of `filler` before, between and after them."""
    gap = bytes([filler]) * 80
    content, offsets = bytearray(gap), []
    for frame in frames:
        offsets.append(len(content))
        content += frame.data + gap
    columns = (
        offsets,
        [len(f.data) for f in frames],
        [f.wire for f in frames],
        [f.time_ns for f in frames],
        [f.link for f in frames],
    )
    return Frames(np.frombuffer(bytes(content), np.uint8), *(np.array(column, np.int64) for column in columns))


# ---- reading back --------------------------------------------------------------------------------------------------------


def replayed(path: Path) -> tuple[list[Frame], Losses]:
    """Every frame that the replay of a file gives, and its losses."""
    found: list[Frame] = []
    with PcapReplay(path) as source:
        for frames in source:
            rows = zip(frames.offset, frames.captured, frames.length, frames.time_ns, frames.link, strict=True)
            for offset, captured, length, time_ns, link in rows:
                data = frames.data[offset : offset + captured].tobytes()
                found.append(Frame(int(time_ns), data, int(length), int(link)))
        return found, source.losses()


def write(path: Path, content: bytes | Sequence[Frame]) -> Path:
    """Writes a file: bytes as they are, frames as a pcap with times in ns."""
    path.write_bytes(content if isinstance(content, bytes) else pcap(content, "ns"))
    return path


# ---- corpora beside the repository ---------------------------------------------------------------------------------------

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "pcap"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the captures of ../shared are not there")


def corpus() -> list[Path]:
    """The captures of ../shared, in order."""
    kinds = {".pcap", ".pcapng", ".gz", ".cap"}
    return sorted(path for path in SHARED.rglob("*") if path.is_file() and path.suffix in kinds) if SHARED.is_dir() else []
