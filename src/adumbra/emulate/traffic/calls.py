"""Who calls whom: connections that VMs open are dealt to the VMs that received some, along the topology. Pure.

Proportional fitting to the observed margins (Deming and Stephan, 1940), by groups of VMs alike; what is outside is free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.paths import UNLINKED, paths_between
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.records import Floats, Ints
from adumbra.schema.spec import INTERNET, NetworkSpec, Vm

OUTSIDE = -1
"""The callee of calls to hosts outside the network."""
MOST_GROUPS = 512
_ROUNDS = 500
_CLOSE = 1e-9
_LIKELY, _UNLIKELY = 0.998, 0.002
_WITHIN = 0.01  # of a group's VMs, that they call each other
_STEPS = 20  # fewer say nothing about who moves with whom


@dataclass(frozen=True, slots=True)
class VmFacts:
    """What the spec says of a VM: ports it listens on, the round trip to its clients, and to the internet (NaN where no link
    leads there), its link's rate, its addresses' version.
    """

    name: str
    ports: tuple[int, ...]
    rtt_s: float
    internet_rtt_s: float
    bytes_per_s: float
    version: int


@dataclass(frozen=True, slots=True)
class Ground:
    """The network's VMs by groups. group: int64[V]; fronts: bool[G], whether the internet leads there; reach: float64[G, G],
    how readily one reaches another (1: one subnet, or a link; less: no link; 0: no common IP version); rtt_s: float64[G, G].
    """

    vms: tuple[VmFacts, ...]
    groups: tuple[str, ...]
    group: Ints
    fronts: NDArray[np.bool_]
    reach: Floats
    rtt_s: Floats

    def sums(self, values: Floats) -> Floats:
        """Values of VMs [V, ...] summed by group [G, ...]."""
        summed = np.zeros((len(self.groups), *values.shape[1:]))
        np.add.at(summed, self.group, np.nan_to_num(values))
        return summed


def ground_of(spec: NetworkSpec, vms: Sequence[Vm], emulated: Sequence[EmulatedVm]) -> Ground:
    """What the spec says of who can talk to whom. Groups are the spec's; by role where there are more than MOST_GROUPS."""
    reached = paths_between(spec)
    far = {subnet: places[INTERNET].rtt_s if INTERNET in places else math.nan for subnet, places in reached.items()}
    facts = tuple(
        VmFacts(vm.name, vm.ports, each.path.rtt_s, far[vm.subnet], each.bytes_per_s, vm.addresses[0].version)
        for vm, each in zip(vms, emulated, strict=True)
    )
    key = [vm.group for vm in vms]
    if len(set(key)) > MOST_GROUPS:
        key = [bundled_priors().role_of(vm.role) for vm in vms]
    groups = tuple(dict.fromkeys(key))
    number = {name: g for g, name in enumerate(groups)}
    group = np.array([number[name] for name in key], np.int64)
    first = [vms[int(np.flatnonzero(group == g)[0])] for g in range(len(groups))]
    linked = {subnet: {place for link in spec.links if subnet in link.between for place in link.between} for subnet in reached}
    fronts = np.array([INTERNET in linked[vm.subnet] or not spec.links for vm in first])
    reach, rtt_s = np.zeros((len(groups), len(groups))), np.zeros((len(groups), len(groups)))
    for g, caller in enumerate(first):
        for h, callee in enumerate(first):
            near = caller.subnet == callee.subnet or callee.subnet in linked[caller.subnet] or not spec.links
            shared = {b.version for b in caller.addresses} & {b.version for b in callee.addresses}
            reach[g, h] = (1.0 if near else 0.1) * bool(shared)
            path = reached[caller.subnet].get(callee.subnet)
            rtt_s[g, h] = path.rtt_s if path is not None and path.rtt_s > 0 else UNLINKED.rtt_s / 5.0
    return Ground(facts, groups, group, fronts, reach, rtt_s)


@dataclass(frozen=True, slots=True)
class Counts:
    """Over the history, of each VM, float64[V]: connections that it opened, and that it received; requests to it."""

    opened: Floats
    received: Floats
    requests: Floats


@dataclass(frozen=True, slots=True)
class Dealt:
    """Who opened how many connections to whom: connections float64[G + 1, G + 1], from rows to columns, the last of each the
    outside. opened, received: float64[G]; vm_calls_share: float64[V], a VM's part of its group's calls; vm_received:
    float64[V]; vm_peers: float64[V], VMs that it talks to; group: int64[V].
    """

    connections: Floats
    opened: Floats
    received: Floats
    vm_calls_share: Floats
    vm_received: Floats
    vm_peers: Floats
    group: Ints


def deal(ground: Ground, counts: Counts, busy: Floats, near: Floats) -> Dealt:
    """Deals the connections that VMs opened to those that VMs received.

    busy: float64[V, T], how busy each VM was by interval: callers and those they call move together. near: float64[V], 1
    where a VM's clients are inside the network by their round trips, 0 where not, NaN where that isn't known.
    """
    groups = len(ground.groups)
    opened, received = counts.opened, counts.received
    opens, receives = ground.sums(opened), ground.sums(received)
    listens = np.zeros(groups, np.bool_)
    np.logical_or.at(listens, ground.group, np.array([bool(vm.ports) for vm in ground.vms]))
    inside = _inside(ground, near)
    together = _together(ground.sums(busy))
    seed = np.zeros((groups + 1, groups + 1))
    seed[:groups, :groups] = ground.reach * together * (receives * inside * np.where(listens, 1.0, 0.3))[None, :]
    seed[range(groups), range(groups)] *= _WITHIN
    alone = np.bincount(ground.group, minlength=groups) == 1
    seed[np.flatnonzero(alone), np.flatnonzero(alone)] = 0.0
    seed[:groups, :groups] *= (opens / max(opens.sum(), _CLOSE))[:, None]
    seed[groups, :groups] = receives * (1.0 - inside)
    reachable = seed[:groups, :groups].sum(axis=1) > 0
    seed[:groups, groups] = opens * np.where(reachable, _UNLIKELY, 1.0)
    dealt = proportional_fit(seed, opens, receives)
    # A request causes as many calls at each VM of a group, so they go by requests where there are any.
    asked = ground.sums(counts.requests)[ground.group]
    shares = np.where(asked > 0, counts.requests / np.maximum(asked, _CLOSE), opened / np.maximum(opens[ground.group], _CLOSE))
    talks = dealt[:groups, :groups] > 0.01 * np.maximum(receives, 1.0)[None, :]
    sizes = np.bincount(ground.group, minlength=groups)
    met = ((talks | talks.T) * sizes[None, :]).sum(axis=1)
    return Dealt(
        dealt, opens, receives, shares, received,
        met[ground.group].astype(np.float64), ground.group,
    )  # fmt: skip


def proportional_fit(seed: Floats, rows: Floats, columns: Floats) -> Floats:
    """Scales a table's rows and columns in turn until they sum to these (float64[n]); its last row and column are free."""
    table = seed.copy()
    for _ in range(_ROUNDS):
        table[:-1] *= (rows / np.maximum(table[:-1].sum(axis=1), _CLOSE * _CLOSE))[:, None]
        sums = table[:, :-1].sum(axis=0)
        table[:, :-1] *= (columns / np.maximum(sums, _CLOSE * _CLOSE))[None, :]
        if np.all(np.abs(table[:-1].sum(axis=1) - rows) <= _CLOSE + 1e-6 * rows):
            break
    return table


def served(dealt: Dealt, into: Floats, out: Floats) -> tuple[Floats, Floats]:
    """Of what passed into and out of each VM [V, ...], the part in which it was the server: without its own calls.

    What a VM called came out of one that it called: for each group, that one's served traffic, by its share of connections.
    """
    groups = len(dealt.opened)
    share = dealt.connections[:groups, :groups] / np.maximum(dealt.received, _CLOSE)[None, :]
    share[:, dealt.received <= 0] = 0.0
    whole_in, whole_out = (np.zeros((groups, *into.shape[1:])) for _ in range(2))
    np.add.at(whole_in, dealt.group, np.nan_to_num(into))
    np.add.at(whole_out, dealt.group, np.nan_to_num(out))
    group_in, group_out = whole_in.copy(), whole_out.copy()
    for _ in range(min(groups + 1, 30)):
        called_out, called_in = _apply(share, group_out), _apply(share, group_in)
        group_in, group_out = np.maximum(whole_in - called_out, 0.0), np.maximum(whole_out - called_in, 0.0)
    called_out, called_in = _apply(share, group_out), _apply(share, group_in)
    part = dealt.vm_calls_share.reshape(-1, *[1] * (into.ndim - 1))
    left_in = np.maximum(np.nan_to_num(into) - part * called_out[dealt.group], 0.0)
    left_out = np.maximum(np.nan_to_num(out) - part * called_in[dealt.group], 0.0)
    return left_in, left_out


def _apply(share: Floats, values: Floats) -> Floats:
    return np.asarray(np.tensordot(share, values, axes=(1, 0)))


def _inside(ground: Ground, near: Floats) -> Floats:
    """Per group, how likely what it received came from inside: by round trips, or else by whether the internet leads there."""
    inside = np.where(ground.fronts, _UNLIKELY, _LIKELY)
    for g in range(len(ground.groups)):
        told = near[ground.group == g]
        told = told[~np.isnan(told)]
        if len(told):
            inside[g] = _LIKELY if told.mean() > 0.5 else _UNLIKELY
    return inside


def _together(busy: Floats) -> Floats:
    """How much groups move together: 0.05 + the correlation of their series [G, T], where it is above 0."""
    groups = len(busy)
    if busy.shape[1] < _STEPS:
        return np.ones((groups, groups))
    centred = busy - busy.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    scale = length[:, None] * length[None, :]
    alike = np.divide(centred @ centred.T, scale, out=np.ones((groups, groups)), where=scale > 0)
    return np.asarray(0.05 + np.clip(alike, 0.0, 1.0))
