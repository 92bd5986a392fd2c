"""Compiled: random numbers from counters, and what is drawn with them: normals, service times, arrivals. No state at all."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.compiled import compiled, inlined

# What a random number is for: each purpose has a stream of its own.
SERVICE, ARRIVALS, CLUSTERS, PARAMETERS, WHOLE = 0, 1, 2, 3, 4
LONGEST_NS = 10**15  # no service is taken to last longer (11.6 days), so that sums stay within 63 bits

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_53_BITS = np.uint64(11)
_STEP = 2.0**-53
_SET = np.uint64(8)
_ONE, _16_BITS, _16_LOW, _TAIL, _OTHER_TAIL = (np.uint64(n) for n in (1, 16, 0xFFFF, 256, 2**16 - 256))


@compiled
def philox(c0, c1, c2, c3, key):
    """Philox4x32-10 (Salmon et al., SC'11): four 32-bit words of a counter and a 64-bit key, all uint64; four words."""
    k0, k1 = key & _LOW, key >> _HALF
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@compiled
def uniform_pair(key, start_ns, purpose, number):
    """Two uniforms in (0, 1), the same whenever asked again for this VM's key, interval, purpose and number."""
    start = np.uint64(start_ns)
    w0, w1, w2, w3 = philox(np.uint64(number), np.uint64(purpose), start & _LOW, start >> _HALF, key)
    first = np.float64((w0 << _HALF | w1) >> _53_BITS)
    second = np.float64((w2 << _HALF | w3) >> _53_BITS)
    return (first + 0.5) * _STEP, (second + 0.5) * _STEP


@compiled
def normal_quantile(word):
    """The standard normal's quantile at (word + 1/2) / 2^32, for a word of 32 bits: Wichura's AS 241 (1988), PPND16.

    Within 1e-15 of the true one; the farthest are at 6.3 standard deviations.
    """
    q = (np.float64(word) - 2147483647.5) * 2.0**-32
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        above = ((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r
                    + 45921.953931549871457) * r + 13731.693765509461125) * r + 1971.5909503065514427) * r
                 + 133.14166789178437745) * r + 3.387132872796366608  # fmt: skip
        below = ((((((5226.495278852854561 * r + 28729.085735721942674) * r + 39307.89580009271061) * r
                    + 21213.794301586595867) * r + 5394.1960214247511077) * r + 687.1870074920579083) * r
                 + 42.313330701600911252) * r + 1.0  # fmt: skip
        return q * above / below
    r = math.sqrt(-math.log(0.5 - abs(q)))
    if r <= 5.0:
        r -= 1.6
        above = ((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r
                    + 1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.7694972214606914055) * r
                 + 4.6303378461565452959) * r + 1.42343711074968357734  # fmt: skip
        below = ((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r
                    + 0.14810397642748007459) * r + 0.68976733498510000455) * r + 1.6763848301838038494) * r
                 + 2.05319162663775882187) * r + 1.0  # fmt: skip
        return math.copysign(above / below, q)
    return math.nan  # no word of 32 bits lies so far out


@compiled
def draw_whole(keys, start_ns, number, counts, whole):
    """Counts of requests, a part of one among them, to whole ones of the same mean: the one below, or above by chance.

    counts, and `whole`, which is written: float64[k, M], of the intervals that begin at start_ns int64[k] and the VMs of these
    keys uint64[M]. What is whole stays. number: of the count among those of a cell, so that each has a chance of its own.
    """
    for i in range(len(start_ns)):
        for v in range(len(keys)):
            count = counts[i, v]
            below = np.floor(count)  # a float: counts may be beyond 63 bits
            if below < count and uniform_pair(keys[v], start_ns[i], WHOLE, number)[0] < count - below:
                below += 1.0
            whole[i, v] = below


@compiled
def draw_normals_for(key, start_ns, purpose, normals):
    """Fills `normals` (float64[n]) with standard normals of one VM, interval and purpose: four of one counter."""
    start = np.uint64(start_ns)
    low, high = start & _LOW, start >> _HALF
    for first in range(0, len(normals), 4):
        words = philox(np.uint64(first >> 2), np.uint64(purpose), low, high, key)
        for j in range(min(4, len(normals) - first)):
            normals[first + j] = normal_quantile(words[j])


@compiled
def draw_normals(key, start_ns, normals):
    """The standard normals that a VM's services in an interval are made of, in its central set of parameters."""
    draw_normals_for(key, start_ns, SERVICE, normals)


def quantile_table():
    """For `draw_services`: the standard normal's quantiles at every 2^16th word of 32 bits, float64[2^16 + 1]."""
    words = np.arange(2**16 + 1, dtype=np.uint64) << np.uint64(16)
    return np.array([normal_quantile(min(word, _LOW)) for word in words])


@compiled
def draw_services(key, start_ns, which, mean_ns, cv, table, service_ns):
    """Lognormal service times of that mean and coefficient of variation for one VM, interval and set; int64[n], whole ns.

    Normals are interpolated in `table`, within 3e-6 of the true ones, and exact in the outermost 256ths: half the time.
    """
    if cv == 0.0:
        service_ns[:] = np.int64(min(mean_ns + 0.5, LONGEST_NS))
        return
    variance = math.log1p(cv * cv)
    sigma, shift = math.sqrt(variance), 0.5 * variance
    start = np.uint64(start_ns)
    low, high = start & _LOW, start >> _HALF
    purpose = np.uint64(SERVICE) | np.uint64(which) << _SET
    for first in range(0, len(service_ns), 4):
        words = philox(np.uint64(first >> 2), purpose, low, high, key)
        for j in range(min(4, len(service_ns) - first)):
            at = words[j] >> _16_BITS
            if _TAIL <= at < _OTHER_TAIL:
                low_z, part = table[at], np.float64(words[j] & _16_LOW) * 2.0**-16
                normal = low_z + (table[at + _ONE] - low_z) * part
            else:
                normal = normal_quantile(words[j])
            relative = math.exp(sigma * normal - shift)
            service_ns[first + j] = np.int64(min(mean_ns * relative + 0.5, LONGEST_NS))


@compiled
def draw_arrivals(key, start_ns, length_ns, arrive_ns):
    """Fills `arrive_ns` (int64[n]) with arrivals evenly at random over an interval: Poisson, given their number. Unsorted."""
    for pair in range((len(arrive_ns) + 1) // 2):
        u, w = uniform_pair(key, start_ns, ARRIVALS, pair)
        arrive_ns[2 * pair] = start_ns + np.int64(u * length_ns)
        if 2 * pair + 1 < len(arrive_ns):
            arrive_ns[2 * pair + 1] = start_ns + np.int64(w * length_ns)


@compiled
def draw_clusters(key, start_ns, length_ns, size, spread_ns, arrive_ns):
    """Fills `arrive_ns` (int64[n]) with clusters of arrivals (Neyman and Scott, 1958), given their number. Unsorted.

    Clusters begin evenly at random over the interval; each has a geometric number of arrivals, of mean `size`, at exponential
    distances of mean `spread_ns` behind its beginning. What falls beyond the interval's end comes in at its beginning, as the
    interval before would have left it; the last cluster is cut off where the number is reached.
    """
    begin = 0.0
    for j in range(len(arrive_ns)):
        u, w = uniform_pair(key, start_ns, ARRIVALS, j)
        if j == 0 or u * size < 1.0:  # a new cluster, which makes the number in each geometric
            begin = uniform_pair(key, start_ns, CLUSTERS, j)[0]
        at = begin - math.log(w) * spread_ns / length_ns
        arrive_ns[j] = start_ns + min(np.int64((at - math.floor(at)) * length_ns), length_ns - 1)


@inlined
def _insert(values, first, last):
    """Sorts values[first : last + 1] by insertion."""
    for i in range(first + 1, last + 1):
        value, j = values[i], i
        while j > first and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@inlined
def _part(values, first, last):
    """Parts values[first : last + 1] by the middle of three: none up to j is above any from i on (Hoare, 1961). Gives j, i."""
    one, other, pivot = values[first], values[last], values[(first + last) >> 1]
    pivot = max(min(one, other), min(max(one, other), pivot))
    i, j = first, last
    while i <= j:
        while values[i] < pivot:
            i += 1
        while values[j] > pivot:
            j -= 1
        if i <= j:
            values[i], values[j] = values[j], values[i]
            i += 1
            j -= 1
    return j, i


@compiled
def sort(values, stack):
    """Sorts in place (quicksort; by insertion where there are few). stack: int64[2 log2(n)] to work in, for more than 24."""
    first, last, depth = 0, len(values) - 1, 0
    while True:
        if last - first < 24:
            _insert(values, first, last)
            if depth == 0:
                return
            depth -= 2
            first, last = stack[depth], stack[depth + 1]
        else:
            j, i = _part(values, first, last)
            if j - first > last - i:  # the longer part waits, so that few do
                stack[depth], stack[depth + 1] = first, j
                first = i
            else:
                stack[depth], stack[depth + 1] = i, last
                last = j
            depth += 2


@compiled
def pick(values, first, level):
    """As `quantile`, of values in any order, of which those before `first` are the least. Reorders them so far as it must.

    Gives the quantile, and a rank up to which the values are now the least: `first` for a higher level.
    """
    count = len(values)
    if count == 0:
        return math.nan, 0
    rank = level * (count - 1)
    at = int(rank)
    low, high = first, count - 1
    while high - low >= 12:
        j, i = _part(values, low, high)
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            low = high = at
    _insert(values, low, high)
    if at + 1 >= count:
        return values[at], at
    above = values[at + 1]
    for j in range(at + 2, count):
        above = min(above, values[j])
    return values[at] + (above - values[at]) * (rank - at), at


@compiled
def _by_counting(values, l0, l1, l2):
    """Three quantiles of a few values: a value's rank is how many are below it, which takes no branch to guess."""
    last = len(values) - 1
    at0, at1, at2 = int(l0 * last), int(l1 * last), int(l2 * last)
    low0 = low1 = low2 = high0 = high1 = high2 = values[0]
    for i in range(last + 1):
        value, below, equal = values[i], 0, 0
        for j in range(last + 1):
            below += values[j] < value
            equal += values[j] == value
        above = below + equal
        low0 = value if below <= at0 < above else low0
        low1 = value if below <= at1 < above else low1
        low2 = value if below <= at2 < above else low2
        high0 = value if below <= min(at0 + 1, last) < above else high0
        high1 = value if below <= min(at1 + 1, last) < above else high1
        high2 = value if below <= min(at2 + 1, last) < above else high2
    return (
        low0 + (high0 - low0) * (l0 * last - at0),
        low1 + (high1 - low1) * (l1 * last - at1),
        low2 + (high2 - low2) * (l2 * last - at2),
    )


@compiled
def quantiles(values, l0, l1, l2):
    """Three quantiles of values in any order, as `quantile`; levels ascending. Reorders the values. NaNs of none."""
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    if len(values) <= 64:
        return _by_counting(values, l0, l1, l2)
    one, rank = pick(values, 0, l0)
    two, rank = pick(values, rank, l1)
    three, rank = pick(values, rank, l2)
    return one, two, three


@compiled
def quantile(ordered, level):
    """The quantile of ascending values by linear interpolation (Hyndman and Fan's type 7); NaN of none."""
    if len(ordered) == 0:
        return math.nan
    rank = level * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
