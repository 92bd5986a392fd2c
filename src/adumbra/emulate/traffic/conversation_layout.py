"""What generated conversations are kept in: the columns of segments, connections, events, and words of state. No code.

Times are as a tap at the server sees them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
REQUEST, ESTABLISHED, FROM_CLIENT = 1, 2, 4
"""Marks of a segment: the first of a request; the ACK that completes a handshake; sent by the connection's client."""

PACKET = np.dtype(
    [
        ("time_ns", np.int64), ("source", np.int32), ("target", np.int32), ("seq", np.uint32), ("ack", np.uint32),
        ("ts_value", np.uint32), ("ts_echo", np.uint32), ("payload", np.int32), ("source_port", np.uint16),
        ("target_port", np.uint16), ("mss", np.uint16), ("flags", np.uint8), ("marks", np.uint8),
    ],
    align=True,
)  # fmt: skip
"""A segment. source, target: rows of the hosts; payload: bytes beyond headers; mss: what a SYN offers."""

SERVER = np.dtype(
    [(name, np.float64) for name in (
        "requests", "request_mu", "request_sigma", "response_mu", "response_sigma", "request_extra", "response_extra",
        "client_acks", "server_acks", "response_s_mu", "response_s_sigma", "rtt_s_mu", "rtt_s_sigma", "idle_s",
        "failed_share", "aborted_share", "segment_ns",
    )] + [(name, np.int64) for name in ("first_port", "ports", "first_call", "calls", "host_4", "host_6", "rank")],
    align=True,
)  # fmt: skip
"""How a server is used: see traffic.VmTraffic. mu, sigma: of logarithms. first_port, ports: in the table of ports;
first_call, calls: in the table of calls; host_4, host_6: its hosts, -1 for none; rank: among its group."""

CALL = np.dtype(
    [("per_request", np.float64), ("rtt_ns", np.int64), ("pool", np.float64), ("first_server", np.int64),
     ("servers", np.int64), ("first_list", np.int64)],
    align=True,
)  # fmt: skip
"""What a group asks of another's servers: those from first_server on in the table of targets, by cumulated weight. The
lists of open connections, one a caller, begin at first_list."""

CONNECTION = np.dtype(
    [
        ("ready_ns", np.int64), ("rtt_ns", np.int64), ("client", np.int32), ("host", np.int32), ("server", np.int32),
        ("left", np.int32), ("call_list", np.int32), ("following", np.int32), ("client_seq", np.uint32),
        ("server_seq", np.uint32), ("client_clock", np.uint32), ("server_clock", np.uint32), ("client_told", np.uint32),
        ("server_told", np.uint32), ("client_credit", np.float32), ("server_credit", np.float32),
        ("client_port", np.uint16), ("server_port", np.uint16), ("mss", np.uint16), ("client_window", np.uint16),
        ("server_window", np.uint16), ("stage", np.uint8), ("asked", np.uint8),
    ],
    align=True,
)  # fmt: skip
"""A connection. ready_ns: when its last exchange is over; call_list, following: the list that it stands in, -1: none;
*_told: the last timestamp that each end sent; *_credit: acknowledgements due; *_window: segments that may be under way."""

EVENT = np.dtype(
    [("time_ns", np.int64), ("took_ns", np.int64), ("order", np.int64), ("kind", np.int32), ("what", np.int32),
     ("who", np.int32), ("depth", np.int32)],
    align=True,
)  # fmt: skip
ARRIVAL = np.dtype([("time_ns", np.int64), ("client", np.int64), ("server", np.int64)])
"""A connection from outside, or of a VM's own doing: client's host, server's row."""

STEP, CALLED = 0, 1  # what an event is for: a connection's next exchange or end; a call
FREE, OPEN, CLOSING = 0, 1, 2
DONE, PACKETS_FULL, EVENTS_FULL, CONNECTIONS_FULL = 0, 1, 2, 3

# Words of `state`, int64.
CHANCE, PACKETS, EVENTS, ORDER, FREE_LIST, CONNECTIONS_USED, ARRIVALS_TAKEN, NEEDED, SKIPPED = range(9)
STATE_WORDS = 9
# Words of `asked`, int64, which don't change: packets are written of what happens from, until; the largest segments; when
# the hosts' clocks begin.
FROM_NS, UNTIL_NS, MSS_4, MSS_6, EPOCH_NS = range(5)
ASKED_WORDS = 5

INITIAL_WINDOW, MOST_WINDOW = 10, 256
MOST_POOL = 512
MOST_DEPTH = 8
MOST_PLANNED = 1024
MOST_MESSAGE_BYTES = 1 << 28
TURN_NS = 20_000  # a host's own time to acknowledge
SMALL_BYTES = 64  # bytes of a segment that a message has beyond the fewest
FIRST_PORT, PORTS = 32768, 28232  # as Linux draws them
MOST_SIGMAS = 3.5  # from the middle, that a drawn normal is


class Book(NamedTuple):
    """All that the kernels work on. state: int64[STATE_WORDS], asked: int64[ASKED_WORDS]; packets: PACKET[n], written from
    state[PACKETS] on; heap: EVENT[m]; connections: CONNECTION[c]; servers, calls; targets: int64[t], weights: float64[t],
    cumulated; ports: int64[p]; lists, sizes: int64[l], the first connection of each list, and how many; next_port:
    int64[hosts]; version: int64[hosts]; other: int64[hosts], the same machine's host of the other version, -1 for none;
    server_of: int64[hosts], -1 outside; plan: float64[MOST_PLANNED].
    """

    state: NDArray[np.int64]
    asked: NDArray[np.int64]
    packets: NDArray[np.void]
    heap: NDArray[np.void]
    connections: NDArray[np.void]
    servers: NDArray[np.void]
    calls: NDArray[np.void]
    targets: NDArray[np.int64]
    weights: NDArray[np.float64]
    ports: NDArray[np.int64]
    lists: NDArray[np.int64]
    sizes: NDArray[np.int64]
    next_port: NDArray[np.int64]
    version: NDArray[np.int64]
    other: NDArray[np.int64]
    server_of: NDArray[np.int64]
    plan: NDArray[np.float64]
