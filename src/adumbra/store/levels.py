"""The levels of stored metrics, raw intervals and roll-ups: what each takes up, how long it is kept, which answers. Pure.

A row *stands* for a time where nothing finer is kept of it: a raw interval, or the cell of a roll-up whose finer rows are gone.
What is read is always what the standing rows roll up to; a coarser level that has the same already is only quicker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS
from adumbra.schema.units import format_duration
from adumbra.store.ranges import Run, Span, common, inward, joined, minus, union

EVER, NEVER = -(2**62), 2**62
"""Before and after all times."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Level:
    """A table of rows: cells that begin at multiples of length_ns since the epoch; of raw intervals it is 0."""

    name: str
    table: str
    length_ns: int

    def takes(self, interval_ns: int, phase_ns: int) -> bool:
        """Whether intervals go into its cells: shorter ones that divide them, and begin at multiples of their own length."""
        return interval_ns < self.length_ns and self.length_ns % interval_ns == 0 and phase_ns == 0

    @property
    def takes_sql(self) -> str:
        """The same of a raw row."""
        if not self.length_ns:
            return "false"
        length = self.length_ns
        return f"(interval_ns < {length} AND {length} % interval_ns = 0 AND start_ns % interval_ns = 0)"


LEVELS: tuple[Level, ...] = (
    Level("raw", "intervals", 0),
    Level("1m", "rolled_1m", 60 * NANOSECONDS),
    Level("5m", "rolled_5m", 300 * NANOSECONDS),
    Level("1h", "rolled_1h", 3600 * NANOSECONDS),
)
"""From fine to coarse; each length divides the next, so that a level is made of the one before it."""
RAW, ROLLED = LEVELS[0], LEVELS[1:]
COARSEST_NS = LEVELS[-1].length_ns


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the rows of each level are kept, counted back from a network's newest interval, or from now where that is later.

    A raw interval is kept as long as the level before the first that takes it up, or as the last where none does. Raises
    InputError where a level would be kept for less time than a finer one, or for less than an hour.
    """

    raw_s: float = 7 * DAY_S
    minute_s: float = 30 * DAY_S
    five_minutes_s: float = 180 * DAY_S
    hour_s: float = 730 * DAY_S

    def __post_init__(self) -> None:
        kept_s = (self.raw_s, self.minute_s, self.five_minutes_s, self.hour_s)
        if not all(math.isfinite(each) and 3600.0 <= each < 2**32 for each in kept_s) or sorted(kept_s) != list(kept_s):
            told = ", ".join(f"{level.name} {format_duration(each)}" for level, each in zip(LEVELS, kept_s, strict=True))
            raise InputError(
                f"metrics can't be kept so ({told})", "keep each level at least as long as the finer one, and an hour or more"
            )

    @property
    def kept_ns(self) -> tuple[int, ...]:
        """By level."""
        kept_s = (self.raw_s, self.minute_s, self.five_minutes_s, self.hour_s)
        return tuple(round(each * NANOSECONDS) for each in kept_s)


@dataclass(frozen=True, slots=True)
class Kept:
    """From when on each level has rows, by level: what is older is gone. Whole hours, and no later of a coarser level."""

    from_ns: tuple[int, ...] = (EVER,) * len(LEVELS)

    def pieces(self, span: Span) -> Iterator[tuple[Level, Span]]:
        """The parts of a span by the finest level that is kept of them, from new to old; what no level has left out."""
        until_ns = NEVER
        for level, from_ns in zip(LEVELS, self.from_ns, strict=True):
            part = common(span, (from_ns, until_ns))
            if part[0] < part[1]:
                yield level, part
            until_ns = from_ns

    def of(self, level: Level) -> int:
        return self.from_ns[LEVELS.index(level)]

    def forgotten(self, retention: Retention, newest_ns: int, unrolled_ns: int) -> Kept:
        """What is to be kept when the newest interval ends at newest_ns, and nothing from unrolled_ns on is rolled up yet."""
        from_ns: list[int] = []
        for kept_ns, length_ns in zip(self.from_ns, retention.kept_ns, strict=True):
            wanted = min(newest_ns - length_ns, unrolled_ns, *from_ns) // COARSEST_NS * COARSEST_NS
            from_ns.append(max(kept_ns, wanted))
        return Kept(tuple(from_ns))

    def standing(self, runs: Sequence[Run]) -> list[Run]:
        """What is left of runs: as they were where nothing takes them up or they are kept, else as cells of a level that is."""
        left = []
        for level, span in self.pieces((EVER, NEVER)):
            for run in runs:
                part = run.within(span)
                if part is not None:
                    left.append(part.coarsened(level.length_ns) if level.takes(run.interval_ns, run.phase_ns) else part)
        return joined(left)


@dataclass(frozen=True, slots=True)
class Source:
    """Rows to read: a level's that begin in the span, and of raw ones those that this level doesn't take up."""

    level: Level
    span: Span


def sources(span: Span, step_ns: int, start_ns: int, kept: Kept, due: Mapping[int, Sequence[Span]]) -> list[Source]:
    """Where the rows of a span come from, to be rolled up into steps of step_ns from start_ns on.

    Each time is read from the coarsest level whose cells fit the steps and lie in the span wholly, where it is up to date (not
    `due`, by length); else from the finest that is kept.
    """
    chosen: list[Source] = []
    left: list[Span] = [span]
    for level in reversed(ROLLED):
        if step_ns % level.length_ns or start_ns % level.length_ns:
            continue
        inner = [inward(common(each, (kept.of(level), NEVER)), level.length_ns) for each in left]
        taken = minus(inner, due.get(level.length_ns, ()))
        chosen += [Source(level, each) for each in taken]
        left = minus(left, taken)
    chosen += [Source(level, part) for each in left for level, part in kept.pieces(each)]
    by_level = {level: union(each.span for each in chosen if each.level == level) for level in LEVELS}
    return [Source(level, each) for level, spans in by_level.items() for each in spans]
