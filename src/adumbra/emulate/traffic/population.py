"""Who talks: the VMs' hosts and addresses, clients and servers outside, and the tables that kernels take. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.traffic import conversation_layout as layout
from adumbra.emulate.traffic.calls import OUTSIDE, Ground
from adumbra.emulate.traffic.conversation_layout import Book
from adumbra.emulate.traffic.frame_kernels import HOST
from adumbra.emulate.traffic.model import Calls, TrafficModel, VmTraffic
from adumbra.emulate.traffic.sizes import log_figures
from adumbra.schema.addresses import AddressBlock, Prefix, parse_prefix
from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.schema.spec import NetworkSpec, Vm

CLIENT_RANGES_4 = ("198.18.0.0/15", "100.64.0.0/10", "10.0.0.0/8", "172.16.0.0/12")
"""Where made clients have their addresses: benchmarking's (RFC 2544), or the first of the others that is free."""
CLIENT_RANGES_6 = ("2001:2::/48", "2001:db8::/32", "fd00::/8")
_OUTER_SERVERS = 16
_OUTER_PORT = 443
_CLIENT_HOPS = 9
_FRAME_OVERHEAD_BYTES = 38  # preamble, Ethernet header, FCS and gap
_CHANCE = NormalDist()


@dataclass(frozen=True, slots=True)
class Population:
    """The machines that talk. names: of the VMs; hosts: frame_kernels.HOST[h]; clients: int64[S], how many each server has;
    is_six: bool[S], whether its clients come by IPv6; first_four, first_six: the first client's host; host_of: int64[V].
    """

    names: tuple[str, ...]
    hosts: NDArray[np.void]
    clients: Ints
    is_six: NDArray[np.bool_]
    first_four: int
    first_six: int
    host_of: Ints
    servers: NDArray[np.void]
    calls: NDArray[np.void]
    targets: Ints
    weights: Floats
    of_callee: dict[int, tuple[int, int]]
    ports: Ints
    lists: int
    other: Ints
    server_of: Ints

    @property
    def vms(self) -> int:
        return len(self.names)

    def targets_of(self, callee: int) -> tuple[Ints, Floats]:
        """The servers of a group, or OUTSIDE, and their cumulated weights up to 1."""
        first, count = self.of_callee[callee]
        return self.targets[first : first + count], self.weights[first : first + count]

    def book(self, state: Ints, asked: Ints, packets: Any, heap: Any, connections: Any) -> Book:
        """What the kernels work on, with these arrays of their own."""
        count = len(self.hosts)
        return Book(
            state, asked, packets, heap, connections, self.servers, self.calls, self.targets, self.weights, self.ports,
            np.full(self.lists, -1, np.int64), np.zeros(self.lists, np.int64),
            np.arange(count, dtype=np.int64) * 977 % 28232, np.ascontiguousarray(self.hosts["version"]), self.other,
            self.server_of, np.zeros(2 * layout.MOST_PLANNED),
        )  # fmt: skip


def populate(spec: NetworkSpec, vms: Sequence[Vm], model: TrafficModel, ground: Ground, connections: float) -> Population:
    """The machines for a model. connections: about how many there will be to one VM at most; clients are enough that none
    uses a port twice.
    """
    fronts = max((vm.clients for vm in model.vms if vm.connections_per_s > 0), default=1)
    clients = int(min(max(fronts, math.ceil(connections / 20_000)), 130_000))
    hosts, host_of, other = _hosts(spec, vms, clients)
    count = len(vms)
    first_four, first_six = 2 * count, 2 * count + clients + _OUTER_SERVERS
    servers = np.zeros(count + 1, layout.SERVER)
    ports: list[int] = []
    for v, (vm, figures) in enumerate(zip(vms, model.vms, strict=True)):
        _fill_server(servers[v], figures, ground.vms[v].bytes_per_s)
        servers[v]["first_port"], servers[v]["ports"] = len(ports), max(len(vm.ports), 1)
        ports += vm.ports or (_OUTER_PORT,)
    outer = VmTraffic("outside", request_bytes=400.0, response_bytes=2000.0, response_s=0.02)
    _fill_server(servers[count], outer, 1.25e8)
    servers[count]["first_port"], servers[count]["ports"] = len(ports), 1
    ports.append(_OUTER_PORT)
    for v in range(count):
        both = (int(host_of[v]), int(other[host_of[v]]))
        for host in both:
            if host >= 0:
                servers[v][f"host_{hosts[host]['version']}"] = host
    servers[count]["host_4"], servers[count]["host_6"] = first_four + clients, first_six + clients
    server_of = np.full(len(hosts), -1, np.int64)
    for v in range(count):
        for host in (int(host_of[v]), int(other[host_of[v]])):
            if host >= 0:
                server_of[host] = v
    calls, targets, weights, of_callee, lists = _call_tables(model, servers)
    who = np.array([min(vm.clients, clients) for vm in model.vms] + [1], np.int64)
    least = math.ceil(connections / 20_000)
    return Population(
        tuple(vm.name for vm in vms), hosts, np.clip(who, min(least, clients), clients), servers["host_4"] < 0, first_four,
        first_six, host_of, servers, calls, targets, weights, of_callee, np.array(ports, np.int64), lists, other, server_of,
    )  # fmt: skip


def _fill_server(row: Any, vm: VmTraffic, bytes_per_s: float) -> None:
    """A server's figures as the kernels take them."""
    row["requests"] = vm.requests_per_connection
    row["request_mu"], row["request_sigma"] = clamped_log_figures(vm.request_bytes, vm.request_cv)
    row["response_mu"], row["response_sigma"] = clamped_log_figures(vm.response_bytes, vm.response_cv)
    for name in ("request_extra", "response_extra", "client_acks", "server_acks", "idle_s", "failed_share"):
        row[name] = getattr(vm, name)
    row["response_s_mu"], row["response_s_sigma"] = math.log(max(vm.response_s, 2e-6)), vm.response_sigma
    row["rtt_s_mu"], row["rtt_s_sigma"] = math.log(max(vm.rtt_s, 2e-6)), vm.rtt_sigma
    row["segment_ns"] = max((1514 + _FRAME_OVERHEAD_BYTES) / bytes_per_s * NANOSECONDS, 100.0)
    row["host_4"] = row["host_6"] = -1


def clamped_log_figures(mean: float, cv: float) -> tuple[float, float]:
    """A lognormal's figures, so that its mean holds although draws end at MOST_SIGMAS deviations, and below 1 byte."""
    mu, sigma = log_figures(max(mean, 1.0), cv)
    most = layout.MOST_SIGMAS
    tail = _CHANCE.cdf(-most)
    kept = math.exp(sigma * sigma / 2.0) * (_CHANCE.cdf(most - sigma) - _CHANCE.cdf(-most - sigma))
    kept += tail * (math.exp(most * sigma) + math.exp(-most * sigma))
    return mu + sigma * sigma / 2.0 - math.log(kept), sigma


def _call_tables(model: TrafficModel, servers: Any) -> tuple[Any, Ints, Floats, dict[int, tuple[int, int]], int]:
    """Calls by caller's group, and the servers that each may go to; fills the servers' own fields of both."""
    group = np.array(model.group, np.int64)
    targets: list[int] = []
    weights: list[float] = []
    of_callee: dict[int, tuple[int, int]] = {}
    for callee in dict.fromkeys([OUTSIDE, *(call.callee for call in model.calls)]):
        members = [len(model.vms)] if callee == OUTSIDE else [int(v) for v in np.flatnonzero(group == callee)]
        of_callee[callee] = (len(targets), len(members))
        targets += members
        weights += [float(w) for w in np.cumsum(np.full(len(members), 1.0 / len(members)))]
    rank = np.zeros(len(group), np.int64)
    for g in range(len(model.groups)):
        members_of = np.flatnonzero(group == g)
        rank[members_of] = np.arange(len(members_of))
    servers["rank"][: len(group)] = rank
    caused = sorted((call for call in model.calls if call.per_request > 0), key=lambda call: (call.caller, call.callee))
    calls = np.zeros(max(len(caused), 1), layout.CALL)
    lists = 0
    for c, call in enumerate(caused):
        _fill_call(calls[c], call, of_callee[call.callee], lists)
        members_of = np.flatnonzero(group == call.caller)
        lists += len(members_of)
        for v in members_of:
            servers[v]["first_call"] = c if servers[v]["calls"] == 0 else servers[v]["first_call"]
            servers[v]["calls"] += 1
    return calls, np.array(targets, np.int64), np.array(weights), of_callee, max(lists, 1)


def _fill_call(row: Any, call: Calls, targets: tuple[int, int], first_list: int) -> None:
    row["per_request"], row["rtt_ns"], row["pool"] = call.per_request, round(call.rtt_s * NANOSECONDS), call.pool
    row["first_server"], row["servers"] = targets
    row["first_list"] = first_list


# ---- hosts ---------------------------------------------------------------------------------------------------------------


def _hosts(spec: NetworkSpec, vms: Sequence[Vm], clients: int) -> tuple[Any, Ints, Ints]:
    """All hosts: of each VM its first address and the first of its other IP version, where there is one, else a blank;
    then clients and servers outside, by IPv4, and the same by IPv6. Gives them, each VM's first, and each one's other.
    """
    count, outside = len(vms), clients + _OUTER_SERVERS
    hosts = np.zeros(2 * count + 2 * outside, HOST)
    other: Ints = np.full(len(hosts), -1, np.int64)
    place = {subnet.name: number for number, subnet in enumerate(spec.subnets)}
    hosts["vm"], hosts["place"], hosts["version"] = -1, -1, 4
    for v, vm in enumerate(vms):
        first = vm.addresses[0]
        second = next((block for block in vm.addresses if block.version != first.version), None)
        for at, block in ((2 * v, first), (2 * v + 1, second)):
            if block is not None:
                _fill_host(hosts[at], block.version, block.first)
                hosts[at]["vm"], hosts[at]["place"], hosts[at]["hops"] = v, place[vm.subnet], 1
                hosts[at]["mac"], hosts[at]["router"] = _mac(v), _router(place[vm.subnet])
        if second is not None:
            other[2 * v], other[2 * v + 1] = 2 * v + 1, 2 * v
    for version, ranges, first_at in ((4, CLIENT_RANGES_4, 2 * count), (6, CLIENT_RANGES_6, 2 * count + outside)):
        free = _free_range(spec, ranges)
        for number in range(outside):
            _fill_host(hosts[first_at + number], version, free + 257 + number)
            hosts[first_at + number]["hops"] = _CLIENT_HOPS
    hosts["mac"][2 * count :] = hosts["router"][2 * count :] = np.uint64(_router(0xFFFF))
    return hosts, 2 * np.arange(count, dtype=np.int64), other


def _fill_host(row: Any, version: int, address: int) -> None:
    row["version"] = version
    row["hi"], row["lo"] = np.uint64(address >> 64), np.uint64(address & 0xFFFFFFFFFFFFFFFF)


def _mac(number: int) -> int:
    """A locally administered address of a VM."""
    return 0x0200_0000_0000 | (number + 1)


def _router(place: int) -> int:
    return 0x0201_0000_0000 | (place + 1)


def _free_range(spec: NetworkSpec, ranges: Sequence[str]) -> int:
    """The first address of a range that neither the network nor a donor has. Raises InputError where they have all."""
    taken = [AddressBlock.of_prefix(prefix) for prefix in (*spec.cidrs, *(d.from_ for d in spec.donors))]
    prefixes: list[Prefix] = [parse_prefix(text) for text in ranges]
    for prefix in prefixes:
        block = AddressBlock.of_prefix(prefix)
        if not any(block.overlaps(each) for each in taken):
            return block.first
    raise InputError(f"the network leaves no range for clients: {', '.join(ranges)}", "use narrower CIDRs in its spec")
