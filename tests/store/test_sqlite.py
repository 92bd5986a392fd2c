"""What is the state database's own: its migrations, its settings, and what is said when it can't be used."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import alembic.autogenerate
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

import adumbra.store
from adumbra.schema.errors import StoreError
from adumbra.schema.plans import Plan
from adumbra.schema.state import NewTraining, PlanState
from adumbra.store import engine as opening
from adumbra.store.state import StateStore
from adumbra.store.tables import METADATA

Spawn = Callable[..., subprocess.Popen[str]]
MIGRATIONS = Path(adumbra.store.__path__[0]) / "migrations"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


class TestMigrations:
    def test_the_newest_one_is_the_one_the_store_knows(self) -> None:
        assert scripts().get_heads() == [opening.HEAD]

    def test_they_lead_to_the_tables_as_declared(self, path: Path) -> None:
        with StateStore(path):
            pass
        with sa.create_engine(f"sqlite:///{path}").connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert alembic.autogenerate.compare_metadata(context, METADATA) == []
        connection.engine.dispose()

    def test_opening_again_changes_nothing(self, path: Path) -> None:
        def schema() -> list[tuple[str, str]]:
            with sqlite3.connect(path) as raw:
                rows = raw.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
            raw.close()
            return rows

        with StateStore(path) as store:
            store.create_network("shop", "spec", 1)
        first = schema()
        with StateStore(path) as store:
            assert store.network("shop").created_ns == 1
        assert schema() == first

    @pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
    def test_the_statements_can_be_written_for_both_databases(self, dialect: str) -> None:
        written: list[str] = []
        context = MigrationContext.configure(
            dialect_name=dialect, opts={"as_sql": True, "output_buffer": _Lines(written)}
        )  # fmt: skip
        with Operations.context(context):
            for script in scripts().walk_revisions("base", "heads"):
                script.module.upgrade()
        text = "".join(written)
        for table in METADATA.tables:
            assert f"CREATE TABLE {table} (" in text
        assert ("BIGSERIAL" in text) == (dialect == "postgresql")

    def test_they_can_be_undone(self, path: Path) -> None:
        with StateStore(path):
            pass
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
            for script in scripts().walk_revisions("base", "heads"):
                script.module.downgrade()
        assert sa.inspect(engine).get_table_names() == ["alembic_version"]
        engine.dispose()

    def test_a_plan_of_before_there_were_approvals_is_read(self, path: Path) -> None:
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            with Operations.context(MigrationContext.configure(connection)):
                for number in ("0001", "0002", "0003", "0004", "0005"):
                    scripts().get_revision(number).module.upgrade()
            told = '{"network": "shop", "provider": "terraform", "steps": [], "price_per_hour": 0.5, "aim": "active"}'
            named = "id, name, spec_text, version, state, created_ns, updated_ns, spec_since_ns"
            for text in (
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
                "INSERT INTO alembic_version VALUES ('0005')",
                f"INSERT INTO networks ({named}) VALUES (1, 'shop', '', 1, 'active', 1, 1, 1)",
            ):
                connection.execute(sa.text(text))
            connection.execute(sa.text("INSERT INTO plans VALUES (7, 1, 'done', :told, 5, 6)"), {"told": told})
        engine.dispose()
        with StateStore(path) as store:
            kept = store.plans.newest("shop")
            assert kept is not None
            assert (kept.id, kept.state, kept.decided_by, kept.decided_ns) == (7, PlanState.DONE, None, None)
            assert Plan.from_dict(kept.plan).price_per_hour == 0.5
            assert store.policies.newest("shop") is None

    def test_what_was_learned_before_there_were_versions_to_choose_from_serves_on(self, path: Path) -> None:
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            with Operations.context(MigrationContext.configure(connection)):
                for number in ("0001", "0002", "0003"):
                    scripts().get_revision(number).module.upgrade()
            for text in (
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
                "INSERT INTO alembic_version VALUES ('0003')",
                "INSERT INTO networks VALUES (1, 'shop', '', 1, 'ready', 1, 1, 1), (2, 'new', '', 1, 'shadowing', 1, 1, 1)",
                "INSERT INTO trainings VALUES (1, 1, 4, '{\"n\": 4}', x'04', 40), (2, 1, 5, '{\"n\": 5}', x'0505', 50)",
            ):
                connection.execute(sa.text(text))
        engine.dispose()
        with StateStore(path) as store:
            five, four = store.trainings("shop")
            assert (five.version, five.serves, five.served_ns, five.artifact_bytes) == (5, True, 50, 2)
            assert (four.version, four.serves, four.served_ns, four.origin, four.judgement) == (4, False, 40, None, None)
            served = store.training("shop")
            assert served is not None
            assert (served.version, served.summary, served.artifact) == (5, {"n": 5}, b"\x05\x05")
            assert store.serve_training("shop", 4, 60).serves
            assert store.save_training("shop", NewTraining({}, b"six", against=4), 70).kept.version == 6
            assert (store.trainings("new"), store.training("new")) == ((), None)

    def test_a_store_of_a_newer_version_is_refused(self, path: Path) -> None:
        with StateStore(path):
            pass
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.close()
        with pytest.raises(StoreError, match=r"was made by a newer Adumbra.*upgrade Adumbra"), StateStore(path):
            pass

    def test_alembic_is_not_loaded_for_a_store_that_is_up_to_date(self, path: Path) -> None:
        with StateStore(path):
            pass
        script = f"""
import sys
from adumbra.store.state import StateStore
with StateStore({str(path)!r}) as store:
    store.networks()
print([name for name in ("alembic", "duckdb", "numpy") if name in sys.modules])
"""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
        assert run.stdout == "[]\n"


class _Lines:
    """Where Alembic writes its statements to."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append

    def flush(self) -> None:
        """Nothing is held back."""


class TestSettings:
    def test_a_constructor_opens_nothing(self, path: Path) -> None:
        store = StateStore(path)
        assert not path.exists()
        with pytest.raises(RuntimeError, match="`with`"):
            store.networks()

    def test_commits_are_safe_and_references_hold(self, path: Path) -> None:
        engine = opening.open_engine(opening.address(path))
        with engine.begin() as connection:
            got = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        engine.dispose()
        assert got == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": opening.BUSY_TIMEOUT_MS}

    def test_only_the_store_itself_is_left_in_its_folder(self, tmp_path: Path) -> None:
        with StateStore(tmp_path / "new" / "100% odd ?#" / "state.sqlite") as store:
            store.create_network("shop", "", 1)
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["state.sqlite"]

    @pytest.mark.parametrize(
        ("given", "want"),
        [
            (Path("/a/state.sqlite"), "sqlite:////a/state.sqlite"),
            ("state.sqlite", "sqlite:///state.sqlite"),
            ("sqlite:////a/b", "sqlite:////a/b"),
            ("postgresql://me:secret@db/adumbra", "postgresql+psycopg://me:***@db/adumbra"),
        ],
    )
    def test_addresses(self, given: Path | str, want: str) -> None:
        assert opening.address(given).render_as_string(hide_password=True) == want

    @pytest.mark.parametrize("given", ["mysql://me:secret@db/x", "://", "sqlite://"])
    def test_an_address_that_cannot_be_used_is_refused_without_its_password(self, given: str) -> None:
        with pytest.raises(StoreError, match="postgresql://user@host/database") as refusal:
            StateStore(given)
        assert "secret" not in str(refusal.value)


class TestTrouble:
    def test_one_that_cannot_wait_any_longer_says_so(self, path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "BUSY_TIMEOUT_MS", 200)
        with StateStore(path) as store:
            holder = spawn("lock_state", path)
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            assert store.networks() == ()  # reading needs no turn
            with pytest.raises(StoreError, match=r"another process has been writing to it.*run the same again") as refusal:
                store.create_network("shop", "", 1)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("content", [b"hello, world" * 100, bytes(range(256)) * 80], ids=["text", "noise"])
    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(StoreError, match="it is no SQLite file; name another file"), StateStore(path):
            pass
        assert path.read_bytes() == content

    def test_a_damaged_file_is_told(self, path: Path) -> None:
        with StateStore(path) as store:
            for number in range(200):
                store.create_network(f"n{number}", "spec " * 100, number)
        data = bytearray(path.read_bytes())
        data[8192:] = b"\xa5" * (len(data) - 8192)
        path.write_bytes(data)
        with pytest.raises(StoreError, match="the file is damaged; put back a copy"), StateStore(path) as store:
            store.networks()

    def test_somebody_elses_database_is_refused(self, path: Path) -> None:
        with sqlite3.connect(path) as raw:
            raw.execute("CREATE TABLE bookmarks (a)")
        raw.close()
        with pytest.raises(StoreError, match="but not of Adumbra's state"), StateStore(path):
            pass
        with sqlite3.connect(path) as raw:
            assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
        raw.close()

    @pytest.mark.parametrize(
        "path_of", [lambda tmp: tmp, lambda tmp: tmp / "file" / "s.sqlite"], ids=["a folder", "under a file"]
    )
    def test_a_path_that_cannot_be_is_refused_in_one_line(self, tmp_path: Path, path_of: Callable[[Path], Path]) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="could not open the state store") as refusal, StateStore(path_of(tmp_path)):
            pass
        assert "\n" not in str(refusal.value)
