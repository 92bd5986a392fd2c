"""Reads generated captures back, by RFC 9293 and nothing of the generator's: checksums, options, order, and what was said."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_HALF = 1 << 31


@dataclass(frozen=True)
class Segment:
    time_ns: int
    source: tuple[str, int]
    target: tuple[str, int]
    flags: int
    seq: int
    ack: int
    window: int
    payload: bytes
    options: dict[int, bytes]
    ip_bytes: int
    macs: tuple[bytes, bytes]


@dataclass
class Side:
    """One end of a connection, as the other's segments and its own tell."""

    first: int | None = None
    sent: int = 0  # beyond the first sequence number: where its next byte stands
    said: int = 0  # payload bytes
    heard: int = 0  # the highest acknowledgement it sent, beyond the other's first
    stamp: int = -1
    scale: int = 0
    room: int = 65535
    done: bool = False
    answers: list[int] = field(default_factory=list)


@dataclass
class Conversation:
    """A connection read back. turns: who said how much, in order: "client" or "server", bytes."""

    client: Side = field(default_factory=Side)
    server: Side = field(default_factory=Side)
    turns: list[tuple[str, int]] = field(default_factory=list)
    reset: str = ""
    segments: int = 0
    ended: bool = False


def records(capture: bytes) -> Iterator[tuple[int, bytes]]:
    """Times and frames of a pcap in nanoseconds."""
    magic, major, minor, _, _, snap, link = struct.unpack_from("<IHHiIII", capture)
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 1)
    at = 24
    while at < len(capture):
        seconds, rest, captured, length = struct.unpack_from("<IIII", capture, at)
        assert captured == length <= snap
        assert rest < 10**9
        yield seconds * 10**9 + rest, capture[at + 16 : at + 16 + captured]
        at += 16 + captured
    assert at == len(capture)


def words_sum(data: bytes) -> int:
    """The ones' complement sum that is 0xFFFF where a checksum over the data is right."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def parse(time_ns: int, frame: bytes) -> Segment:
    """A frame, all its checksums and lengths looked at."""
    kind = struct.unpack_from(">H", frame, 12)[0]
    packet = frame[14:]
    if kind == 0x0800:
        assert packet[0] == 0x45
        assert words_sum(packet[:20]) == 0xFFFF
        assert struct.unpack_from(">H", packet, 2)[0] == len(packet)
        assert packet[9] == 6
        source, target, tcp = packet[12:16], packet[16:20], packet[20:]
        pseudo = source + target + struct.pack(">HH", 6, len(tcp))
    else:
        assert kind == 0x86DD
        assert packet[0] >> 4 == 6
        assert struct.unpack_from(">H", packet, 4)[0] == len(packet) - 40
        assert packet[6] == 6
        source, target, tcp = packet[8:24], packet[24:40], packet[40:]
        pseudo = source + target + struct.pack(">II", len(tcp), 6)
    assert words_sum(pseudo + tcp) == 0xFFFF
    sport, dport, seq, ack, offset, flags, window, _, urgent = struct.unpack_from(">HHIIBBHHH", tcp)
    size = (offset >> 4) * 4
    assert urgent == 0
    return Segment(
        time_ns, (str(ipaddress.ip_address(source)), sport), (str(ipaddress.ip_address(target)), dport), flags, seq, ack,
        window, tcp[size:], dict(_options(tcp[20:size])), len(packet), (frame[:6], frame[6:12]),
    )  # fmt: skip


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if data[at] == 1:
            at += 1
            continue
        size = data[at + 1]
        assert 2 <= size <= len(data) - at
        yield data[at], data[at + 2 : at + size]
        at += size


def reassemble(capture: bytes, *, whole: bool = True) -> dict[tuple[object, object], list[Conversation]]:
    """All conversations of a capture by (client, server); fails at the first thing that TCP wouldn't do without loss."""
    found: dict[tuple[object, object], list[Conversation]] = {}
    last_ns = 0
    for time_ns, frame in records(capture):
        assert time_ns >= last_ns
        last_ns = time_ns
        segment = parse(time_ns, frame)
        ahead, back = (segment.source, segment.target), (segment.target, segment.source)
        if segment.flags & SYN and not segment.flags & ACK:
            known = found.setdefault(ahead, [])
            assert not known or known[-1].ended, "a port is used again while it is in use"
            known.append(Conversation())
        key = ahead if ahead in found else back
        if key not in found:
            assert not whole, "a conversation has no beginning"
            found[key] = [Conversation()]
        conversation = found[key][-1]
        assert not conversation.reset, "something is said after a reset"
        _take(conversation, segment, from_client=key == ahead)
    for conversations in found.values():
        for each in conversations:
            assert not whole or each.ended, "a conversation has no end"
    return found


def _take(conversation: Conversation, segment: Segment, *, from_client: bool) -> None:
    mine, other = (conversation.client, conversation.server) if from_client else (conversation.server, conversation.client)
    conversation.segments += 1
    if segment.flags & RST:
        conversation.reset, conversation.ended = "client" if from_client else "server", True
        if mine.first is not None:
            assert segment.seq == (mine.first + mine.sent) % 2**32
        return
    stamp, echo = struct.unpack(">II", segment.options[8])
    assert stamp >= mine.stamp, "a timestamp runs back"
    assert other.stamp == -1 or echo <= other.stamp, "a timestamp is echoed that was never sent"
    mine.stamp = stamp
    if segment.flags & SYN:
        _take_syn(mine, other, segment)
        return
    assert segment.flags & ACK
    if mine.first is None:  # the capture was cut: it begins here
        mine.first, mine.scale = (segment.seq, 7)
    if other.first is None:
        other.first, other.scale = segment.ack, 7
    assert segment.seq == (mine.first + mine.sent) % 2**32, "a gap, or a repetition"
    heard = (segment.ack - other.first) % 2**32
    assert heard < _HALF, "an acknowledgement of what lies before the beginning"
    assert mine.heard <= heard <= other.sent, "an acknowledgement of what wasn't sent, or that runs back"
    pure = not segment.payload and not segment.flags & FIN
    if pure and mine.sent > 1:
        assert heard > mine.heard or other.sent == mine.heard or mine.done, "a duplicate acknowledgement"
    mine.heard = heard
    mine.room = segment.window << mine.scale
    if segment.payload:
        assert not mine.done, "data after the end"
        assert not any(segment.payload)
        who = "client" if from_client else "server"
        if conversation.turns and conversation.turns[-1][0] == who:
            conversation.turns[-1] = (who, conversation.turns[-1][1] + len(segment.payload))
        else:
            conversation.turns.append((who, len(segment.payload)))
        mine.said += len(segment.payload)
    mine.sent += len(segment.payload) + bool(segment.flags & FIN)
    assert mine.sent - other.heard <= other.room, "more is under way than the other end has room for"
    mine.done |= bool(segment.flags & FIN)
    conversation.ended = mine.done and other.done and mine.heard == other.sent and other.heard == mine.sent


def _take_syn(mine: Side, other: Side, segment: Segment) -> None:
    assert mine.first is None
    assert not segment.payload
    assert set(segment.options) == {2, 3, 4, 8}
    mine.first, mine.sent, mine.scale = segment.seq, 1, segment.options[3][0]
    if segment.flags & ACK:
        assert other.first is not None
        assert segment.ack == (other.first + 1) % 2**32
        mine.heard = 1
