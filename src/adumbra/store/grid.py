"""Decides the regular grid of a series: its step, its beginning, which stored rows go in. Pure; touches no database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adumbra.schema.errors import InputError
from adumbra.schema.metrics import BY_NAME, NAMES, Metric
from adumbra.schema.records import SeriesQuery
from adumbra.schema.units import format_duration
from adumbra.store.names import suggest

MAX_CELLS = 20_000_000
"""The most values of one series, 160 MB of floats: columns, and one for `one_sided`, times VMs times steps."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is of one interval length in the queried range: the first and last beginning of a row."""

    interval_ns: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Cell t is [start_ns + t * step_ns, + step_ns). `intervals_ns`: the lengths of the stored rows that go in."""

    start_ns: int
    step_ns: int
    steps: int
    intervals_ns: tuple[int, ...]

    @property
    def rolls_up(self) -> bool:
        """Whether a cell may hold several rows."""
        return self.intervals_ns != (self.step_ns,)


def plan_grid(query: SeriesQuery, stored: Sequence[Stored]) -> Grid:
    """The grid that answers the query, from what is stored in its range (at least one).

    Where the stored rows differ in length, because the network's interval was changed, the newest row's length counts as
    the stored interval. Shorter rows are rolled up into the step; rows whose length doesn't divide the step are left out,
    so their time reads as a gap. Cells begin at multiples of the step since the epoch, or, where the stored rows don't,
    as far off as these. Raises InputError for a step that is no multiple of the stored interval.
    """
    newest = max(stored, key=lambda rows: rows.last_ns)
    step_ns = newest.interval_ns if query.step_s is None else _step_ns(query.step_s)
    if step_ns % newest.interval_ns:
        interval = format_duration(newest.interval_ns / 1e9)
        raise InputError(
            f"a step of {format_duration(step_ns / 1e9)} can't be made of the {interval} intervals stored for {query.network}",
            f"give a multiple of {interval}",
        )
    fitting = [rows for rows in stored if step_ns % rows.interval_ns == 0]
    phase_ns = newest.first_ns % newest.interval_ns
    first_ns = min(rows.first_ns for rows in fitting)
    start_ns = first_ns - (first_ns - phase_ns) % step_ns
    steps = (max(rows.last_ns for rows in fitting) - start_ns) // step_ns + 1
    return Grid(start_ns, step_ns, steps, tuple(sorted(rows.interval_ns for rows in fitting)))


def _step_ns(step_s: float) -> int:
    if not math.isfinite(step_s) or step_s < 0.001:
        raise InputError(f"a step of {step_s} seconds is not possible", "give a length of at least 1ms, such as 60s")
    return round(step_s * 1e9)


def check_size(query: SeriesQuery, grid: Grid, vms: int) -> None:
    """Raises InputError where the series would have more than MAX_CELLS values, saying what would make it fit."""
    per_step = (len(query.columns) + 1) * vms
    cells = per_step * grid.steps
    if cells <= MAX_CELLS:
        return
    widening = math.ceil(cells / MAX_CELLS) + 1
    advice = "ask for fewer VMs, fewer columns or a shorter time"
    if MAX_CELLS // per_step >= 2:
        advice = f"ask for a step of {format_duration(grid.step_ns * widening / 1e9)} or longer, fewer VMs, or a later start"
    raise InputError(
        f"the series would have {cells:,} values ({vms:,} VMs x {grid.steps:,} steps x {len(query.columns) + 1} columns), "
        f"and {MAX_CELLS:,} is the most",
        advice,
    )


def known_metrics(columns: Iterable[str]) -> tuple[Metric, ...]:
    """The catalogue's entries of these columns. Raises InputError for a name that it doesn't have."""
    unique = dict.fromkeys(columns)
    for name in unique:
        if name not in BY_NAME:
            raise InputError(f"there is no metric {name[:60]!r}", suggest(name, NAMES, most=len(NAMES)))
    return tuple(BY_NAME[name] for name in unique)


def known_vms(network: str, asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The VMs asked for, each once; all known ones where none is. Raises InputError for one that isn't known."""
    there = set(known)
    for name in asked:
        if name not in there:
            raise InputError(f"nothing is stored for a VM {name[:60]!r} of the network {network}", suggest(name, known))
    return tuple(dict.fromkeys(asked)) or tuple(known)
