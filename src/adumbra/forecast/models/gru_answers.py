"""Asks a trained network: pads VMs and steps ahead to fixed shapes, so that few programs are compiled, and scales back.
Imports JAX. No training, no files."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from adumbra.forecast.models.gru_features import (
    GRU_LEVELS,
    Past,
    Singles,
    asked_of,
    known_at,
    repeated,
    sequence,
    windows_at,
)
from adumbra.forecast.models.gru_training import unflatten
from adumbra.schema.records import Floats, Ints

MOST_VMS = 256
_FEW_VMS = 8
_STEPS = 32


def answers(parameters: Singles, hidden: int, width: int, past: Past, ahead: Ints) -> Floats:
    """Quantiles of use at GRU_LEVELS after the end of the past of at most MOST_VMS, float64[V, H, L].

    Monotone in level, none below zero.
    """
    asks = _compiled(hidden, width)
    vms, rows = len(past.values), _FEW_VMS if len(past.values) <= _FEW_VMS else MOST_VMS
    vm, end = np.arange(vms), np.full(vms, past.bins)
    known = known_at(past, vm, end, windows_at(past, vm, end))
    candidates = _padded(known.candidates, rows)
    insight = asks.insight(parameters, _padded(sequence(past, vm, end), rows), _padded(known.x, rows))
    out = np.empty((vms, len(ahead), len(GRU_LEVELS)))
    for begin in range(0, len(ahead), _STEPS):
        some = ahead[begin : begin + _STEPS]
        row, step = np.repeat(vm, len(some)), np.tile(some, vms)
        asked = asked_of(past, repeated(known, len(some)), row, end[row], step)
        x = _block(asked.x, vms, len(some), rows)
        log = np.asarray(asks.answer(parameters, insight, candidates, x, _block(asked.candidates, vms, len(some), rows)))
        use = np.expm1(log[:vms, : len(some)].astype(np.float64)) * known.scale[:, None, None]
        out[:, begin : begin + len(some)] = np.maximum.accumulate(use, axis=-1)
    return out


class _Asks(NamedTuple):
    """The network's two halves, compiled: what it makes of a past, and what it answers to steps ahead."""

    insight: Callable[..., Array]
    answer: Callable[..., Array]


@lru_cache(maxsize=4)
def _compiled(hidden: int, width: int) -> _Asks:
    def insight(parameters: Array, hours: Array, known: Array) -> Array:
        network = unflatten(parameters, hidden, width)
        return network.know(network.encode(hours)[-1], known)

    def answer(parameters: Array, found: Array, candidates: Array, asked: Array, asked_candidates: Array) -> Array:
        network = unflatten(parameters, hidden, width)
        return network.answer(found[:, None], candidates[:, None], asked, asked_candidates)

    return _Asks(jax.jit(insight), jax.jit(answer))


def _padded(values: Singles, rows: int) -> Singles:
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _block(values: Singles, vms: int, steps: int, rows: int) -> Singles:
    """[vms * steps, ...] -> [rows, _STEPS, ...], zeros where there is nothing."""
    shaped = values.reshape(vms, steps, *values.shape[1:])
    return np.pad(shaped, [(0, rows - vms), (0, _STEPS - steps), *[(0, 0)] * (values.ndim - 1)])
