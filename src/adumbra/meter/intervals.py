"""Meters packets into per-VM intervals, closed once nothing more can come for them. No clock but the packets' own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.meter import book_kernels, kernels, layout
from adumbra.meter.flows import ConnectionTable, NoteTable, OriginTable, PeerTable
from adumbra.meter.layout import Book, Columns
from adumbra.meter.tally import Notes, Tally
from adumbra.schema.records import NANOSECONDS, Accounts, Ints, Losses, Outcome, Packets

_CELLS_A_BATCH = 1 << 20
_DAY_S = 86_400
_TARGET_BITS = 64


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """How the meter bounds itself. Times in seconds.

    lateness_s: how much later than the newest packet an older one may still come, at most 62 intervals; answer_s: when an
    attempt whose last SYN got no answer has failed; idle_stream_s and idle_datagram_s: when a silent connection is
    forgotten (the latter also a failed attempt, in case its SYN is sent again); quiet_s: how long a silence is taken for a
    quiet network, not for a tap that didn't watch; max_connections and max_notes (requests, and times of round trips
    and responses, in open intervals) bound the memory.
    A foreign source is a scanner once it tried about scan_targets (4 to 128) addresses and ports and completed under
    scan_completed, a share, of what it attempted; it is forgotten scan_memory_s after its last attempt; max_sources are kept.
    """

    lateness_s: float = 10.0
    answer_s: float = 10.0
    idle_stream_s: float = 300.0
    idle_datagram_s: float = 60.0
    quiet_s: float = 3600.0
    max_connections: int = 1 << 20
    max_notes: int = 1 << 22
    scan_targets: int = 20
    scan_completed: float = 0.1
    scan_memory_s: float = 600.0
    max_sources: int = 1 << 16


class Meter:
    """Turns attributed packets into tallies of closed intervals of `interval_ns`, aligned to the epoch, for `vms` VMs.

    An interval closes once a packet comes that is more than the lateness newer. Results don't depend on how packets are cut
    into batches. `seed` keys the hash tables, against crafted collisions; it changes no result. `ports`: the TCP ports that
    each VM declares; a single SYN to another port of a VM that declares some is background radiation.
    """

    def __init__(
        self,
        vms: int,
        interval_ns: int,
        settings: MeterSettings | None = None,
        seed: int = 0,
        ports: Sequence[Sequence[int]] = (),
    ) -> None:
        settings = settings or MeterSettings()
        self.interval_ns = interval_ns
        self._vms = vms
        self._grace = min(max(1, -(-round(settings.lateness_s * NANOSECONDS) // interval_ns)), layout.MET_INTERVALS - 2)
        rows = int(min(max(self._grace + 2, _CELLS_A_BATCH // max(vms, 1)), self._grace + 256))
        self._scalars: Ints = np.zeros(layout.SCALARS, np.int64)
        self._scalars[[layout.OLDEST, layout.CLOCK]] = layout.NOT_STARTED
        self._scalars[layout.FILL_BUDGET] = max(rows, min(_DAY_S, 50_000_000 // max(vms, 1)))
        self._ring: Ints = np.zeros((rows, vms + 1, len(layout.COUNTERS)), np.int64)
        self._missed: Ints = np.zeros(rows, np.int64)
        self._connections = ConnectionTable(settings.max_connections, self._scalars, seed)
        self._peers = PeerTable(self._scalars, seed)
        self._notes = NoteTable(rows, settings.max_notes, self._scalars)
        self._asked = _asked(settings, interval_ns, self._grace, rows, seed)
        self._asked[[layout.MOST, layout.MOST_CHUNKS]] = self._connections.max_connections, self._notes.most_chunks
        self._origins = OriginTable(settings.max_sources, ports or [()] * vms)
        self._outcomes: Ints = np.zeros(len(Outcome), np.int64)

    def add(self, packets: Packets) -> Iterator[Tally]:
        """Meters packets; gives the intervals that they close, in order. To be exhausted before the next call."""
        if packets.outcome.any():
            self._outcomes += np.bincount(packets.outcome, minlength=len(Outcome))
        else:  # all were parsed, as almost always
            self._outcomes[Outcome.PARSED] += len(packets)
        self._peers.make_room(2 * len(packets), int(self._scalars[layout.OLDEST]))
        yield from self._pass(self._connections.identify(packets))

    def advance(self, now_ns: int) -> Iterator[Tally]:
        """Nothing that was taken before `now_ns` will follow: expires and closes as a packet of that time would.

        From the first call on, a time without packets is quiet, not a gap. To be exhausted before the next call.
        """
        if now_ns > int(self._scalars[layout.CLOCK]):
            yield from self._pass(_moment(now_ns))

    def complete(self, now_ns: int) -> Iterator[Tally]:
        """Gives the intervals that ended by `now_ns`, of a source that promises that nothing earlier will follow: they need
        not wait for what may be late. What comes for them even so is counted as late. To be exhausted before the next call.
        """
        if self._started:
            yield from self._close(min(now_ns, int(self._scalars[layout.CLOCK])) // self.interval_ns)

    def finish(self) -> Iterator[Tally]:
        """Closes all that is open. What then comes for these intervals is late."""
        if self._started:
            yield from self._close(max(int(self._scalars[layout.LATEST]) + 1, int(self._scalars[layout.OLDEST])))

    def miss(self, packets: int) -> None:
        """Notes packets that the tap lost, for every VM, in the newest interval."""
        if packets:
            book_kernels.note_missed(packets, self._missed, self._scalars, self._asked)

    @property
    def closed_to_ns(self) -> int | None:
        """The end of the last interval that was given or will not be; None before the first packet."""
        return int(self._scalars[layout.OLDEST]) * self.interval_ns if self._started else None

    def accounts(self, losses: Losses | None = None) -> Accounts:
        """Where every packet went, so far."""
        scalars = self._scalars
        return Accounts(
            offered=int(self._outcomes.sum()),
            outcomes={outcome.name.lower(): int(self._outcomes[outcome]) for outcome in Outcome},
            attributed=int(scalars[layout.ATTRIBUTED]),
            foreign=int(scalars[layout.FOREIGN]),
            unclaimed=int(scalars[layout.UNCLAIMED]),
            late=int(scalars[layout.LATE]),
            untracked=int(scalars[layout.UNTRACKED]),
            transport_unread=int(scalars[layout.TRANSPORT_UNREAD]),
            uncounted=int(scalars[layout.NOTES_DROPPED] + scalars[layout.PEERS_UNCOUNTED]),
            losses=losses or Losses(),
            scanners=int(scalars[layout.SCANNERS]),
            scanned_attempts=int(scalars[layout.SCANNED_ATTEMPTS]),
            evicted_attempts=int(scalars[layout.EVICTED]),
            evicted_sources=int(scalars[layout.SOURCES_EVICTED]),
        )

    @property
    def _started(self) -> bool:
        return int(self._scalars[layout.OLDEST]) != layout.NOT_STARTED

    def _pass(self, columns: Columns) -> Iterator[Tally]:
        at, state = 0, layout.GROW
        while state != layout.DONE:
            self._connections.make_room()
            self._notes.make_room()
            notes = self._notes
            written = (notes.values, notes.noted, notes.following, notes.lists)
            book = Book(self._ring, self._missed, *written, self._scalars, self._asked)
            table, origins, peers = self._connections.arrays, self._origins.arrays, self._peers.peers
            at, state = kernels.meter(at, columns, table, origins, peers, book)
            if state == layout.CLOSE:
                yield from self._close(int(self._scalars[layout.CLOSE_TO]) - self._grace)
        if self._started:
            yield from self._close(int(self._scalars[layout.CLOCK]) // self.interval_ns - self._grace)

    def _close(self, oldest: int) -> Iterator[Tally]:
        """Gives the intervals before `oldest`, and makes it the oldest open one. A gap's intervals are not given."""
        scalars = self._scalars
        begin, end = max(int(scalars[layout.OLDEST]), int(scalars[layout.EARLIEST])), oldest
        if scalars[layout.GAP]:
            end = int(scalars[layout.GAP])
            oldest = max(oldest, end)
        step = max(1, _CELLS_A_BATCH // max(self._vms, 1))
        for start in range(begin, end, step):
            yield self._take(start, min(start + step, end))
        scalars[layout.OLDEST] = max(oldest, int(scalars[layout.OLDEST]))
        if scalars[layout.GAP]:
            scalars[layout.GAP], scalars[layout.EARLIEST] = 0, scalars[layout.CLOSE_TO]

    def _take(self, begin: int, end: int) -> Tally:
        """The intervals from begin up to end, taken out of the ring."""
        count = end - begin
        counts: Ints = np.zeros((count, self._vms, len(layout.COUNTERS)), np.int64)
        missed: Ints = np.zeros(count, np.int64)
        held = np.arange(begin, min(end, int(self._scalars[layout.OLDEST]) + len(self._ring)))
        rows = held % len(self._ring)
        counts[: len(held)], missed[: len(held)] = self._ring[rows, :-1], self._missed[rows]
        self._ring[rows], self._missed[rows] = 0, 0
        missed[0] += self._scalars[layout.MISSED_UNPLACED]
        self._scalars[layout.MISSED_UNPLACED] = 0
        return Tally(
            interval_ns=self.interval_ns,
            start_ns=np.arange(begin, end, dtype=np.int64) * self.interval_ns,
            counts=counts,
            missed=missed,
            notes=tuple(Notes(*self._notes.take(rows, kind, self._vms)) for kind in range(layout.KINDS)),
        )


def _asked(settings: MeterSettings, interval_ns: int, grace: int, rows: int, seed: int) -> Ints:
    """What is asked of the kernels, in the order of `layout`; MOST and MOST_CHUNKS are the tables' to say."""
    quiet = max(rows, round(settings.quiet_s * NANOSECONDS) // interval_ns)
    waits = [round(s * NANOSECONDS) for s in (settings.answer_s, settings.idle_stream_s, settings.idle_datagram_s)]
    if not 4 <= settings.scan_targets <= 128:
        raise ValueError(f"scan_targets is {settings.scan_targets}; give a number from 4 to 128")
    # So many of 64 bits are set, on average, once that many targets were tried (linear counting, Whang et al. 1990).
    bits = math.ceil(_TARGET_BITS * (1 - math.exp(-settings.scan_targets / _TARGET_BITS)))
    per_million, memory_ns = round(settings.scan_completed * 1e6), round(settings.scan_memory_s * NANOSECONDS)
    asked = [interval_ns, grace, quiet, seed, 0, *waits]
    return np.array([*asked, settings.scan_targets, bits, per_million, memory_ns, 0], np.int64)


def _moment(now_ns: int) -> Columns:
    """No packet, only a time."""
    columns = {name: np.zeros(1, dtype) for name, dtype in layout.COLUMN_TYPES.items()}
    columns["time_ns"][0], columns["outcome"][0] = now_ns, Outcome.ELSEWHERE
    return Columns(**columns)
