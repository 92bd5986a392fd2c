"""Turns raw frames into columns of packets. No state, no clock; each frame gets exactly one outcome."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from adumbra.decode import kernels
from adumbra.schema.records import Frames, Packets

LINK_TYPES: dict[int, str] = {
    0: "NULL", 1: "EN10MB", 12: "RAW", 14: "RAW", 101: "RAW", 108: "LOOP", 113: "LINUX_SLL", 228: "IPV4", 229: "IPV6",
    276: "LINUX_SLL2",
}  # fmt: skip
"""The link types that are decoded (libpcap's LINKTYPE_ numbers); frames of any other are counted as UNKNOWN_LINK."""


def empty_packets(rows: int) -> Packets:
    """Packets of that many rows, whose columns hold nothing yet; to be decoded into again and again."""
    return Packets(
        time_ns=np.zeros(rows, np.int64), outcome=np.zeros(rows, np.uint8), version=np.zeros(rows, np.uint8),
        protocol=np.zeros(rows, np.uint8), src_hi=np.zeros(rows, np.uint64), src_lo=np.zeros(rows, np.uint64),
        dst_hi=np.zeros(rows, np.uint64), dst_lo=np.zeros(rows, np.uint64), src_port=np.zeros(rows, np.uint16),
        dst_port=np.zeros(rows, np.uint16), flags=np.zeros(rows, np.uint8), seq=np.zeros(rows, np.uint32),
        ack=np.zeros(rows, np.uint32), ip_bytes=np.zeros(rows, np.int64), payload_bytes=np.zeros(rows, np.int64),
        src_vm=np.full(rows, -1, np.int32), dst_vm=np.full(rows, -1, np.int32),
    )  # fmt: skip


class Decoder:
    """Decodes batch after batch into the same columns: a batch's packets are valid until the next is decoded."""

    def __init__(self) -> None:
        self._packets = empty_packets(0)

    def decode(self, frames: Frames) -> Packets:
        """Decodes each frame's link, network and transport headers, reading nothing beyond what was captured of it.

        IP bytes are IPv4's total length or IPv6's payload + 40; where segmentation offload left that 0, what the frame's
        length on the wire leaves for the IP layer (RFC 791, RFC 8200; Linux BIG TCP).
        """
        if len(self._packets) < len(frames):
            self._packets = empty_packets(len(frames))
        columns = {f.name: getattr(self._packets, f.name)[: len(frames)] for f in fields(Packets)}
        packets = Packets(**columns)
        kernels.decode(
            frames.data, frames.offset, frames.captured, frames.length, frames.time_ns, frames.link,
            packets.time_ns, packets.outcome, packets.version, packets.protocol,
            packets.src_hi, packets.src_lo, packets.dst_hi, packets.dst_lo, packets.src_port, packets.dst_port,
            packets.flags, packets.seq, packets.ack, packets.ip_bytes, packets.payload_bytes,
        )  # fmt: skip
        return packets
