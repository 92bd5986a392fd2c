"""The random numbers: Philox against its authors' vectors, and the distributions drawn from it."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra.emulate.kernels import draw_arrivals, draw_normals, draw_services, philox, quantile

FULL = 0xFFFFFFFF


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
    draw_services(normals(4, 4, 1_000_000), 250_000.0, cv, service_ns)
    assert service_ns.mean() == pytest.approx(250_000, rel=0.01)
    assert service_ns.std() / service_ns.mean() == pytest.approx(cv, rel=0.06, abs=1e-6)
    assert service_ns.min() >= 0


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


def test_the_quantile_of_nothing_is_not_known():
    assert np.isnan(quantile(np.empty(0), 0.5))
