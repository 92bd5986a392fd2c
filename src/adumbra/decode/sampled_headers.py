"""Headers of single packets that an exporter sampled, through the packet decoder, as rows of one packet. Knows no format."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from adumbra.decode.flow_rows import ACK, SYN, TCP, Rows, empty_flows, taken
from adumbra.decode.packets import Decoder
from adumbra.schema.records import UNTOLD, FlowRecords, Frames, Ints, Outcome


class SampledHeaders:
    """Decodes sampled headers, and counts those that give no row."""

    def __init__(self, accounts: Counter[str]) -> None:
        self._accounts = accounts
        self._decoder = Decoder()

    def rows(self, frames: Frames, rate: Ints, order: Ints) -> Rows:
        """A row for each frame with an IP packet, the outermost: an instant, one packet, one in `rate` sampled."""
        if not frames.data.flags.writeable:  # the decoder would be compiled again for these
            frames = replace(frames, data=frames.data.copy())
        packets = self._decoder.decode(frames)
        flows = empty_flows(len(frames))
        for name in ("version", "protocol", "src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port"):
            getattr(flows, name)[:] = getattr(packets, name)
        flows.start_ns[:], flows.end_ns[:] = frames.time_ns, frames.time_ns
        flows.bytes[:], flows.packets[:], flows.rate[:] = packets.ip_bytes, 1, rate
        fill_connections(flows, np.where(packets.payload_bytes < 0, UNTOLD, packets.flags.astype(np.int64)))
        parsed = packets.outcome == Outcome.PARSED
        not_ip = packets.outcome == Outcome.NOT_IP
        self._accounts["records_given"] += int(np.sum(parsed))
        self._accounts["records_not_ip"] += int(np.sum(not_ip))
        self._accounts["records_unreadable"] += int(np.sum(~parsed & ~not_ip))
        return taken(Rows(flows, order), parsed)


def fill_connections(flows: FlowRecords, flags: Ints) -> None:
    """A sampled SYN without ACK is an attempt; what becomes of a connection can't be told from single packets of it."""
    tcp = flows.protocol == TCP
    told = flags != UNTOLD
    syn, ack = told & (flags & SYN != 0), flags & ACK != 0
    flows.attempted[:] = np.where(tcp, np.where(told, syn & ~ack, UNTOLD), 0)
    flows.established[:] = np.where(tcp, UNTOLD, 0)
    flows.failed[:] = np.where(tcp, UNTOLD, 0)
    flows.from_client[:] = np.where(tcp & syn, np.where(ack, 0, 1), -1)
