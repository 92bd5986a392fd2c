"""Compiled: requests that share the cores alike (processor sharing), carried on from one interval to the next. No chance, no
clock.

A core does for each of n requests on k cores min(1, k / n) of a core's work: exact to the nanosecond, by virtual time.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.compiled import compiled, inlined

# The virtual time is the service that a request has had that was there all along since the cores were last idle. One that
# comes at virtual time v and needs s is done at v + s, whoever else comes or goes: the order of these never changes, so that
# a heap holds them (Kleinrock, Queueing Systems II, 1976, section 4.4). `run` is a record of layout.RUN, `jobs` of layout.JOB.


@inlined
def _move(jobs, to, of):
    jobs[to].finish_ns = jobs[of].finish_ns
    jobs[to].arrive_ns = jobs[of].arrive_ns
    jobs[to].rest_ns = jobs[of].rest_ns
    jobs[to].number = jobs[of].number


@inlined
def _put(jobs, at, finish_ns, arrive_ns, rest_ns, number):
    jobs[at].finish_ns = finish_ns
    jobs[at].arrive_ns = arrive_ns
    jobs[at].rest_ns = rest_ns
    jobs[at].number = number


@compiled
def _push(run, jobs, finish_ns, arrive_ns, rest_ns, number):
    at = run.jobs
    run.jobs += 1
    while at > 0:
        parent = (at - 1) >> 1
        if jobs[parent].finish_ns <= finish_ns:
            break
        _move(jobs, at, parent)
        at = parent
    _put(jobs, at, finish_ns, arrive_ns, rest_ns, number)


@compiled
def _pop(run, jobs):
    """Takes the first one out: moves the last one down from the top to its place."""
    run.jobs -= 1
    last = run.jobs
    finish_ns, arrive_ns, rest_ns, number = jobs[last].finish_ns, jobs[last].arrive_ns, jobs[last].rest_ns, jobs[last].number
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and jobs[child + 1].finish_ns < jobs[child].finish_ns:
            child += 1
        if jobs[child].finish_ns >= finish_ns:
            break
        _move(jobs, at, child)
        at = child
    _put(jobs, at, finish_ns, arrive_ns, rest_ns, number)


@compiled
def complete(run, jobs, servers, until_ns, inside_ns, late_ns, late):
    """Lets the cores work up to `until_ns`. Those done by then: their time here, into inside_ns (int64) by number, or, of those
    that came in an earlier interval, with what path and link add, into late_ns (float64) from `late` on. Gives the new `late`.
    """
    while run.jobs > 0:
        speed = min(1.0, servers / run.jobs)
        done_ns = run.at_ns + np.int64(math.ceil(max(jobs[0].finish_ns - run.virtual_ns, 0.0) / speed))
        if done_ns > until_ns:
            break
        stay_ns = done_ns - jobs[0].arrive_ns
        if jobs[0].number >= 0:
            inside_ns[jobs[0].number] = stay_ns
        elif not math.isnan(jobs[0].rest_ns):
            late_ns[late] = stay_ns + jobs[0].rest_ns
            late += 1
        run.virtual_ns, run.at_ns = jobs[0].finish_ns, done_ns
        _pop(run, jobs)
    return late


@compiled
def _join(run, jobs, servers, at_ns, service_ns, rest_ns, number):
    """Adds a request that comes now, when all that were done before have been taken out."""
    if run.jobs > 0:
        run.virtual_ns += (at_ns - run.at_ns) * min(1.0, servers / run.jobs)
    else:
        run.virtual_ns = 0.0
    run.at_ns = at_ns
    _push(run, jobs, run.virtual_ns + service_ns, at_ns, rest_ns, number)


@compiled
def share(arrive_ns, service_ns, offered, run, jobs, servers, until_ns, inside_ns, late_ns):
    """Requests through shared cores, up to an interval's end. arrive_ns, service_ns: int64[n], arrivals ascending.

    One that finds len(jobs) others there is refused: its `offered` (uint8[n]) becomes 0. inside_ns: int64[n], each one's time
    here, or -1 where it is not done yet; late_ns: see `complete`. Gives the work taken on, in ns of a server, and the late
    ones' number.
    """
    taken, late = 0, 0
    inside_ns[:] = -1
    for i in range(len(arrive_ns)):
        if offered[i] == 0:
            continue
        late = complete(run, jobs, servers, arrive_ns[i], inside_ns, late_ns, late)
        if run.jobs >= len(jobs):
            offered[i] = 0
            continue
        _join(run, jobs, servers, arrive_ns[i], service_ns[i], 0.0, i)
        taken += service_ns[i]
    return taken, complete(run, jobs, servers, until_ns, inside_ns, late_ns, late)


@compiled
def share_bulk(run, jobs, servers, start_ns, length_ns, work_ns, patience_ns):
    """Takes on work that belongs to no request, as one job a core; gives how much, in server ns. See queueing.serve_bulk."""
    room = servers * (length_ns + patience_ns) - np.int64(left_over(run, jobs, servers, start_ns))
    each, taken = max(min(work_ns, room), 0) // servers, 0
    if each > 0:
        for _ in range(min(servers, len(jobs) - run.jobs)):
            _join(run, jobs, servers, start_ns, each, math.nan, -1)
            taken += each
    return taken


@compiled
def left_over(run, jobs, servers, now_ns):
    """The work taken on and not done by `now_ns`, in server ns, when all that were done before have been taken out."""
    if run.jobs == 0:
        return 0.0
    virtual_ns = run.virtual_ns + (now_ns - run.at_ns) * min(1.0, servers / run.jobs)
    total = 0.0
    for j in range(run.jobs):
        total += max(jobs[j].finish_ns - virtual_ns, 0.0)
    return total
