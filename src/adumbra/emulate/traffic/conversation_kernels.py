"""Compiled: connections that open, exchange and close in time, and calls between VMs that requests cause."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.compiled import compiled
from adumbra.emulate.traffic.conversation_layout import (
    ARRIVALS_TAKEN,
    CALLED,
    CHANCE,
    CLOSING,
    CONNECTIONS_FULL,
    CONNECTIONS_USED,
    DONE,
    EVENTS,
    EVENTS_FULL,
    FIRST_PORT,
    FREE,
    FREE_LIST,
    FROM_NS,
    INITIAL_WINDOW,
    MOST_DEPTH,
    MOST_PLANNED,
    MOST_POOL,
    MSS_4,
    MSS_6,
    NEEDED,
    OPEN,
    PACKETS,
    PACKETS_FULL,
    PORTS,
    SKIPPED,
    STEP,
    TURN_NS,
    UNTIL_NS,
)
from adumbra.emulate.traffic.draw_kernels import bits, geometric, normal, poisson, rounded, size_of, uniform
from adumbra.emulate.traffic.event_kernels import pop, push
from adumbra.emulate.traffic.segment_kernels import abort, refuse, say_goodbye, segments_of, send, shake_hands


@compiled
def new_connection(book, time_ns, client, host, server, rtt_ns):
    """A connection's entry, not yet opened; there must be room."""
    state = book.state
    at = state[FREE_LIST]
    connection = book.connections[at]
    state[FREE_LIST] = connection.following
    state[CONNECTIONS_USED] += 1
    word, clocks = bits(state), bits(state)
    connection.client, connection.host, connection.server, connection.rtt_ns = client, host, server, rtt_ns
    connection.client_seq, connection.server_seq = np.uint32(word >> np.uint64(32)), np.uint32(word & np.uint64(0xFFFFFFFF))
    # Clocks begin low enough to last for weeks before they begin anew.
    connection.client_clock, connection.server_clock = (
        np.uint32(clocks >> np.uint64(34)),
        np.uint32(clocks & np.uint64(0x3FFFFFFF)),
    )
    connection.client_told, connection.server_told = np.uint32(0), np.uint32(0)
    connection.client_credit, connection.server_credit, connection.left = 0.0, 0.0, 1
    connection.client_window, connection.server_window = INITIAL_WINDOW, INITIAL_WINDOW
    connection.client_port = np.uint16(FIRST_PORT + book.next_port[client] % PORTS)
    book.next_port[client] += 1
    figures = book.servers[server]
    which = int(uniform(state) * figures.ports)
    connection.server_port = np.uint16(book.ports[figures.first_port + which])
    connection.mss = np.uint16(book.asked[MSS_4] if book.version[client] == 4 else book.asked[MSS_6])
    connection.stage, connection.asked, connection.call_list, connection.following = OPEN, 0, -1, -1
    connection.ready_ns = time_ns
    return at


@compiled
def free_connections(connections, state, first):
    """Links the entries from `first` on into the list of free ones."""
    for at in range(len(connections) - 1, first - 1, -1):
        connections[at].stage = FREE
        connections[at].following = state[FREE_LIST]
        state[FREE_LIST] = at


@compiled
def _release(book, at):
    connection, state = book.connections[at], book.state
    if connection.call_list >= 0:
        which, before, here = connection.call_list, np.int64(-1), book.lists[connection.call_list]
        while here != at:
            before, here = here, np.int64(book.connections[here].following)
        if before < 0:
            book.lists[which] = connection.following
        else:
            book.connections[before].following = connection.following
        book.sizes[which] -= 1
        connection.call_list = -1
    connection.stage, connection.following = FREE, state[FREE_LIST]
    state[FREE_LIST] = at
    state[CONNECTIONS_USED] -= 1


@compiled
def _host_for(book, client, server):
    """The server's host of the client's IP version, -1 where it has none."""
    return book.servers[server].host_4 if book.version[client] == 4 else book.servers[server].host_6


@compiled
def _emits(book, time_ns):
    return book.asked[FROM_NS] <= time_ns < book.asked[UNTIL_NS]


@compiled
def _exchange(book, at, time_ns, took_ns, depth, emit):
    """A request and its response on a connection; gives when it is over, or -1 where the packets found no room.

    took_ns: the response's time where it is fixed by the one who asks, else -1. Calls that the request causes are planned
    into that time.
    """
    connection, state = book.connections[at], book.state
    figures = book.servers[connection.server]
    before = state[CHANCE]
    request = size_of(state, figures.request_mu, figures.request_sigma)
    response = size_of(state, figures.response_mu, figures.response_sigma)
    more, further = rounded(state, figures.request_extra), rounded(state, figures.response_extra)
    mss = np.int64(connection.mss)
    state[NEEDED] = 2 * (segments_of(request, more, mss) + segments_of(response, further, mss)) + 16
    if state[PACKETS] + state[NEEDED] > len(book.packets):
        state[CHANCE] = before
        return np.int64(-1)
    segment_ns = int(figures.segment_ns)
    arrived_ns = send(book, at, True, time_ns, request, more, figures.server_acks, False, segment_ns, emit)
    if took_ns < 0:
        took_ns = int(1e9 * math.exp(figures.response_s_mu + figures.response_s_sigma * normal(state)))
    answer_ns = min(TURN_NS, max(connection.rtt_ns // 2, np.int64(1_000)))
    told_ns = arrived_ns - answer_ns  # when the request's last segment passed
    if figures.calls > 0 and depth < MOST_DEPTH:
        _plan_calls(book, connection.host, figures, told_ns, took_ns, depth)
    begin_ns = told_ns + max(took_ns, np.int64(answer_ns + 1_000))
    if figures.aborted_share > 0.0 and uniform(state) < figures.aborted_share:
        part = max(response // 2, 1)
        over_ns = send(book, at, False, begin_ns, part, 0, figures.client_acks, False, segment_ns, emit)
        abort(book, at, over_ns, emit)
        connection.stage = CLOSING
        return over_ns
    over_ns = send(book, at, False, begin_ns, response, further, figures.client_acks, False, segment_ns, emit)
    connection.ready_ns = over_ns
    return over_ns


@compiled
def _plan_calls(book, host, figures, time_ns, took_ns, depth):
    """Plans the calls that a request causes into the time of its response, one after the other.

    Where they don't fit they are quicker: the response's own time is what was seen of it, and holds them.
    """
    state, plan = book.state, book.plan
    planned, total = 0, 0.0
    for c in range(figures.first_call, figures.first_call + figures.calls):
        call = book.calls[c]
        first = book.targets[call.first_server] if call.servers > 0 else -1
        count = min(poisson(state, call.per_request), (MOST_PLANNED - planned) // 2)
        for _ in range(count if first >= 0 else 0):
            called = book.servers[first]
            took = 1e9 * math.exp(called.response_s_mu + called.response_s_sigma * normal(state))
            plan[2 * (planned // 2)], plan[2 * (planned // 2) + 1] = c, took
            planned += 2
            total += took + 2.0 * TURN_NS + call.rtt_ns * (1.0 + 1.0 / called.requests)
    if planned == 0:
        return
    scale = min(0.9 * took_ns / total, 1.0)
    count = planned // 2
    for k in range(count - 1, 0, -1):  # in any order
        other = int(uniform(state) * (k + 1))
        for part in range(2):
            plan[2 * k + part], plan[2 * other + part] = plan[2 * other + part], plan[2 * k + part]
    pause = max(took_ns - total * scale, 0.0) / (count + 1)
    at = 0.0
    for k in range(count):
        c = int(plan[2 * k])
        at += pause * uniform(state)
        took = plan[2 * k + 1] * scale
        push(book, time_ns + int(at), int(took), CALLED, c, host, depth + 1)
        at += (
            took + book.calls[c].rtt_ns * (1.0 + 1.0 / book.servers[book.targets[book.calls[c].first_server]].requests) * scale
        )


@compiled
def _step(book, event_time_ns, at):
    """A connection's next exchange, or its end. False where packets found no room."""
    connection, state = book.connections[at], book.state
    if connection.left <= 0 or connection.stage == CLOSING:
        say_goodbye(book, at, event_time_ns, _emits(book, event_time_ns))
        _release(book, at)
        return True
    over_ns = _exchange(book, at, event_time_ns, np.int64(-1), 0, _emits(book, event_time_ns))
    if over_ns < 0:
        push(book, event_time_ns, 0, STEP, at, 0, 0)
        return False
    if connection.stage == CLOSING:  # it was aborted
        _release(book, at)
        return True
    connection.left -= 1
    rests_ns = int(-1e9 * book.servers[connection.server].idle_s * math.log(uniform(state))) + 10_000
    push(book, over_ns + rests_ns, 0, STEP, at, 0, 0)
    return True


@compiled
def _arrive(book, time_ns, client, server):
    """A connection from a client to a server, or a refused one."""
    state, figures = book.state, book.servers[server]
    host = _host_for(book, client, server)
    if host < 0:
        state[SKIPPED] += 1
        return
    rtt_ns = int(1e9 * math.exp(figures.rtt_s_mu + figures.rtt_s_sigma * normal(state)))
    at = new_connection(book, time_ns, client, host, server, max(rtt_ns, np.int64(2_000)))
    emit = _emits(book, time_ns)
    if figures.failed_share > 0.0 and uniform(state) < figures.failed_share:
        refuse(book, at, time_ns, emit)
        _release(book, at)
        return
    book.connections[at].left = geometric(state, figures.requests)
    push(book, shake_hands(book, at, time_ns, emit) + 30_000, 0, STEP, at, 0, 0)


@compiled
def _call(book, time_ns, took_ns, c, caller, depth):
    """A call: on a connection that the caller keeps open, or on a new one. False where packets found no room.

    A caller keeps so many connections that it has them on the average; each ends after as many calls as were seen.
    """
    state, call = book.state, book.calls[c]
    before = state[CHANCE]
    which = call.first_list + book.servers[book.server_of[caller]].rank
    wanted = min(rounded(state, call.pool), MOST_POOL)
    found, idle, here = np.int64(-1), 0, book.lists[which]
    while here >= 0:
        one = book.connections[here]
        if one.ready_ns <= time_ns and one.stage == OPEN:
            idle += 1
            if uniform(state) * idle < 1.0:
                found = here
        here = np.int64(one.following)
    if found < 0 and book.sizes[which] >= MOST_POOL:
        push(book, time_ns + 1_000_000, took_ns, CALLED, c, caller, depth)
        return True
    opened = found < 0 or book.sizes[which] < wanted
    if opened:
        found = _open_call(book, time_ns, call, which, caller)
        if found < 0:
            state[SKIPPED] += 1
            return True
    connection = book.connections[found]
    begin_ns = max(time_ns, connection.ready_ns + (10_000 if connection.ready_ns > time_ns else 0))
    over_ns = _exchange(book, found, begin_ns, took_ns, depth, _emits(book, time_ns))
    if over_ns < 0:
        if opened:  # it stands: the call is made on it, or on another, once there is room
            time_ns = connection.ready_ns
        else:
            state[CHANCE] = before
        push(book, time_ns, took_ns, CALLED, c, caller, depth)
        return False
    if connection.stage == CLOSING:
        _release(book, found)
        return True
    if uniform(state) * book.servers[connection.server].requests < 1.0:
        connection.stage, connection.left = CLOSING, 0
        push(book, over_ns + 50_000, 0, STEP, found, 0, 0)
    return True


@compiled
def _open_call(book, time_ns, call, which, caller):
    """Opens a connection for calls to one of the servers; -1 where none has the caller's IP version."""
    state = book.state
    if call.servers == 0:
        return np.int64(-1)
    drawn, low = uniform(state), call.first_server
    while low < call.first_server + call.servers - 1 and book.weights[low] < drawn:
        low += 1
    server = book.targets[low]
    if server == book.server_of[caller]:
        low = call.first_server + (low - call.first_server + 1) % call.servers
        server = book.targets[low]
    host = _host_for(book, caller, server)
    client = caller
    if host < 0 and book.other[caller] >= 0:
        client = book.other[caller]
        host = _host_for(book, client, server)
    if host < 0 or server == book.server_of[caller]:
        return np.int64(-1)
    at = new_connection(book, time_ns, client, host, server, max(call.rtt_ns, np.int64(2_000)))
    connection = book.connections[at]
    connection.call_list, connection.following = which, book.lists[which]
    book.lists[which] = at
    book.sizes[which] += 1
    shake_hands(book, at, time_ns, _emits(book, time_ns))
    return np.int64(at)


@compiled
def run(book, arrivals, until_ns):
    """Lets all happen that happens before `until_ns`. Gives DONE, or what there is too little room for: call again then.

    Packets whose time is before that of the next event are complete; others may still come before those that are later.
    """
    state = book.state
    while True:
        coming = state[ARRIVALS_TAKEN] < len(arrivals)
        arrive_ns = arrivals[state[ARRIVALS_TAKEN]].time_ns if coming else np.int64(1 << 62)
        event_ns = book.heap[0].time_ns if state[EVENTS] > 0 else np.int64(1 << 62)
        now_ns = min(arrive_ns, event_ns)
        if now_ns >= until_ns:
            return DONE
        state[NEEDED] = 16
        if state[PACKETS] + 16 > len(book.packets):
            return PACKETS_FULL
        if state[EVENTS] + MOST_PLANNED + 2 > len(book.heap):
            return EVENTS_FULL
        if state[FREE_LIST] < 0:
            return CONNECTIONS_FULL
        if arrive_ns <= event_ns:
            arrival = arrivals[state[ARRIVALS_TAKEN]]
            _arrive(book, arrive_ns, arrival.client, arrival.server)
            state[ARRIVALS_TAKEN] += 1
            continue
        event = book.heap[0]
        kind, what, took_ns, who, depth = event.kind, np.int64(event.what), event.took_ns, event.who, event.depth
        pop(book)
        done = _step(book, event_ns, what) if kind == STEP else _call(book, event_ns, took_ns, what, who, depth)
        if not done:
            return PACKETS_FULL


@compiled
def stand(book, begin_ns, length_ns):
    """Opens, within a time, all connections that stand at its end: writes their handshakes, as if they hadn't been before.

    There must be room for three packets each.
    """
    for at in range(len(book.connections)):
        connection = book.connections[at]
        if connection.stage == FREE:
            continue
        share = np.float64(connection.client_seq >> np.uint32(8)) / 16777216.0
        ready_ns, client_seq, server_seq = connection.ready_ns, connection.client_seq, connection.server_seq
        connection.client_seq = np.uint32(client_seq - np.uint32(1))
        connection.server_seq = np.uint32(server_seq - np.uint32(1))
        shake_hands(book, at, begin_ns + int(share * max(length_ns - 2 * connection.rtt_ns, 0)), True)
        connection.ready_ns = max(ready_ns, connection.ready_ns)


@compiled
def end(book, time_ns, length_ns):
    """Ends all connections once their last exchange is over, within a time. There must be room for three packets each."""
    for at in range(len(book.connections)):
        connection = book.connections[at]
        if connection.stage == FREE:
            continue
        share = np.float64(connection.client_seq & np.uint32(0xFFFF)) / 65536.0
        say_goodbye(book, at, max(connection.ready_ns + 20_000, time_ns + int(share * length_ns)), True)
