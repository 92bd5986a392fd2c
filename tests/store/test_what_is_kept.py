"""What is acknowledged is kept: what still waits isn't trimmed, and nothing is taken that is about to be deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adumbra.schema.errors import ConflictError
from adumbra.schema.jobs import JobKind, JobState, Place, SourceState
from adumbra.schema.state import NetworkState
from adumbra.store.state import StateStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateStore]:
    """Of each network two that are over are kept."""
    monkeypatch.setattr("adumbra.store.jobs.KEPT_JOBS", 2)
    monkeypatch.setattr("adumbra.store.sources.KEPT_SOURCES", 2)
    with StateStore(tmp_path / "state.db") as opened:
        opened.create_network("shop", "name: shop", 1)
        yield opened


def test_a_source_that_waits_is_not_forgotten_for_those_that_came_and_went(store: StateStore) -> None:
    store.sources.add("shop", "live:eth1", {}, 1)
    store.sources.add("shop", "live:eth2", {}, 1, place=Place.REMOTE, host="tap", instance="one")
    for number in range(5):
        capture = store.sources.add("shop", f"pcap:/{number}.pcap", {}, 2)
        store.sources.move(capture.id, SourceState.DONE, 3, "It was observed to its end.")
    assert [each.source for each in store.sources.open()] == ["live:eth1", "live:eth2"]
    assert len(store.sources.of("shop")) <= 2 + 3


def test_a_job_that_waits_is_not_forgotten_for_those_that_passed_it_by(store: StateStore) -> None:
    waits = store.jobs.add("shop", JobKind.PROFILE, {}, "ada", 1)
    for _ in range(5):
        question = store.jobs.add("shop", JobKind.WHATIF, {}, "ada", 2)
        store.jobs.take(question.id, 3)
        store.jobs.finish(question.id, JobState.DONE, 4)
    assert [each.id for each in store.jobs.open()] == [waits.id]
    assert len(store.jobs.of("shop")) <= 1 + 3


def test_what_would_go_with_its_network_is_not_taken(store: StateStore) -> None:
    store.set_network_state("shop", NetworkState.DELETING, 2, "a test")
    with pytest.raises(ConflictError, match="being deleted"):
        store.sources.add("shop", "live:eth1", {}, 3)
    with pytest.raises(ConflictError, match="being deleted"):
        store.jobs.add("shop", JobKind.TRAIN, {}, "ada", 3)
    with pytest.raises(ConflictError, match="being deleted"):
        store.update_network("shop", "name: shop\n", 3)
    assert store.network("shop").version == 1
