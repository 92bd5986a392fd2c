"""Connections, peers, notes, sources: the meter's tables. Their memory grows with use up to a bound; they count nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import closing_kernels, connection_kernels, hash_kernels, layout, peer_kernels
from adumbra.meter.layout import Columns, Origins, Records, Table
from adumbra.schema.records import Ints, Packets

_LEAST_ENTRIES = 1 << 14
_CACHE_LINE_BYTES = 64
_LEAST_PEERS = 1 << 15
_MOST_PEERS = 1 << 22
_LEAST_NOTES = 1 << 16
_LISTED_ATTEMPTS = 1 << 17
_COLUMNS = Columns._fields[: Columns._fields.index("side")]


class Identities(NamedTuple):
    """What identifies the connection of each packet: the side that sent it, the pair of addresses, of ports, their hash."""

    side: NDArray[np.uint8]
    key: NDArray[np.uint64]
    ports: NDArray[np.uint32]
    spread: NDArray[np.uint64]

    @classmethod
    def of(cls, rows: int) -> Identities:
        return cls(np.zeros(rows, np.uint8), np.zeros(rows, np.uint64), np.zeros(rows, np.uint32), np.zeros(rows, np.uint64))


class ConnectionTable:
    """Entries, hash buckets over them, and the rings in which each entry waits to be looked at again.

    Grows by doubling up to `max_connections` (at least 16,384), about 200 bytes each, 230 with IPv6.
    """

    def __init__(self, max_connections: int, scalars: Ints, seed: int) -> None:
        self.max_connections = max(max_connections, _LEAST_ENTRIES)
        self._scalars = scalars
        self._seed = np.uint64(seed)
        self._identities = Identities.of(0)
        self.arrays = Table(
            entries=_aligned(0, layout.ENTRY), details=_aligned(0, layout.DETAIL),
            births=_aligned(0, layout.BIRTH), addresses=_aligned(0, layout.ADDRESSES),
            bucket_of=np.zeros(0, np.int32), buckets=np.zeros(0, np.int32),
            queue=np.zeros((3, 1), np.int32), due=np.zeros((3, 1), np.int64), heads=np.zeros((3, 2), np.int64),
        )  # fmt: skip
        self._grow(_LEAST_ENTRIES)

    def identify(self, packets: Packets) -> Columns:
        """The packets, with what connection each is of. Valid until the next call."""
        count = len(packets)
        if len(self._identities.side) < count:
            self._identities = Identities.of(count)
        identities = [column[:count] for column in self._identities]
        hash_kernels.identify(
            packets.outcome, packets.version, packets.protocol, packets.src_hi, packets.src_lo, packets.dst_hi,
            packets.dst_lo, packets.src_port, packets.dst_port, packets.payload_bytes, packets.src_vm, packets.dst_vm,
            self._seed, *identities,
        )  # fmt: skip
        return Columns(*(getattr(packets, name) for name in _COLUMNS), *identities)

    def make_room(self) -> None:
        """Grows where it is full, up to its bound."""
        if self._scalars[layout.FREE] == -1 and len(self.arrays.entries) < self.max_connections:
            self._grow(min(2 * len(self.arrays.entries), self.max_connections))

    def _grow(self, size: int) -> None:
        old = self.arrays
        had = len(old.entries)
        buckets: NDArray[np.int32] = np.empty(1 << size.bit_length(), np.int32)
        self.arrays = old._replace(  # one after the other, so that only one stands there twice
            bucket_of=np.concatenate([old.bucket_of, np.full(size - had, -1, np.int32)]), buckets=buckets
        )
        six = bool((old.entries["version"] == 6).any())  # without IPv6 the addresses' pages are never touched
        for name in ("entries", "details", "births", "addresses"):
            self._replace(name, _longer(getattr(self.arrays, name), size, copied=six or name != "addresses"))
        for name in ("queue", "due"):
            self._replace(name, _unrolled(getattr(self.arrays, name), self.arrays.heads, size + 1))
        self.arrays.heads[:, 0] = 0
        connection_kernels.rehash(self.arrays.entries, self.arrays.bucket_of, buckets, self._seed)
        connection_kernels.free_entries(self.arrays.entries, self.arrays.bucket_of, self._scalars)

    def _replace(self, name: str, array: Any) -> None:
        self.arrays = self.arrays._replace(**{name: array})


class NoteTable:
    """Times and requests of the open intervals, in a list of chunks for each interval and kind. Doubles up to `most`."""

    def __init__(self, rows: int, most: int, scalars: Ints) -> None:
        self.most_chunks = max(most, _LEAST_NOTES) // layout.CHUNK
        self._scalars = scalars
        self.lists: Ints = np.zeros((rows, layout.KINDS, 2), np.int64)
        self.lists[:, :, 0] = -1
        self.values: Ints = np.zeros((0, layout.CHUNK), np.int64)
        self.noted: NDArray[np.int32] = np.zeros((0, layout.CHUNK), np.int32)
        self.following: NDArray[np.int32] = np.zeros(0, np.int32)
        scalars[layout.FREE_CHUNK] = -1
        self.make_room()

    def make_room(self) -> None:
        """Grows where a packet's notes might not fit, up to its bound."""
        had = len(self.following)
        if int(self._scalars[layout.CHUNKS_USED]) + layout.NOTES_A_PACKET > had and had < self.most_chunks:
            size = min(max(2 * had, _LEAST_NOTES // layout.CHUNK), self.most_chunks)
            self.values = _more(self.values, size)
            self.noted = _more(self.noted, size)
            self.following = _more(self.following, size)
            head = closing_kernels.free_chunks(self.following, had, int(self._scalars[layout.FREE_CHUNK]))
            self._scalars[layout.FREE_CHUNK] = head

    def take(self, rows: Ints, kind: int, vms: int) -> tuple[Ints, Ints]:
        """Takes the notes of a kind of the intervals in these rows of the ring, oldest first: cells and values, int64[n].

        A cell is the interval's place in `rows` x `vms` + VM.
        """
        count = int(self.lists[rows, kind, 1].sum())
        cells: Ints = np.empty(count, np.int64)
        values: Ints = np.empty(count, np.int64)
        head, freed = closing_kernels.take_notes(
            (self.values, self.noted, self.following), self.lists, rows, kind, vms,
            int(self._scalars[layout.FREE_CHUNK]), cells, values,
        )  # fmt: skip
        self._scalars[layout.FREE_CHUNK] = head
        self._scalars[layout.CHUNKS_USED] -= freed
        return cells, values


class PeerTable:
    """The peers that each VM has met in the open intervals. At most 3 million; those beyond go uncounted, and are told."""

    def __init__(self, scalars: Ints, seed: int) -> None:
        self._scalars = scalars
        self._seed = np.uint64(seed)
        self._kept_from: int | None = None
        self.peers = _empty_peers(_LEAST_PEERS)

    def make_room(self, peers: int, oldest: int) -> None:
        """Where that many more would fill the table beyond half: drops those met before `oldest` only, and grows."""
        if (int(self._scalars[layout.PEERS_USED]) + peers) * 2 <= len(self.peers):
            return
        if len(self.peers) == _MOST_PEERS and oldest == self._kept_from:
            return  # no interval has been closed since the last time: there is nothing to drop
        self._kept_from = oldest
        wanted = 4 * (int(peer_kernels.count_met(self.peers, oldest)) + peers)
        size = min(_MOST_PEERS, max(_LEAST_PEERS, 1 << (wanted - 1).bit_length()))
        kept = _empty_peers(size)
        peer_kernels.keep_peers(self.peers, oldest, kept, self._scalars, self._seed)
        self.peers = kept


class OriginTable:
    """The foreign sources of attempts: `most` of them, 56 bytes each; the stalest that is no scanner gives way to a new one."""

    def __init__(self, most: int, ports: Sequence[Sequence[int]]) -> None:
        size = 1 << max(layout.WAYS, most - 1).bit_length()
        starts = np.zeros(len(ports) + 1, np.int64)
        np.cumsum([len(each) for each in ports], out=starts[1:])
        self.arrays = Origins(
            sources=np.zeros(size, layout.SOURCE),
            attempts=np.zeros(min(2 * size, _LISTED_ATTEMPTS), layout.ATTEMPT),
            starts=starts,
            ports=np.array([port for each in ports for port in each], np.uint16),
        )


def _longer(old: Records, rows: int, *, copied: bool) -> Records:
    longer = _aligned(rows, old.dtype)
    if copied:
        longer[: len(old)] = old
    return longer


def _more(old: NDArray[Any], rows: int) -> NDArray[Any]:
    more = np.zeros((rows, *old.shape[1:]), old.dtype)
    more[: len(old)] = old
    return more


def _unrolled(old: NDArray[np.generic], heads: Ints, rows: int) -> NDArray[np.generic]:
    """Rings, each from its head on, in longer ones."""
    ring = np.zeros((len(old), rows), old.dtype)
    for which, (head, count) in enumerate(heads):
        ring[which, :count] = np.take(old[which], np.arange(head, head + count), mode="wrap")
    return ring


def _aligned(rows: int, dtype: np.dtype[np.void]) -> Records:
    """Zeroed records that begin on a cache line."""
    room = np.zeros(rows * dtype.itemsize + _CACHE_LINE_BYTES, np.uint8)
    skip = -room.ctypes.data % _CACHE_LINE_BYTES
    return room[skip : skip + rows * dtype.itemsize].view(dtype)


def _empty_peers(size: int) -> NDArray[np.void]:
    peers = _aligned(size, layout.PEER)
    peers["vm"] = -1
    return peers
