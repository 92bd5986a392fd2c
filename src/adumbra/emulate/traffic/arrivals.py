"""Draws when connections come, and from whom: bursty, at rates that follow the model's. Keeps its bursts' state; no clock."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator as Chance

from adumbra.emulate.traffic.calls import OUTSIDE
from adumbra.emulate.traffic.conversation_layout import ARRIVAL
from adumbra.emulate.traffic.model import TrafficModel
from adumbra.emulate.traffic.population import Population
from adumbra.schema.records import NANOSECONDS, Floats, Ints

_LEAST_MODULATION = 1e-4
_STEPS_A_CORRELATION = 4.0
_LEAST_STEP_S, _MOST_STEP_S = 0.02, 1.0
_CLUSTER_S = 0.05  # mean distance of the connections of a cluster from its first


class Arrivals:
    """Connections from outside to each VM, and those that VMs open by themselves.

    Each row is a cluster process whose rate is modulated by a gamma autoregression (Lewis, McKenzie and Hugus, 1989): G' =
    B G + E, with B beta and E gamma distributed, is gamma distributed with correlation r a step.
    """

    def __init__(self, model: TrafficModel, population: Population, factor: float, chance: Chance) -> None:
        self._model, self._population, self._factor, self._chance = model, population, factor, chance
        vms = model.vms
        shape = [min(1.0 / max(vm.modulation, _LEAST_MODULATION), 1.0 / _LEAST_MODULATION) for vm in vms]
        self._shape: Floats = np.array(shape + shape)
        correlated_s = np.array([vm.modulation_s for vm in vms] * 2)
        moving = np.array([vm.modulation > _LEAST_MODULATION for vm in vms] * 2)
        least_s = float(correlated_s[moving].min()) if moving.any() else _MOST_STEP_S * _STEPS_A_CORRELATION
        self._step_s = float(np.clip(least_s / _STEPS_A_CORRELATION, _LEAST_STEP_S, _MOST_STEP_S))
        self._kept: Floats = np.exp(-self._step_s / np.maximum(correlated_s, 1e-3))
        self._cluster: Floats = np.maximum(np.array([vm.cluster for vm in vms] * 2), 1.0)
        self._moving = moving
        self._level: Floats = np.where(moving, chance.gamma(self._shape), self._shape)
        self._own = _own_targets(model, population)

    def draw(self, begin_ns: int, end_ns: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """The arrivals of a time, in order: conversation_layout.ARRIVAL[n]. To be asked for one time after the other."""
        step_ns = round(self._step_s * NANOSECONDS)
        times: list[Ints] = []
        rows: list[Ints] = []
        firsts: list[Ints] = []
        for low_ns in range(begin_ns, end_ns, step_ns):
            high_ns = min(low_ns + step_ns, end_ns)
            rate = self._model.rates.at((low_ns + high_ns) // 2) * self._factor * self._level / self._shape
            count = self._chance.poisson(rate / self._cluster * ((high_ns - low_ns) / NANOSECONDS))
            row = np.repeat(np.arange(len(rate)), count)
            first = np.asarray(self._chance.integers(low_ns, high_ns, len(row)), np.int64)
            size = self._chance.geometric(1.0 / self._cluster[row]) if len(row) else np.zeros(0, np.int64)
            row, cluster = np.repeat(row, size), np.repeat(np.arange(len(size)), size)
            apart_s = self._chance.exponential(_CLUSTER_S, len(row))
            starts = np.concatenate([[0], np.cumsum(size)])[:-1].astype(np.int64)
            apart_s[starts] = 0.0  # the cluster's first
            times.append(np.minimum(first[cluster] + (apart_s * NANOSECONDS).astype(np.int64), end_ns - 1))
            rows.append(np.asarray(row, np.int64))
            firsts.append(np.asarray(first[cluster] ^ (row * 7919), np.int64))
            self._move()
        return self._with_ends(np.concatenate(times), np.concatenate(rows), np.concatenate(firsts))

    def _move(self) -> None:
        """One step of the modulation."""
        at = np.flatnonzero(self._moving)
        if len(at):
            shape, kept = self._shape[at], self._kept[at]
            fresh = self._chance.gamma(np.maximum(shape * (1.0 - kept), 1e-12))
            share = self._chance.beta(np.maximum(shape * kept, 1e-12), np.maximum(shape * (1.0 - kept), 1e-12))
            self._level[at] = share * self._level[at] + fresh

    def _with_ends(self, times: Ints, rows: Ints, clusters: Ints) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """Arrivals with client and server. Those of a cluster are one client's."""
        population, vms = self._population, len(self._model.vms)
        arrivals = np.zeros(len(times), ARRIVAL)
        outer = rows < vms
        hashed = (clusters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
        server = np.where(outer, rows, 0)
        client = hashed.astype(np.int64) % population.clients[server]
        arrivals["time_ns"], arrivals["server"] = times, server
        arrivals["client"] = np.where(population.is_six[server], population.first_six, population.first_four) + client
        for at in np.flatnonzero(~outer):
            vm = int(rows[at]) - vms
            targets, weights = self._own[vm]
            arrivals["server"][at] = targets[int(np.searchsorted(weights, self._chance.random() * weights[-1]))]
            arrivals["client"][at] = population.host_of[vm]
        return arrivals[np.argsort(times, kind="stable")]


def _own_targets(model: TrafficModel, population: Population) -> dict[int, tuple[Ints, Floats]]:
    """Of each VM that opens connections by itself: the servers it may open them to, and their cumulated weights."""
    found = {}
    for v, vm in enumerate(model.vms):
        if vm.opened_per_s <= 0:
            continue
        targets: list[int] = []
        weights: list[float] = []
        for call in model.calls:
            if call.caller != model.group[v] or call.per_request > 0:
                continue
            servers, cumulated = population.targets_of(call.callee)
            steps = np.diff(np.concatenate([[0.0], cumulated]))
            targets += [int(s) for s in servers if s != v]
            weights += [float(w) * call.connections_per_s for s, w in zip(servers, steps, strict=True) if s != v]
        if not targets:
            targets, weights = [int(population.targets_of(OUTSIDE)[0][0])], [1.0]
        found[v] = (np.array(targets, np.int64), np.cumsum(weights))
    return found
