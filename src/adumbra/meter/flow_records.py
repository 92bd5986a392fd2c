"""Meters flow records into per-VM intervals: spread over the time they lasted, scaled, null where nothing is told. No clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import flow_cell_kernels as kernels
from adumbra.meter import flow_origin_kernels, flow_record_kernels
from adumbra.schema.metrics import HISTOGRAMS, METRICS, Provenance
from adumbra.schema.records import (
    NANOSECONDS,
    Accounts,
    ConnectionRecords,
    Floats,
    FlowRecords,
    Intervals,
    Ints,
    Losses,
    Outcome,
    Requests,
)

_CELLS_A_BATCH = 1 << 18
_DAY_S = 86_400
_BUDGET_PER_BUSY = 20
_LEAST_BLOCKS = 16
_LEAST_PEERS, _MOST_PEERS = 1 << 14, 1 << 22
_MOST_MISSED = 1 << 16

_NAMES = tuple(metric.name for metric in METRICS if metric.provenance is not Provenance.SIMULATED)
_UNTOLD_BY_FLOWS = frozenset(
    {"requests", "retransmitted_packets", "out_of_order_packets", "duplicate_acks", "zero_windows", "loss_ratio"}
    | {f"{kind}_ms_{level}" for kind in ("rtt", "ack", "response") for level in ("p50", "p99")}
    | {name for kind in ("rtt", "ack", "response") for name in HISTOGRAMS[kind]}
)
_TOLD_BY = {  # column: the bit that a row has which might have told it, the bit of one that did, since when it is told
    "rx_bytes": (kernels.RX_SEEN, kernels.RX_BYTES_TOLD, kernels.T_BYTES),
    "tx_bytes": (kernels.TX_SEEN, kernels.TX_BYTES_TOLD, kernels.T_BYTES),
    "rx_packets": (kernels.RX_SEEN, kernels.RX_PACKETS_TOLD, kernels.T_PACKETS),
    "tx_packets": (kernels.TX_SEEN, kernels.TX_PACKETS_TOLD, kernels.T_PACKETS),
    "connections_attempted": (kernels.TCP_SEEN, kernels.ATTEMPTED_TOLD, kernels.T_ATTEMPTED),
    "connections_initiated": (kernels.TCP_SEEN, kernels.INITIATED_TOLD, kernels.T_INITIATED),
    "connections_established": (kernels.TCP_SEEN, kernels.ESTABLISHED_TOLD, kernels.T_ESTABLISHED),
    "connections_failed": (kernels.TCP_SEEN, kernels.FAILED_TOLD, kernels.T_FAILED),
    "connections_scanned": (kernels.TCP_SEEN, kernels.ATTEMPTED_TOLD, kernels.T_ATTEMPTED),
    "scan_bytes": (kernels.RX_SEEN, kernels.RX_BYTES_TOLD, kernels.T_BYTES),
}


@dataclass(frozen=True, slots=True)
class FlowMeterSettings:
    """How the meter of flow records bounds itself. Times in seconds.

    lateness_s: how much later than the newest flow's end an older one may still come; None, for files: intervals stay open
    until the end, or until their cells would be more than max_cells (intervals x VMs with traffic, 112 bytes each).
    quiet_s: how long a silence is taken for a quiet network, not for a time that wasn't watched; max_flow_s: a flow that
    would be longer, or span a quarter of the cells, is an instant at its end. A foreign source is a scanner once it tried
    scan_targets (2 to 32) addresses and ports and completed under scan_completed, a share, of what it attempted; it is
    forgotten scan_memory_s after its last flow; at most max_sources are kept.
    """

    lateness_s: float | None = 900.0
    quiet_s: float = 3600.0
    max_cells: int = 1 << 21
    max_flow_s: float = 7.0 * _DAY_S
    scan_targets: int = 20
    scan_completed: float = 0.1
    scan_memory_s: float = 86_400.0
    max_sources: int = 1 << 16


class Cells(NamedTuple):
    """Counters in blocks of intervals of one VM. A key is the block's number x VMs + VM, -1 for a row that is free."""

    keys: Ints
    counts: Ints  # [rows, BLOCK, COUNTERS]
    variance: Floats  # [rows, BLOCK], of the number of packets
    table: NDArray[np.int32]  # by hash of the key: the row, -1 for none
    free: NDArray[np.int32]


class Origins(NamedTuple):
    """Foreign sources, with what each tried first; and the ports that each VM declares, from starts[vm] to starts[vm + 1]."""

    sources: NDArray[np.void]
    targets: NDArray[np.uint64]
    listings: NDArray[np.void]
    starts: Ints
    ports: Ints


class _Flows(NamedTuple):
    """The columns of FlowRecords that are metered, as the kernels take them."""

    start_ns: Ints
    end_ns: Ints
    version: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]
    dst_port: NDArray[np.uint16]
    bytes: Ints
    packets: Ints
    rate: Ints
    attempted: Ints
    established: Ints
    failed: Ints
    from_client: NDArray[np.int8]
    src_vm: NDArray[np.int32]
    dst_vm: NDArray[np.int32]


class FlowMeter:
    """Turns attributed flow records into closed intervals of `interval_ns`, aligned to the epoch, for `vms` VMs.

    A flow's bytes and packets are spread over its intervals in proportion to the time that it lay in each, in whole
    numbers that add up to its own; an instant falls into one. Its last packet's time counts to it. Counts are scaled by the
    sampling rate. Connections count as attempted and established where their flow begins, as failed where it ends.

    What a row doesn't tell is no 0: a cell's count is the sum of what its rows tell, and NaN where none of them does; where
    there was no such row it is 0 if the source tells of that at all, by what it had told before the interval
    was closed. Only TCP's rows speak of connections. Peers are distinct remote addresses in the intervals into which at
    least one packet falls.

    `sampling_error_ratio` is sqrt(sum N (N - 1) c) / sum N c over the cell's c packets that were sampled at 1 in N each: where
    every packet is chosen by itself, c is binomial, and N (N - 1) c estimates the variance of N c without bias (thinning;
    for a large N the same as sFlow's 196 / sqrt(c) % at 95 %, Phaal and Panchen, "Packet Sampling Basics").

    How rows are cut into batches changes no result. `seed` keys the hash tables; it changes no result. `ports`: the TCP
    ports that each VM declares; a failed attempt at another port of a VM that declares some is background radiation, and
    counts as scanned like a scanner's.
    """

    def __init__(
        self,
        vms: int,
        interval_ns: int,
        settings: FlowMeterSettings | None = None,
        seed: int = 0,
        ports: Sequence[Sequence[int]] = (),
    ) -> None:
        settings = settings or FlowMeterSettings()
        self.interval_ns = interval_ns
        self._vms = vms
        self._scalars: Ints = np.zeros(kernels.SCALARS, np.int64)
        self._scalars[kernels.TOLD_FROM :] = kernels.NEVER
        self._scalars[[kernels.OLDEST, kernels.SATURATED]] = kernels.ALWAYS, kernels.NEVER
        rows = max(_LEAST_BLOCKS, settings.max_cells // kernels.BLOCK)
        self._cells = _cells(rows)
        self._scalars[kernels.FREE] = rows
        self._asked = _asked(settings, interval_ns, vms, seed)
        self._peers = _empty_peers(_LEAST_PEERS)
        self._origins = _origins(settings.max_sources, ports or [()] * vms)
        self._quiet = max(1, round(settings.quiet_s * NANOSECONDS) // interval_ns)
        self._budget = max(kernels.BLOCK, min(_DAY_S, 50_000_000 // max(vms, 1)))
        self._next: int | None = None  # the interval after the last that was given
        self._watched_from: int | None = None
        self._watched_to = kernels.ALWAYS
        self._missed: dict[int, Ints] = {}
        self._missed_unplaced = 0
        self._offered = 0
        self._active: Ints = np.zeros(vms, np.int64)
        self._seen: NDArray[np.bool_] = np.zeros((2, vms), np.bool_)  # towards each VM, from it

    def add(self, records: FlowRecords) -> Iterator[Intervals]:
        """Meters records; gives the intervals that they close, in order. To be exhausted before the next call."""
        self._offered += len(records)
        flows = _Flows(*(np.ascontiguousarray(getattr(records, name)) for name in _Flows._fields))
        late: Ints = np.zeros((2 * len(records) + 2, 3), np.int64)
        whole = isinstance(records, ConnectionRecords)
        at, state = 0, kernels.NO_CELLS
        while state != kernels.DONE:
            at, state = flow_record_kernels.meter(
                at, flows, whole, self._cells, self._peers, self._origins, late, self._scalars, self._asked
            )
            self._take_late(late)
            if state == kernels.NO_CELLS:
                yield from self._free_cells()
            elif state == kernels.NO_PEERS:
                self._make_room_for_peers()
        if records.complete_to_ns:
            yield from self.advance(records.complete_to_ns)
        else:
            yield from self._close(self._oldest)

    def advance(self, now_ns: int) -> Iterator[Intervals]:
        """It is `now_ns` where flows are collected: closes what a flow that ends now would.

        From the first call on, a time without flows is quiet, not a gap. To be exhausted before the next call.
        """
        scalars, grace = self._scalars, int(self._asked[kernels.GRACE])
        if scalars[kernels.STARTED]:
            scalars[kernels.CLOCK] = max(int(scalars[kernels.CLOCK]), now_ns)
            if grace >= 0:
                scalars[kernels.OLDEST] = max(self._oldest, int(scalars[kernels.CLOCK]) // self.interval_ns - grace)
                self._watched_from = self._oldest if self._watched_from is None else self._watched_from
                self._watched_to = max(self._watched_to, now_ns // self.interval_ns - grace)
        yield from self._close(self._oldest)

    def finish(self) -> Iterator[Intervals]:
        """Closes all that is open. What then comes for these intervals is late."""
        if self._scalars[kernels.STARTED]:
            ends = [int(key) // self._vms + 1 for key in self._cells.keys if key >= 0]
            last = max([self._oldest, *(end * kernels.BLOCK for end in ends), *(each + 1 for each in self._missed)])
            yield from self._close(last)
            self._scalars[kernels.OLDEST] = max(self._oldest, self._next or self._oldest)

    def miss(self, packets: int) -> None:
        """Notes packets that the collector lost, for every VM, in the newest interval."""
        if packets and self._scalars[kernels.STARTED]:
            self._note_missed(max(int(self._scalars[kernels.CLOCK]) // self.interval_ns, self._oldest), None, packets)
        else:
            self._missed_unplaced += packets

    def accounts(self, losses: Losses | None = None, outcomes: Mapping[str, int] | None = None) -> Accounts:
        """Where every row went, so far. `outcomes`: those of the decoder, by reason; without, all that came was parsed.

        `late`: attributed rows of which a part, or all, fell into intervals that were closed.
        """
        told = {Outcome.PARSED.name.lower(): self._offered} if outcomes is None else dict(outcomes)
        scalars = self._scalars
        return Accounts(
            offered=sum(told.values()),
            outcomes=told,
            attributed=int(scalars[kernels.ATTRIBUTED]),
            foreign=int(scalars[kernels.FOREIGN]),
            unclaimed=int(scalars[kernels.UNCLAIMED]),
            late=int(scalars[kernels.LATE]),
            untracked=0,
            transport_unread=0,
            uncounted=int(scalars[kernels.UNCOUNTED]),
            losses=losses or Losses(),
            scanners=int(scalars[kernels.SCANNERS]),
            scanned_attempts=int(scalars[kernels.SCANNED_ATTEMPTS]),
            evicted_sources=int(scalars[kernels.EVICTED]),
        )

    @property
    def _oldest(self) -> int:
        return int(self._scalars[kernels.OLDEST])

    # ---- room ----------------------------------------------------------------------------------------------------------

    def _free_cells(self) -> Iterator[Intervals]:
        """Makes room for the row that needs cells: closes what is due; else, and only then, the oldest that is open."""
        blocks = self._cells.keys[self._cells.keys >= 0] // self._vms
        oldest = int(blocks.min()) * kernels.BLOCK
        if oldest + kernels.BLOCK > self._oldest:  # nothing is due that would free a block
            sooner = self._oldest < oldest
            self._scalars[kernels.OLDEST] = oldest if sooner else oldest + kernels.BLOCK
        yield from self._close(self._oldest)

    def _make_room_for_peers(self) -> None:
        """Forgets meetings in intervals that are closed, and grows; notes when neither helps."""
        kept = int(kernels.count_met(self._peers, self._oldest))
        size = len(self._peers)
        while size < _MOST_PEERS and size < 4 * kept:
            size *= 2
        if kept * 2 > size or (size == len(self._peers) and kept == int(self._scalars[kernels.PEERS_USED])):
            if size < _MOST_PEERS:
                size *= 2
            else:
                self._scalars[kernels.SATURATED] = self._oldest
        peers = _empty_peers(size)
        kernels.keep_met(self._peers, self._oldest, peers, self._scalars, int(self._asked[kernels.SEED]))
        self._peers = peers

    def _take_late(self, late: Ints) -> None:
        for interval, vm, packets in late[: int(self._scalars[kernels.LATES])].tolist():
            self._note_missed(interval, vm, packets)
        self._scalars[kernels.LATES] = 0

    def _note_missed(self, interval: int, vm: int | None, packets: int) -> None:
        if interval not in self._missed and len(self._missed) >= _MOST_MISSED:
            interval = max(self._missed)
        held = self._missed.setdefault(interval, np.zeros(self._vms, np.int64))
        held[slice(None) if vm is None else vm] += packets

    # ---- closing -------------------------------------------------------------------------------------------------------

    def _close(self, end: int) -> Iterator[Intervals]:
        """Gives the intervals before `end` that aren't given yet. A gap's intervals are not given."""
        rows = np.flatnonzero(self._cells.keys >= 0)
        blocks = self._cells.keys[rows] // self._vms
        due = blocks * kernels.BLOCK < end
        rows, blocks = rows[due], blocks[due]
        wanted = self._wanted(self._busy(rows, blocks, end), end)
        step = max(1, _CELLS_A_BATCH // max(self._vms, 1))
        for at in range(0, len(wanted), step):
            yield self._take(wanted[at : at + step], rows, blocks)
        self._free(rows, blocks, end)

    def _busy(self, rows: Ints, blocks: Ints, end: int) -> Ints:
        """The intervals before `end` in which anything was seen, or missed, in order."""
        block, place = np.nonzero(self._cells.counts[rows, :, kernels.TOLD])
        found = np.concatenate([
            blocks[block] * kernels.BLOCK + place, np.array([each for each in self._missed if each < end], np.int64),
        ])  # fmt: skip
        return np.unique(found[found < end])

    def _wanted(self, busy: Ints, end: int) -> Ints:
        """The intervals to give: the busy ones, and the quiet ones between them and up to where it was watched."""
        stretches: list[Ints] = []
        turns = np.flatnonzero(np.diff(busy) > 1) + 1 if len(busy) else np.zeros(0, np.int64)
        for part in np.split(busy, turns) if len(busy) else []:
            self._fill(int(part[0]), stretches)
            stretches.append(part)
            self._next = int(part[-1]) + 1
            self._budget += _BUDGET_PER_BUSY * len(part)
        watched = min(self._watched_to, end)
        if self._next is not None and watched > self._next:
            self._fill(watched, stretches)
            self._next = watched
        return np.concatenate(stretches) if stretches else np.zeros(0, np.int64)

    def _fill(self, upto: int, stretches: list[Ints]) -> None:
        """Adds the quiet before an interval, unless it is a gap: too long, and not watched, or more than is left to fill."""
        if self._next is None:
            return
        watched = self._watched_from is not None and self._next >= self._watched_from and upto <= self._watched_to
        quiet = upto - self._next
        if watched or quiet <= min(self._quiet, self._budget):
            self._budget -= 0 if watched else quiet
            stretches.append(np.arange(self._next, upto, dtype=np.int64))

    def _free(self, rows: Ints, blocks: Ints, end: int) -> None:
        """Empties the cells before `end`, and frees what is wholly before it."""
        over = (blocks + 1) * kernels.BLOCK <= end
        for row, block in zip(rows[~over], blocks[~over], strict=True):
            self._cells.counts[row, : end - block * kernels.BLOCK] = 0
            self._cells.variance[row, : end - block * kernels.BLOCK] = 0
        gone = rows[over]
        self._cells.counts[gone], self._cells.variance[gone] = 0, 0
        if len(gone):
            kernels.release(gone, self._cells, self._scalars)
        self._missed = {each: packets for each, packets in self._missed.items() if each >= end}

    def _take(self, wanted: Ints, rows: Ints, blocks: Ints) -> Intervals:
        """What is known of some intervals, given in order."""
        counts: Ints = np.zeros((len(wanted), self._vms, len(kernels.COUNTERS)), np.int64)
        variance: Floats = np.zeros((len(wanted), self._vms))
        missed: Ints = np.zeros((len(wanted), self._vms), np.int64)
        within = (blocks >= wanted[0] // kernels.BLOCK) & (blocks <= wanted[-1] // kernels.BLOCK)
        for row, block in zip(rows[within], blocks[within], strict=True):
            low, high = np.searchsorted(wanted, (block * kernels.BLOCK, (block + 1) * kernels.BLOCK))
            places, vm = wanted[low:high] - block * kernels.BLOCK, self._cells.keys[row] % self._vms
            counts[low:high, vm] = self._cells.counts[row, places]
            variance[low:high, vm] = self._cells.variance[row, places]
        for interval, packets in self._missed.items():
            at = int(np.searchsorted(wanted, interval))
            if at < len(wanted) and wanted[at] == interval:
                missed[at] += packets
        missed[0] += self._missed_unplaced
        self._missed_unplaced = 0
        columns = self._columns(wanted, counts, variance)
        columns["missed_packets"] = missed
        return Intervals(
            interval_ns=self.interval_ns,
            start_ns=wanted * self.interval_ns,
            columns={name: columns[name] for name in _NAMES},
            one_sided=self._one_sided(counts),
            requests=Requests(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.bool_)),
        )

    def _columns(self, wanted: Ints, counts: Ints, variance: Floats) -> dict[str, NDArray[np.generic]]:
        """All columns but what was missed: whole ones int64 where all of it is told, else float64 with NaN."""
        unknown = np.full(counts.shape[:2], np.nan)
        columns: dict[str, NDArray[np.generic]] = dict.fromkeys(_UNTOLD_BY_FLOWS, unknown)
        told = counts[:, :, kernels.TOLD]
        for name, (might, did, since) in _TOLD_BY.items():
            known = np.where(told & might != 0, told & did != 0, self._told_in(wanted, since))
            columns[name] = _known(counts[:, :, kernels.COUNTERS.index(name)], known)
        active = self._active + np.cumsum(counts[:, :, kernels.ACTIVE], axis=0)
        self._active = active[-1].copy()
        everywhere = np.ones(counts.shape[:2], np.bool_)
        columns["connections_active"] = _known(active, everywhere & self._told_in(wanted, kernels.T_ACTIVE))
        columns["peers"] = counts[:, :, kernels.PEERS]
        packets = (counts[:, :, kernels.RX_PACKETS] + counts[:, :, kernels.TX_PACKETS]).astype(np.float64)
        whole = everywhere & ~self._told_in(wanted, kernels.T_SAMPLED)
        error = np.divide(np.sqrt(variance), packets, out=np.full_like(packets, np.nan), where=packets > 0)
        columns["sampling_error_ratio"] = np.where((variance == 0) & (whole | (packets > 0)), 0.0, error)
        return columns

    def _told_in(self, wanted: Ints, what: int) -> NDArray[np.bool_]:
        """Of each interval, whether the source had told of something before it was closed: bool[k, 1]."""
        told: NDArray[np.bool_] = (wanted >= self._scalars[what])[:, np.newaxis]
        return told

    def _one_sided(self, counts: Ints) -> NDArray[np.bool_]:
        """Cells with traffic of a VM of which only one direction has ever been seen, among what tells of traffic."""
        there = [
            (counts[:, :, size] > 0) | (counts[:, :, packets] > 0)
            for size, packets in ((kernels.RX_BYTES, kernels.RX_PACKETS), (kernels.TX_BYTES, kernels.TX_PACKETS))
        ]
        ever = [np.logical_or.accumulate(np.vstack([self._seen[k], there[k]]), axis=0) for k in range(2)]
        self._seen = np.stack([each[-1] for each in ever])
        one_sided: NDArray[np.bool_] = (there[0] | there[1]) & (ever[0][1:] != ever[1][1:])
        return one_sided


def _known(values: Ints, known: NDArray[np.bool_]) -> NDArray[np.generic]:
    return values if known.all() else np.where(known, values.astype(np.float64), np.nan)


def _asked(settings: FlowMeterSettings, interval_ns: int, vms: int, seed: int) -> Ints:
    asked: Ints = np.zeros(8, np.int64)
    grace = -1 if settings.lateness_s is None else max(1, -(-round(settings.lateness_s * NANOSECONDS) // interval_ns))
    blocks = max(_LEAST_BLOCKS, settings.max_cells // kernels.BLOCK)
    longest = round(settings.max_flow_s * NANOSECONDS) // interval_ns
    asked[[kernels.INTERVAL_NS, kernels.GRACE, kernels.VMS, kernels.SEED]] = interval_ns, grace, vms, seed
    asked[kernels.MOST_INTERVALS] = max(1, min(longest, blocks // 4 * kernels.BLOCK))
    asked[kernels.SCAN_TARGETS] = min(max(settings.scan_targets, 2), flow_origin_kernels.LISTED)
    asked[kernels.SCAN_PER_MILLION] = round(settings.scan_completed * 1_000_000)
    asked[kernels.SCAN_MEMORY_NS] = round(settings.scan_memory_s * NANOSECONDS)
    return asked


def _cells(rows: int) -> Cells:
    """Empty cells; the memory is taken as they are used."""
    return Cells(
        keys=np.full(rows, -1, np.int64),
        counts=np.zeros((rows, kernels.BLOCK, len(kernels.COUNTERS)), np.int64),
        variance=np.zeros((rows, kernels.BLOCK), np.float64),
        table=np.full(1 << (2 * rows - 1).bit_length(), -1, np.int32),
        free=np.arange(rows, dtype=np.int32)[::-1].copy(),
    )


def _empty_peers(size: int) -> NDArray[np.void]:
    peers = np.zeros(size, kernels.PEER)
    peers["vm"] = -1
    return peers


def _origins(most: int, ports: Sequence[Sequence[int]]) -> Origins:
    sources = 1 << max(4, (most - 1).bit_length())
    starts = np.cumsum([0, *(len(each) for each in ports)], dtype=np.int64)
    return Origins(
        sources=np.zeros(sources, flow_origin_kernels.SOURCE),
        targets=np.zeros((sources, flow_origin_kernels.LISTED), np.uint64),
        listings=np.zeros((sources, flow_origin_kernels.LISTED), flow_origin_kernels.LISTING),
        starts=starts,
        ports=np.array([port for each in ports for port in each], np.int64),
    )
