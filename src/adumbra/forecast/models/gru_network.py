"""The recurrent network itself: an encoder of hours, a decoder of steps ahead, a head whose quantiles can't cross.
Imports JAX and Equinox, so import it only where the extra [rnn] is asked for. No training, no files."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.random import Generator

from adumbra.forecast.models.gru_features import CANDIDATES, GRU_LEVELS, WINDOWS, layer_sizes

_LEAST_GAP = 3e-4
_MOST_LOG = 16.0
_LOG_SHARE, _RELATIVE_SHARE = 0.3, 0.03


class Batch(NamedTuple):
    """What the network takes: N sequences, K origins of each, M steps ahead of each origin.

    sequence [N, T, C]; place int32[N, K]: after which bin of its sequence an origin lies; known [N, K, KNOWN]; candidates
    [N, K, W, L]; asked [N, K, M, ASKED]; asked_candidates [N, K, M, 3, L]; target [N, K, M], use / scale; weight [N, K, M].
    """

    sequence: Array
    place: Array
    known: Array
    candidates: Array
    asked: Array
    asked_candidates: Array
    target: Array
    weight: Array


class Linear(eqx.Module):
    """y = x W + b, of any leading shape; W is drawn as in Glorot and Bengio (2010), times `gain`."""

    weight: Array
    bias: Array

    def __init__(self, inputs: int, outputs: int, rng: Generator, gain: float = 1.0) -> None:
        spread = gain * (2.0 / (inputs + outputs)) ** 0.5
        self.weight = jnp.asarray(spread * rng.standard_normal((inputs, outputs)), jnp.float32)
        self.bias = jnp.asarray(np.zeros(outputs, np.float32))

    def __call__(self, x: Array) -> Array:
        return x @ self.weight + self.bias


class Network(eqx.Module):
    """GRU encoder (Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014) and a decoder that
    answers every step ahead directly from any of the encoder's states (Wen et al., "A multi-horizon quantile recurrent
    forecaster", 2017: one pass over a sequence trains many origins).

    The head mixes quantiles that were measured (of the last hour, 6 hours, ..., and of the hour asked for on the days
    before), weighing each gap between two levels by itself, then widens or narrows each gap by a softplus and moves the
    whole. Gaps are positive, so quantiles can't cross; before it has learned anything it gives a mean of what was measured.
    """

    reads: Linear
    recurs: Linear
    knows: Linear
    asks: Linear
    thinks: Linear
    answers: Linear

    def __init__(self, hidden: int, width: int, rng: Generator) -> None:
        gains = (1.0, 1.0, 1.0, 1.0, 1.0, 0.01)
        layers = (Linear(*size, rng, gain) for size, gain in zip(layer_sizes(hidden, width), gains, strict=True))
        self.reads, self.recurs, self.knows, self.asks, self.thinks, self.answers = layers

    def encode(self, sequence: Array) -> Array:
        """[N, T, C] -> the state after each bin, [T, N, hidden]."""
        inputs = jnp.moveaxis(self.reads(sequence), 1, 0)
        hidden = self.recurs.weight.shape[0]

        def step(state: Array, given: Array) -> tuple[Array, Array]:
            before = self.recurs(state)
            update, reset = jnp.split(jax.nn.sigmoid(given[:, : 2 * hidden] + before[:, : 2 * hidden]), 2, axis=1)
            new = jnp.tanh(given[:, 2 * hidden :] + reset * before[:, 2 * hidden :])
            state = update * state + (1.0 - update) * new
            return state, state

        return jax.lax.scan(step, jnp.zeros((sequence.shape[0], hidden), jnp.float32), inputs)[1]

    def know(self, state: Array, known: Array) -> Array:
        """A state and what is known with it, [..., hidden], [..., KNOWN] -> [..., width]."""
        return self.knows(jnp.concatenate([state, known], axis=-1))

    def answer(self, insight: Array, candidates: Array, asked: Array, asked_candidates: Array) -> Array:
        """Quantiles as log(1 + use / scale), [..., L]: insight [..., width], candidates [..., W, L], asked [..., ASKED],
        asked_candidates [..., 3, L]."""
        u = jax.nn.silu(insight + self.asks(asked))
        u = u + jax.nn.silu(self.thinks(u))
        out = self.answers(u).reshape(*u.shape[:-1], 1 + CANDIDATES, len(GRU_LEVELS))
        share = jax.nn.softmax(out[..., 1:, :], axis=-2)
        shape = (*share.shape[:-2], len(WINDOWS), len(GRU_LEVELS))
        every = jnp.concatenate([jnp.broadcast_to(candidates, shape), asked_candidates], axis=-2)
        gaps = (share[..., 1:] * jnp.diff(every, axis=-1)).sum(axis=-2)
        middle = every[..., len(GRU_LEVELS) // 2]
        unsure = gaps[..., 1:-3].sum(axis=-1) + jnp.std(middle, axis=-1) + _LEAST_GAP
        lowest = (share[..., 0] * every[..., 0]).sum(axis=-1) + out[..., 0, 0] * unsure
        bare = jnp.maximum(gaps, _LEAST_GAP)
        gaps = jax.nn.softplus(bare + jnp.log(-jnp.expm1(-bare)) + out[..., 0, 1:])
        levels = jnp.concatenate([lowest[..., None], lowest[..., None] + jnp.cumsum(gaps, axis=-1)], axis=-1)
        return jnp.clip(levels, 0.0, _MOST_LOG)


def forecast(network: Network, batch: Batch) -> Array:
    """Quantiles of a batch, as log(1 + use / scale): [N, K, M, L]."""
    states = jnp.moveaxis(network.encode(batch.sequence), 0, 1)
    state = jnp.take_along_axis(states, batch.place[..., None], axis=1)
    insight = network.know(state, batch.known)
    return network.answer(insight[:, :, None], batch.candidates[:, :, None], batch.asked, batch.asked_candidates)


def loss(network: Network, batch: Batch) -> Array:
    """The weighted mean of the pinball loss over GRU_LEVELS: of use relative to scale, and in part of its logarithm, plain
    and relative to the last day's spread.

    The former is what is scored; alone, rare bursts of a hundred times the mean would drown what the rest can teach, and a
    steady VM's errors would weigh next to nothing.
    """
    tau = jnp.asarray(GRU_LEVELS, jnp.float32)
    log = forecast(network, batch)
    spread = jnp.exp(batch.known[..., None, -1:])
    logs = jnp.log1p(batch.target)[..., None] - log
    plain = batch.target[..., None] - jnp.expm1(log)
    parts = ((_LOG_SHARE + _RELATIVE_SHARE / spread, logs), (1.0, plain))
    each = sum((part * jnp.maximum(tau * error, (tau - 1.0) * error)).mean(axis=-1) for part, error in parts)
    return (batch.weight * each).sum() / jnp.maximum(batch.weight.sum(), 1e-9)
