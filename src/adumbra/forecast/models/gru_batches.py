"""Draws what the recurrent network learns from: random stretches of random VMs, origins in them, steps ahead of those.
NumPy only; what is drawn hangs on the generator alone. Gives nothing whose target lies at or after the end it was told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from adumbra.forecast.models.gru_features import (
    CONTEXT_BINS,
    GRU_LEVELS,
    KINDS,
    Past,
    Singles,
    asked_of,
    known_at,
    repeated,
    sequence,
    target,
    windows_at,
)
from adumbra.schema.records import Ints

LEAST_BINS = 12
_MOST_WEIGHT = 10.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a batch is: stretches, origins in each, steps ahead of each origin."""

    stretches: int
    origins: int
    steps: int


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a training may be. steps: batches in all; per_epoch: batches between two looks at the held-out part;
    patience: looks without improvement after which it stops; held_out: the last share of the history, never learned from.
    """

    steps: int = 1_000
    per_epoch: int = 50
    patience: int = 8
    held_out: float = 0.15
    batch: Sizes = Sizes(32, 16, 6)
    held_batches: int = 16
    hidden: int = 64
    width: int = 96
    rate: float = 3e-3
    smoothing: float = 0.99
    size_power: float = 0.6


@dataclass(frozen=True, slots=True)
class Draw:
    """One batch, as gru_network.Batch has it: N stretches, K origins of each, M steps ahead of each origin."""

    sequence: Singles
    place: Ints
    known: Singles
    candidates: Singles
    asked: Singles
    asked_candidates: Singles
    target: Singles
    weight: Singles


@dataclass(frozen=True, slots=True)
class Examples:
    """A past with the window quantiles of each of its origins, float32[V, B + 1, KINDS, L], and what each VM's errors weigh."""

    past: Past
    windows: Singles
    weights: Singles

    @classmethod
    def of(cls, past: Past, size_power: float) -> Examples:
        """All origins' windows. A VM weighs as its mean use to the power of `size_power`, within bounds."""
        vms, bins = len(past.values), past.bins
        first = past.grid.reach
        vm, end = np.divmod(np.arange(vms * (bins + 1 - first)), bins + 1 - first)
        windows = np.zeros((vms, bins + 1, KINDS, len(GRU_LEVELS)), np.float32)
        windows[vm, first + end] = windows_at(past, vm, first + end)
        size = np.where(np.isfinite(past.scale[:, -1]), past.scale[:, -1], past.grid.floor) ** size_power
        weight = size / max(float(size.mean()), 1e-12)
        return cls(past, windows, np.minimum(weight, _MOST_WEIGHT).astype(np.float32))

    def draw(self, rng: Generator, sizes: Sizes, begin: int, end: int) -> Draw:
        """A batch of origins in bins [begin, end) whose targets lie before bin `end`.

        Steps ahead are spread evenly in their logarithm. What was not measured weighs nothing.
        """
        past, grid = self.past, self.past.grid
        n, k, m = sizes.stretches, sizes.origins, sizes.steps
        begin = max(begin, grid.reach + min(LEAST_BINS, (past.bins - grid.reach) // 2))
        vm = rng.integers(len(past.values), size=n)
        last = rng.integers(begin, end, size=n)
        low = np.maximum(last - CONTEXT_BINS + 1, begin)
        origin = np.minimum(low[:, None] + (rng.random((n, k)) * (last - low + 1)[:, None]).astype(np.int64), last[:, None])
        row, at = np.repeat(vm, k), origin.reshape(-1)
        known = known_at(past, row, at, self.windows[row, at])
        row, at = np.repeat(row, m), np.repeat(at, m)
        most = np.minimum(grid.most_ahead, (end - at) * grid.bin_steps)
        ahead = np.clip(np.exp(rng.random(len(row)) * np.log(most + 1.0)).astype(np.int64), 1, most)
        each = repeated(known, m)
        asked = asked_of(past, each, row, at, ahead)
        came = target(past, row, at, ahead) / each.scale
        weight = np.where(np.isfinite(came) & np.isfinite(past.scale[row, at]), self.weights[row], 0.0)
        return Draw(
            sequence(past, vm, last), (origin - last[:, None] + CONTEXT_BINS - 1).astype(np.int32),
            known.x.reshape(n, k, -1), known.candidates.reshape(n, k, -1, len(GRU_LEVELS)), asked.x.reshape(n, k, m, -1),
            asked.candidates.reshape(n, k, m, -1, len(GRU_LEVELS)), np.nan_to_num(came).reshape(n, k, m).astype(np.float32),
            weight.reshape(n, k, m).astype(np.float32),
        )  # fmt: skip
