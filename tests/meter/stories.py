"""Conversations to tell to a meter, and what it made of them: frames by their times, columns by seconds and VMs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from tests.captures import ACK, FIN, PSH, RST, SYN, Frame, batch, ethernet, ip, tcp, udp

from adumbra.decode.packets import Decoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.schema.records import NANOSECONDS, Accounts, Intervals
from adumbra.schema.spec import NetworkSpec, expand_vms, parse_spec

BEGIN_S = 1_700_000_000
CLIENT, CLIENT6 = "198.18.0.1", "2001:db8:ffff::1"
WEB, DB, FARM, SIX = "10.20.1.10", "10.20.2.10", "10.20.3.77", "2001:db8:20::10"

SHOP = parse_spec(
    """
name: shop
cidrs: [10.20.0.0/16, "2001:db8:20::/48"]
subnets:
  - {name: web, cidr: 10.20.1.0/24}
  - {name: data, cidr: 10.20.2.0/24}
  - {name: farm, cidr: 10.20.3.0/24}
  - {name: six, cidr: "2001:db8:20::/64"}
vms:
  - {name: web, subnet: web, addresses: [10.20.1.10, 10.20.1.11]}
  - {name: db, subnet: data, addresses: [10.20.2.10]}
  - {name: farm, subnet: farm, addresses: [10.20.3.0/24]}
  - {name: six, subnet: six, addresses: ["2001:db8:20::10", "2001:db8:20:0:8000::/65"]}
donors:
  - {from: 192.168.7.0/24, to: 10.20.1.0/24}
  - {from: "fd00::/64", to: "2001:db8:20::/64"}
"""
)


def at(second: float) -> int:
    """The time in ns that lies so many seconds after the beginning of all stories."""
    return BEGIN_S * NANOSECONDS + round(second * NANOSECONDS)


@dataclass
class Talk:
    """One TCP connection, whose sides keep their own sequence numbers. Each act adds a frame."""

    frames: list[Frame]
    client: str = CLIENT
    server: str = WEB
    port: int = 40000
    service: int = 80
    isn: int = 1000
    server_isn: int = 9000
    next_client: int = field(init=False)
    next_server: int = field(init=False)

    def __post_init__(self) -> None:
        self.next_client, self.next_server = self.isn, self.server_isn

    def _send(self, second: float, by_client: bool, flags: int, size: int, seq: int | None = None) -> None:
        ours, theirs = (self.next_client, self.next_server) if by_client else (self.next_server, self.next_client)
        ends = (self.client, self.server) if by_client else (self.server, self.client)
        ports = (self.port, self.service) if by_client else (self.service, self.port)
        number = ours if seq is None else seq
        segment = tcp(*ports, flags, number, theirs if flags & ACK else 0, b"x" * size)
        self.frames.append(Frame(at(second), ethernet(ip(*ends, 6, segment))))
        if seq is None:
            moved = ours + size + bool(flags & (SYN | FIN))
            if by_client:
                self.next_client = moved
            else:
                self.next_server = moved

    def syn(self, second: float) -> Talk:
        self._send(second, True, SYN, 0)
        return self

    def syn_again(self, second: float) -> Talk:
        self._send(second, True, SYN, 0, seq=self.isn)
        return self

    def answer(self, second: float) -> Talk:
        self._send(second, False, SYN | ACK, 0)
        return self

    def ack(self, second: float, *, by_client: bool = True) -> Talk:
        self._send(second, by_client, ACK, 0)
        return self

    def asks(self, second: float, size: int = 100) -> Talk:
        self._send(second, True, PSH | ACK, size)
        return self

    def replies(self, second: float, size: int = 1000) -> Talk:
        self._send(second, False, PSH | ACK, size)
        return self

    def repeats(self, second: float, size: int, back: int, *, by_client: bool) -> Talk:
        """Sends `size` bytes again, from `back` bytes before where that side stands."""
        ours = self.next_client if by_client else self.next_server
        self._send(second, by_client, PSH | ACK, size, seq=ours - back)
        return self

    def fin(self, second: float, *, by_client: bool = True) -> Talk:
        self._send(second, by_client, FIN | ACK, 0)
        return self

    def rst(self, second: float, *, by_client: bool = True) -> Talk:
        self._send(second, by_client, RST, 0, seq=self.next_client if by_client else 0)
        return self

    def opens(self, second: float, rtt: float = 0.02) -> Talk:
        return self.syn(second).answer(second + rtt / 2).ack(second + rtt)

    def closes(self, second: float) -> Talk:
        return self.fin(second).fin(second + 0.01, by_client=False).ack(second + 0.02)


def segment(
    second: float, ends: tuple[str, int, str, int], flags: int, seq: int, ack: int, size: int = 0, *, window: int = 65535,
    stamps: tuple[int, int] | None = None,
) -> Frame:  # fmt: skip
    """A TCP segment from (address, port) to (address, port), with a window and timestamps (value, echo) of its own."""
    src, sport, dst, dport = ends
    options = b"" if stamps is None else struct.pack(">BBBBII", 1, 1, 8, 10, *stamps)
    content = bytearray(tcp(sport, dport, flags, seq, ack, b"x" * size, options))
    content[14:16] = struct.pack(">H", window)
    return Frame(at(second), ethernet(ip(src, dst, 6, bytes(content))))


def datagram(second: float, src: str, dst: str, sport: int = 5000, dport: int = 53, size: int = 30) -> Frame:
    return Frame(at(second), ethernet(ip(src, dst, 17, udp(sport, dport, b"d" * size))))


def tick(second: float) -> Frame:
    """Something foreign that only moves the clock."""
    return datagram(second, "198.18.9.9", "198.18.9.8", 1, 2)


@dataclass
class Seen:
    """All intervals that a meter gave: columns [k, V], the seconds at which they begin, requests as (second, VM, opens)."""

    vms: tuple[str, ...]
    seconds: list[float]
    columns: dict[str, np.ndarray[Any, Any]]
    one_sided: np.ndarray[Any, Any]
    requests: list[tuple[float, str, bool]]
    accounts: Accounts

    def of(self, name: str, vm: str = "web") -> dict[float, float]:
        """The seconds in which a column of a VM isn't 0 or NaN."""
        values = self.columns[name][:, self.vms.index(vm)]
        return {second: value.item() for second, value in zip(self.seconds, values, strict=True) if value and value == value}

    def total(self, name: str, vm: str = "web") -> int:
        return int(self.columns[name][:, self.vms.index(vm)].sum())

    def same_as(self, other: Seen) -> bool:
        alike = (
            self.seconds == other.seconds
            and self.requests == other.requests
            and np.array_equal(self.one_sided, other.one_sided)
        )
        return alike and all(np.array_equal(self.columns[name], other.columns[name], equal_nan=True) for name in self.columns)


def collect(vms: tuple[str, ...], given: Iterable[Intervals], accounts: Accounts) -> Seen:
    intervals = list(given)
    for one in intervals:
        assert len(one) > 0
        assert (np.diff(one.start_ns) == one.interval_ns).all()
    starts = np.concatenate([one.start_ns for one in intervals]) if intervals else np.zeros(0, np.int64)
    assert (np.diff(starts) > 0).all(), "intervals come in order, each once"
    names = list(intervals[0].columns) if intervals else []
    requests = []
    for one in intervals:
        rows = list(zip(one.requests.vm.tolist(), one.requests.time_ns.tolist(), one.requests.opens.tolist(), strict=True))
        assert rows == sorted(rows), "requests are ordered by VM and time"
        assert all(one.start_ns[0] <= time < one.start_ns[-1] + one.interval_ns for _, time, _ in rows)
        requests += [((time - at(0)) / NANOSECONDS, vms[vm], opens) for vm, time, opens in rows]
    empty = np.zeros((0, len(vms)))
    return Seen(
        vms=vms,
        seconds=[(start - at(0)) / NANOSECONDS for start in starts.tolist()],
        columns={name: np.concatenate([one.columns[name] for one in intervals]) for name in names},
        one_sided=np.concatenate([one.one_sided for one in intervals]) if intervals else empty,
        requests=sorted(requests),
        accounts=accounts,
    )


def observe(
    frames: Sequence[Frame], spec: NetworkSpec = SHOP, settings: MeterSettings | None = None, cuts: Sequence[int] = (),
    *, in_order: bool = True, seed: int = 7,
) -> Seen:  # fmt: skip
    """Meters frames, sorted by time unless told otherwise, in batches that end at `cuts`."""
    rows = sorted(frames, key=lambda frame: frame.time_ns) if in_order else list(frames)
    vms = expand_vms(spec)
    meter, attribution, decoder = (
        Meter(len(vms), spec.interval_ns, settings, seed, [vm.ports for vm in vms]),
        Attribution(spec, vms),
        Decoder(),
    )
    summary = Summary(len(vms))
    given: list[Intervals] = []
    edges = [0, *sorted(cuts), len(rows)]
    for begin, end in pairwise(edges):
        packets = attribution.assign(decoder.decode(batch(rows[begin:end])))
        given.extend(map(summary.intervals, meter.add(packets)))
    given.extend(map(summary.intervals, meter.finish()))
    seen = collect(tuple(vm.name for vm in vms), given, meter.accounts())
    check_accounts(seen.accounts, len(rows))
    return seen


def check_accounts(accounts: Accounts, offered: int) -> None:
    """Every frame is accounted for once."""
    assert accounts.offered == offered == sum(accounts.outcomes.values())
    assert accounts.parsed == accounts.attributed + accounts.foreign + accounts.unclaimed
    assert accounts.late + accounts.untracked <= accounts.attributed
