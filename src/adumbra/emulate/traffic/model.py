"""What is believed of each VM's traffic, as figures from which traffic can be made: fitted from stored metrics, or from priors.

Knows no packets and draws nothing at random; what the metrics can't tell stands in the model's notes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adumbra.emulate.roles import RolePrior
from adumbra.emulate.traffic import calls as traffic_calls
from adumbra.emulate.traffic import rates as traffic_rates
from adumbra.emulate.traffic import sizes as traffic_sizes
from adumbra.emulate.traffic.calls import OUTSIDE, Counts, Dealt, Ground
from adumbra.emulate.traffic.rates import Bursts, Rates
from adumbra.schema.records import Floats, Series

COLUMNS: tuple[str, ...] = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_failed", "connections_scanned", "scan_bytes", "connections_active", "peers", "requests",
    "rtt_ms_p50", "rtt_ms_p99", "response_ms_p50", "response_ms_p99",
)  # fmt: skip
"""The columns of the catalogue that a fit reads."""

MOST_CLIENTS = 60_000
MOST_CALLS = 50.0  # a request; where there are more, a VM's own connections are taken for its own doing
LEAST_SHARE = 0.01  # of what a VM is sent: a smaller part is taken for the fitting's rounding
_ABOVE_ALL = 1e-9
_PRIOR_SPREAD = 1.0  # coefficient of variation of sizes, where nothing was seen


@dataclass(frozen=True, slots=True)
class VmTraffic:
    """How one VM is used as a server, and what it opens by itself. Rates a second, times in seconds, sizes in bytes of payload.

    connections_per_s: from outside the network, mean over the history; opened_per_s: those that the VM opens and that no
    request to it explains. Sizes are lognormal of that mean and coefficient of variation; *_extra: segments beyond the
    fewest that hold a message, client_acks and server_acks: acknowledgements without data, a segment of the response and of
    the request. response_s, rtt_s: medians of lognormal times, *_sigma their spread (of the logarithm). idle_s: mean time
    for which a connection rests after each exchange; active: connections to it that are open. clients: how many they come
    from. cluster: mean connections that come together; modulation: relative variance of the rate about its trend, over
    modulation_s.
    """

    vm: str
    connections_per_s: float = 0.0
    opened_per_s: float = 0.0
    requests_per_connection: float = 1.0
    request_bytes: float = 1.0
    request_cv: float = _PRIOR_SPREAD
    response_bytes: float = 1.0
    response_cv: float = _PRIOR_SPREAD
    request_extra: float = 0.0
    response_extra: float = 0.0
    client_acks: float = 0.5
    server_acks: float = 0.0
    response_s: float = 0.001
    response_sigma: float = 0.7
    rtt_s: float = 0.0005
    rtt_sigma: float = 0.05
    idle_s: float = 0.0
    active: float = 0.0
    failed_share: float = 0.0
    clients: int = 256
    cluster: float = 1.0
    modulation: float = 0.0
    modulation_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Calls:
    """What the VMs of one group ask of another's, or of hosts outside (callee OUTSIDE).

    per_request: calls that one request to the caller causes, 0 where they are the caller's own doing; connections_per_s: of
    the whole group; rtt_s: between the two; pool: connections that each caller keeps open.
    """

    caller: int
    callee: int
    per_request: float
    connections_per_s: float
    rtt_s: float
    pool: float


@dataclass(frozen=True, slots=True)
class TrafficModel:
    """A network's traffic. vms in the order of the network's; groups: names, group: of each VM; notes: what isn't known."""

    network: str
    vms: tuple[VmTraffic, ...]
    groups: tuple[str, ...]
    group: tuple[int, ...]
    calls: tuple[Calls, ...]
    rates: Rates
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, to be shown: figures, who calls whom, and notes. Rates over time are left out."""
        return {
            "network": self.network,
            "vms": [asdict(vm) for vm in self.vms],
            "calls": [
                {
                    "from": self.groups[each.caller],
                    "to": self.groups[each.callee] if each.callee != OUTSIDE else "outside",
                    "per_request": each.per_request, "connections_per_s": each.connections_per_s,
                    "rtt_s": each.rtt_s, "pool": each.pool,
                }
                for each in self.calls
            ],
            "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class History:
    """What is stored of a network, COLUMNS of it: all of it, coarse; and the last of it, as fine as it is kept.

    Both may be the same. VMs in any order; those that are missing count as unseen.
    """

    coarse: Series
    fine: Series


def fit(history: History, ground: Ground, priors: Sequence[RolePrior], network: str = "") -> TrafficModel:
    """The model of a network's traffic. `priors`: of each VM of `ground`, used for what was never seen of it."""
    coarse = _aligned(history.coarse, ground)
    fine = coarse if history.fine is history.coarse else _aligned(history.fine, ground)
    totals = {name: np.nansum(values, axis=1) for name, values in coarse.items()}
    known_s = np.maximum((~np.isnan(coarse["rx_bytes"])).sum(axis=1) * history.coarse.step_s, _ABOVE_ALL)
    received, busy = _received(coarse)
    counts = Counts(totals["connections_initiated"], received, totals["requests"])
    dealt = traffic_calls.deal(ground, counts, busy, _near(fine, ground))
    outer_share, own_share, calls = _split(ground, dealt, totals, known_s)
    rates = traffic_rates.fit_rates(
        history.coarse.start_ns, history.coarse.step_s,
        np.concatenate([_rows(coarse, "in") * outer_share[:, None], _rows(coarse, "out") * own_share[:, None]]),
    )  # fmt: skip
    notes = list(_notes(history, ground, totals, fine))
    vms = _figures(ground, priors, _Seen(totals, fine, dealt, known_s, history.fine.step_s))
    bursts = _bursts(history.fine, fine, rates, outer_share, own_share)
    for v, (vm, found) in enumerate(zip(vms, bursts, strict=True)):
        vms[v] = replace(
            vm, connections_per_s=float(rates.mean[v]), opened_per_s=float(rates.mean[len(vms) + v]),
            cluster=found.cluster, modulation=found.modulation, modulation_s=found.modulation_s,
        )  # fmt: skip
    calls = _with_pools(calls, dealt, vms, ground)
    return TrafficModel(network, tuple(vms), ground.groups, tuple(int(g) for g in ground.group), calls, rates, tuple(notes))


def from_priors(ground: Ground, priors: Sequence[RolePrior], connections_per_s: float, network: str = "") -> TrafficModel:
    """The model of a network of which nothing was seen: `connections_per_s` from outside, spread over the VMs that listen
    and that the internet leads to, or over all that listen. A request causes one call to each group of other subnets that
    a link leads to and the internet doesn't; sizes are the roles'.
    """
    listens = np.array([bool(vm.ports) for vm in ground.vms])
    front = listens & ground.fronts[ground.group]
    front = front if front.any() else listens if listens.any() else np.ones(len(ground.vms), np.bool_)
    rate = np.where(front, connections_per_s / front.sum(), 0.0)
    vms = [
        replace(_unseen(vm.name, prior, vm.rtt_s), connections_per_s=float(rate[v]))
        for v, (vm, prior) in enumerate(zip(ground.vms, priors, strict=True))
    ]
    fronts = np.unique(ground.group[front])
    calls = []
    for caller in fronts:
        members = ground.group == caller
        requests_per_s = float((rate * np.array([vm.requests_per_connection for vm in vms]))[members].sum())
        for callee in np.flatnonzero(ground.reach[caller] >= 1.0):
            behind = ~ground.fronts[callee] and callee not in fronts and listens[ground.group == callee].any()
            if behind:
                first = vms[int(np.flatnonzero(ground.group == callee)[0])]
                opened = requests_per_s / first.requests_per_connection
                calls.append(Calls(int(caller), int(callee), 1.0, opened, float(ground.rtt_s[caller, callee]), 1.0))
    rates = traffic_rates.constant_rates(np.concatenate([rate, np.zeros(len(vms))]))
    notes = ("nothing was observed: sizes and requests a connection are the roles' priors, calls between VMs are a guess",)
    return TrafficModel(network, tuple(vms), ground.groups, tuple(int(g) for g in ground.group), tuple(calls), rates, notes)


# ---- what was seen -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """Sums over the history, the fine series, and who called whom."""

    totals: dict[str, Floats]
    fine: dict[str, Floats]
    dealt: Dealt
    known_s: Floats
    step_s: float

    def served(self, source: dict[str, Floats], rx: str, tx: str) -> tuple[Floats, Floats]:
        """Of rows [V, ...] of two columns that answer each other: what the VM served, without what it called itself."""
        return traffic_calls.served(self.dealt, source[rx], source[tx])


def _aligned(series: Series, ground: Ground) -> dict[str, Floats]:
    """A series' columns [V, T] in the order of the ground's VMs, NaN where one wasn't seen; scans are taken out."""
    at = {name: row for row, name in enumerate(series.vms)}
    rows = [at.get(vm.name, -1) for vm in ground.vms]
    found = {}
    for name in COLUMNS:
        values = np.vstack([series.values[name], np.full((1, series.steps), np.nan)])
        found[name] = values[rows]
    found["rx_bytes"] = np.fmax(found["rx_bytes"] - np.nan_to_num(found["scan_bytes"]), 0.0)
    return found


def _rows(columns: dict[str, Floats], way: str) -> Floats:
    """Connections that came to each VM, or that it opened, by interval; scans aside. NaN where not known."""
    if way == "out":
        return columns["connections_initiated"]
    inbound = columns["connections_attempted"] - columns["connections_initiated"]
    return np.asarray(np.fmax(inbound - np.nan_to_num(columns["connections_scanned"]), np.where(np.isnan(inbound), np.nan, 0)))


def _received(coarse: dict[str, Floats]) -> tuple[Floats, Floats]:
    """Connections that came to each VM, in all; and how busy each was by interval, which tells who calls whom."""
    busy = np.nan_to_num(coarse["requests"])
    busy = np.where(busy.sum(axis=1, keepdims=True) > 0, busy, np.nan_to_num(coarse["rx_packets"]))
    return np.nansum(_rows(coarse, "in"), axis=1), busy


def _bursts(series: Series, fine: dict[str, Floats], rates: Rates, outer: Floats, own: Floats) -> list[Bursts]:
    """How bursty the connections are that come to each VM; or that it opens by itself, where none come from outside."""
    trend = rates.over(series.start_ns, series.step_s, series.steps) * series.step_s
    vms = len(outer)
    came, opened = _rows(fine, "in"), _rows(fine, "out")
    found = []
    for v in range(vms):
        by_itself = rates.mean[v] <= 0 < own[v]
        counts, share, row = (opened, own[v], vms + v) if by_itself else (came, outer[v], v)
        if share < 0.5:  # of a small part of what came, nothing is known by itself
            found.append(Bursts())
            continue
        about, width_s = trend[row : row + 1] / share, max(rates.width_s, series.step_s)
        found += traffic_rates.fit_bursts(counts[v : v + 1], about, series.step_s, width_s)
    return found


def _near(fine: dict[str, Floats], ground: Ground) -> Floats:
    """Per VM: 1 where its clients' round trips are far shorter than the way to the internet, 0 where not, NaN: not known."""
    with np.errstate(invalid="ignore"):
        rtt_s = _median(fine["rtt_ms_p50"]) / 1e3
        way = np.array([vm.internet_rtt_s for vm in ground.vms])
        mostly_in = np.nansum(_rows(fine, "in"), axis=1) > np.nansum(_rows(fine, "out"), axis=1)
        told = np.where(rtt_s < 0.25 * way, 1.0, np.where(rtt_s > 0.5 * way, 0.0, np.nan))
    return np.where(mostly_in, told, np.nan)


def _split(
    ground: Ground, dealt: Dealt, totals: dict[str, Floats], known_s: Floats
) -> tuple[Floats, Floats, tuple[Calls, ...]]:
    """Per VM, the share of the received that comes from outside, and of the opened that no request explains; and the calls."""
    groups = len(ground.groups)
    requests = ground.sums(totals["requests"])
    seconds = np.array([known_s[ground.group == g].max(initial=_ABOVE_ALL) for g in range(groups)])
    outer = np.ones(groups)
    own = np.zeros(groups)
    calls = []
    for callee in range(groups):
        received = dealt.received[callee]
        outer[callee] = dealt.connections[groups, callee] / received if received > 0 else 0.0
    for caller in range(groups):
        opened = dealt.opened[caller]
        for callee in range(groups + 1):
            connections = dealt.connections[caller, callee]
            inner = callee < groups
            whole = dealt.received[callee] if inner else opened
            if connections <= LEAST_SHARE * max(whole, _ABOVE_ALL):
                continue
            asked = requests[callee] * connections / whole if inner else connections
            asked = max(asked, connections)
            per_request = asked / requests[caller] if requests[caller] > 0 else math.inf
            explained = per_request <= MOST_CALLS
            own[caller] += 0.0 if explained else connections / opened
            rtt_s = float(ground.rtt_s[caller, callee]) if inner else _mean_rtt(ground, caller)
            calls.append(
                Calls(
                    caller, callee if inner else OUTSIDE, per_request if explained else 0.0,
                    float(connections / seconds[caller]), rtt_s, 1.0,
                )
            )  # fmt: skip
    outer = np.where(outer < LEAST_SHARE, 0.0, outer)
    return outer[ground.group], own[ground.group], tuple(calls)


def _mean_rtt(ground: Ground, group: int) -> float:
    return float(np.mean([vm.rtt_s for vm, g in zip(ground.vms, ground.group, strict=True) if g == group]))


def _with_pools(calls: tuple[Calls, ...], dealt: Dealt, vms: Sequence[VmTraffic], ground: Ground) -> tuple[Calls, ...]:
    """The calls, with the connections that each caller keeps open, and the round trips that their servers showed."""
    done = []
    for each in calls:
        if each.callee == OUTSIDE:
            done.append(each)
            continue
        members = [vm for vm, g in zip(vms, ground.group, strict=True) if g == each.callee]
        share = dealt.connections[each.caller, each.callee] / max(dealt.received[each.callee], _ABOVE_ALL)
        callers = max(int((ground.group == each.caller).sum()), 1)
        kept = sum(vm.active for vm in members) * share / callers
        near = [vm.rtt_s for vm in members if share > 0.5]
        done.append(replace(each, pool=float(np.clip(kept, 1.0, 1000.0)), rtt_s=float(np.mean(near)) if near else each.rtt_s))
    return tuple(done)


# ---- figures per VM ------------------------------------------------------------------------------------------------------


def _unseen(name: str, prior: RolePrior, rtt_s: float) -> VmTraffic:
    """A VM of which nothing was seen."""
    unseen = prior.unseen
    return VmTraffic(
        name, requests_per_connection=max(unseen.requests_per_connection, 1.0), request_bytes=max(unseen.request_bytes, 1.0),
        response_bytes=max(unseen.response_bytes, 1.0),
        response_s=max(2.0 * (prior.cpu.request_s + prior.cpu.wake_s), 5e-4), rtt_s=rtt_s,
    )  # fmt: skip


def _figures(ground: Ground, priors: Sequence[RolePrior], seen: _Seen) -> list[VmTraffic]:
    """The figures of every VM, those of its arrivals aside."""
    rx, tx = seen.served(seen.totals, "rx_bytes", "tx_bytes")
    rx_packets, tx_packets = seen.served(seen.totals, "rx_packets", "tx_packets")
    summed = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "requests")
    fine = {name: np.nan_to_num(seen.fine[name]) for name in summed}
    fine_rx, fine_tx = seen.served(fine, "rx_bytes", "tx_bytes")
    fine_rx_packets, fine_tx_packets = seen.served(fine, "rx_packets", "tx_packets")
    mean_active = np.nan_to_num(np.array([_mean(row) for row in seen.fine["connections_active"]]))
    active, _ = traffic_calls.served(seen.dealt, mean_active, mean_active)
    figures = []
    for v, (facts, prior) in enumerate(zip(ground.vms, priors, strict=True)):
        base = _unseen(facts.name, prior, facts.rtt_s)
        header = traffic_sizes.header_bytes(facts.version)
        connections, requests = float(seen.dealt.vm_received[v]), float(seen.totals["requests"][v])
        answered = tx_packets[v] > 0 and rx_packets[v] > 0
        if not (connections > 0 or requests > 0) or not answered:
            figures.append(base)
            continue
        requests = requests or connections * base.requests_per_connection
        failed = _failed_share(seen.totals, v)
        sums = traffic_sizes.Sums(
            requests, connections, failed, rx[v], tx[v], rx_packets[v], tx_packets[v],
        )  # fmt: skip
        spread = traffic_sizes.Spread(
            np.asarray(fine["requests"][v]), fine_rx[v] - header * fine_rx_packets[v], fine_tx[v] - header * fine_tx_packets[v]
        )
        sizes = traffic_sizes.fit_sizes(sums, spread, facts.version)
        # Where most bytes are its own calls', what is left over varies with them: that says nothing of its messages.
        for name, left, all_of in (("request_cv", rx[v], "rx_bytes"), ("response_cv", tx[v], "tx_bytes")):
            if left < 0.5 * seen.totals[all_of][v]:
                sizes[name] = _PRIOR_SPREAD
        sized: dict[str, Any] = {**sizes, "failed_share": failed}
        figures.append(_timed(replace(base, **sized), seen, v, active[v]))
    return figures


def _timed(vm: VmTraffic, seen: _Seen, v: int, active: float) -> VmTraffic:
    """A VM's figures with its times: responses, round trips, how long connections rest; and its clients."""
    fine = seen.fine
    response = traffic_sizes.lognormal_of(fine["response_ms_p50"][v], fine["response_ms_p99"][v], fine["requests"][v])
    inbound = np.fmax(fine["connections_attempted"][v] - fine["connections_initiated"][v], 0.0)
    own = np.nansum(fine["connections_initiated"][v]) > np.nansum(inbound)
    rtt = None if own else traffic_sizes.lognormal_of(fine["rtt_ms_p50"][v], fine["rtt_ms_p99"][v], inbound)
    if response:
        vm = replace(vm, response_s=response.median / 1e3, response_sigma=response.sigma)
    if rtt:
        vm = replace(vm, rtt_s=rtt.median / 1e3, rtt_sigma=min(rtt.sigma, 0.5))
    per_s = float(np.nanmean(inbound)) / seen.step_s if not np.isnan(inbound).all() else 0.0
    open_s = active / per_s if per_s > 0 else 0.0  # Little's law: open connections = rate x duration
    busy_s = 1.5 * vm.rtt_s + vm.requests_per_connection * (
        vm.response_s * math.exp(vm.response_sigma**2 / 2.0) + vm.rtt_s * traffic_sizes.rounds(vm.response_bytes)
    )
    idle_s = max(open_s - busy_s, 0.0) / vm.requests_per_connection
    arrivals = per_s * seen.step_s
    asked = float(np.nanmean(fine["requests"][v])) if not np.isnan(fine["requests"][v]).all() else arrivals
    peers = _mean(fine["peers"][v]) - seen.dealt.vm_peers[v]
    clients = traffic_sizes.clients_of(peers, max(arrivals, min(asked, arrivals + active)), MOST_CLIENTS)
    clients = max(clients, min(math.ceil(active), MOST_CLIENTS))  # most of those that are connected differ
    return replace(vm, idle_s=min(idle_s, 3600.0), active=float(active), clients=clients)


def _failed_share(totals: dict[str, Floats], v: int) -> float:
    scanned = totals["connections_scanned"][v]
    attempted = totals["connections_attempted"][v] - scanned
    failed = totals["connections_failed"][v] - scanned
    return float(np.clip(failed / attempted, 0.0, 0.95)) if attempted > 0 else 0.0


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0


def _median(values: Floats) -> Floats:
    return np.array([float(np.nanmedian(row)) if not np.isnan(row).all() else np.nan for row in values])


def _notes(history: History, ground: Ground, totals: dict[str, Floats], fine: dict[str, Floats]) -> list[str]:
    """What the metrics couldn't tell."""
    notes = []
    length_s = history.coarse.steps * history.coarse.step_s
    if length_s < traffic_rates.DAYS_S:
        notes.append("no daily profile: that takes two days of history; outside the history the mean rate stands")
    received = np.nansum(_rows(fine, "in"), axis=1)
    for told, unseen in (
        ("no connection came to", (received == 0) & (totals["rx_packets"] > 0)),
        ("nothing was seen of", totals["rx_packets"] + totals["tx_packets"] == 0),
        ("requests can't be told, the role's figure stands:", (received > 0) & (totals["requests"] == 0)),
        ("only one direction was seen, sizes are the role's:", (totals["rx_packets"] > 0) != (totals["tx_packets"] > 0)),
    ):
        names = [vm.name for vm, which in zip(ground.vms, unseen, strict=True) if which]
        if names:
            notes.append(f"{told} {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    return notes
