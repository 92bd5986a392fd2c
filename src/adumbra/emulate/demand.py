"""The demand of intervals: requests, bytes, packets and CPU work of each VM, from its role's figures. No state.

Chance is only in what parts of requests come to. Service times and arrivals that weren't seen are drawn per request in
kernels.py, from what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.chance_kernels import draw_whole
from adumbra.emulate.layout import LOAD
from adumbra.emulate.roles import RolePrior
from adumbra.schema.records import NANOSECONDS, Floats, Intervals, Ints

MAX_DRAWN = 65_536
"""Of the requests that weren't seen, as many at most are followed singly per VM and interval; each then stands for several."""
SEGMENT_BYTES = 1448.0  # payload of a full TCP segment on Ethernet, with timestamps
LARGEST = 1e18  # no count is taken for more, so that sums stay finite
AWAKE_S = 0.02
"""For about so long after a request a machine is awake and its caches warm; stated, not fitted."""


class DemandTable(NamedTuple):
    """What demand follows from, per VM: float64[M] each. CPU seconds on a reference core; see roles.CpuPrior, UnseenPrior."""

    connection_s: Floats
    request_s: Floats
    byte_in_s: Floats
    byte_out_s: Floats
    packet_s: Floats
    wake_s: Floats
    requests_per_connection: Floats
    request_bytes: Floats
    response_bytes: Floats


NEEDED: tuple[str, ...] = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets",
    "connections_attempted", "connections_initiated", "connections_active",
)  # fmt: skip
"""The columns of Intervals that demand follows from. What they don't tell (NaN) counts for nothing."""
SCANS: tuple[str, ...] = ("connections_scanned", "scan_bytes")
"""Columns that are taken out of the demand, where they are told: what came from scanners."""
OPTIONAL: tuple[str, ...] = ("requests", "peers")
"""Columns that are heeded where they are told."""


def demand_table(priors: Sequence[RolePrior]) -> DemandTable:
    """The table of VMs with these priors."""
    cpu, unseen = [prior.cpu for prior in priors], [prior.unseen for prior in priors]
    return DemandTable(
        connection_s=np.array([p.connection_s for p in cpu], np.float64),
        request_s=np.array([p.request_s for p in cpu], np.float64),
        byte_in_s=np.array([p.byte_in_s for p in cpu], np.float64),
        byte_out_s=np.array([p.byte_out_s for p in cpu], np.float64),
        packet_s=np.array([p.packet_s for p in cpu], np.float64),
        wake_s=np.array([p.wake_s for p in cpu], np.float64),
        requests_per_connection=np.array([p.requests_per_connection for p in unseen], np.float64),
        request_bytes=np.array([p.request_bytes for p in unseen], np.float64),
        response_bytes=np.array([p.response_bytes for p in unseen], np.float64),
    )


def wakes(requests: Floats, length_s: Floats | float) -> Floats:
    """Of requests that come within length_s, those that nothing before them has woken the machine for, in the requests' shape.

    requests / (1 + rate x AWAKE_S): as in a renewal process whose dead time, AWAKE_S, begins anew with each request that is
    counted and with none that isn't ("non-paralysable"; Knoll, "Radiation Detection and Measurement", chapter 4).
    """
    return np.asarray(requests / (1.0 + requests / length_s * AWAKE_S))


def load_of(intervals: Intervals, seen: Ints, table: DemandTable, keys: NDArray[np.uint64] | None = None) -> NDArray[np.void]:
    """The load of k intervals on the M VMs of `table`, LOAD[k, M]. seen: int64[k, M], requests with a captured time.

    Where only one side of the traffic was seen (a telescope: SYNs come and nobody answers), each connection towards the VM
    that brought no request of its own is a would-be connection: it brings the role's requests per connection, with the
    role's bytes, at times drawn evenly over the interval, and it is held open to the interval's end. What a VM opens
    itself costs it work as well, but brings no requests. Where more requests are told than were seen (what is replayed from
    counts), the others are drawn; where they aren't told (flow records), they are as many as the connections or the bytes
    would bring by the role's figures. Scans are no demand.

    Nobody sends a part of a request: counts that aren't whole (a share of the traffic, estimates) are rounded up or down by a
    draw that keeps their mean and depends on nothing but the VM's key, uint64[M], and the interval. Of requests that are told,
    bytes, packets and connections go along, so that each request brings what it brought. Without keys they stay parts, and
    none is followed singly: the load is what is to be expected.
    """
    observed = {name: _counted(intervals, name) for name in (*NEEDED, *SCANS)}
    one_sided = np.ascontiguousarray(intervals.one_sided)
    scanned = observed["connections_scanned"]
    towards = np.maximum(observed["connections_attempted"] - observed["connections_initiated"] - scanned, 0.0)
    counted = np.maximum(_counted(intervals, "requests"), seen)
    told = _whole(intervals, counted, keys, 0)
    share = np.where(counted > 0, told / np.where(counted > 0, counted, 1.0), 1.0)
    unanswered = np.where(one_sided, np.maximum(towards - counted, 0.0), 0.0)
    unseen = _whole(intervals, unanswered * table.requests_per_connection, keys, 1)
    asked = observed["rx_bytes"] - np.minimum(observed["scan_bytes"], observed["rx_bytes"])
    wanted = np.where(observed["rx_bytes"] > 0, asked / np.maximum(observed["rx_bytes"], 1e-300), 1.0)
    estimated = _untold_requests(towards, asked, observed, table)
    untold = _whole(intervals, np.where(_told(intervals, "requests") | one_sided, 0.0, estimated), keys, 2)
    requests = told + unseen + untold
    drawn = np.minimum(requests - seen, MAX_DRAWN).astype(np.int64) if keys is not None else np.zeros(seen.shape, np.int64)
    load = np.zeros(seen.shape, LOAD)
    load["seen"], load["drawn"], load["one_sided"] = seen, drawn, one_sided
    load["stands_for"] = np.maximum(requests / np.maximum(seen + drawn, 1), 1.0)
    load["rx_bytes"] = share * asked + unseen * table.request_bytes
    load["tx_bytes"] = share * observed["tx_bytes"] + unseen * table.response_bytes
    load["rx_packets"] = share * observed["rx_packets"] * wanted + unseen * np.ceil(table.request_bytes / SEGMENT_BYTES)
    load["tx_packets"] = share * observed["tx_packets"] + unseen * np.ceil(table.response_bytes / SEGMENT_BYTES)
    load["connections_held"] = observed["connections_active"] + unanswered
    load["requests"] = requests
    load["wakes"] = wakes(requests, intervals.interval_ns / NANOSECONDS)
    load["connections"] = share * np.maximum(observed["connections_attempted"] - scanned, 0.0)
    load["peers"] = _known(intervals, "peers")
    load["work_s"] = (
        table.connection_s * load["connections"]
        + table.request_s * requests
        + table.byte_in_s * load["rx_bytes"]
        + table.byte_out_s * load["tx_bytes"]
        + table.packet_s * (load["rx_packets"] + load["tx_packets"])
        + table.wake_s * load["wakes"]
    )
    return load


def _whole(intervals: Intervals, counts: Floats, keys: NDArray[np.uint64] | None, number: int) -> Floats:
    """Counts of requests as whole ones, float64[k, V]; as they are where there are no keys."""
    if keys is None:
        return counts
    whole = np.empty(counts.shape)
    draw_whole(keys, np.ascontiguousarray(intervals.start_ns, np.int64), number, np.ascontiguousarray(counts), whole)
    return whole


def _counted(intervals: Intervals, name: str) -> Floats:
    """A column as counts, float64[k, V]; 0 where it isn't told."""
    given = intervals.columns.get(name)
    if given is None:
        return np.zeros(intervals.one_sided.shape)
    return np.clip(np.nan_to_num(np.ascontiguousarray(given, np.float64)), 0.0, LARGEST)


def _known(intervals: Intervals, name: str) -> Floats:
    """A column as it is told, float64[k, V]; NaN where it isn't."""
    given = intervals.columns.get(name)
    return np.full(intervals.one_sided.shape, np.nan) if given is None else np.asarray(given, np.float64)


def _told(intervals: Intervals, name: str) -> NDArray[np.bool_]:
    """Where a column is known, bool[k, V]: everywhere, unless it is there and holds NaN."""
    given = intervals.columns.get(name)
    if given is None or given.dtype.kind != "f":
        return np.ones(intervals.one_sided.shape, np.bool_)
    return ~np.isnan(np.asarray(given, np.float64))


def _untold_requests(towards: Floats, asked: Floats, observed: Mapping[str, Floats], table: DemandTable) -> Floats:
    """How many requests the traffic of each cell stands for, where none was told, float64[k, V]: a mean, not a count.

    Of its connections, or its bytes in or out, what makes the most of them: a long connection shows in its bytes only.
    """
    by_connections = towards * table.requests_per_connection
    by_bytes_in = np.where(table.request_bytes > 0, asked / np.maximum(table.request_bytes, 1), 0.0)
    by_bytes_out = np.where(table.response_bytes > 0, observed["tx_bytes"] / np.maximum(table.response_bytes, 1), 0.0)
    return np.maximum(by_connections, np.minimum(by_bytes_in, by_bytes_out))
