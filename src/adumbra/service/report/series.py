"""Long series made short enough to draw, with their maxima kept. Pure."""

from __future__ import annotations

import math

import numpy as np

from adumbra.schema.records import Floats

POINTS = 2_000


def maxima(values: Floats, points: int = POINTS) -> tuple[Floats, int]:
    """The largest of each so many of float64[T], at most `points` of them, and how many that are; NaN where all are NaN."""
    each = max(1, math.ceil(len(values) / points))
    padded = np.full(math.ceil(len(values) / each) * each, np.nan)
    padded[: len(values)] = values
    return np.asarray(np.fmax.reduce(padded.reshape(-1, each), axis=1, initial=np.nan)), each


def summed(counts: Floats, points: int) -> tuple[Floats, int]:
    """Counts [O] added up, so many at a time that at most `points` are left; and how many that are."""
    each = max(1, math.ceil(len(counts) / points))
    return np.add.reduceat(counts, np.arange(0, len(counts), each)), each


def digits(values: Floats, number: int = 4) -> list[float | None]:
    """Plain numbers of so many significant digits, None for NaN: what a plot can show, and no more."""
    return [float(f"{value:.{number}g}") if math.isfinite(value) else None for value in values.tolist()]
