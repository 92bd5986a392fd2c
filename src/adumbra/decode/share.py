"""Which worker decodes a packet, where several share a network's traffic by its remote address. Pure; no state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

import numpy as np
from numpy.typing import NDArray

from adumbra.decode import kernels
from adumbra.decode.kernels import SHARE_FACTOR, SHARE_SHIFT
from adumbra.schema.addresses import Prefix
from adumbra.schema.records import Frames, Ints

MAX_WORKERS = 1 << 16
_LOW_HALF = (1 << 64) - 1

Edges = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's share of a network's traffic: `worker` of `workers`, from 0.

    prefixes: the network's CIDRs, and those of its donors; may overlap. Raises ValueError for a worker that isn't one of them.
    """

    worker: int
    workers: int
    prefixes: tuple[Prefix, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.worker < self.workers <= MAX_WORKERS:
            raise ValueError(
                f"there is no worker {self.worker} of {self.workers}: count from 0, with at most {MAX_WORKERS} workers"
            )

    def edges(self) -> Edges:
        """Where ranges begin, and end one before, in turns: IPv4's; IPv6's upper and lower halves. uint64, increasing.

        IPv4's are at least four, filled up with numbers that are above any address.
        """
        four, six = (_edges(self.prefixes, version) for version in (4, 6))
        four += [_LOW_HALF] * (4 - len(four))
        return np.array(four, np.uint64), _halves(six, 64), _halves(six, 0)


class OwnFrames:
    """Takes out of batches what may be a worker's own, so that nothing behind it need look at the frames of others.

    Of these remain the first in each interval, which tell how time goes on: intervals close for all workers alike. The
    decoder still decides whose each frame is. What is taken is valid until the next batch is.
    """

    def __init__(self, share: Share, interval_ns: int) -> None:
        self._shares = kernels.Shares(share.worker, share.workers, *share.edges())
        self._interval_ns = interval_ns
        self._until_ns = 0
        self._room: tuple[Ints, ...] = ()

    def take(self, frames: Frames) -> Frames:
        if not self._room or len(self._room[0]) < len(frames):
            self._room = tuple(np.zeros(len(frames), np.int64) for _ in range(5))
        given = (frames.offset, frames.captured, frames.length, frames.time_ns, frames.link)
        count, until_ns = kernels.own_rows(frames.data, given, self._shares, self._interval_ns, self._until_ns, self._room)
        self._until_ns = int(until_ns)
        offset, captured, length, time_ns, link = (column[: int(count)] for column in self._room)
        return Frames(frames.data, offset, captured, length, time_ns, link, frames.complete_to_ns)


def share_of(src: int, dst: int, version: int, prefixes: Iterable[Prefix], workers: int) -> int:
    """The worker, from 0, whose share a packet between two addresses of an IP version is.

    What counts is the end outside the prefixes where the other is inside, and both ends, alike in either direction, where both
    or none are: so a connection, a pair of VM and peer and a foreign scanner stay with one worker. The address' 32-bit words
    are xored, multiplied modulo 2^32 and shifted right (a multiplicative hash that classic BPF can do), modulo the workers.
    """
    edges = _edges(prefixes, version)
    src_inside, dst_inside = (sum(edge <= address for edge in edges) % 2 for address in (src, dst))
    address = src ^ dst if src_inside == dst_inside else dst if src_inside else src
    word = (address ^ address >> 32 ^ address >> 64 ^ address >> 96) & 0xFFFFFFFF
    return (word * SHARE_FACTOR % 2**32 >> SHARE_SHIFT) % workers


def _edges(prefixes: Iterable[Prefix], version: int) -> list[int]:
    """The first addresses of ranges that neither overlap nor touch, and those behind their last, in order."""
    edges: list[int] = []
    for prefix in _collapsed(prefixes, version):
        first, behind = int(prefix.network_address), int(prefix.broadcast_address) + 1
        if edges and edges[-1] == first:
            edges[-1] = behind
        else:
            edges += [first, behind]
    space = 1 << (32 if version == 4 else 128)
    return [edge for edge in edges if edge < space]  # nothing lies behind the last address


def _collapsed(prefixes: Iterable[Prefix], version: int) -> list[IPv4Network] | list[IPv6Network]:
    if version == 4:
        return list(collapse_addresses(p for p in prefixes if isinstance(p, IPv4Network)))
    return list(collapse_addresses(p for p in prefixes if isinstance(p, IPv6Network)))


def _halves(numbers: list[int], shift: int) -> NDArray[np.uint64]:
    return np.array([number >> shift & _LOW_HALF for number in numbers], np.uint64)
