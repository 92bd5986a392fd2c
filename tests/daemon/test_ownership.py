"""Who owns a network, by the locks of a real PostgreSQL: one server at a time, and another as soon as it is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from tests.daemon.running import SPEC, until

from adumbra.daemon import ownership as module
from adumbra.daemon.locks import FileLock
from adumbra.daemon.ownership import BEAT_S, LEASE_S, SharedOwner, SoleOwner, ownership_of
from adumbra.schema.errors import ConflictError, StoreError
from adumbra.store.owner_locks import IDLE_S
from adumbra.store.state import StateStore


@pytest.fixture
def stores(database: str) -> Iterator[Callable[[], StateStore]]:
    with ExitStack() as stack:
        first = stack.enter_context(StateStore(database))
        for name in ("lab", "shop"):
            first.create_network(name, SPEC.format(name=name, shortfall=1), time.time_ns())
        yield lambda: stack.enter_context(StateStore(database))


def kill_sessions(database: str) -> int:
    """Ends the sessions that hold locks, as a server that dies does."""
    with psycopg.connect(database, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'adumbra owner'"
        ).fetchall()
    return len(ended)


def test_one_of_two_owns_each_network(stores: Callable[[], StateStore]) -> None:
    one, two = SharedOwner(stores()), SharedOwner(stores())
    assert not one.owns("shop")
    one.turn()
    two.turn()
    assert [owner.owns(name) for owner in (one, two) for name in ("lab", "shop")] == [True, True, False, False]
    assert one.since_s("shop") is not None
    assert two.since_s("shop") is None
    one.end()
    assert not one.owns("shop")
    two.turn()
    assert two.owns("shop")
    two.end()


def test_new_networks_are_owned_and_deleted_ones_let_go(stores: Callable[[], StateStore]) -> None:
    store = stores()
    changes: list[int] = []
    owner = SharedOwner(store, lambda: changes.append(1))
    owner.turn()
    assert len(changes) == 1
    store.create_network("new", SPEC.format(name="new", shortfall=1), time.time_ns())
    store.delete_network("lab", time.time_ns())
    owner.turn()
    assert (owner.owns("new"), owner.owns("lab"), len(changes)) == (True, False, 2)
    owner.turn()
    assert len(changes) == 2
    owner.end()


def test_a_session_that_is_gone_owns_nothing_at_once(database: str, stores: Callable[[], StateStore]) -> None:
    one, two = SharedOwner(stores()), SharedOwner(stores())
    one.turn()
    assert kill_sessions(database) == 1
    two.turn()
    assert two.owns("shop")
    with pytest.raises(StoreError):
        one.turn()
    assert not one.owns("shop")
    one.turn()  # it comes again, and finds that another has it
    assert not one.owns("shop")
    one.end()
    two.end()


def test_who_can_not_say_that_it_lives_stops_owning_before_others_may(
    stores: Callable[[], StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LEASE_S + BEAT_S < IDLE_S
    owner = SharedOwner(stores())
    owner.turn()
    late_s = time.monotonic() + LEASE_S + 0.1
    monkeypatch.setattr(module.time, "monotonic", lambda: late_s)
    assert not owner.owns("shop")
    assert owner.since_s("shop") is None
    monkeypatch.undo()
    owner.end()


def test_postgresql_ends_a_session_that_says_nothing(database: str, stores: Callable[[], StateStore]) -> None:
    owner = SharedOwner(stores())
    owner.turn()
    with psycopg.connect(database) as connection:
        settings = "SELECT pid FROM pg_stat_activity WHERE application_name = 'adumbra owner'"
        assert len(connection.execute(settings).fetchall()) == 1
    shown = owner._locks._held().exec_driver_sql("SHOW idle_session_timeout").scalar()
    assert shown == f"{IDLE_S}s"
    owner.end()


def test_many_servers_share_without_two_ever_owning_one(stores: Callable[[], StateStore]) -> None:
    owners = [SharedOwner(stores()) for _ in range(4)]
    over = threading.Event()
    twice: list[str] = []

    def turn(owner: SharedOwner) -> None:
        while not over.is_set():
            owner.turn()
            time.sleep(0.01)
            if owner is owners[0]:
                owner.end()
        owner.end()

    threads = [threading.Thread(target=turn, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + 1.5
    while time.monotonic() < until_s:
        having = [owner for owner in owners[1:] if owner.owns("shop")]
        if len(having) > 1:
            twice.append("shop")
    over.set()
    for thread in threads:
        thread.join(10.0)
    assert not twice


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    with StateStore(tmp_path / "state.db") as store:
        owner = ownership_of(store)
        assert isinstance(owner, SoleOwner)
        assert owner.owns("shop")
        owner.end()
        assert not owner.owns("shop")


def test_a_file_lock_keeps_others_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    def taken() -> FileLock:
        return FileLock(tmp_path / "a" / "lock", "another server runs", "stop it")

    with taken(), pytest.raises(ConflictError, match=r"another server runs \(process \d+\)"), taken():
        pass
    with taken():
        pass


def test_ownership_is_found_again_within_two_turns_of_a_restart(database: str, stores: Callable[[], StateStore]) -> None:
    owner = SharedOwner(stores())
    owner.turn()
    kill_sessions(database)
    with pytest.raises(StoreError):
        owner.turn()
    until(lambda: owner.turn() is None and owner.owns("shop"), 5.0, "ownership")  # type: ignore[func-returns-value]
    owner.end()
