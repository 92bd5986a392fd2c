"""Trains the recurrent network: batches by the pass, a held-out last part, the best smoothed parameters kept.
Imports JAX and Optax. No clock; chance is the seed's. Writes nothing but the checkpoint that it is told to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from adumbra.forecast.models import gru_checkpoint
from adumbra.forecast.models.gru_batches import Budget, Draw, Examples
from adumbra.forecast.models.gru_features import Singles
from adumbra.forecast.models.gru_network import Batch, Network, loss

_FORMAT = 1
_DECAY = 1e-4
_BETTER = 0.9995


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


@dataclass(frozen=True, slots=True)
class Task:
    """What a training learns from, how much work it may be, and the seed of all its chance."""

    examples: Examples
    budget: Budget
    seed: int

    @property
    def key(self) -> str:
        """What its checkpoints are known by: the same key, the same training."""
        past = self.examples.past
        texts = (str(_FORMAT), repr(self.budget), repr(past.grid), str(self.seed), str(past.begin_s))
        return gru_checkpoint.key_of(texts, (past.values, past.log_declared, self.examples.weights))


def trained(task: Task, checkpoint: Path | None, told: Told) -> Singles:
    """The best parameters, float32[P], of a training that goes on from the checkpoint, if it is there and of this training.

    The checkpoint is kept up to date, and left in place at the end: the same training again is then done at once.
    """
    state = begin(task.budget, task.seed)
    if checkpoint is None:
        return train(task, state, told, lambda _: None)
    key = task.key
    held = gru_checkpoint.read(checkpoint, key, [np.asarray(part) for part in state])
    state = State(*(jnp.asarray(part) for part in held)) if held else state

    def keep(now: State) -> None:
        gru_checkpoint.write(checkpoint, key, [np.asarray(part) for part in now])

    return train(task, state, told, keep)


def begin(budget: Budget, seed: int) -> State:
    """A training that has learned nothing yet."""
    flat = flatten(Network(budget.hidden, budget.width, np.random.default_rng([seed, 0])))
    none = np.zeros_like(flat)
    parts = (flat, flat, flat, none, none, np.int32(0), np.int32(0), np.float32(np.inf))
    return State(*(jnp.asarray(part) for part in parts))


def flatten(network: Network) -> Singles:
    """A network's parameters in one row, float32[P]."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(network)])


def unflatten(flat: Array, hidden: int, width: int) -> Network:
    """The network of a row of parameters. Raises ValueError where there are more or fewer than it has."""
    leaves, shape = jax.tree.flatten(Network(hidden, width, np.random.default_rng(0)))
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    if flat.shape != (int(ends[-1]),):
        raise ValueError(f"a network of {hidden} and {width} has {ends[-1]} parameters, not {flat.shape}")
    parts = [flat[end - math.prod(leaf.shape) : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    network: Network = jax.tree.unflatten(shape, parts)
    return network


def train(task: Task, state: State, told: Told, keep: Callable[[State], None]) -> Singles:
    """Goes on from `state` until the budget is spent or the held-out loss has stopped falling; gives the best parameters.

    Each epoch draws by (seed, its first step), so that a training that was broken off and goes on ends the same.
    """
    budget, examples = task.budget, task.examples
    past = examples.past
    cut = past.bins - max(1, round((past.bins - past.grid.reach) * budget.held_out))
    rng = np.random.default_rng([task.seed, 2])
    held = [_batch(examples.draw(rng, budget.batch, cut, past.bins)) for _ in range(budget.held_batches)]
    step, judge = _compiled(budget)
    while int(state.step) < budget.steps and int(state.stale) < budget.patience:
        rng = np.random.default_rng([task.seed, 1, int(state.step)])
        lost = []
        for _ in range(min(budget.per_epoch, budget.steps - int(state.step))):
            state, loss_now = step(state, _batch(examples.draw(rng, budget.batch, 0, cut)))
            lost.append(loss_now)
        judged = np.float32(np.mean([float(judge(state.smooth, batch)) for batch in held]))
        if judged < float(state.held) * _BETTER:
            state = state._replace(best=state.smooth, held=jnp.asarray(judged), stale=jnp.asarray(np.int32(0)))
        else:
            state = state._replace(stale=jnp.asarray(np.int32(int(state.stale) + 1)))
        keep(state)
        told(Epoch(int(state.step), budget.steps, float(np.mean([float(one) for one in lost])), float(judged)))
    return np.asarray(state.best)


@lru_cache(maxsize=4)
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

    return jax.jit(step), jax.jit(of)


def _batch(draw: Draw) -> Batch:
    return Batch(*(jnp.asarray(getattr(draw, name)) for name in Batch._fields))
