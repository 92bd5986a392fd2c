"""What layout.py says of candidates and columns, worked out again with NumPy, slowly and without regard to the kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adumbra.forecast.risk.layout import (
    COLUMNS,
    LEVELS_1D,
    LEVELS_14D,
    SHARES_OF_CAPACITY,
    TIMES_MAXIMUM,
    Shape,
)
from adumbra.schema.records import Floats

NAN = float("nan")


def measured(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def over(function: Callable[[Floats], float], values: Floats) -> float:
    there = measured(np.asarray(values, float))
    return float(function(there)) if len(there) else NAN


def spans(past: Floats, span: int, phase: int) -> list[Floats]:
    """The first `phase` steps of each `span` before the end, the latest first, as far as there are any steps."""
    whole = -(-len(past) // span)
    padded = np.concatenate((np.full(whole * span - len(past), np.nan), past))
    return [row[:phase] for row in padded.reshape(whole, span)[::-1]]


def candidates(past: Floats, shape: Shape, capacity: float | None) -> Floats:
    fortnight, day = measured(past[-14 * shape.day :]), measured(past[-shape.day :])
    top = over(np.max, fortnight)
    found = [np.quantile(fortnight, level) if len(fortnight) else NAN for level in LEVELS_14D]
    found += [np.quantile(day, level) if len(day) else NAN for level in LEVELS_1D]
    found += [top * factor for factor in TIMES_MAXIMUM]
    found += [NAN if capacity is None else capacity * share for share in SHARES_OF_CAPACITY]
    found += [over(np.max, past)]
    largest = 5 * top if capacity is None else capacity
    filled = np.where(np.isnan(found), largest, found)
    bound = np.inf if capacity is None else max(capacity, shape.floor)
    return np.sort(np.clip(filled, shape.floor, bound))


def columns(
    past: Floats, shape: Shape, capacity: float | None, sizes: Floats, calendar: tuple[int, float]
) -> dict[str, Floats]:
    """By the name of the column: float64[A]."""
    found = {**_exceeded(past, shape, sizes), **_against(past, shape, capacity, sizes)}
    found |= {name: np.full(len(sizes), value) for name, value in _of_vm(past, shape, capacity, calendar).items()}
    return {name: found[name] for name in COLUMNS}


def shares(steps: Floats, sizes: Floats) -> Floats:
    """The share of what was measured above each size, float64[A]; NaN of nothing."""
    there = measured(steps)
    return np.array([np.mean(there > size) for size in sizes]) if len(there) else np.full(len(sizes), np.nan)


def _exceeded(past: Floats, shape: Shape, sizes: Floats) -> dict[str, Floats]:
    windows = [shares(window, sizes) for window in spans(past, shape.day, min(shape.held, shape.day))]
    days = [shares(window, sizes) for window in spans(past, shape.day, shape.day)[:7]]
    known = [(back, window) for back, window in enumerate(windows) if not np.isnan(window).all()]
    nothing = np.full(len(sizes), np.nan)

    def over_all(function: Callable[..., Floats], of: list[Floats]) -> Floats:
        there = [window for window in of if not np.isnan(window).all()]
        return function(np.array(there), axis=0) if there else nothing

    def any_above(of: list[Floats]) -> Floats:
        return over_all(np.mean, [np.where(np.isnan(window), np.nan, window > 0) for window in of])

    forgetting, since = nothing, nothing
    if known:
        weights = np.array([0.5 ** (back / 3) for back, _ in known])
        forgetting = weights @ np.array([window for _, window in known]) / weights.sum()
        since = -np.log1p([next((back for back, window in known if window[a] > 0), 99) for a in range(len(sizes))])
    names = {1: "share above it in the window 1 day ago"} | {k: f"{k} days ago" for k in (2, 3, 7, 14)}
    means = {3: "mean share of the last 3 such windows"} | {k: f"of {k}" for k in (7, 14, 28, 60)}
    return (
        {name: windows[back - 1] if len(windows) >= back else nothing for back, name in names.items()}
        | {name: over_all(np.mean, windows[:many]) for many, name in means.items()}
        | {
            "windows of 14 with any step above it": any_above(windows[:14]),
            "largest share of 14": over_all(np.max, windows[:14]),
            "windows of 60 with any": any_above(windows),
            "largest of 60": over_all(np.max, windows),
            "mean share on the same weekday": over_all(np.mean, windows[6::7]),
            "mean share, half-life 3 days": forgetting,
            "days since a step was above it, falling": since,
            "share of the last hour": shares(past[-shape.hour :], sizes),
            "of the last 6 hours": shares(past[-6 * shape.hour :], sizes),
            "of the last day": over_all(np.mean, days[:1]),
            "of the last 7 days": over_all(np.mean, days),
        }
    )


def _days(past: Floats, shape: Shape, function: Callable[[Floats], float]) -> Floats:
    found = [over(function, day) for day in spans(past, shape.day, shape.day)[:14]]
    return np.array(found + [NAN] * (14 - len(found)))


def _against(past: Floats, shape: Shape, capacity: float | None, sizes: Floats) -> dict[str, Floats]:
    fortnight = past[-14 * shape.day :]
    maxima, means = _days(past, shape, np.max), _days(past, shape, np.mean)
    amounts = {
        "14 days' median over it": over(np.median, fortnight),
        "95 %": over(lambda x: np.quantile(x, 0.95), fortnight),
        "99 %": over(lambda x: np.quantile(x, 0.99), fortnight),
        "99.5 %": over(lambda x: np.quantile(x, 0.995), fortnight),
        "maximum": over(np.max, fortnight),
        "last day's maximum": maxima[0],
        "7 days' maximum": over(np.max, maxima[:7]),
        "60 days' maximum": over(np.max, past),
        "last day's mean": means[0],
        "last hour's mean": over(np.mean, past[-shape.hour :]),
        "capacity": NAN if capacity is None else capacity,
    }
    return {name: np.log((amount + shape.floor) / (sizes + shape.floor)) for name, amount in amounts.items()}


def _of_vm(past: Floats, shape: Shape, capacity: float | None, calendar: tuple[int, float]) -> dict[str, float]:
    fortnight = measured(past[-14 * shape.day :])
    maxima, means = _days(past, shape, np.max), _days(past, shape, np.mean)
    floor, known = shape.floor, NAN if capacity is None else capacity
    median, top, mean = over(np.median, fortnight), over(np.max, fortnight), over(np.mean, fortnight)
    p95, p99 = (over(lambda x, level=level: np.quantile(x, level), fortnight) for level in (0.95, 0.99))

    def ratio(a: float, b: float) -> float:
        return float(np.log((a + floor) / (b + floor)))

    logs = measured(np.log(maxima + floor))
    several, several_means = len(logs) > 1, measured(np.log(means + floor))
    return {
        "maximum over median": ratio(top, median),
        "99 % over median": ratio(p99, median),
        "95 % over median": ratio(p95, median),
        "maximum over 99 %": ratio(top, p99),
        "last day's maximum over 14 days'": ratio(maxima[0], top),
        "last day's mean over 7 days'": ratio(means[0], over(np.mean, means[:7])),
        "last hour's mean over the day's": ratio(over(np.mean, past[-shape.hour :]), means[0]),
        "last 6 hours' over the day's": ratio(over(np.mean, past[-6 * shape.hour :]), means[0]),
        "spread of days' maxima": float(np.std(logs)) if several else NAN,
        "last day's maximum over the usual": float(np.log(maxima[0] + floor) - np.mean(logs)) if several else NAN,
        "spread of days' means": float(np.std(several_means)) if several else NAN,
        "step from day to day of maxima": float(np.abs(np.diff(logs)).mean()) if several else NAN,
        "60 days' maximum over 14 days'": ratio(over(np.max, past), top),
        "log capacity": float(np.log(known)),
        "last day's mean over capacity": ratio(means[0], known),
        "14 days' maximum over capacity": ratio(top, known),
        "weekday": calendar[0],
        "hour": calendar[1],
        "days measured": len(fortnight) / shape.day,
        "maximum a week ago over 14 days'": ratio(maxima[6], top),
        "variation": over(np.std, fortnight) / (mean + floor),
        "3 days' maxima over 14 days'": ratio(over(np.mean, maxima[:3]), top),
        "log mean of 14 days": float(np.log(mean + floor)),
        "share of steps above half of the maximum": over(lambda x: np.mean(x > 0.5 * top), fortnight),
    }


def came(window: Floats, sizes: Floats, capacity: float | None) -> Floats:
    """The share of a window's measured steps above each size but not above the capacity."""
    there = [value for value in window if value == value]
    if 2 * len(there) < len(window) or not there:
        return np.full(len(sizes), np.nan)
    bound = np.inf if capacity is None else capacity
    return np.array([sum(size < value <= bound for value in there) / len(there) for size in sizes])
