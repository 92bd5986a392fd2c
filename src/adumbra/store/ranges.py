"""Stretches of time: which intervals follow each other without a gap, and what is left of one without another. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.schema.records import Ints

Span = tuple[int, int]
"""From a time in ns up to, but without, a later one."""


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time in spans that neither overlap nor touch, in order. Empty ones go."""
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def minus(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """The time of the spans that lies in no hole, in order."""
    left, cuts = union(spans), union(holes)
    rest: list[Span] = []
    for begin, end in left:
        at = begin
        for hole_begin, hole_end in cuts:
            if hole_end <= at or hole_begin >= end:
                continue
            if hole_begin > at:
                rest.append((at, hole_begin))
            at = max(at, hole_end)
        if at < end:
            rest.append((at, end))
    return rest


def common(span: Span, other: Span) -> Span:
    """The time that lies in both; an empty span, whose end is not after its beginning, where there is none."""
    return max(span[0], other[0]), min(span[1], other[1])


def inward(span: Span, step_ns: int) -> Span:
    """The multiples of a step that lie wholly in a span, which may be none: an empty span."""
    return -(-span[0] // step_ns) * step_ns, span[1] // step_ns * step_ns


def outward(span: Span, step_ns: int) -> Span:
    """The multiples of a step that a span touches."""
    return span[0] // step_ns * step_ns, -(-span[1] // step_ns) * step_ns


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Intervals of one length, each beginning where the one before it ends: from first_ns up to, but without, end_ns."""

    interval_ns: int
    first_ns: int
    end_ns: int

    @property
    def last_ns(self) -> int:
        """The beginning of its last interval."""
        return self.end_ns - self.interval_ns

    @property
    def phase_ns(self) -> int:
        """How far its intervals begin behind multiples of their length since the epoch."""
        return self.first_ns % self.interval_ns

    def from_start(self, time_ns: int) -> int:
        """The first beginning of an interval of its kind at or after a time."""
        return time_ns + (self.first_ns - time_ns) % self.interval_ns

    def within(self, span: Span) -> Run | None:
        """Those of its intervals that begin in the span; None where none does."""
        first_ns = max(self.first_ns, self.from_start(span[0]))
        end_ns = min(self.end_ns, self.from_start(span[1]))
        return Run(self.interval_ns, first_ns, end_ns) if first_ns < end_ns else None

    def coarsened(self, length_ns: int) -> Run:
        """The intervals of a longer length that its own begin in."""
        return Run(length_ns, self.first_ns // length_ns * length_ns, (self.last_ns // length_ns + 1) * length_ns)


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same intervals in as few runs as possible, in order."""
    spans: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for run in runs:
        spans[run.interval_ns, run.phase_ns].append((run.first_ns, run.end_ns))
    return sorted(Run(interval_ns, *span) for (interval_ns, _), each in spans.items() for span in union(each))


def runs_of(interval_ns: int, starts_ns: Ints) -> list[Run]:
    """The runs that intervals of one length make; `starts_ns` increases."""
    if not len(starts_ns):
        return []
    breaks = np.flatnonzero(np.diff(starts_ns) != interval_ns)
    firsts, lasts = starts_ns[np.append(0, breaks + 1)], starts_ns[np.append(breaks, len(starts_ns) - 1)]
    return [Run(interval_ns, int(first), int(last) + interval_ns) for first, last in zip(firsts, lasts, strict=True)]


def without(runs: Sequence[Run], span: Span) -> list[Run]:
    """Those of the runs' intervals that do not begin in the span."""
    before, after = (-(2**62), span[0]), (span[1], 2**62)
    return [part for run in runs for part in (run.within(before), run.within(after)) if part is not None]
