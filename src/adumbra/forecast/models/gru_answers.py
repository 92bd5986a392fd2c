"""Asks a trained network: pads VMs and steps ahead to fixed shapes, so that few programs are compiled, and scales back.
Imports JAX. No training, no files."""

from __future__ import annotations

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
from adumbra.forecast.models.gru_network import Network
from adumbra.forecast.models.gru_training import unflatten
from adumbra.schema.records import Floats, Ints

MOST_VMS = 256
_FEW_VMS = 8
_STEPS = 32


def answers(parameters: Singles, hidden: int, width: int, past: Past, ahead: Ints) -> Floats:
    """Quantiles of use at GRU_LEVELS after the end of the past of at most MOST_VMS, float64[V, H, L].

    Monotone in level, none below zero.
    """
    network = unflatten(parameters, hidden, width)
    vms, rows = len(past.values), _FEW_VMS if len(past.values) <= _FEW_VMS else MOST_VMS
    vm, end = np.arange(vms), np.full(vms, past.bins)
    known = known_at(past, vm, end, windows_at(past, vm, end))
    candidates = _padded(known.candidates, rows)
    insight = _insight(network, _padded(sequence(past, vm, end), rows), _padded(known.x, rows))
    out = np.empty((vms, len(ahead), len(GRU_LEVELS)))
    for begin in range(0, len(ahead), _STEPS):
        some = ahead[begin : begin + _STEPS]
        row, step = np.repeat(vm, len(some)), np.tile(some, vms)
        asked = asked_of(past, repeated(known, len(some)), row, end[row], step)
        x = _block(asked.x, vms, len(some), rows)
        log = np.asarray(_answer(network, insight, candidates, x, _block(asked.candidates, vms, len(some), rows)))
        use = np.expm1(log[:vms, : len(some)].astype(np.float64)) * known.scale[:, None, None]
        out[:, begin : begin + len(some)] = np.maximum.accumulate(use, axis=-1)
    return out


@jax.jit
def _insight(network: Network, sequence_: Array, known: Array) -> Array:
    return network.know(network.encode(sequence_)[-1], known)


@jax.jit
def _answer(network: Network, insight: Array, candidates: Array, asked: Array, asked_candidates: Array) -> Array:
    return network.answer(insight[:, None], candidates[:, None], asked, asked_candidates)


def _padded(values: Singles, rows: int) -> Singles:
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _block(values: Singles, vms: int, steps: int, rows: int) -> Singles:
    """[vms * steps, ...] -> [rows, _STEPS, ...], zeros where there is nothing."""
    shaped = values.reshape(vms, steps, *values.shape[1:])
    return np.pad(shaped, [(0, rows - vms), (0, _STEPS - steps), *[(0, 0)] * (values.ndim - 1)])
