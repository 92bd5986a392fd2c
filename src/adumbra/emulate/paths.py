"""The path between a VM's subnet and those it talks to: round trip and bottleneck, from the spec's links. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

from adumbra.schema.spec import INTERNET, NetworkSpec, Vm

_Hops = Mapping[str, tuple[tuple[str, float, float], ...]]


@dataclass(frozen=True, slots=True)
class NetworkPath:
    """A path's round trip in seconds, its bottleneck in bits a second (infinite: not known), and the place it leads to."""

    rtt_s: float
    bandwidth_bps: float = math.inf
    to: str = ""


UNLINKED = NetworkPath(rtt_s=0.0005)
"""Where the spec has no links for a subnet: a round trip within one data centre, 0.5 ms, and no bottleneck but the VM's own."""


def path_of(spec: NetworkSpec, vm: Vm) -> NetworkPath:
    """The path of one VM; see `paths_of`, which does all subnets at once."""
    return _path_from(vm.subnet, _hops(spec))


def paths_of(spec: NetworkSpec) -> dict[str, NetworkPath]:
    """The path between each subnet that has VMs and its clients, which the spec does not name: they are taken to be where
    its links lead. That is the internet where a link leads there, or else the farthest of the subnets it is linked to.

    The way there is the one of the shortest round trip (Dijkstra, 1959); of equal ones, the wider bottleneck. A subnet
    without links gets UNLINKED. Only the path's own links bound it: that other VMs share them is not counted here.
    """
    hops = _hops(spec)
    return {subnet: _path_from(subnet, hops) for subnet in dict.fromkeys(group.subnet for group in spec.vms)}


def paths_between(spec: NetworkSpec) -> dict[str, dict[str, NetworkPath]]:
    """The best path from each subnet that has VMs to every place that links lead to from there, itself included."""
    hops = _hops(spec)
    return {subnet: _reach(subnet, hops) for subnet in dict.fromkeys(group.subnet for group in spec.vms)}


def _path_from(subnet: str, hops: _Hops) -> NetworkPath:
    linked = {place for place, _, _ in hops.get(subnet, ())}
    if not linked:
        return UNLINKED
    reached = _reach(subnet, hops)
    ends = [reached[place] for place in ({INTERNET} if INTERNET in linked else linked)]
    return max(ends, key=lambda path: (path.rtt_s, -path.bandwidth_bps, path.to))


def _hops(spec: NetworkSpec) -> _Hops:
    hops: dict[str, list[tuple[str, float, float]]] = {}
    for link in spec.links:
        one, other = link.between
        hops.setdefault(one, []).append((other, link.rtt, link.bandwidth))
        hops.setdefault(other, []).append((one, link.rtt, link.bandwidth))
    return {place: tuple(leads) for place, leads in hops.items()}


def _reach(origin: str, hops: _Hops) -> dict[str, NetworkPath]:
    """The best path from `origin` to every place that links lead to."""
    reached: dict[str, NetworkPath] = {}
    frontier = [(0.0, -math.inf, origin)]
    while frontier:
        rtt_s, narrowest, place = heapq.heappop(frontier)
        if place in reached:
            continue
        reached[place] = NetworkPath(rtt_s, -narrowest, place)
        for other, link_rtt_s, link_bps in hops.get(place, ()):
            if other not in reached:
                heapq.heappush(frontier, (rtt_s + link_rtt_s, max(narrowest, -link_bps), other))
    return reached
