"""The connection table and the table of peers: memory that grows with use up to a bound. Counts nothing itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import kernels
from adumbra.schema.records import Ints

_LEAST_ENTRIES = 1 << 14
_CACHE_LINE_BYTES = 64
_LEAST_PEERS = 1 << 15
_MOST_PEERS = 1 << 22


class ConnectionTable:
    """Entries, hash buckets over them, and the rings in which each entry waits to be looked at again.

    Grows by doubling up to `max_connections` (at least 16,384), about 140 bytes each.
    """

    def __init__(self, max_connections: int, scalars: Ints, seed: int) -> None:
        self.max_connections = max(max_connections, _LEAST_ENTRIES)
        self._scalars = scalars
        self._seed = np.uint64(seed)
        self.entries = _aligned(0, kernels.ENTRY)
        self.addresses = _aligned(0, kernels.ADDRESSES)
        self.bucket_of: NDArray[np.int32] = np.zeros(0, np.int32)
        self.buckets: NDArray[np.int32] = np.zeros(0, np.int32)
        self.queue: NDArray[np.int32] = np.zeros((3, 1), np.int32)
        self.due: Ints = np.zeros((3, 1), np.int64)
        self.heads: Ints = np.zeros((3, 2), np.int64)
        self._grow(_LEAST_ENTRIES)

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


class PeerTable:
    """The peers that each VM has met in the open intervals. At most 3 million; those beyond go uncounted, and are told."""

    def __init__(self, scalars: Ints) -> None:
        self._scalars = scalars
        self.peers = _empty_peers(_LEAST_PEERS)

    def make_room(self, peers: int, oldest: int) -> None:
        """Where that many more would fill the table beyond half: drops those met before `oldest` only, and grows."""
        if (int(self._scalars[kernels.PEERS_USED]) + peers) * 2 <= len(self.peers):
            return
        met = (self.peers["vm"] != -1) & (self.peers["last"] >= oldest)
        wanted = 4 * (int(np.count_nonzero(met)) + peers)
        size = min(_MOST_PEERS, max(_LEAST_PEERS, 1 << (wanted - 1).bit_length()))
        if size == len(self.peers) == _MOST_PEERS and met.all():
            return
        kept = _empty_peers(size)
        kernels.keep_peers(self.peers, oldest, kept, self._scalars)
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
