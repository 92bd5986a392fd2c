"""Connections, peers, notes: the meter's tables, whose memory grows with use up to a bound. They count nothing themselves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import closing_kernels, kernels
from adumbra.schema.records import Ints, Packets

_LEAST_ENTRIES = 1 << 14
_CACHE_LINE_BYTES = 64
_LEAST_PEERS = 1 << 15
_MOST_PEERS = 1 << 22
_LEAST_NOTES = 1 << 16


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

    Grows by doubling up to `max_connections` (at least 16,384), about 140 bytes each.
    """

    def __init__(self, max_connections: int, scalars: Ints, seed: int) -> None:
        self.max_connections = max(max_connections, _LEAST_ENTRIES)
        self._scalars = scalars
        self._seed = np.uint64(seed)
        self._identities = Identities.of(0)
        self.entries = _aligned(0, kernels.ENTRY)
        self.addresses = _aligned(0, kernels.ADDRESSES)
        self.bucket_of: NDArray[np.int32] = np.zeros(0, np.int32)
        self.buckets: NDArray[np.int32] = np.zeros(0, np.int32)
        self.queue: NDArray[np.int32] = np.zeros((3, 1), np.int32)
        self.due: Ints = np.zeros((3, 1), np.int64)
        self.heads: Ints = np.zeros((3, 2), np.int64)
        self._grow(_LEAST_ENTRIES)

    def identify(self, packets: Packets) -> Identities:
        """What connection each packet is of. Valid until the next call."""
        count = len(packets)
        if len(self._identities.side) < count:
            self._identities = Identities.of(count)
        side, key, ports, spread = self._identities
        identities = Identities(side[:count], key[:count], ports[:count], spread[:count])
        kernels.identify(
            packets.outcome, packets.version, packets.protocol, packets.src_hi, packets.src_lo, packets.dst_hi,
            packets.dst_lo, packets.src_port, packets.dst_port, packets.payload_bytes, packets.src_vm, packets.dst_vm,
            self._seed, *identities,
        )  # fmt: skip
        return identities

    def make_room(self, connections: int) -> None:
        """Grows until that many more connections fit, or the bound is reached."""
        wanted = int(self._scalars[kernels.USED]) + connections
        size = len(self.entries)
        while size < wanted and size < self.max_connections:
            size = min(2 * size, self.max_connections)
        if size > len(self.entries):
            self._grow(size)

    def _grow(self, size: int) -> None:
        had = len(self.entries)
        for name in ("entries", "addresses"):
            old = getattr(self, name)
            larger = _aligned(size, old.dtype)
            larger[:had] = old
            setattr(self, name, larger)
        self.bucket_of = np.concatenate([self.bucket_of, np.full(size - had, -1, np.int32)])
        self.buckets = np.empty(1 << size.bit_length(), np.int32)
        kernels.rehash(self.entries, self.bucket_of, self.buckets, self._seed)
        kernels.free_entries(self.entries, self.bucket_of, self._scalars)
        for name in ("queue", "due"):
            old = getattr(self, name)
            ring = np.zeros((3, size + 1), old.dtype)
            for which in range(3):
                head, count = self.heads[which]
                ring[which, :count] = np.take(old[which], np.arange(head, head + count), mode="wrap")
            setattr(self, name, ring)
        self.heads[:, 0] = 0


class Notes:
    """Times and requests of the open intervals, in a list for each interval and kind. Grows by doubling up to `most`."""

    def __init__(self, rows: int, most: int, scalars: Ints) -> None:
        self._most = max(most, _LEAST_NOTES)
        self._scalars = scalars
        self.lists: Ints = np.zeros((rows, 3, 2), np.int64)
        self.lists[:, :, 0] = -1
        self.notes: NDArray[np.void] = np.zeros(0, kernels.NOTE)
        scalars[kernels.FREE_NOTE] = -1
        self.make_room(1)

    def make_room(self, notes: int) -> None:
        """Grows until that many more notes fit, or the bound is reached."""
        wanted = min(int(self._scalars[kernels.NOTES_USED]) + notes, self._most)
        had = len(self.notes)
        if wanted <= had:
            return
        larger = np.zeros(min(max(_LEAST_NOTES, 2 * had, wanted), self._most), kernels.NOTE)
        larger[:had] = self.notes
        self.notes = larger
        self._scalars[kernels.FREE_NOTE] = closing_kernels.free_notes(larger, had, int(self._scalars[kernels.FREE_NOTE]))

    def take(self, rows: Ints, kind: int, vms: int) -> tuple[Ints, Ints]:
        """Takes the notes of a kind of the intervals in these rows of the ring, newest first: cells and values, int64[n].

        A cell is the interval's place in `rows` x `vms` + VM.
        """
        count = int(self.lists[rows, kind, 1].sum())
        cells: Ints = np.empty(count, np.int64)
        values: Ints = np.empty(count, np.int64)
        head = int(self._scalars[kernels.FREE_NOTE])
        self._scalars[kernels.FREE_NOTE] = closing_kernels.take_notes(
            self.notes, self.lists, rows, kind, vms, head, cells, values
        )
        self._scalars[kernels.NOTES_USED] -= count
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
        if (int(self._scalars[kernels.PEERS_USED]) + peers) * 2 <= len(self.peers):
            return
        if len(self.peers) == _MOST_PEERS and oldest == self._kept_from:
            return  # no interval has been closed since the last time: there is nothing to drop
        self._kept_from = oldest
        wanted = 4 * (int(kernels.count_met(self.peers, oldest)) + peers)
        size = min(_MOST_PEERS, max(_LEAST_PEERS, 1 << (wanted - 1).bit_length()))
        kept = _empty_peers(size)
        kernels.keep_peers(self.peers, oldest, kept, self._scalars, self._seed)
        self.peers = kept


def _aligned(rows: int, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Zeroed records that begin on a cache line."""
    room = np.zeros(rows * dtype.itemsize + _CACHE_LINE_BYTES, np.uint8)
    skip = -room.ctypes.data % _CACHE_LINE_BYTES
    return room[skip : skip + rows * dtype.itemsize].view(dtype)


def _empty_peers(size: int) -> NDArray[np.void]:
    peers = _aligned(size, kernels.PEER)
    peers["vm"] = -1
    return peers
