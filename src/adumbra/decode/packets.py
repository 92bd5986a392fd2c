"""Turns raw frames into columns of packets. No state, no clock; each frame gets exactly one outcome."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.decode import kernels
from adumbra.decode.share import Share
from adumbra.schema.records import Frames, Link, Packets
from adumbra.schema.sources import Layer

LINK_TYPES: dict[int, str] = {
    0: "NULL", 1: "EN10MB", 12: "RAW", 14: "RAW", 101: "RAW", 108: "LOOP", 113: "LINUX_SLL", 228: "IPV4", 229: "IPV6",
    276: "LINUX_SLL2", **{int(link): link.name for link in Link},
}  # fmt: skip
"""The link types that are decoded: libpcap's LINKTYPE_ numbers, and ours; frames of any other are counted as UNKNOWN_LINK."""
MAX_DEPTH = 8  # so many layers of tunnels are unwrapped: whoever wraps deeper keeps us no longer

_DTYPES: dict[str, type[np.generic]] = {
    "time_ns": np.int64, "outcome": np.uint8, "version": np.uint8, "protocol": np.uint8, "src_hi": np.uint64,
    "src_lo": np.uint64, "dst_hi": np.uint64, "dst_lo": np.uint64, "src_port": np.uint16, "dst_port": np.uint16,
    "flags": np.uint8, "seq": np.uint32, "ack": np.uint32, "window": np.uint16, "ts_value": np.uint32, "ts_echo": np.uint32,
    "ip_bytes": np.int64, "payload_bytes": np.int64, "inner_at": np.int64, "inner_link": np.int64, "src_vm": np.int32,
    "dst_vm": np.int32,
}  # fmt: skip
_NONE = ("inner_at", "src_vm", "dst_vm")  # columns in which -1 says that there is none
_PAGE_BYTES, _STEP_BYTES = 4096, 3 * 64
_MAX_VIEWS = 64


def empty_packets(rows: int) -> Packets:
    """Packets of that many rows, whose columns hold nothing yet; to be decoded into again and again."""
    columns = {name: _column(rows, dtype, number) for number, (name, dtype) in enumerate(_DTYPES.items())}
    for name in _NONE:
        columns[name].fill(-1)
    return Packets(**columns)


def _column(rows: int, dtype: type[np.generic], number: int) -> NDArray[Any]:
    """A zeroed column, in each a different way into a memory page.

    Where a row's fields lie at the same place in pages, they fall into the same set of the cache and push each other out.
    """
    room = np.zeros(rows * np.dtype(dtype).itemsize + _PAGE_BYTES, np.uint8)
    begin = (number * _STEP_BYTES - room.ctypes.data) % _PAGE_BYTES
    return room[begin : begin + rows * np.dtype(dtype).itemsize].view(dtype)


class Decoder:
    """Decodes batch after batch into the same columns: a batch's packets are valid until the next is decoded."""

    def __init__(self, share: Share | None = None) -> None:
        """`share`: the part of the traffic that this worker decodes; all of it where None."""
        self._room = empty_packets(0)
        self._views: dict[int, Packets] = {}
        self._carriers, self._chosen = (np.zeros(0, np.uint64) for _ in range(2))
        self._carrying = 0
        self._wrapped = self._high = False
        self._depth = 0
        share = share or Share(0, 1, ())
        self._shared = share.workers > 1
        self._shares = (share.worker, share.workers, *share.edges())

    def decode(self, frames: Frames) -> Packets:
        """Decodes each frame's link, network and transport headers, reading nothing beyond what was captured of it.

        IP bytes are IPv4's total length or IPv6's payload + 40; where segmentation offload left that 0, what the frame's
        length on the wire leaves for the IP layer (RFC 791, RFC 8200; Linux BIG TCP).
        Rows of another worker's share are ELSEWHERE, and hold no more than their time. What isn't IP or can't be read is the
        first worker's. Packets that carry another are decoded by every worker: call `unwrap` until it says that nothing
        changed, and each is left to one.
        """
        packets = self._rows(len(frames))
        packets.time_ns[:] = frames.time_ns
        self._depth = 0
        self._clean()
        given = (frames.data, frames.offset, frames.captured, frames.length, frames.link, self._carriers, *self._shares)
        if self._shared:
            told = kernels.decode_share(*given, self._chosen, *_written(packets))
        else:
            told = kernels.decode(*given, *_written(packets))
        self._carrying, self._high = told
        self._wrapped = self._carrying > 0
        return packets

    def unwrap(self, frames: Frames, packets: Packets, layer: Layer) -> bool:
        """Puts what packets carry through tunnels in their place, one layer deep; says whether that changed any row.

        For the batch decoded last, its ends assigned; to be called again, with ends assigned again, until it gives False:

            packets = attribution.assign(decoder.decode(frames))
            while decoder.unwrap(frames, packets, layer):
                attribution.assign(packets)

        OUTERMOST changes nothing. INNERMOST unwraps whatever is wrapped: where what lies within isn't IP or can't be read, that
        is the row's outcome. AUTO unwraps packets between addresses outside the network (an unclaimed address is inside); where
        what lies within isn't IP or can't be read, the row stays as it was, with inner_at -1. Both stop at `MAX_DEPTH` layers.
        The row's time stays, and so does where its frame lies. Lengths are those that the inner packet says, whatever was cut.
        """
        if not self._carrying:
            return False
        carriers = self._carriers[: self._carrying]
        if layer is not Layer.OUTERMOST and self._depth < MAX_DEPTH:
            self._depth += 1
            if self._unwrap(frames, packets, carriers, layer):
                return True
        if self._shared:
            self._settle(packets, carriers)
        self._carrying = 0
        return False

    def warm_up(self, frames: Frames) -> None:
        """Loads, or compiles, all code that frames of this kind may need: whoever has no right to read it later, calls this."""
        packets = self.decode(frames)
        none = self._carriers[:0]
        self._unwrap(frames, packets, none, Layer.AUTO)
        if self._shared:
            self._settle(packets, none)

    def _unwrap(self, frames: Frames, packets: Packets, carriers: NDArray[np.uint64], layer: Layer) -> bool:
        changed = kernels.unwrap(
            frames.data, frames.offset, frames.captured, frames.length, carriers, layer is Layer.AUTO, packets.src_vm,
            packets.dst_vm, *self._shares, *_written(packets),
        )  # fmt: skip
        return bool(changed)

    def _settle(self, packets: Packets, carriers: NDArray[np.uint64]) -> None:
        kernels.settle(
            carriers, *self._shares, packets.outcome, packets.version, packets.src_hi, packets.src_lo, packets.dst_hi,
            packets.dst_lo, packets.src_vm, packets.dst_vm,
        )  # fmt: skip

    def _clean(self) -> None:
        """Undoes what the last batch left in columns that decoding writes for some rows only."""
        if self._wrapped:
            self._room.inner_at.fill(-1)
            self._room.inner_link.fill(0)
        if self._wrapped or self._high:
            self._room.src_hi.fill(0)
            self._room.dst_hi.fill(0)

    def _rows(self, rows: int) -> Packets:
        """The first rows of the columns. Making views takes as long as decoding 500 packets: they are kept."""
        if len(self._room) < rows:
            self._room = empty_packets(rows)
            self._carriers, self._chosen = (np.zeros(rows, np.uint64) for _ in range(2))
            self._views.clear()
        if rows not in self._views:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            self._views[rows] = Packets(**{name: getattr(self._room, name)[:rows] for name in _DTYPES})
        return self._views[rows]


_written = attrgetter(*kernels.WRITTEN)
