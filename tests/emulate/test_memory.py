"""Memory and storage of emulated VMs: clients that are remembered, caches that fill, files that are deleted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adumbra.emulate.layout import STATE
from adumbra.emulate.memory_kernels import cached, hold
from adumbra.emulate.vm import EmulatedNetwork

NAN = math.nan
E = math.exp(-0.1)  # what is left after a second of what is kept for ten


def run(vm, intervals, name):
    return EmulatedNetwork([vm], 1).emulate(intervals)[name][:, 0].tolist()


@pytest.mark.parametrize(
    ("peers", "want"),
    [
        ([0, 0], [0, 0]),
        ([5, 5, 5], [5, 5, 5]),  # the same, as far as anybody can tell
        ([5, 2, 2], [5, 5, 2 + 3 * E]),  # three have left, and are forgotten one by one
        ([5, 0, 4], [5, 5, 4 + 5 * E]),  # whoever comes is new
        ([3, NAN, NAN, 3], [3, 3, 3, 3]),  # not told: as before
        ([NAN, 3], [0, 3]),
    ],
)
def test_clients_are_remembered_for_a_while(prior_of, vm_of, intervals_of, peers, want):
    prior = prior_of(memory={"session_bytes": 100, "session_s": 10})
    assert run(vm_of(prior=prior), intervals_of([[[]]] * len(peers), {"peers": [[p] for p in peers]}), "memory_bytes") == (
        pytest.approx([100 * w for w in want])
    )
    none, out = np.zeros(len(peers)), np.empty((len(peers), 4))
    hold(np.zeros(1, STATE)[0], 0.0, none + 1e9, none, np.array(peers, float), none, 0.0, 10e9, 0.0, out)
    assert out[:, 2] == pytest.approx(want)


def test_without_a_time_only_those_that_are_there_count(prior_of, vm_of, intervals_of):
    prior = prior_of(memory={"session_bytes": 100})
    assert run(vm_of(prior=prior), intervals_of([[[]]] * 3, {"peers": [[5], [2], [0]]}), "memory_bytes") == [500, 200, 0]
    assert run(vm_of(prior=prior), intervals_of([[[]]] * 3), "memory_bytes") == [0, 0, 0]  # no such column


def test_a_gap_in_the_watch_forgets_too(prior_of, vm_of, intervals_of):
    prior = prior_of(memory={"session_bytes": 100, "session_s": 10})
    traffic = intervals_of([[[]]] * 3, {"peers": [[5], [0], [0]]}, starts_s=[0, 1, 11])
    assert run(vm_of(prior=prior), traffic, "memory_bytes") == pytest.approx([500, 500, 500 * math.exp(-1)])


def test_a_cache_fills_as_a_collectors_album(prior_of, vm_of, intervals_of):
    """Against chance itself: which of 1000 things of 50 bytes were ever asked for, by one who asks for all alike."""
    prior = prior_of(memory={"cache_bytes": 50_000, "cache_request_bytes": 50})
    counts = [100, 400, 0, 1500, 8000]
    found = run(vm_of(prior=prior), intervals_of([[[]]] * 5, {"requests": [[c] for c in counts]}), "memory_bytes")
    asked = np.random.default_rng(1).integers(0, 1000, sum(counts))
    album = [50 * len(set(asked[:upto].tolist())) for upto in np.cumsum(counts)]
    assert found == pytest.approx(album, rel=0.05)
    assert found[-1] <= 50_000


@pytest.mark.parametrize(
    ("requests", "each", "most", "want"), [(10, 5, 0, 0), (0, 5, 100, 0), (1, 1e-6, 1e12, 1e-6), (1e9, 5, 100, 100)]
)
def test_a_cache_at_its_ends(requests, each, most, want):
    assert cached(float(requests), float(each), float(most)) == pytest.approx(want)


def test_what_is_written_is_kept_for_a_while(prior_of, vm_of, intervals_of):
    """1000 bytes a second that are kept for 10 s on the mean come to 10,000, and go when nothing more comes."""
    prior = prior_of(storage={"base_bytes": 7, "written_per_byte_in": 2, "retention_s": 10})
    traffic = intervals_of([[[]]] * 200, {"rx_bytes": [[500]] * 100 + [[0]] * 100})
    stored = run(vm_of(prior=prior), traffic, "storage_bytes")
    assert stored[:3] == pytest.approx([1007, 7 + 1000 * (1 + E), 7 + 1000 * (1 + E + E**2)])
    assert stored[99] == pytest.approx(7 + 1000 / (1 - E), rel=1e-3)
    assert stored[109] == pytest.approx(7 + (stored[99] - 7) * math.exp(-1))
