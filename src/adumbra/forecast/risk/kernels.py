"""What describes each candidate size of a VM at an origin: how often its past was above it, and how it lies to its past.

Compiled; `look` looks at nothing after the origin. Layout: layout.py. Results are filled in an element at a time, and the loop
over VMs is the caller's: assigning whole arrays compiles NumPy's broadcasting too, and a caller compiles again what it calls.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.forecast.risk.compiled import allocating, inlined


@inlined
def quantile_of(ordered, n, level):
    """The quantile of the first n, ordered, by linear interpolation as numpy's; NaN of none."""
    if n == 0:
        return math.nan
    at = level * (n - 1)
    low = int(at)
    high = min(low + 1, n - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@inlined
def ratio(a, b, floor):
    return math.log((a + floor) / (b + floor))


@allocating
def sort(values):
    """Sorts a few values in place, NaN last: by insertion, since Numba takes seconds to compile its own way of sorting."""
    for i in range(1, len(values)):
        value = values[i]
        j = i - 1
        while j >= 0 and not (values[j] <= value or math.isnan(value)):
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@allocating
def mean_of(values, begin, end):
    """The mean of what was measured; NaN of nothing."""
    total, n = 0.0, 0
    for i in range(max(begin, 0), end):
        if not math.isnan(values[i]):
            total += values[i]
            n += 1
    return total / n if n else math.nan


@allocating
def max_of(values, begin, end):
    """The largest that was measured; NaN of nothing."""
    most = math.nan
    for i in range(max(begin, 0), end):
        if not math.isnan(values[i]) and not values[i] <= most:
            most = values[i]
    return most


@allocating
def candidates_of(fortnight, day, longest, limits, levels, scales, out):
    """Fills in the candidate sizes, ordered; NaN where there is nothing to make them from. limits: floor and capacity (inf:
    unknown)."""
    levels_14d, levels_1d, times, shares = levels
    floor, capacity = limits
    at = 0
    for level in levels_14d:
        out[at] = quantile_of(fortnight, len(fortnight), level)
        at += 1
    for level in levels_1d:
        out[at] = quantile_of(day, len(day), level)
        at += 1
    top = fortnight[-1] if len(fortnight) else math.nan
    for factor in times:
        out[at] = top * factor
        at += 1
    for share in shares:
        out[at] = capacity * share if capacity < math.inf else math.nan
        at += 1
    out[at] = longest
    most = capacity if capacity < math.inf else (top * scales if not math.isnan(top) else math.nan)
    for i in range(len(out)):
        value = most if math.isnan(out[i]) else out[i]
        out[i] = min(max(value, floor), max(capacity, floor))
    sort(out)


@allocating
def shares_above(values, end, candidates, span, phase):
    """Shares of steps above each candidate, float64[spans, A], the latest first, NaN where nothing was measured.

    The i-th is of the `span` steps that end i * span before `end`, or, with phase < span, of the first `phase` of them: those
    that lie as the window to come lies, one span earlier each.
    """
    count, a_count = -(-end // span), len(candidates)
    counts, measured = np.zeros((count, a_count + 1)), np.zeros(count)
    for back in range(1, end + 1):
        value = values[end - back]
        if math.isnan(value) or (back - 1) % span < span - phase:
            continue
        low, high = 0, a_count  # how many candidates lie below the value
        while low < high:
            middle = (low + high) // 2
            if candidates[middle] < value:
                low = middle + 1
            else:
                high = middle
        which = (back - 1) // span
        counts[which, low] += 1
        measured[which] += 1
    out = np.full((count, a_count), math.nan)
    for which in range(count):
        if measured[which]:
            above = 0.0
            for a in range(a_count - 1, -1, -1):
                above += counts[which, a + 1]
                out[which, a] = above / measured[which]
    return out


@allocating
def share_of(values, begin, end, candidate):
    """The share of steps measured in values[begin:end] that are above a candidate; NaN of none."""
    above, n = 0, 0
    for i in range(max(begin, 0), end):
        if not math.isnan(values[i]):
            n += 1
            above += values[i] > candidate
    return above / n if n else math.nan


@allocating
def of_first(windows, many, a):
    """Of the latest `many` windows' shares above candidate a: their mean, how many have any, the largest; NaN of none."""
    total, n, any_above, most = 0.0, 0, 0, math.nan
    for i in range(min(many, len(windows))):
        share = windows[i, a]
        if not math.isnan(share):
            total += share
            n += 1
            any_above += share > 0
            if not share <= most:
                most = share
    return (total / n, any_above / n, most) if n else (math.nan, math.nan, math.nan)


@allocating
def history_of(windows, a):
    """Of all windows: the mean share on the weekday of the one to come, the mean that forgets, how long ago any was above."""
    decayed, weight, weekday, weekdays, since = 0.0, 0.0, 0.0, 0, 99
    for i in range(len(windows)):
        share = windows[i, a]
        if math.isnan(share):
            continue
        if share > 0 and since == 99:
            since = i
        kept = 0.5 ** (i / 3.0)
        decayed += share * kept
        weight += kept
        if (i + 1) % 7 == 0:
            weekday += share
            weekdays += 1
    return (
        weekday / weekdays if weekdays else math.nan,
        decayed / weight if weight else math.nan,
        -math.log1p(since) if weight else math.nan,
    )


@allocating
def exceedances(windows, days, recent, out):
    """Fills the columns layout.EXCEEDED, out float32[A, F], from shares above: windows [W, A] like the one to come, whole days
    [D, A], and recent [2, A], of the last hour and 6 hours."""
    backs, means, spans = (1, 2, 3, 7, 14), (3, 7, 14, 28, 60), (1, 7)
    for a in range(out.shape[0]):
        for i in range(5):
            out[a, i] = windows[backs[i] - 1, a] if len(windows) >= backs[i] else math.nan
            out[a, 5 + i], any_above, most = of_first(windows, means[i], a)
            if i == 2:
                out[a, 10], out[a, 11] = any_above, most
        out[a, 12], out[a, 13] = any_above, most
        out[a, 14], out[a, 15], out[a, 16] = history_of(windows, a)
        out[a, 17], out[a, 18] = recent[0, a], recent[1, a]
        for i in range(2):
            out[a, 19 + i] = of_first(days, spans[i], a)[0]


@allocating
def of_days(values, end, day, many):
    """Maxima and means of the last `many` days, the latest first, NaN where nothing was measured."""
    maxima, means = np.full(many, math.nan), np.full(many, math.nan)
    for i in range(many):
        begin = end - (i + 1) * day
        if begin + day <= 0:
            break
        maxima[i] = max_of(values, begin, begin + day)
        means[i] = mean_of(values, begin, begin + day)
    return maxima, means


@allocating
def spread_of(values, floor):
    """The standard deviation of the logarithms, and the mean step from one to the next; NaN of fewer than two."""
    total, squares, n, steps, moved = 0.0, 0.0, 0, 0, 0.0
    last = math.nan
    for value in values:
        if math.isnan(value):
            continue
        log = math.log(value + floor)
        if not math.isnan(last):
            moved += abs(log - last)
            steps += 1
        last = log
        total += log
        squares += log * log
        n += 1
    if n < 2:
        return math.nan, math.nan, math.nan
    return math.sqrt(max(squares / n - (total / n) ** 2, 0.0)), moved / steps, total / n


@allocating
def look(past, fortnight, last_day, sizes, limits, levels, calendar, candidates, described):
    """Fills in the candidates of one VM at an origin, float64[A], and what describes them, float32[A, F] (layout.COLUMNS).

    past float64[T]: its use up to the origin; fortnight, last_day: what was measured in the last 14 days of it and in the last
    day, in order; sizes: steps of a day, of an hour and of the window to come; limits: floor, capacity (inf: unknown); levels:
    see candidates_of; calendar: weekday and hour of the origin.
    """
    day, hour, held = sizes
    floor, capacity = limits
    now, many = len(past), len(candidates)
    longest = max_of(past, 0, now)
    candidates_of(fortnight, last_day, longest, limits, levels, 5.0, candidates)
    windows = shares_above(past, now, candidates, day, min(held, day))
    days = windows if held >= day else shares_above(past[max(0, now - 7 * day) :], min(now, 7 * day), candidates, day, day)
    recent = np.empty((2, many))
    for a in range(many):
        recent[0, a] = share_of(past, now - hour, now, candidates[a])
        recent[1, a] = share_of(past, now - 6 * hour, now, candidates[a])
    exceedances(windows, days, recent, described)
    n = len(fortnight)
    median, p95 = quantile_of(fortnight, n, 0.5), quantile_of(fortnight, n, 0.95)
    p99, p995 = quantile_of(fortnight, n, 0.99), quantile_of(fortnight, n, 0.995)
    top = fortnight[-1] if n else math.nan
    maxima, means = of_days(past, now, day, 14)
    last_hour, six_hours = mean_of(past, now - hour, now), mean_of(past, now - 6 * hour, now)
    known = capacity if capacity < math.inf else math.nan
    against = (median, p95, p99, p995, top, maxima[0], max_of(maxima, 0, 7), longest, means[0], last_hour, known)
    seen = 21
    for i in range(len(against)):
        for a in range(many):
            described[a, seen + i] = ratio(against[i], candidates[a], floor)
    spread, moved, usual = spread_of(maxima, floor)
    average = mean_of(past, now - 14 * day, now)
    squares, half = 0.0, 0
    for value in fortnight:
        squares += (value - average) ** 2
        half += value > 0.5 * top
    of_vm = (
        ratio(top, median, floor), ratio(p99, median, floor), ratio(p95, median, floor), ratio(top, p99, floor),
        ratio(maxima[0], top, floor), ratio(means[0], mean_of(means, 0, 7), floor), ratio(last_hour, means[0], floor),
        ratio(six_hours, means[0], floor), spread, math.log(maxima[0] + floor) - usual, spread_of(means, floor)[0], moved,
        ratio(longest, top, floor), math.log(known), ratio(means[0], known, floor), ratio(top, known, floor),
        calendar[0], calendar[1], float(n) / day, ratio(maxima[6], top, floor),
        math.sqrt(squares / n) / (average + floor) if n else math.nan, ratio(mean_of(maxima, 0, 3), top, floor),
        math.log(average + floor), half / n if n else math.nan,
    )  # fmt: skip
    for i in range(len(of_vm)):
        value = of_vm[i]
        for a in range(many):
            described[a, seen + len(against) + i] = value


@allocating
def came(window, candidates, capacity, out):
    """Fills in the share of a window's steps above each candidate but not above the capacity, float64[A]; NaN where fewer than
    half of them were measured."""
    counts, n, beyond = np.zeros(len(candidates), np.int64), 0, 0
    for value in window:
        if math.isnan(value):
            continue
        n += 1
        beyond += value > capacity
        for a in range(len(candidates)):
            counts[a] += value > candidates[a]
    enough = n > 0 and 2 * n >= len(window)
    for a in range(len(candidates)):
        out[a] = max(counts[a] - beyond, 0) / n if enough else math.nan
