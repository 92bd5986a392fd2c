"""The contract of the versions of trainings, on each of the databases that conftest.DATABASES names."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.schema.state import NewTraining
from adumbra.store import trainings
from adumbra.store.state import StateStore
from adumbra.store.trainings import KEPT_TRAININGS

Spawn = Callable[..., subprocess.Popen[str]]
SHOP = "shop"


@pytest.fixture
def store(place: Path | str) -> Iterator[StateStore]:
    with StateStore(place) as store:
        store.create_network(SHOP, "name: shop", 1)
        yield store


def save(store: StateStore, *, serves: bool = True, size: int = 3) -> tuple[int, tuple[int, ...]]:
    """Keeps a training, decided beside the one that serves now. Gives its version, and those that went."""
    serving = store.training(SHOP)
    number = max((each.version for each in store.trainings(SHOP)), default=0) + 1
    new = NewTraining(
        {"n": number}, bytes([number]) * size, {"seed": number}, {"why": "x"}, serves, serving.version if serving else None
    )
    saved = store.save_training(SHOP, new, number * 10)
    return saved.kept.version, saved.forgotten


def standing(store: StateStore) -> dict[int, bool]:
    """Version -> whether it serves."""
    return {each.version: each.serves for each in store.trainings(SHOP)}


def served(store: StateStore) -> int | None:
    found = store.training(SHOP)
    return found.version if found else None


def test_a_version_tells_all_that_it_was_given(store: StateStore) -> None:
    assert (store.training(SHOP), store.trainings(SHOP)) == (None, ())
    save(store)
    (listed,) = store.trainings(SHOP)
    assert (listed.network, listed.version, listed.summary, listed.created_ns) == (SHOP, 1, {"n": 1}, 10)
    assert (listed.origin, listed.judgement, listed.served_ns, listed.serves) == ({"seed": 1}, {"why": "x"}, 10, True)
    whole = store.training(SHOP, 1)
    assert whole is not None
    assert (whole.artifact, whole.artifact_bytes, listed.artifact_bytes) == (b"\1\1\1", 3, 3)
    assert store.training(SHOP) == whole
    assert store.training(SHOP, 2) is None
    event = store.events(SHOP)[0]
    assert (event.kind, event.message) == ("training.saved", "Learned version 1. It serves.")


def test_one_that_is_not_to_serve_is_kept_beside_the_one_that_does(store: StateStore) -> None:
    save(store)
    save(store, serves=False)
    assert (served(store), standing(store)) == (1, {2: False, 1: True})
    assert store.trainings(SHOP)[0].served_ns is None
    assert store.events(SHOP)[0].message == "Learned version 2. Version 1 serves on."
    assert save(store) == (3, ())
    assert served(store) == 3


def test_another_may_be_let_serve_and_that_is_an_event(store: StateStore) -> None:
    save(store)
    save(store)
    back = store.serve_training(SHOP, 1, 99)
    assert (back.version, back.serves, back.served_ns) == (1, True, 99)
    assert (served(store), standing(store)) == (1, {2: False, 1: True})
    event = store.events(SHOP)[0]
    assert (event.kind, event.time_ns, event.data) == ("training.served", 99, {"version": 1, "before": 2})
    before = store.events(SHOP)
    assert store.serve_training(SHOP, 1, 100) == back
    assert store.events(SHOP) == before
    with pytest.raises(NotFoundError, match=r"no version 7 of what was learned of shop; kept are 2, 1"):
        store.serve_training(SHOP, 7, 100)
    assert served(store) == 1


def test_a_number_is_never_given_twice(store: StateStore) -> None:
    save(store)
    save(store, serves=False)
    assert store.forget_training(SHOP, 2, 50).version == 2
    assert standing(store) == {1: True}
    assert (store.events(SHOP)[0].kind, store.events(SHOP)[0].data) == ("training.forgotten", {"version": 2})
    assert store.save_training(SHOP, NewTraining({}, b"", against=1), 60).kept.version == 3


def test_the_one_that_serves_is_not_forgotten(store: StateStore) -> None:
    save(store)
    with pytest.raises(ConflictError, match=r"version 1 .* serves; let another serve first"):
        store.forget_training(SHOP, 1, 50)
    with pytest.raises(NotFoundError, match="no version 2"):
        store.forget_training(SHOP, 2, 50)
    assert standing(store) == {1: True}


def test_the_newest_are_kept_and_the_one_that_serves(store: StateStore) -> None:
    for _ in range(KEPT_TRAININGS):
        assert save(store)[1] == ()
    store.serve_training(SHOP, 1, 999)
    assert [save(store, serves=False)[1] for _ in range(3)] == [(), (2,), (3,)]
    newest = KEPT_TRAININGS + 3
    assert list(standing(store)) == [*range(newest, newest - KEPT_TRAININGS, -1), 1]
    assert (
        store.events(SHOP)[0].message
        == f"Learned version {newest}. Version 1 serves on. Forgot version 3, to stay within bounds."
    )
    assert save(store)[1] == (1, 4)
    assert store.training(SHOP, 4) is None


def test_models_are_bounded_in_bytes(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "KEPT_BYTES", 100)
    save(store, size=40)
    save(store, size=40, serves=False)
    assert save(store, size=40, serves=False)[1] == (2,)
    assert save(store, size=150, serves=False)[1] == (3,)
    assert standing(store) == {4: False, 1: True}
    assert save(store, size=10)[1] == (1, 4)


def test_one_that_was_compared_with_another_than_serves_now_is_refused(store: StateStore) -> None:
    save(store)
    save(store)
    before = (store.trainings(SHOP), store.events(SHOP))
    for against in (None, 1):
        with pytest.raises(ConflictError, match=r"version 2 .* serves now"):
            store.save_training(SHOP, NewTraining({}, b"", against=against), 60)
    assert (store.trainings(SHOP), store.events(SHOP)) == before


@pytest.mark.parametrize("statement", ["INSERT INTO trainings", "UPDATE networks", "INSERT INTO events"])
def test_a_kill_while_a_version_is_kept_leaves_the_one_before(
    store: StateStore, place: Path | str, spawn: Spawn, statement: str
) -> None:
    save(store)
    before = (store.trainings(SHOP), store.events(SHOP))
    assert spawn("die_training", place, statement).wait(timeout=20) == -signal.SIGKILL
    assert (store.trainings(SHOP), store.events(SHOP)) == before
    assert save(store) == (2, ())


def test_processes_that_train_at_once_take_turns(store: StateStore, place: Path | str, spawn: Spawn) -> None:
    processes = [spawn("save_trainings", place, 10) for _ in range(3)]
    numbers = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(1, 31))
    assert served(store) == 30
    assert [each.version for each in store.trainings(SHOP)] == [30, 29, 28, 27, 26]
