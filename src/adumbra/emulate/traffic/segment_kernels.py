"""Compiled: the TCP segments of a handshake, a message and an end, as a tap at the server sees them. Knows no headers."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.emulate.compiled import compiled
from adumbra.emulate.traffic.conversation_layout import (
    ACK,
    EPOCH_NS,
    ESTABLISHED,
    FIN,
    FROM_CLIENT,
    MOST_WINDOW,
    PACKETS,
    PSH,
    REQUEST,
    RST,
    SMALL_BYTES,
    SYN,
    TURN_NS,
)


@compiled
def _clock(offset, time_ns, epoch_ns):
    """A host's timestamp: milliseconds from its own beginning on."""
    return np.uint32(np.int64(offset) + (time_ns - epoch_ns) // 1_000_000)


@compiled
def emit_segment(book, at, time_ns, from_client, flags, seq, payload, marks, echo):
    """Writes a segment of a connection. It acknowledges all that its sender has had."""
    connection, packet = book.connections[at], book.packets[book.state[PACKETS]]
    book.state[PACKETS] += 1
    packet.time_ns, packet.flags, packet.seq, packet.payload = time_ns, flags, seq, payload
    packet.ts_echo, packet.mss = echo, connection.mss
    if from_client:
        packet.source, packet.target = connection.client, connection.host
        packet.source_port, packet.target_port = connection.client_port, connection.server_port
        packet.ack, packet.marks = connection.server_seq, marks | FROM_CLIENT
        packet.ts_value = _clock(connection.client_clock, time_ns, book.asked[EPOCH_NS])
        connection.client_told = packet.ts_value
    else:
        packet.source, packet.target = connection.host, connection.client
        packet.source_port, packet.target_port = connection.server_port, connection.client_port
        packet.ack, packet.marks = connection.client_seq, marks
        packet.ts_value = _clock(connection.server_clock, time_ns, book.asked[EPOCH_NS])
        connection.server_told = packet.ts_value
    if not flags & ACK:
        packet.ack = np.uint32(0)


@compiled
def segments_of(size, extra, mss):
    """How many segments a message takes: as few as hold it, and `extra` small ones, but none without a byte."""
    return min((size + mss - 1) // mss + extra, size)


@compiled
def send(book, at, from_client, begin_ns, size, extra, acks, last_ack, segment_ns, emit):
    """A message from one end to the other, in slow start: a window that doubles each round trip, acknowledged meanwhile.

    acks: acknowledgements without data, a segment; last_ack: whether the last one is acknowledged at once in any case.
    Gives when it has arrived at the other end, as the tap sees that: when an answer may pass it, at the earliest.
    """
    connection = book.connections[at]
    mss, rtt_ns = np.int64(connection.mss), connection.rtt_ns
    # The tap is at the server: what the client answers comes a round trip later, what the server answers at once.
    answer_ns, go_ns = (TURN_NS, rtt_ns) if from_client else (rtt_ns, np.int64(1_000))
    answer_ns = min(answer_ns, max(rtt_ns // 2, 1_000)) if from_client else answer_ns
    window = np.int64(connection.client_window if from_client else connection.server_window)
    credit = np.float64(connection.server_credit if from_client else connection.client_credit)
    seq = connection.client_seq if from_client else connection.server_seq
    echo = connection.server_told if from_client else connection.client_told
    total = segments_of(size, extra, mss)
    small, left, time_ns, sent, round_ack_ns = total - (size + mss - 1) // mss, np.int64(size), begin_ns, 0, np.int64(-1)
    told, last_ns = echo, begin_ns - answer_ns
    waiting = np.int64(-1)  # since which segment's timestamp the other end owes an acknowledgement
    for number in range(total):
        if sent == window:  # the window is full: the next round begins when its first acknowledgement is here
            time_ns = max(time_ns, round_ack_ns + go_ns)
            window, sent, round_ack_ns = min(2 * window, MOST_WINDOW), 0, np.int64(-1)
            echo = told
        length = min(left, mss)
        if small > 0:
            length = max(min(left // (small + 1), SMALL_BYTES), 1)
            small -= 1
        left -= length
        sent += 1
        marks = 0
        if from_client and number == 0 and not connection.asked:
            marks = REQUEST
            connection.asked = 1
        if emit:
            emit_segment(book, at, time_ns, from_client, ACK | (PSH if left == 0 else 0), seq, length, marks, echo)
            if waiting < 0:
                waiting = np.int64(connection.client_told if from_client else connection.server_told)
        seq = np.uint32(seq + np.uint32(length))
        if from_client:
            connection.client_seq = seq
        else:
            connection.server_seq = seq
        credit += acks
        owed = (sent == window and round_ack_ns < 0 and left > 0) or (left == 0 and last_ack)
        if credit >= 1.0 or owed:
            credit = max(credit - 1.0, -2.0)
            ack_ns = time_ns + answer_ns
            if emit:
                other = connection.server_seq if from_client else connection.client_seq
                emit_segment(book, at, ack_ns, not from_client, ACK, other, 0, 0, np.uint32(waiting))
            if round_ack_ns < 0:
                round_ack_ns, told = ack_ns, connection.server_told if from_client else connection.client_told
            waiting = np.int64(-1)
        last_ns = time_ns
        time_ns += segment_ns
    if from_client:
        connection.client_window, connection.server_credit = window, credit
    else:
        connection.server_window, connection.client_credit = window, credit
        connection.asked = 0 if size > 0 else connection.asked
    return last_ns + answer_ns


@compiled
def shake_hands(book, at, time_ns, emit):
    """SYN, SYN with ACK, ACK. Gives when the client may speak."""
    connection = book.connections[at]
    isn, answer = connection.client_seq, connection.server_seq
    turn_ns = min(TURN_NS, connection.rtt_ns // 2)
    connection.server_seq = np.uint32(0)
    if emit:
        emit_segment(book, at, time_ns, True, SYN, isn, 0, 0, np.uint32(0))
    connection.client_seq = np.uint32(isn + np.uint32(1))
    if emit:
        emit_segment(book, at, time_ns + turn_ns, False, SYN | ACK, answer, 0, 0, connection.client_told)
    connection.server_seq = np.uint32(answer + np.uint32(1))
    if emit:
        emit_segment(
            book, at, time_ns + connection.rtt_ns, True, ACK, connection.client_seq, 0, ESTABLISHED, connection.server_told
        )
    connection.ready_ns = time_ns + connection.rtt_ns
    return connection.ready_ns


@compiled
def refuse(book, at, time_ns, emit):
    """A SYN that is answered by a reset."""
    connection = book.connections[at]
    isn = connection.client_seq
    connection.server_seq = np.uint32(0)
    if emit:
        emit_segment(book, at, time_ns, True, SYN, isn, 0, 0, np.uint32(0))
    connection.client_seq = np.uint32(isn + np.uint32(1))
    if emit:
        emit_segment(
            book, at, time_ns + min(TURN_NS, connection.rtt_ns // 2), False, RST | ACK, np.uint32(0), 0, 0, np.uint32(0)
        )


@compiled
def say_goodbye(book, at, time_ns, emit):
    """FIN, FIN with ACK, ACK."""
    connection = book.connections[at]
    turn_ns = min(TURN_NS, connection.rtt_ns // 2)
    if emit:
        emit_segment(book, at, time_ns, True, FIN | ACK, connection.client_seq, 0, 0, connection.server_told)
    connection.client_seq = np.uint32(connection.client_seq + np.uint32(1))
    if emit:
        emit_segment(book, at, time_ns + turn_ns, False, FIN | ACK, connection.server_seq, 0, 0, connection.client_told)
    connection.server_seq = np.uint32(connection.server_seq + np.uint32(1))
    if emit:
        last_ns = time_ns + turn_ns + connection.rtt_ns
        emit_segment(book, at, last_ns, True, ACK, connection.client_seq, 0, 0, connection.server_told)


@compiled
def abort(book, at, time_ns, emit):
    """The client's reset."""
    connection = book.connections[at]
    if emit:
        emit_segment(book, at, time_ns, True, RST | ACK, connection.client_seq, 0, 0, connection.server_told)
