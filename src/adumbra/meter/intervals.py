"""Meters packets into per-VM intervals, closed once nothing more can come for them. No clock but the packets' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import closing_kernels, kernels
from adumbra.meter.flows import ConnectionTable, Identities, Notes, PeerTable
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, Accounts, Floats, Intervals, Ints, Losses, Outcome, Packets, Requests

_OBSERVED = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "peers", "requests", "retransmitted_packets", "missed_packets",
)  # fmt: skip
_QUANTILES = {"rtt_ms": kernels.RTT, "response_ms": kernels.RESPONSE}
_LEVELS = {"p50": 0.5, "p99": 0.99}
_CELLS_A_BATCH = 1 << 20
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """How the meter bounds itself. Times in seconds.

    lateness_s: how much later than the newest packet an older one may still come, at most 62 intervals; answer_s: when an
    attempt whose last SYN got no answer has failed; idle_stream_s and idle_datagram_s: when a silent connection is
    forgotten (the latter also a failed attempt, in case its SYN is sent again); quiet_s: how long a silence is taken for a
    quiet network, not for a tap that didn't watch; max_connections and max_notes (requests, and times of round trips
    and responses, in open intervals) bound the memory.
    """

    lateness_s: float = 10.0
    answer_s: float = 10.0
    idle_stream_s: float = 300.0
    idle_datagram_s: float = 60.0
    quiet_s: float = 3600.0
    max_connections: int = 1 << 20
    max_notes: int = 1 << 22


class Meter:
    """Turns attributed packets into closed intervals of `interval_ns`, aligned to the epoch, for `vms` VMs.

    An interval closes once a packet comes that is more than the lateness newer. Results don't depend on how packets are cut
    into batches. `seed` keys the hash table, against crafted collisions; it changes no result.
    """

    def __init__(self, vms: int, interval_ns: int, settings: MeterSettings | None = None, seed: int = 0) -> None:
        settings = settings or MeterSettings()
        self.interval_ns = interval_ns
        self._vms = vms
        grace = max(1, -(-round(settings.lateness_s * NANOSECONDS) // interval_ns))
        self._grace = min(grace, kernels.MET_INTERVALS - 2)
        rows = int(min(max(self._grace + 2, _CELLS_A_BATCH // max(vms, 1)), self._grace + 256))
        self._ring: Ints = np.zeros((rows, vms + 1, len(kernels.COUNTERS)), np.int64)  # the last column: no VM
        self._missed: Ints = np.zeros(rows, np.int64)
        self._scalars: Ints = np.zeros(len(kernels.SCALARS), np.int64)
        self._scalars[[kernels.OLDEST, kernels.CLOCK]] = kernels.NOT_STARTED
        self._scalars[kernels.FILL_BUDGET] = max(rows, min(_DAY_S, 50_000_000 // max(vms, 1)))
        quiet = max(rows, round(settings.quiet_s * NANOSECONDS) // interval_ns)
        waits = [round(s * NANOSECONDS) for s in (settings.answer_s, settings.idle_stream_s, settings.idle_datagram_s)]
        most = settings.max_connections
        self._asked: Ints = np.array([interval_ns, self._grace, quiet, seed, most, *waits], np.int64)
        self._connections = ConnectionTable(settings.max_connections, self._scalars, seed)
        self._peers = PeerTable(self._scalars, seed)
        self._notes = Notes(rows, settings.max_notes, self._scalars)
        self._outcomes: Ints = np.zeros(len(Outcome), np.int64)
        self._active: Ints = np.zeros(vms, np.int64)
        self._has_sent = np.zeros((2, vms), np.bool_)

    def add(self, packets: Packets) -> Iterator[Intervals]:
        """Meters packets; gives the intervals that they close, in order. To be exhausted before the next call."""
        if packets.outcome.any():
            self._outcomes += np.bincount(packets.outcome, minlength=len(Outcome))
        else:  # all were parsed, as almost always
            self._outcomes[Outcome.PARSED] += len(packets)
        self._make_room(len(packets))
        identities = self._connections.identify(packets)
        at, state = 0, kernels.CLOSE
        while state == kernels.CLOSE:
            at, state = self._meter(packets, identities, at)
            if state == kernels.CLOSE:
                yield from self._close(int(self._scalars[kernels.CLOSE_TO]) - self._grace)
        if self._started:
            yield from self._close(int(self._scalars[kernels.CLOCK]) // self.interval_ns - self._grace)

    def finish(self) -> Iterator[Intervals]:
        """Closes all that is open. What then comes for these intervals is late."""
        if self._started:
            yield from self._close(max(int(self._scalars[kernels.LATEST]) + 1, int(self._scalars[kernels.OLDEST])))

    def miss(self, packets: int) -> None:
        """Notes packets that the tap lost, for every VM, in the newest interval."""
        if packets:
            kernels.note_missed(packets, self._missed, self._scalars, self._asked)

    def accounts(self, losses: Losses | None = None) -> Accounts:
        """Where every packet went, so far."""
        scalars = self._scalars
        return Accounts(
            offered=int(self._outcomes.sum()),
            outcomes={outcome.name.lower(): int(self._outcomes[outcome]) for outcome in Outcome},
            attributed=int(scalars[kernels.ATTRIBUTED]),
            foreign=int(scalars[kernels.FOREIGN]),
            unclaimed=int(scalars[kernels.UNCLAIMED]),
            late=int(scalars[kernels.LATE]),
            untracked=int(scalars[kernels.UNTRACKED]),
            transport_unread=int(scalars[kernels.TRANSPORT_UNREAD]),
            uncounted=int(scalars[kernels.NOTES_DROPPED] + scalars[kernels.PEERS_UNCOUNTED]),
            losses=losses or Losses(),
        )

    @property
    def _started(self) -> bool:
        return int(self._scalars[kernels.OLDEST]) != kernels.NOT_STARTED

    def _make_room(self, packets: int) -> None:
        self._connections.make_room(packets)
        self._peers.make_room(2 * packets, int(self._scalars[kernels.OLDEST]))
        self._notes.make_room(2 * packets)

    def _meter(self, packets: Packets, identities: Identities, first: int) -> tuple[int, int]:
        table = self._connections
        at, state = kernels.meter(
            first, packets.time_ns, packets.outcome, packets.version, packets.protocol,
            packets.src_hi, packets.src_lo, packets.dst_hi, packets.dst_lo, packets.src_port, packets.dst_port,
            packets.flags, packets.seq, packets.ack, packets.ip_bytes, packets.payload_bytes,
            packets.src_vm, packets.dst_vm, *identities,
            table.entries, table.bucket_of, table.addresses, table.buckets, table.queue, table.due, table.heads,
            self._ring, self._missed, self._scalars, self._asked,
            self._notes.notes, self._notes.lists, self._peers.peers,
        )  # fmt: skip
        return int(at), int(state)

    def _close(self, oldest: int) -> Iterator[Intervals]:
        """Gives the intervals before `oldest`, and makes it the oldest open one. A gap's intervals are not given."""
        scalars = self._scalars
        begin, end = max(int(scalars[kernels.OLDEST]), int(scalars[kernels.EARLIEST])), oldest
        if scalars[kernels.GAP]:
            end = int(scalars[kernels.GAP])
            oldest = max(oldest, end)
        step = max(1, _CELLS_A_BATCH // max(self._vms, 1))
        for start in range(begin, end, step):
            yield self._take(start, min(start + step, end))
        scalars[kernels.OLDEST] = max(oldest, int(scalars[kernels.OLDEST]))
        if scalars[kernels.GAP]:
            scalars[kernels.GAP], scalars[kernels.EARLIEST] = 0, scalars[kernels.CLOSE_TO]

    def _take(self, begin: int, end: int) -> Intervals:
        """The intervals from begin up to end, taken out of the ring."""
        count = end - begin
        counts: Ints = np.zeros((count, self._vms, len(kernels.COUNTERS)), np.int64)
        missed: Ints = np.zeros(count, np.int64)
        held = np.arange(begin, min(end, int(self._scalars[kernels.OLDEST]) + len(self._ring)))
        rows = held % len(self._ring)
        counts[: len(held)], missed[: len(held)] = self._ring[rows, :-1], self._missed[rows]
        self._ring[rows], self._missed[rows] = 0, 0
        missed[0] += self._scalars[kernels.MISSED_UNPLACED]
        self._scalars[kernels.MISSED_UNPLACED] = 0
        columns = {name: counts[:, :, kernels.COUNTERS.index(name)] for name in _OBSERVED}
        columns["missed_packets"] = columns["missed_packets"] + missed[:, np.newaxis]
        active = self._active + np.cumsum(counts[:, :, kernels.ACTIVE], axis=0)
        self._active = active[-1].copy()
        columns["connections_active"] = np.maximum(active, 0)  # an end may come before its beginning where packets do
        segments = counts[:, :, kernels.SEGMENTS]
        floats = {"loss_ratio": np.where(segments > 0, columns["retransmitted_packets"] / np.maximum(segments, 1), np.nan)}
        for name, kind in _QUANTILES.items():
            cells, times_ns = self._notes.take(rows, kind, self._vms)
            quantiles = cell_quantiles(cells, times_ns / 1e6, tuple(_LEVELS.values()), count * self._vms)
            for label, values in zip(_LEVELS, quantiles, strict=True):
                floats[f"{name}_{label}"] = values.reshape(count, self._vms)
        return Intervals(
            interval_ns=self.interval_ns,
            start_ns=np.arange(begin, end, dtype=np.int64) * self.interval_ns,
            columns={name: columns[name] if name in columns else floats[name] for name in BY_NAME if name in columns | floats},
            one_sided=self._one_sided(columns),
            requests=_requests(*self._notes.take(rows, kernels.REQUEST, self._vms), self._vms),
        )

    def _one_sided(self, columns: dict[str, Ints]) -> NDArray[np.bool_]:
        """Cells with traffic of a VM of which only one direction has ever been seen: nobody answers, or half is hidden."""
        seen = []
        for row, name in enumerate(("rx_packets", "tx_packets")):
            ever = np.logical_or.accumulate(np.vstack([self._has_sent[row], columns[name] > 0]), axis=0)[1:]
            self._has_sent[row] = ever[-1]
            seen.append(ever)
        busy = (columns["rx_packets"] > 0) | (columns["tx_packets"] > 0)
        one_sided: NDArray[np.bool_] = busy & (seen[0] != seen[1])
        return one_sided


def _requests(cells: Ints, values: Ints, vms: int) -> Requests:
    """Requests in the order of their record, from notes."""
    vm, ordered = np.empty_like(cells), np.empty_like(values)
    closing_kernels.order_by_vm(cells, values, vms, vm, ordered)
    return Requests(time_ns=ordered >> 1, vm=vm.astype(np.int32), opens=(ordered & 1).astype(np.bool_))


def cell_quantiles(cells: Ints, values: Floats, levels: tuple[float, ...], count: int) -> Floats:
    """Quantiles of the values in each of `count` cells, by linear interpolation (Hyndman and Fan's type 7).

    cells int64[n], from 0; values float64[n]. Gives float64[levels, count], NaN for a cell without values.
    """
    quantiles: Floats = np.full((len(levels), count), np.nan)
    closing_kernels.cell_quantiles(cells, values, np.array(levels, np.float64), quantiles)
    return quantiles
