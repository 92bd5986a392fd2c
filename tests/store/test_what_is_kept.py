"""What is trimmed of the state store is over: what still waits, for however long, is never among it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adumbra.schema.jobs import JobKind, JobState, Place, SourceState
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
