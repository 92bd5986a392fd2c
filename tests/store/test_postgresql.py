"""State on PostgreSQL beyond the contract: its migrations, a server that stops or dies, one that won't, waiting for a turn."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import alembic.autogenerate
import psycopg
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from tests import servers
from tests.store.conftest import database_of

from adumbra.schema.errors import StoreError
from adumbra.store import engine as opening
from adumbra.store.state import StateStore
from adumbra.store.tables import METADATA

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def url(postgresql_url: str) -> Iterator[str]:
    with database_of(postgresql_url) as url:
        yield url


def test_the_migrations_lead_to_the_tables_as_declared(url: str) -> None:
    with StateStore(url):
        pass
    engine = sa.create_engine(opening.address(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert alembic.autogenerate.compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_server_that_is_stopped_is_told_and_used_again_once_it_is_up() -> None:
    with servers.folder_of("postgresql") as folder:
        server = servers.postgresql(folder)
        with servers.running(server), database_of(server.url) as url, StateStore(url) as store:
            for end in (server.stop, server.kill):
                store.create_network(f"before-{end.__name__}", "", 1)
                end()
                for act in (store.networks, lambda: store.create_network("meanwhile", "", 1)):
                    with pytest.raises(StoreError, match=r"could not .* in postgresql") as refusal:
                        act()
                    told = str(refusal.value)
                    assert "\n" not in told
                    assert "that the server runs" in told or "once it is up" in told
                with pytest.raises(StoreError, match=r"check the URL, and that the server runs"), StateStore(url):
                    pass
                server.start()
                assert store.network(f"before-{end.__name__}").version == 1
                store.create_network(f"after-{end.__name__}", "", 1)
            names = ["after-kill", "after-stop", "before-kill", "before-stop"]
            assert [network.name for network in store.networks()] == names
            assert [store.shadow(name).network for name in names] == names


def test_one_killed_in_the_middle_holds_up_nobody(url: str, spawn: Spawn) -> None:
    with StateStore(url) as store:
        store.create_network("shop", "spec", 1)
        holder = spawn("hold_state", url)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        began = time.monotonic()
        assert store.update_network("shop", "two", 2).version == 2
        assert time.monotonic() - began < 5


def test_one_that_cannot_wait_any_longer_says_so(url: str, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_TURNS", opening._TURNS.replace("10000", "200"))
    with StateStore(url) as store:
        store.create_network("shop", "spec", 1)
        holder = spawn("hold_state", url)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert store.network("shop").version == 1  # reading needs no turn
        with pytest.raises(StoreError, match=r"another process has been writing to it.*run the same again"):
            store.update_network("shop", "two", 2)
        holder.communicate("go on\n", timeout=10)
        assert store.update_network("shop", "two", 3).version == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.rpartition("/")[0] + "/nowhere", '"nowhere" does not exist'),
        (lambda url: url.replace("adumbra@", "stranger@"), '"stranger" does not exist'),
        (lambda url: f"postgresql://adumbra@127.0.0.1:{servers.free_port()}/x", "refused"),
    ],
)
def test_what_can_not_be_opened_is_told_without_a_password(url: str, change: Callable[[str], str], said: str) -> None:
    with_password = change(url).replace("@", ":s3cret-pw@")
    with (
        pytest.raises(StoreError, match=f"{said}.*; check the URL, and that the server runs") as refusal,
        StateStore(with_password),
    ):
        pass
    assert "s3cret-pw" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_somebody_elses_database_is_refused(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE events (a int)")
    with pytest.raises(StoreError, match=r"not of Adumbra's state.*a table events.*a database for it alone"), StateStore(url):
        pass
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").fetchall()
    assert found == [("events",)]


def test_all_that_is_read_at_once_is_of_one_moment(url: str) -> None:
    with StateStore(url) as store:
        store.create_network("shop", "spec", 1)
        with opening.reading(store.database.engine).begin() as connection:
            before = connection.execute(sa.text("SELECT count(*) FROM networks")).scalar()
            store.create_network("other", "spec", 2)
            assert connection.execute(sa.text("SELECT count(*) FROM networks")).scalar() == before == 1
        assert len(store.networks()) == 2
