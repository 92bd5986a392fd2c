"""The random numbers: Philox against its authors' vectors, and the distributions drawn from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.chance_kernels import (
    draw_arrivals,
    draw_normals,
    draw_services,
    normal_quantile,
    philox,
    quantile,
    quantile_table,
    quantiles,
    sort,
)

FULL = 0xFFFFFFFF
TABLE = quantile_table()


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # the known answers of Random123 (kat_vectors, philox4x32 10)
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL, FULL, FULL, FULL), 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, want):
    assert tuple(int(word) for word in philox(*(np.uint64(c) for c in counter), np.uint64(key))) == want


def normals(key, start_ns, count):
    drawn = np.empty(count)
    draw_normals(np.uint64(key), start_ns, drawn)
    return drawn


def test_normals_are_normal():
    drawn = normals(1, 5, 400_001)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    shares = [(drawn < z).mean() for z in (-1.2816, 0.0, 1.2816, 2.3263)]
    assert shares == pytest.approx([0.1, 0.5, 0.9, 0.99], abs=0.003)
    assert np.corrcoef(drawn[:-1], drawn[1:])[0, 1] == pytest.approx(0, abs=0.01)


def test_streams_of_keys_and_intervals_are_unlike_each_other():
    streams = [normals(key, start_ns, 50_000) for key, start_ns in [(1, 0), (2, 0), (1, 1), (1, 2**40)]]
    for i, one in enumerate(streams):
        for other in streams[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_the_same_numbers_come_however_many_are_asked_for():
    assert normals(9, 3, 7).tolist() == normals(9, 3, 100)[:7].tolist()


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
def test_services_keep_mean_and_variation(cv):
    service_ns = np.empty(1_000_000, np.int64)
    draw_services(np.uint64(4), 4, 0, 250_000.0, cv, TABLE, service_ns)
    assert service_ns.mean() == pytest.approx(250_000, rel=0.01)
    assert service_ns.std() / service_ns.mean() == pytest.approx(cv, rel=0.06, abs=1e-6)
    assert service_ns.min() >= 0


def test_normals_by_their_quantiles():
    """Against the error function: Phi(z) = erfc(-z / sqrt 2) / 2."""
    words = [0, 1, 1000, 2**24, 2**29, 2**31 - 1, 2**31, 2**31 + 2**30, FULL - 1, FULL]
    for word in words:
        z = normal_quantile(np.uint64(word))
        assert 0.5 * math.erfc(-z / math.sqrt(2)) == pytest.approx((word + 0.5) / 2**32, rel=1e-12)


def test_services_are_lognormal_of_the_normals_of_their_counters():
    """What is interpolated in the table is within 3e-6 of what the quantile itself gives."""
    service_ns, cv = np.empty(100_000, np.int64), 1.3
    draw_services(np.uint64(5), 6, 0, 1e12, cv, TABLE, service_ns)
    sigma = math.sqrt(math.log1p(cv * cv))
    want = 1e12 * np.exp(sigma * normals(5, 6, 100_000) - 0.5 * sigma**2)
    np.testing.assert_allclose(service_ns, want, rtol=5e-6)


def test_services_of_other_sets_are_others():
    drawn = []
    for which in (0, 1, 2, 64):
        service_ns = np.empty(50_000, np.int64)
        draw_services(np.uint64(5), 6, which, 1e6, 1.0, TABLE, service_ns)
        drawn.append(np.log(service_ns))
    for i, one in enumerate(drawn):
        assert all(abs(np.corrcoef(one, other)[0, 1]) < 0.02 for other in drawn[:i])


def test_arrivals_fill_the_interval_evenly():
    arrive_ns = np.empty(200_001, np.int64)
    draw_arrivals(np.uint64(8), 1_000, 10_000_000, arrive_ns)
    assert arrive_ns.min() >= 1_000
    assert arrive_ns.max() < 10_001_000
    counts = np.histogram(arrive_ns, bins=20, range=(1_000, 10_001_000))[0]
    assert counts == pytest.approx(np.full(20, 10_000), rel=0.04)


@pytest.mark.parametrize("count", [1, 2, 3, 20, 101])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.95, 0.99, 1.0])
def test_quantiles_are_numpys(count, level):
    values = np.sort(np.random.default_rng(count).normal(size=count))
    assert quantile(values, level) == pytest.approx(np.quantile(values, level), rel=1e-12)


@settings(deadline=None)  # the first call may compile
@given(
    st.lists(st.integers(-50, 50) | st.floats(-9, 9), min_size=1, max_size=200),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_quantiles_of_unordered_values_are_numpys(values, levels):
    levels.sort()
    found = quantiles(np.array(values, np.float64), *levels)
    assert found == pytest.approx(np.quantile(np.array(values, np.float64), levels), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=400))
def test_sorting(values):
    times = np.array(values, np.int64)
    sort(times, np.empty(64, np.int64))
    assert times.tolist() == sorted(values)


def test_sorting_much_needs_little_room():
    stack = np.full(40, -1, np.int64)
    for times in (np.arange(100_000), np.arange(100_000)[::-1].copy(), np.random.default_rng(1).integers(0, 9, 100_000)):
        want = np.sort(times)
        sort(times, stack)
        assert (times == want).all()


def test_the_quantile_of_nothing_is_not_known():
    assert np.isnan(quantile(np.empty(0), 0.5))
    assert np.isnan(quantiles(np.empty(0), 0.1, 0.5, 0.9)).all()
