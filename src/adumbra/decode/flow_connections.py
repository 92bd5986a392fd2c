"""Which connections a flow record begins, completes and fails, from its TCP flags. Pure; what isn't told stays UNTOLD.

The flags of a record are those of all its packets together (cumulative OR). A client's flow has SYN, and ACK once it has
acknowledged the server's; an unanswered or refused one only SYN (and RST). A server's flow has SYN and ACK too, so that
of two such rows the client's has to be found: it is the one that began first, where both came in one datagram; else,
and where both began at once, the one from the higher port (then the higher address). A record of one packet with SYN and
ACK is a server's. Counts stand in the client's row. Where the exporter sampled, SYNs are a sample of attempts, but what
became of them isn't told. Exporters that repeat a flow's SYN in each of the records of a long flow make one attempt of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adumbra.decode.flow_rows import ACK, SYN, TCP
from adumbra.schema.records import UNTOLD, FlowRecords, Ints

Mask = NDArray[np.bool_]
Unsigned = NDArray[np.uint16] | NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What biflows tell of connections, a row a biflow.

    flags, flags_back: of each direction, UNTOLD where the exporter has no such field (it may also write 0 where it doesn't
    know them); ends: whether a firewall says that the connection ended; direction: whether the source is the client (1), the
    server (0), or that isn't told (UNTOLD).
    """

    flags: Ints
    flags_back: Ints
    ends: Mask
    direction: Ints


def one_way(flows: FlowRecords, flags: Ints, datagram: Ints) -> None:
    """Fills the connection columns of rows that each tell one direction. datagram: int64, rows of one have one number."""
    tcp, told = flows.protocol == TCP, flags > 0  # exporters that don't know them write 0
    syn = tcp & told & (flags & SYN != 0)
    acked = flags & ACK != 0
    client = syn & ~acked
    both = syn & acked & (flows.packets != 1)
    client |= both & _is_client(flows, both, datagram)
    sampled = flows.rate > 1
    flows.attempted[:] = np.where(tcp & ~told, UNTOLD, client)
    flows.established[:] = np.where(tcp & (~told | sampled), UNTOLD, client & acked)
    flows.failed[:] = np.where(tcp & (~told | sampled), UNTOLD, client & ~acked)
    flows.from_client[:] = np.where(client, 1, np.where(syn, 0, -1))


def _is_client(flows: FlowRecords, which: Mask, datagram: Ints) -> Mask:
    """Which of the rows with SYN and ACK are clients'; false for all other rows.

    Rows of one datagram only are compared, so that it doesn't matter how datagrams are cut into batches.
    """
    at = np.flatnonzero(which)
    client = np.zeros(len(flows), np.bool_)
    ends = [column[at] for column in (flows.src_port, flows.src_hi, flows.src_lo)]
    others = [column[at] for column in (flows.dst_port, flows.dst_hi, flows.dst_lo)]
    higher = _above(ends, others)
    low = [np.where(higher, there, here) for here, there in zip(ends, others, strict=True)]
    high = [np.where(higher, here, there) for here, there in zip(ends, others, strict=True)]
    order = np.lexsort((higher, flows.start_ns[at], *low, *high, datagram[at]))
    keys = np.stack([column[order].astype(np.uint64) for column in (*low, *high, datagram[at])], axis=1)
    begins = np.ones(len(at), np.bool_)
    begins[1:] = np.any(keys[1:] != keys[:-1], axis=1)
    group = np.cumsum(begins) - 1
    # In each group the row that began first comes first; of several at once, the one from the lower port comes first.
    start, from_higher = flows.start_ns[at][order], higher[order]
    at_first = start == start[begins][group] if len(at) else np.zeros(0, np.bool_)
    higher_first = np.zeros(int(np.sum(begins)), np.bool_)
    np.logical_or.at(higher_first, group, at_first & from_higher)
    has_higher, has_lower = np.zeros_like(higher_first), np.zeros_like(higher_first)
    np.logical_or.at(has_higher, group, from_higher)
    np.logical_or.at(has_lower, group, ~from_higher)
    client_is_higher = np.where(has_higher & has_lower, higher_first, True)
    client[at[order]] = from_higher == client_is_higher[group]
    return client


def _above(ends: Sequence[Unsigned], others: Sequence[Unsigned]) -> Mask:
    """Whether (port, address) of one end is above that of the other, compared in that order."""
    above = np.zeros(len(ends[0]), np.bool_)
    for here, there in reversed(list(zip(ends, others, strict=True))):
        above = (here > there) | ((here == there) & above)
    return above


def two_way(forward: FlowRecords, backward: FlowRecords, seen: Seen) -> None:
    """Fills the connection columns of biflows' two rows; the counts stand in the client's.

    Without the other direction's own flags, the exporter's are those of both together: then a client that sent one packet
    only, or had no answer, completed nothing. A firewall's record of a connection's end tells one attempt.
    """
    tcp, told = forward.protocol == TCP, (seen.flags > 0) | (seen.flags_back > 0)
    union = seen.flags_back == UNTOLD
    from_source = np.where(seen.direction == UNTOLD, _source_is_client(forward, seen), seen.direction == 1)
    client_flags = np.maximum(np.where(from_source | union, seen.flags, seen.flags_back), 0)
    server_flags = np.maximum(np.where(from_source, seen.flags_back, seen.flags), 0)
    client_packets = np.where(from_source, forward.packets, backward.packets)
    server_packets = np.where(from_source, backward.packets, forward.packets)
    server_bytes = np.where(from_source, backward.bytes, forward.bytes)
    answered = (server_packets > 0) | (server_bytes > 0)
    syn = tcp & told & (client_flags & SYN != 0)
    acked = (client_flags & ACK != 0) & (client_packets != 1) & answered & (union | (server_flags & SYN != 0))
    by_event = tcp & ~told & seen.ends
    untold = tcp & ~told & ~seen.ends
    sampled = tcp & (forward.rate > 1)
    attempted = np.where(untold, UNTOLD, syn | by_event)
    established = np.where(untold | sampled, UNTOLD, np.where(by_event, np.where(answered, 1, UNTOLD), syn & acked))
    failed = np.where(untold | sampled, UNTOLD, np.where(by_event, np.where(answered, 0, UNTOLD), syn & ~acked))
    known = (seen.direction != UNTOLD) | syn
    for rows, mine in ((forward, from_source), (backward, ~from_source)):
        rows.attempted[:] = np.where(mine, attempted, np.minimum(attempted, 0))
        rows.established[:] = np.where(mine, established, np.minimum(established, 0))
        rows.failed[:] = np.where(mine, failed, np.minimum(failed, 0))
        rows.from_client[:] = np.where(known, mine, -1)


def _source_is_client(forward: FlowRecords, seen: Seen) -> Mask:
    """Which end of a biflow is the client, where it isn't told: the one that sent SYN and no ACK, else the higher port."""
    alone = [(flags > 0) & (flags & (SYN | ACK) == SYN) for flags in (seen.flags, seen.flags_back)]
    higher = _above((forward.src_port, forward.src_hi, forward.src_lo), (forward.dst_port, forward.dst_hi, forward.dst_lo))
    is_client: Mask = (alone[0] & (seen.flags_back != UNTOLD)) | (~alone[1] & higher)
    return is_client
