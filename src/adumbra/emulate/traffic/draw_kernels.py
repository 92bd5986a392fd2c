"""Compiled: random numbers for conversations, from one counter: splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.compiled import compiled
from adumbra.emulate.traffic.conversation_layout import CHANCE, MOST_MESSAGE_BYTES, MOST_SIGMAS

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def bits(state):
    word = np.uint64(state[CHANCE]) + _GOLDEN
    state[CHANCE] = np.int64(word)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled
def uniform(state):
    """In (0, 1)."""
    return (np.float64(bits(state) >> np.uint64(11)) + 0.5) * 2.0**-53


@compiled
def normal(state):
    """Standard normal (Box and Muller, 1958), within a few deviations."""
    value = math.sqrt(-2.0 * math.log(uniform(state))) * math.cos(2.0 * math.pi * uniform(state))
    return min(max(value, -MOST_SIGMAS), MOST_SIGMAS)


@compiled
def poisson(state, mean):
    """Poisson; normal's rounding for means above 30."""
    if mean <= 0.0:
        return 0
    if mean > 30.0:
        return max(round(mean + math.sqrt(mean) * normal(state)), 0)
    left, count = math.exp(-mean), -1
    product = 1.0
    while product > left:
        product *= uniform(state)
        count += 1
    return count


@compiled
def geometric(state, mean):
    """From 1 on, of that mean."""
    if mean <= 1.0:
        return 1
    return min(1 + int(math.log(uniform(state)) / math.log1p(-1.0 / mean)), 1_000_000_000)


@compiled
def rounded(state, value):
    """A whole number of that mean, one of the two nearest."""
    low = math.floor(value)
    return int(low) + (1 if uniform(state) < value - low else 0)


@compiled
def size_of(state, mu, sigma):
    return int(min(max(math.exp(mu + sigma * normal(state)) + 0.5, 1.0), MOST_MESSAGE_BYTES))
