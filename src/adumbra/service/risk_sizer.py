"""Adumbra's own sizes in a back-test: what is expected of each candidate, and what the dial makes of it. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.forecast.risk.layout import DAY_S, Shape
from adumbra.forecast.risk.walk import Step, walk
from adumbra.forecast.series import resource_named
from adumbra.profile.decide import Curves, Decided, Dial, Memory, decide, learned
from adumbra.schema.backtests import Allocations, MeasuredUse, Risk, Schedule
from adumbra.schema.records import Floats
from adumbra.service.observations import Progress

NAME = "adumbra"
_TITLES = {Risk.PER_VM: "Adumbra, each VM", Risk.POOLED: "Adumbra, pooled"}


@dataclass(slots=True)
class Book:
    """One dial's sizes so far: what is remembered, and what was decided and hasn't yet been seen to come out."""

    dial: Dial
    memory: Memory
    open: list[tuple[int, Decided]]

    @classmethod
    def of(cls, dial: Dial, vms: int) -> Book:
        return cls(dial, Memory.empty(vms), [])

    def settle(self, use: MeasuredUse, held_steps: int, known: int) -> list[Floats]:
        """Learns from the sizes whose time is over at `known` steps. Gives how short they were: `came` of each origin."""
        due = [(origin, decided) for origin, decided in self.open if origin + held_steps <= known]
        self.open = [each for each in self.open if each[0] + held_steps > known]
        found = [came(use, origin, held_steps, decided) for origin, decided in due]
        for (_, decided), short in zip(due, found, strict=True):
            self.memory = learned(self.memory, decided, short, self.dial)
        return found

    def size(self, step: Step, days: float) -> Decided:
        """The sizes at a step of the walk."""
        decided, self.memory = decide(Curves(step.vms, step.candidates, step.short, days), self.memory, self.dial)
        self.open.append((step.origin, decided))
        return decided


@dataclass(frozen=True, slots=True)
class RiskSizer:
    """The model of forecast.risk and the dial of profile.decide, along the schedule. shortfalls: settings of the dial;
    horizon_s: how long a size is meant for."""

    shortfalls: tuple[float, ...]
    risks: tuple[Risk, ...]
    horizon_s: float
    seed: int

    @property
    def name(self) -> str:
        return NAME

    def allocations(self, use: MeasuredUse, schedule: Schedule, progress: Progress) -> Sequence[Allocations]:
        """One a dial. Raises TooLittleDataError where too little lies before the first origin to learn risks from."""
        panel = use.panel
        shape = Shape(panel.step_s, max(1, round(self.horizon_s / panel.step_s)), resource_named(panel.resource).floor)
        books = [Book.of(Dial(share, risk), len(panel.vms)) for risk in self.risks for share in self.shortfalls]
        amounts = [np.full((len(schedule.origins), len(panel.vms)), np.nan) for _ in books]
        row = {int(origin): number for number, origin in enumerate(schedule.origins)}
        days = schedule.held_steps * panel.step_s / DAY_S
        for step in walk(use, shape, schedule.origins, self.seed, progress):
            for book, given in zip(books, amounts, strict=True):
                book.settle(use, schedule.held_steps, step.origin)
                decided = book.size(step, days)
                if step.origin in row:
                    given[row[step.origin], decided.vms] = decided.amounts
        return tuple(self._named(books, amounts))

    @staticmethod
    def _named(books: Sequence[Book], amounts: Sequence[Floats]) -> Iterator[Allocations]:
        for book, given in zip(books, amounts, strict=True):
            yield Allocations(NAME, _TITLES[book.dial.risk], given, book.dial.shortfall, book.dial.risk)


def came(use: MeasuredUse, origin: int, held_steps: int, decided: Decided) -> Floats:
    """The share of measured steps above each size but not above what was provisioned, float64[n]; NaN where fewer than half of
    them were measured."""
    window = use.panel.values[decided.vms, origin : origin + held_steps]
    capacity = np.where(use.provisioned > 0, use.provisioned, np.inf)[decided.vms, None]
    measured = np.isfinite(window).sum(axis=1)
    short = ((window > decided.amounts[:, None]) & (window <= capacity)).sum(axis=1)
    return np.where(2 * measured >= held_steps, short / np.maximum(measured, 1), np.nan)
