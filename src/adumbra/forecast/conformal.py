"""Split conformal calibration: how far forecasts must be moved so that they hold as often as they say.
Arithmetic on held-out errors only; knows no model and no resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adumbra.forecast.window import rearranged
from adumbra.schema.records import Floats


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on a new error, and whether it can be promised: False where there were too few errors for the level,
    and the most extreme one seen stands in for it."""

    value: float
    promised: bool


def bound(errors: Floats, groups: int, level: float) -> Bound:
    """The value that a new error stays at or below with probability at least `level`.

    errors: float64[n], n >= 1, finite, of `groups` exchangeable groups alike in size (an origin of a VM is a group: its
    steps hang together). For groups of one this is split conformal prediction's ceil((n + 1) level)-th smallest error
    (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Romano, Patterson, Candes, "Conformalized
    Quantile Regression", NeurIPS 2019). For larger groups, as their n errors are worth less than n, it is the level
    (groups + 1) / groups quantile of all of them: Lee, Barber, Willett, "Distribution-free inference with hierarchical
    data" (2023). Below the median the same is done from the other side: errors stay at or above the value with
    probability at least 1 - level. Where the level asks for more than the groups can show, the bound is the most extreme
    error and isn't promised. What all this rests on, that the future is exchangeable with the past, no formula can check.
    """
    if level < 0.5:
        mirrored = bound(-errors, groups, 1.0 - level)
        return Bound(-mirrored.value, mirrored.promised)
    if len(errors) == 0 or groups < 1:
        return Bound(0.0, False)
    ordered = np.sort(errors)
    rank = int(np.ceil(level * (groups + 1) / groups * len(ordered) - 1e-9))
    if rank > len(ordered):
        return Bound(float(ordered[-1]), False)
    return Bound(float(ordered[max(rank, 1) - 1]), True)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is added to a forecast's quantile at each level, in units of the VM's scale, and which levels hold promised."""

    levels: tuple[float, ...]
    offsets: tuple[Bound, ...]
    groups: int

    def apply(self, quantiles: Floats, scale: Floats) -> Floats:
        """Calibrated quantiles [V, H, L] of quantiles at this calibration's levels and each VM's scale [V]."""
        shift = np.array([offset.value for offset in self.offsets])
        return rearranged(quantiles + shift[None, None, :] * scale[:, None, None])

    def to_dict(self) -> dict[str, Any]:
        return {
            "levels": list(self.levels),
            "offsets": [[offset.value, offset.promised] for offset in self.offsets],
            "groups": self.groups,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        offsets = tuple(Bound(float(value), bool(promised)) for value, promised in plain["offsets"])
        return cls(tuple(float(level) for level in plain["levels"]), offsets, int(plain["groups"]))


def calibrate(errors: Floats, groups: int, levels: Sequence[float]) -> Calibration:
    """The calibration that held-out errors call for: errors float64[n, L] of `groups` groups, (use - quantile) / scale.

    Each level's errors give its offset, as conformalised quantile regression does for the two ends of an interval: an
    interval from level a to level b then holds with probability at least b - a. Rows that are not finite are left out.
    """
    sound = errors[np.isfinite(errors).all(axis=1)]
    offsets = tuple(bound(sound[:, i], groups if len(sound) else 0, level) for i, level in enumerate(levels))
    return Calibration(tuple(levels), offsets, groups)
