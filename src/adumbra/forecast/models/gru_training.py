"""Trains the recurrent network: batches by the pass, a held-out last part, the best smoothed parameters kept.
Imports JAX and Optax. No clock; chance is the seed's. Writes nothing but the checkpoint that it is told to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from adumbra.forecast.models.gru_batches import Budget, Draw, Examples
from adumbra.forecast.models.gru_features import Singles
from adumbra.forecast.models.gru_network import Batch, Network, loss

_DECAY = 1e-4
COMPILED: dict[str, bool | str] = {"xla_cpu_multi_thread_eigen": True}


@dataclass(frozen=True, slots=True)
class Epoch:
    """How far a training is: batches learned from of at most so many, mean loss of the latest, loss on the held-out part."""

    step: int
    steps: int
    trained: float
    held_out: float


Told = Callable[[Epoch], None]


class State(NamedTuple):
    """All that a training goes on from, arrays only: written and read back as they are.

    weights, smooth, best float32[P]: the network's parameters, their running mean, the best of those; first, second
    float32[P]: the optimiser's moments; step, stale int32[], held float32[]: batches so far, looks since the best, the
    best's loss on the held-out part.
    """

    weights: Array
    smooth: Array
    best: Array
    first: Array
    second: Array
    step: Array
    stale: Array
    held: Array


def begin(budget: Budget, seed: int) -> State:
    """A training that has learned nothing yet."""
    flat = flatten(Network(budget.hidden, budget.width, np.random.default_rng([seed, 0])))
    none = np.zeros_like(flat)
    return State(flat, flat, flat, none, none, np.int32(0), np.int32(0), np.float32(np.inf))


def trained(examples: Examples, budget: Budget, seed: int, checkpoint: Path | None, told: Told) -> Singles:
    """The best parameters, float32[P], of a training that goes on from the checkpoint, if it is there and of this training."""
    state = begin(budget, seed)
    return train(examples, budget, seed, state, told, lambda _: None)


def flatten(network: Network) -> Singles:
    """A network's parameters in one row, float32[P]."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(network)])


def unflatten(flat: Array, hidden: int, width: int) -> Network:
    """The network of a row of parameters. Raises ValueError where there are more or fewer than it has."""
    leaves, shape = jax.tree.flatten(eqx.filter_eval_shape(Network, hidden, width, np.random.default_rng(0)))
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    if flat.shape != (int(ends[-1]),):
        raise ValueError(f"a network of {hidden} and {width} has {ends[-1]} parameters, not {flat.shape}")
    parts = [flat[end - math.prod(leaf.shape) : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(shape, parts)


def train(
    examples: Examples, budget: Budget, seed: int, state: State, told: Told, keep: Callable[[State], None]
) -> Singles:  # fmt: skip
    """Goes on from `state` until the budget is spent or the held-out loss has stopped falling; gives the best parameters.

    Each epoch draws by (seed, its first step), so that a training that was broken off and goes on ends the same.
    """
    past = examples.past
    cut = past.bins - max(1, round((past.bins - past.grid.reach) * budget.held_out))
    rng = np.random.default_rng([seed, 2])
    held = [_batch(examples.draw(rng, budget.batch, cut, past.bins)) for _ in range(budget.held_batches)]
    step, judge = _compiled(budget)
    while int(state.step) < budget.steps and int(state.stale) < budget.patience:
        rng = np.random.default_rng([seed, 1, int(state.step)])
        lost = []
        for _ in range(min(budget.per_epoch, budget.steps - int(state.step))):
            state, loss_now = step(state, _batch(examples.draw(rng, budget.batch, 0, cut)))
            lost.append(loss_now)
        judged = np.float32(np.mean([judge(state.smooth, batch) for batch in held]))
        better = bool(judged < state.held * 0.9995)
        state = State(*(np.asarray(part) for part in state))
        state = state._replace(
            best=state.smooth if better else state.best,
            held=judged if better else state.held,
            stale=np.int32(0) if better else state.stale + np.int32(1),
        )
        keep(state)
        told(Epoch(int(state.step), budget.steps, float(np.mean(lost)), float(judged)))
    return np.asarray(state.best)


def _compiled(budget: Budget) -> tuple[Callable[[State, Batch], tuple[State, Array]], Callable[[Array, Batch], Array]]:
    """One step of training, and the loss of parameters on a batch; parameters in one row, so that all move at once."""
    rate = optax.schedules.warmup_cosine_decay_schedule(
        0.1 * budget.rate, budget.rate, min(50, budget.steps // 5 + 1), budget.steps + 1, 0.02 * budget.rate
    )
    adam = optax.scale_by_adam()

    def of(flat: Array, batch: Batch) -> Array:
        return loss(unflatten(flat, budget.hidden, budget.width), batch)

    def step(state: State, batch: Batch) -> tuple[State, Array]:
        lost, slope = jax.value_and_grad(of)(state.weights, batch)
        slope = slope / jnp.maximum(jnp.linalg.norm(slope), 1.0)
        moved, moments = adam.update(slope, optax.ScaleByAdamState(state.step, state.first, state.second))
        weights = state.weights - rate(state.step) * (moved + _DECAY * state.weights)
        kept = jnp.minimum(budget.smoothing, (1.0 + state.step) / (10.0 + state.step))
        smooth = kept * state.smooth + (1.0 - kept) * weights
        after = state._replace(
            weights=weights, smooth=smooth, first=moments.mu, second=moments.nu, step=state.step + 1
        )  # fmt: skip
        return after, lost

    return jax.jit(step, compiler_options=COMPILED), jax.jit(of, compiler_options=COMPILED)


def _batch(draw: Draw) -> Batch:
    return Batch(*(getattr(draw, name) for name in Batch._fields))
