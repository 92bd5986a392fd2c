"""What is looked at before a size is set: which candidates are tried, and the columns that describe each. No arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from adumbra.schema.errors import InputError

DAY_S = 86_400.0
CONTEXT_DAYS = 60
"""How far back shares of time are counted; what lies before is not looked at."""

LEVELS_14D: tuple[float, ...] = (
    0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.88, 0.91, 0.93, 0.945, 0.955, 0.965, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995,
    0.9965, 0.998, 0.999, 1.0,
)  # fmt: skip
LEVELS_1D: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
TIMES_MAXIMUM: tuple[float, ...] = (1.02, 1.05, 1.1, 1.15, 1.22, 1.3, 1.4, 1.55, 1.75, 2.0, 2.4, 3.0, 4.0)
SHARES_OF_CAPACITY: tuple[float, ...] = (0.02, 0.04, 0.07, 0.12, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
"""The candidates of a size: quantiles of the last 14 days and of the last day, multiples of the 14 days' maximum, and shares of
what the VM has; and the largest use in the context. Where nothing was measured, the last ones only."""

CANDIDATES = len(LEVELS_14D) + len(LEVELS_1D) + len(TIMES_MAXIMUM) + len(SHARES_OF_CAPACITY) + 1

EXCEEDED = (
    "share above it in the window 1 day ago", "2 days ago", "3 days ago", "7 days ago", "14 days ago",
    "mean share of the last 3 such windows", "of 7", "of 14", "of 28", "of 60", "windows of 14 with any step above it",
    "largest share of 14", "windows of 60 with any", "largest of 60", "mean share on the same weekday",
    "mean share, half-life 3 days", "days since a step was above it, falling", "share of the last hour", "of the last 6 hours",
    "of the last day", "of the last 7 days",
)  # fmt: skip
AGAINST = (
    "14 days' median over it", "95 %", "99 %", "99.5 %", "maximum", "last day's maximum", "7 days' maximum", "60 days' maximum",
    "last day's mean", "last hour's mean", "capacity",
)  # fmt: skip
OF_VM = (
    "maximum over median", "99 % over median", "95 % over median", "maximum over 99 %", "last day's maximum over 14 days'",
    "last day's mean over 7 days'", "last hour's mean over the day's", "last 6 hours' over the day's",
    "spread of days' maxima", "last day's maximum over the usual", "spread of days' means", "step from day to day of maxima",
    "60 days' maximum over 14 days'", "log capacity", "last day's mean over capacity", "14 days' maximum over capacity",
    "weekday", "hour", "days measured", "maximum a week ago over 14 days'", "variation", "3 days' maxima over 14 days'",
    "log mean of 14 days", "share of steps above half of the maximum",
)  # fmt: skip
RISING = len(EXCEEDED) + len(AGAINST)
"""The first so many columns rise with the risk: the more of them, the larger the share short."""

COLUMNS = (*EXCEEDED, *AGAINST, *OF_VM)


@dataclass(frozen=True, slots=True)
class Shape:
    """The steps of a day and of an hour, and for how many a size is held. floor: an amount below which nobody sizes.

    Raises InputError where a day isn't a whole number of steps, of at most an hour.
    """

    step_s: float
    held: int
    floor: float

    def __post_init__(self) -> None:
        if not 1.0 <= self.step_s <= 3600.0 or abs(DAY_S / self.step_s - round(DAY_S / self.step_s)) > 1e-9:
            raise InputError(
                f"sizes can't be learned at steps of {self.step_s:g} s",
                "give one of 1m to 1h of which a day has a whole number",
            )
        if self.held < 1:
            raise InputError("a size that is held for no step can't be learned", "hold it for at least one step")

    @property
    def day(self) -> int:
        return round(DAY_S / self.step_s)

    @property
    def hour(self) -> int:
        return max(1, round(3600.0 / self.step_s))

    @property
    def context(self) -> int:
        return CONTEXT_DAYS * self.day
