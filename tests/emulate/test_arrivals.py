"""Arrivals whose times weren't seen: as many as told, as clustered as fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.arrivals import POISSON, ArrivalProcess, fit_arrivals
from adumbra.emulate.chance_kernels import draw_clusters

SECOND = 1_000_000_000


def drawn(process, count, length_s=1.0, key=1, start_ns=0):
    arrive_ns = np.empty(count, np.int64)
    draw_clusters(
        np.uint64(key), start_ns, round(length_s * SECOND), process.cluster_size, process.cluster_spread_s * SECOND, arrive_ns
    )
    return arrive_ns


def simulated(process, rate, length_s, rng):
    """A long run of the process, by its definition."""
    begins = rng.uniform(-20 * process.cluster_spread_s, length_s, rng.poisson(rate / process.cluster_size * length_s))
    sizes = rng.geometric(1 / process.cluster_size, len(begins))
    at = np.repeat(begins, sizes) + rng.exponential(process.cluster_spread_s, sizes.sum())
    return at[(at >= 0) & (at < length_s)]


@pytest.mark.parametrize("process", [ArrivalProcess(4, 0.01), ArrivalProcess(20, 0.5), ArrivalProcess(2, 3.0)])
@pytest.mark.parametrize("window_s", [0.01, 0.1, 1.0, 10.0])
def test_the_dispersion_is_that_of_the_process(process, window_s):
    rng = np.random.default_rng(3)
    at = simulated(process, 50, 20_000, rng)
    counts = np.histogram(at, bins=int(20_000 / window_s), range=(0, 20_000))[0]
    assert counts.var() / counts.mean() == pytest.approx(float(process.dispersion(window_s)), rel=0.12)


@pytest.mark.parametrize("process", [ArrivalProcess(5, 0.002), ArrivalProcess(20, 0.02), ArrivalProcess(3, 0.1)])
@pytest.mark.parametrize("window_s", [0.001, 0.01, 0.05])
def test_drawn_arrivals_have_the_dispersion_of_their_process_within_an_interval(process, window_s):
    """Given the number in an interval, the variance in a part w of it is what it would be, less w / interval of the whole's."""
    bins = round(1 / window_s)
    counts = [np.histogram(drawn(process, 600, start_ns=i), bins=bins, range=(i, SECOND + i))[0] for i in range(300)]
    found = np.mean([row.var() for row in counts]) / (600 / bins)
    want = float(process.dispersion(window_s)) - window_s * float(process.dispersion(1.0))
    assert found == pytest.approx(want, rel=0.12)


@settings(deadline=None)  # the first call may compile
@given(st.floats(1, 1000), st.floats(0, 100), st.integers(0, 300), st.floats(0.001, 3600), st.integers(0, 2**64 - 1))
def test_as_many_as_told_all_within_the_interval(size, spread_s, count, length_s, key):
    process, start_ns = ArrivalProcess(size, spread_s), 1_790_000_000 * SECOND
    arrive_ns = drawn(process, count, length_s, key, start_ns)
    assert len(arrive_ns) == count
    assert ((arrive_ns >= start_ns) & (arrive_ns < start_ns + round(length_s * SECOND))).all()
    assert arrive_ns.tolist() == drawn(process, count, length_s, key, start_ns).tolist()


@pytest.mark.parametrize("process", [ArrivalProcess(10, 5.0), ArrivalProcess(50, 1.0), ArrivalProcess(4, 20.0)])
def test_a_process_is_found_again_in_its_counts(process):
    rng = np.random.default_rng(6)
    counts = np.histogram(simulated(process, 40, 40_000, rng), bins=40_000, range=(0, 40_000))[0]
    (found,) = fit_arrivals(counts[np.newaxis].astype(float), 1.0)
    for window_s in (1.0, 4.0, 16.0):
        assert float(found.dispersion(window_s)) == pytest.approx(float(process.dispersion(window_s)), rel=0.2)


def test_poisson_counts_are_poisson():
    counts = np.random.default_rng(2).poisson(30, (50, 2000)).astype(float)
    assert sum(process == POISSON for process in fit_arrivals(counts, 1.0)) >= 45


def test_a_day_that_swells_and_ebbs_is_no_cluster():
    """A mean that moves a hundredfold over the day, but Poisson around it."""
    mean = 50 * (1.02 + np.sin(np.linspace(0, 2 * np.pi, 8640)))
    (found,) = fit_arrivals(np.random.default_rng(4).poisson(mean)[np.newaxis].astype(float), 10.0)
    assert float(found.dispersion(10.0)) < 1.1


@pytest.mark.parametrize(
    "counts",
    [np.zeros((1, 100)), np.full((1, 100), np.nan), np.full((1, 100), 7.0), np.array([[5.0]]), np.zeros((1, 0)),
     np.where(np.arange(100) % 7 == 0, np.nan, 3.0)[np.newaxis]],
)  # fmt: skip
def test_counts_that_tell_nothing_are_taken_for_poisson(counts):
    assert fit_arrivals(counts, 1.0) == (POISSON,)


@pytest.mark.parametrize(
    ("size", "spread_s"), [(0.5, 0), (float("nan"), 0), (1e9, 0), (2, -1), (2, float("inf")), (2, float("nan"))]
)
def test_processes_that_cannot_be(size, spread_s):
    with pytest.raises(ValueError, match="clusters of"):
        ArrivalProcess(size, spread_s)


@pytest.mark.parametrize(("counts", "interval_s"), [(np.zeros(5), 1.0), (np.zeros((1, 5)), 0.0)])
def test_counts_of_another_shape_are_refused(counts, interval_s):
    with pytest.raises(ValueError, match="counts of shape"):
        fit_arrivals(counts, interval_s)
