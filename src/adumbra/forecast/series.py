"""Turns stored metric columns into one resource's use, in its unit, on a regular grid: what forecasters take.
Reads no store and fills no gap: what wasn't measured stays NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Panel, Series
from adumbra.schema.sizing import BYTES_PER_GB, RESOURCES

SECONDS_PER_DAY = 86_400.0
MAX_STEPS = 3_000
MAX_STEP_S = 300.0
MAX_LONG_STEP_S = 3_600.0

FRAME_BYTES = 38
"""What a packet takes of an Ethernet link beside its IP bytes: preamble and delimiter 8, header 14, check sequence 4, gap 12
(IEEE 802.3)."""


class Statistic(StrEnum):
    """What of a stretch of use decides the size: how the steps of a window become the one amount that it needs."""

    SHARE = "share"  # the least amount that is exceeded in no more than a share of the steps: CPU, bandwidth throttle
    PEAK = "peak"  # the largest value: memory kills what it can't hold, however short the peak
    GROWTH = "growth"  # the mean rate of growth: storage fills up


@dataclass(frozen=True, slots=True)
class Resource:
    """How one resource's use is had from stored columns, and what of it decides the size.

    use = max over `columns` of (value * factor / step_s if `per_second` else value * factor). `floor`: an amount, in the
    unit of what is modelled (GB a day for growth), below which nobody sizes; ratios are taken above it, as the ratios
    of use near zero mean nothing. `less`: a column that is taken off the first one, where it is known. `frames`: the columns
    that count the packets of `columns`, each of which takes FRAME_BYTES more of the link, where they are known.
    """

    name: str
    columns: tuple[str, ...]
    factor: float
    per_second: bool
    statistic: Statistic
    floor: float
    unit: str
    less: str | None = None
    frames: tuple[str, ...] = ()


RESOURCE: Mapping[str, Resource] = MappingProxyType({
    resource.name: resource
    for resource in (
        Resource("cpu_cores", ("cpu_seconds",), 1.0, True, Statistic.SHARE, 0.01, "cores"),
        Resource("memory_gb", ("memory_bytes",), 1 / BYTES_PER_GB, False, Statistic.PEAK, 0.01, "GB"),
        Resource("bandwidth_mbps", ("rx_bytes", "tx_bytes"), 8e-6, True, Statistic.SHARE, 0.1, "Mbps", "scan_bytes",
                 ("rx_packets", "tx_packets")),
        Resource("storage_gb", ("storage_bytes",), 1 / BYTES_PER_GB, False, Statistic.GROWTH, 0.01, "GB"),
    )
})  # fmt: skip

COLUMNS: tuple[str, ...] = tuple(
    dict.fromkeys(
        column
        for name in RESOURCES
        for column in (*RESOURCE[name].columns, RESOURCE[name].less, *RESOURCE[name].frames)
        if column
    )
)
"""The stored columns that a SeriesQuery must ask for, so that `panel` finds what every resource needs."""

_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def resource_named(name: str) -> Resource:
    """The traits of a resource. Raises InputError for a name that isn't one."""
    if name not in RESOURCE:
        raise InputError(f"there is no resource {name[:40]!r}", f"choose one of {', '.join(RESOURCES)}")
    return RESOURCE[name]


def panel(series: Series, resource: str) -> Panel:
    """A resource's use from stored columns: Panel float64[V, T] in the resource's unit, gaps NaN.

    CPU in cores in use (CPU seconds a second), memory and storage in GB (2^30 bytes), bandwidth in megabits a second of the
    busier direction, as its frames take it of the link. Negative and infinite values are none that a machine can have: they
    become gaps. Raises InputError for an unknown resource, or columns that weren't asked for (ask for COLUMNS).
    """
    traits = resource_named(resource)
    missing = [column for column in traits.columns if column not in series.values]
    if missing:
        raise InputError(f"the series have no column {missing[0]}, which {resource} is made from", "read it along")
    scale = traits.factor / (series.step_s if traits.per_second else 1.0)
    use = np.stack([_used(series, column, None if i else traits.less) for i, column in enumerate(traits.columns)])
    for row, frames in zip(use, traits.frames, strict=False):
        if frames in series.values:
            row += FRAME_BYTES * np.nan_to_num(np.asarray(series.values[frames], np.float64))
    values = np.fmax.reduce(use, axis=0) * scale
    values[~np.isfinite(values) | (values < 0)] = np.nan
    return Panel(resource, series.vms, series.start_ns, series.step_s, values)


def _used(series: Series, column: str, less: str | None) -> Floats:
    """A column's values less those of another, where that is known: bytes in, less those of scans."""
    values = np.asarray(series.values[column], np.float64)
    if less is None or less not in series.values:
        return values
    taken = np.nan_to_num(np.asarray(series.values[less], np.float64))
    return np.asarray(np.where(taken > 0, np.maximum(values - taken, 0.0), values))


def choose_step_s(interval_s: float, learned_s: float) -> float:
    """The working step, in seconds, for a history of `learned_s` stored at `interval_s`.

    The stored interval while that makes at most MAX_STEPS steps a VM, then the next round multiple of it, up to 5 min
    for some 10 days and an hour for months. Raises InputError where either is not above zero.
    """
    if not (interval_s > 0 and learned_s >= 0 and math.isfinite(interval_s) and math.isfinite(learned_s)):
        raise InputError(f"a step can't be chosen for an interval of {interval_s} s and a span of {learned_s} s", "give both")
    least_s = min(learned_s / MAX_STEPS, MAX_STEP_S if learned_s <= MAX_STEP_S * MAX_STEPS else MAX_LONG_STEP_S)
    if interval_s >= least_s:
        return interval_s
    for step_s in _STEPS_S:
        multiple = step_s / interval_s
        if step_s >= least_s and abs(multiple - round(multiple)) < 1e-9:
            return float(step_s)
    return math.ceil(least_s / interval_s) * interval_s


def until(history: Panel, steps: int) -> Panel:
    """The first `steps` steps of a panel: all that was known then. The values after are not in it, not even as a view."""
    return replace(history, values=history.values[:, :steps].copy())


def modelled(history: Panel) -> Panel:
    """What forecasters learn of a resource: its use, or, of one that grows, the growth of its high-water mark.

    Growth is GB a day, from one step to the next; that of the high-water mark, because what is freed and filled again
    needs no more room. The first step and steps in gaps are NaN; what grew over a gap counts in the step after it.
    """
    if resource_named(history.resource).statistic is not Statistic.GROWTH:
        return history
    mark = high_water(history.values)
    growth = np.full_like(mark, np.nan)
    growth[:, 1:] = np.diff(mark, axis=1) * (SECONDS_PER_DAY / history.step_s)
    growth[~np.isfinite(history.values)] = np.nan
    return replace(history, values=growth)


def high_water(values: Floats) -> Floats:
    """The largest value so far, float64[V, T]; NaN before a VM's first value."""
    if values.shape[1] == 0:
        return values.copy()
    return np.asarray(np.fmax.accumulate(values, axis=1))


def seen_steps(history: Panel) -> Floats:
    """How many steps of each VM hold a value, float64[V]."""
    return np.asarray(np.isfinite(history.values).sum(axis=1), np.float64)


def scale_of(history: Panel, floor: float) -> Floats:
    """Each VM's mean use, at least `floor`, float64[V]: what errors of VMs of different size are divided by."""
    finite = np.isfinite(history.values)
    total = np.where(finite, history.values, 0.0).sum(axis=1)
    return np.asarray(np.maximum(total / np.maximum(finite.sum(axis=1), 1), floor))
