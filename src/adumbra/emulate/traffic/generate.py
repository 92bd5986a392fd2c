"""Generates a network's traffic from its model: the frames of a capture, block by block in order of time, and their account.

Memory is bounded by what is under way at a time. Opens no file, reads no clock; chance is fixed by the seed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adumbra.emulate.traffic import conversation_kernels as kernels
from adumbra.emulate.traffic import conversation_layout as layout
from adumbra.emulate.traffic import frame_kernels as frames
from adumbra.emulate.traffic.arrivals import Arrivals
from adumbra.emulate.traffic.conversation_layout import Book
from adumbra.emulate.traffic.model import TrafficModel
from adumbra.emulate.traffic.population import Population
from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Bytes, Ints

FILE_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
"""The beginning of a pcap in nanoseconds, little-endian, with Ethernet frames."""

LEAD_S = 1.0
"""How long before the traffic's time those connections are opened that stand at its beginning, and after it the last closed."""
MOST_WARM_UP_S = 120.0
MOST_CONNECTIONS = 1 << 22
MOST_EVENTS = 1 << 24
MOST_PACKETS = 1 << 24
_FIRST_PACKETS, _FIRST_EVENTS, _FIRST_CONNECTIONS = 1 << 16, 1 << 13, 1 << 12
_PIECE_S = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to generate: from start_ns on, for duration_s, at `factor` times the model's rates.

    cut: only what happens in that time, as a capture that is started and stopped; else conversations are whole: those that
    stand at the beginning are opened in the LEAD_S before it, and what is open at the end is closed in the LEAD_S after it.
    """

    start_ns: int
    duration_s: float
    seed: int = 1
    factor: float = 1.0
    cut: bool = False

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.duration_s * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Account:
    """What was generated. counts, within: VM -> column of the metric catalogue -> count; of all, and of the time asked for.

    packets, bytes: of the whole capture; first_ns, last_ns: its times, 0 where it is empty; skipped: connections and calls
    that could not be, their ends having no IP version in common.
    """

    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    skipped: int
    counts: dict[str, dict[str, int]]
    within: dict[str, dict[str, int]]


class Generator:
    """Generates once. `population`: the machines that talk. Raises InputError where the model brings no traffic."""

    def __init__(self, model: TrafficModel, population: Population, wanted: Wanted) -> None:
        if not wanted.duration_s > 0 or not wanted.factor > 0:
            raise InputError("traffic of no length, or of no rate, can't be generated", "give a duration and a factor above 0")
        self.wanted, self.population = wanted, population
        seeds = np.random.SeedSequence(wanted.seed).spawn(2)
        self._arrivals = Arrivals(model, population, wanted.factor, np.random.default_rng(seeds[0]))
        self._warm_up_s = _warm_up_s(model)
        chance = int(seeds[1].generate_state(1, np.uint64)[0] >> 1)
        self._book = self._first_book(chance)
        self._identity: Ints = np.arange(len(population.hosts), dtype=np.int64) * 7919
        self._data: Bytes = np.zeros(1 << 20, np.uint8)
        self._counts: Ints = np.zeros((2, max(population.vms, 1), len(frames.COUNTS)), np.int64)
        self.packets = self._bytes = self._first_ns = self._last_ns = 0

    def __iter__(self) -> Iterator[tuple[memoryview, float]]:
        """Blocks of a pcap's records, in order of time, each with how much of the time is done. Valid until the next one."""
        wanted = self.wanted
        from_ns = wanted.start_ns - round(self._warm_up_s * NANOSECONDS)
        yield from self._pass(from_ns, wanted.start_ns)
        if not wanted.cut:
            self._make_room(3)
            kernels.stand(self._book, wanted.start_ns - round(LEAD_S * NANOSECONDS), round(LEAD_S * NANOSECONDS))
        yield from self._pass(wanted.start_ns, wanted.end_ns)
        if not wanted.cut:
            self._make_room(3)
            kernels.end(self._book, wanted.end_ns, round(LEAD_S * NANOSECONDS))
        yield from self._flush(1 << 62)

    def account(self) -> Account:
        """What was generated so far."""
        names = self.population.names
        told = [
            {vm: dict(zip(frames.COUNTS, map(int, self._counts[part, v]), strict=True)) for v, vm in enumerate(names)}
            for part in range(2)
        ]
        skipped = int(self._book.state[layout.SKIPPED])
        return Account(self.packets, self._bytes, self._first_ns, self._last_ns, skipped, told[0], told[1])

    def _first_book(self, chance: int) -> Book:
        state = np.zeros(layout.STATE_WORDS, np.int64)
        state[layout.CHANCE], state[layout.FREE_LIST] = chance, -1
        asked = np.zeros(layout.ASKED_WORDS, np.int64)
        asked[layout.FROM_NS], asked[layout.UNTIL_NS] = self.wanted.start_ns, self.wanted.end_ns
        asked[layout.MSS_4], asked[layout.MSS_6] = 1448, 1428
        asked[layout.EPOCH_NS] = self.wanted.start_ns - round((self._warm_up_s + 10) * NANOSECONDS)
        connections = np.zeros(_FIRST_CONNECTIONS, layout.CONNECTION)
        kernels.free_connections(connections, state, 0)
        return self.population.book(
            state,
            asked,
            np.zeros(_FIRST_PACKETS, layout.PACKET),
            np.zeros(_FIRST_EVENTS, layout.EVENT),
            connections,
        )

    def _pass(self, from_ns: int, until_ns: int) -> Iterator[tuple[memoryview, float]]:
        """Lets all happen from a time until another, piece by piece."""
        piece_ns = round(_PIECE_S * NANOSECONDS)
        for begin_ns in range(from_ns, until_ns, piece_ns):
            end_ns = min(begin_ns + piece_ns, until_ns)
            arrivals = self._arrivals.draw(begin_ns, end_ns)
            self._book.state[layout.ARRIVALS_TAKEN] = 0
            while True:
                short = kernels.run(self._book, arrivals, end_ns)
                if short == layout.DONE:
                    break
                if short == layout.PACKETS_FULL:
                    yield from self._flush(self._next_ns(arrivals))
                self._grow(short)
            if self._book.state[layout.PACKETS] > len(self._book.packets) // 2:
                yield from self._flush(end_ns)

    def _next_ns(self, arrivals: Any) -> int:
        """When what comes next begins: what is written before that is complete."""
        state, heap = self._book.state, self._book.heap
        taken = int(state[layout.ARRIVALS_TAKEN])
        arrive_ns = int(arrivals["time_ns"][taken]) if taken < len(arrivals) else 1 << 62
        return min(arrive_ns, int(heap["time_ns"][0]) if state[layout.EVENTS] else 1 << 62)

    def _flush(self, before_ns: int) -> Iterator[tuple[memoryview, float]]:
        """Gives the packets before a time as bytes, in order, and keeps the others."""
        state, packets = self._book.state, self._book.packets
        count = int(state[layout.PACKETS])
        times = packets["time_ns"][:count]
        order = np.argsort(times, kind="stable")
        ready = order[: int(np.searchsorted(times[order], before_ns))]
        for low in range(0, len(ready), _FIRST_PACKETS):
            yield self._written(packets, ready[low : low + _FIRST_PACKETS])
        left = order[len(ready) :]
        packets[: len(left)] = packets[left]
        state[layout.PACKETS] = len(left)

    def _written(self, packets: Any, part: Ints) -> tuple[memoryview, float]:
        hosts = self.population.hosts
        size = int(frames.total_bytes(packets[part], hosts))
        if size > len(self._data):
            self._data = np.zeros(size + size // 4, np.uint8)
        size = int(frames.write_frames(packets, part, hosts, self._identity, self._data))
        frames.account(packets, part, hosts, self.wanted.start_ns, self.wanted.end_ns, self._counts)
        times = packets["time_ns"]
        self._first_ns = self._first_ns or int(times[part[0]])
        self._last_ns = int(times[part[-1]])
        self.packets, self._bytes = self.packets + len(part), self._bytes + size
        done = (self._last_ns - self.wanted.start_ns) / NANOSECONDS / self.wanted.duration_s
        return self._data.data[:size], min(max(done, 0.0), 1.0)

    def _make_room(self, each: int) -> None:
        """Room for so many packets a connection that stands."""
        needed = int(self._book.state[layout.PACKETS]) + each * len(self._book.connections)
        if needed > len(self._book.packets):
            self._book = self._book._replace(packets=_longer(self._book.packets, needed, 1 << 62, "packets"))

    def _grow(self, short: int) -> None:
        """More room for what there was too little of."""
        book, state = self._book, self._book.state
        if short == layout.PACKETS_FULL:
            needed = int(state[layout.PACKETS] + state[layout.NEEDED])
            if needed > len(book.packets) * 3 // 4:
                size = max(2 * len(book.packets), 2 * needed)
                self._book = book._replace(packets=_longer(book.packets, size, MOST_PACKETS, "packets under way"))
        elif short == layout.EVENTS_FULL:
            self._book = book._replace(heap=_longer(book.heap, 2 * len(book.heap), MOST_EVENTS, "events to come"))
        else:
            had = len(book.connections)
            longer = _longer(book.connections, 2 * had, MOST_CONNECTIONS, "connections at a time")
            kernels.free_connections(longer, state, had)
            self._book = book._replace(connections=longer)


def _longer(array: Any, size: int, most: int, what: str) -> Any:
    if size > most:
        raise InputError(f"this traffic has too many {what} (more than {most:,})", "generate it at a lower --traffic")
    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer


def _warm_up_s(model: TrafficModel) -> float:
    """How long the model runs before its packets count, so that as many connections stand as usual."""
    lasting = [
        (vm.requests_per_connection * (vm.idle_s + vm.response_s + vm.rtt_s) + 2 * vm.rtt_s)
        for vm in model.vms
        if vm.connections_per_s + vm.opened_per_s > 0
    ]
    pools = [
        4.0 * call.pool / max(call.per_request * _requests_per_s(model, call.caller), 1e-3) for call in model.calls
    ]  # fmt: skip
    return float(min(max([2.0, *(4.0 * each for each in lasting), *pools]), MOST_WARM_UP_S))


def _requests_per_s(model: TrafficModel, group: int) -> float:
    members = [vm for vm, g in zip(model.vms, model.group, strict=True) if g == group]
    return sum(vm.connections_per_s * vm.requests_per_connection for vm in members) / max(len(members), 1)


def factor_for(model: TrafficModel, wanted: Wanted, connections_per_s: float) -> Wanted:
    """What is wanted, at the factor that brings so many connections a second from outside, on the average of its time."""
    times = np.linspace(wanted.start_ns, wanted.end_ns, 64)
    vms = len(model.vms)
    mean = float(np.mean([model.rates.at(int(time_ns))[:vms].sum() for time_ns in times]))
    if not mean > 0 or not math.isfinite(mean):
        raise InputError("nothing comes from outside at that time, so there is no rate to scale", "give --traffic, or --start")
    return replace(wanted, factor=connections_per_s / mean)
