"""How requests come whose times weren't seen: alone, or in clusters; fitted to counts. Draws nothing; the kernels do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adumbra.schema.records import Floats

LARGEST_CLUSTER = 10_000.0
_WIDEST = 16  # intervals to a window: what clusters over more come to is seen in the counts themselves
_SPREADS = np.logspace(-2, 1.5, 15)  # of clusters, in intervals
_SURE = 12.0  # by how much a fit must lessen the weighted squared error of Poisson's: 3.5 standard errors of one window
_AS_WELL = 1.05  # a fit within so much of the best one's error is as good


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """Clusters that begin at random (Neyman and Scott, 1958): each has a geometric number of requests, of mean cluster_size, at
    exponential distances of mean cluster_spread_s behind its beginning. A size of 1 is a Poisson process.
    """

    cluster_size: float = 1.0
    cluster_spread_s: float = 0.0

    def __post_init__(self) -> None:
        if not (1.0 <= self.cluster_size <= LARGEST_CLUSTER and 0.0 <= self.cluster_spread_s < float("inf")):
            raise ValueError(
                f"arrivals can't come in clusters of {self.cluster_size} over {self.cluster_spread_s} s; "
                f"give a size from 1 to {LARGEST_CLUSTER:g} and a spread that isn't below 0"
            )

    def dispersion(self, window_s: Floats | float) -> Floats:
        """The index of dispersion of counts in windows of that length: variance over mean.

        1 + 2 (size - 1) (1 - (1 - exp(-w)) / w), w = window / spread: a geometric number K has E[K (K - 1)] / E[K] =
        2 (size - 1), and two of a cluster lie a Laplace distance apart (Cox and Isham, Point Processes, 1980, section 3.4).
        """
        window = np.asarray(window_s, np.float64)
        return 1.0 + 2.0 * (self.cluster_size - 1.0) * _together(window, self.cluster_spread_s)


POISSON = ArrivalProcess()


def fit_arrivals(counts: Floats, interval_s: float) -> tuple[ArrivalProcess, ...]:
    """The process of each VM whose counts these are, float64[V, T] a VM and interval; NaN where one isn't known.

    Fitted to the Allan factor of counts, the mean squared difference of neighbouring windows over twice their mean, at windows
    of 1 to 16 intervals: differences leave out how the mean itself moves over the day. Of clusters shorter than an interval,
    counts don't tell how long they last: of spreads that fit as well, the widest stands, which is the calmest. Poisson where
    fewer than 16 intervals are known, or clusters don't fit clearly better.
    """
    if counts.ndim != 2 or not interval_s > 0:
        raise ValueError(
            f"counts of shape {counts.shape} in intervals of {interval_s} s; give [VM, interval] and a length above 0"
        )
    return tuple(_fit(row, interval_s) for row in np.asarray(counts, np.float64))


def _fit(counts: Floats, interval_s: float) -> ArrivalProcess:
    windows, excess, weights = _allan(counts)
    if len(windows) == 0:
        return POISSON
    fits: list[tuple[float, float, float]] = []
    for spread in _SPREADS:
        # Var(N1 - N2) = 4 Var(w) - Var(2 w): the Allan factor is twice the dispersion at w less that at 2 w.
        together = 2.0 * _together(windows, spread) - _together(2.0 * windows, spread)
        twice = max(float((weights * together * excess).sum() / (weights * together**2).sum()), 0.0)
        fits.append((float((weights * (excess - twice * together) ** 2).sum()), spread, twice))
    least = min(error for error, _, _ in fits)
    if float((weights * excess**2).sum()) - least < _SURE:
        return POISSON
    _, spread, twice = max((fit for fit in fits if fit[0] <= _AS_WELL * least + 1.0), key=lambda fit: fit[1])
    return ArrivalProcess(min(1.0 + 0.5 * twice, LARGEST_CLUSTER), float(spread * interval_s))


def _allan(counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Windows in intervals, the Allan factor less 1 in each, and the weight of each, about the inverse of its variance."""
    known = int((~np.isnan(counts)).sum())
    windows, excess, weights = [], [], []
    width = 1
    while known >= 16 and width <= min(max(len(counts) // 8, 1), _WIDEST):
        whole = counts[: len(counts) // width * width].reshape(-1, width).sum(axis=1)
        difference, both = np.diff(whole), whole[1:] + whole[:-1]
        kept = ~np.isnan(difference)
        mean = both[kept].mean() / 2.0 if kept.sum() >= 4 else 0.0
        if mean <= 0:
            break
        factor = float((difference[kept] ** 2).mean() / (2.0 * mean))
        windows.append(float(width))
        excess.append(factor - 1.0)
        weights.append(float(kept.sum()) / (3.0 * max(factor, 1.0) ** 2))
        width *= 2
    return np.array(windows), np.array(excess), np.array(weights)


def _together(window_s: Floats, spread_s: float) -> Floats:
    """How likely two of a cluster are in one window where one of them is: 1 for windows far longer than its spread."""
    if spread_s <= 0:
        return np.ones_like(window_s)
    ratio = window_s / spread_s
    return np.asarray(1.0 + np.expm1(-ratio) / ratio)
