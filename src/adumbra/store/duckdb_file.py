"""The file of the embedded metric store: opened by one process at a time, made whole or not at all, updated, swapped.

Knows the file, its tables and the database's errors; never a row.
"""

# The names put into SQL below come from the catalogue and from here. So:
# ruff: noqa: S608

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb

from adumbra.schema.errors import StoreBusyError, StoreError
from adumbra.schema.records import NANOSECONDS
from adumbra.store.levels import LEVELS, RAW
from adumbra.store.rollups import columns_of

SCHEMA_VERSION = 2
"""Raised when a stored column changes its meaning. A column more in the catalogue doesn't raise it: it is added on opening."""

BOOKS: dict[str, str] = {
    "networks": "id INTEGER NOT NULL, network VARCHAR NOT NULL, origin VARCHAR NOT NULL",
    "vms": "id INTEGER NOT NULL, network INTEGER NOT NULL, vm VARCHAR NOT NULL",
    "runs": "network INTEGER NOT NULL, interval_ns BIGINT NOT NULL, first_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL",
    "due": "network INTEGER NOT NULL, length_ns BIGINT NOT NULL, first_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL",
    "kept": "network INTEGER NOT NULL, length_ns BIGINT NOT NULL, from_ns BIGINT NOT NULL",
    "adumbra_store": "schema_version INTEGER NOT NULL, epoch BIGINT NOT NULL, sorted_bytes BIGINT NOT NULL",
}
"""The small tables. networks: an id for each network and origin, by which rows name it, as they do VMs; runs: the intervals
that there are of a network, of whichever VMs, as `Run`s of standing rows; due: what is to be rolled up (anew), by the length
of the level's cells; kept: from when on a level has rows, where some are gone; adumbra_store: its format, how often VMs went,
its size when it was last rewritten."""
TABLES: tuple[str, ...] = (*(level.table for level in LEVELS), *BOOKS)

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "checkpoint_threshold": "64MB",  # of write-ahead log, before it is worked into the file: seldom, and quick to replay
}
_HEADER_BYTES, _MAGIC = 12, b"DUCK"  # at the end of the header (DuckDB, "Storage versions and format")
_LOGS = (".wal", ".wal.checkpoint", ".wal.recovery")
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")

_open_here: Counter[Path] = Counter()
"""How many stores of this process share each file: they share one database, which can't be swapped under one of them."""
_counting = threading.Lock()


def rewritten(path: Path) -> Path:
    """Where a rewritten file grows until it takes the place of the old one."""
    return path.with_name(f"{path.name}.compacting")


def open_file(path: Path) -> duckdb.DuckDBPyConnection:
    """The store in the file, brought up to date; made if it isn't there. `path` is without symbolic links.

    Raises duckdb.Error, OSError, and StoreError where it is no metric store or of a newer version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_held(path):
        if not path.exists():
            _create(path)
        elif not is_open_here(path) and _header(path)[-len(_MAGIC) :] != _MAGIC:
            raise StoreError(
                f"could not open the metric store {path}: it is no DuckDB file", "name another file, or move this one away"
            )
        connection = connect(path)
        try:
            bring_up_to_date(connection, path)
            if not is_open_here(path):
                remove_file(rewritten(path))
        except BaseException:
            connection.close()
            raise
        with _counting:
            _open_here[path] += 1
    return connection


def close_file(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """What `open_file` opened. Raises duckdb.Error."""
    try:
        connection.close()
    finally:
        with _counting:
            _open_here[path] -= 1


def is_open_here(path: Path, times: int = 1) -> bool:
    """Whether so many stores of this process, or more, have the file."""
    with _counting:
        return _open_here[path] >= times


@contextlib.contextmanager
def folder_held(path: Path) -> Iterator[None]:
    """Keeps everybody from opening the file, which must be in no moment between its closing and its swap. Held for moments."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """The database in a file, confined to it and to the file that takes its place: no SQL can reach another."""
    connection = duckdb.connect(str(path), config=_SETTINGS)
    try:
        ((open_to_all,),) = connection.execute("SELECT current_setting('enable_external_access')").fetchall()
        if open_to_all:
            other = rewritten(path)
            allowed = [str(other), *(f"{other}{suffix}" for suffix in _LOGS)]
            connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, allowed))}]")
            connection.execute("SET enable_external_access = false")
    except BaseException:
        connection.close()
        raise
    return connection


def quoted(text: object) -> str:
    """A text as SQL writes it where nothing can be bound."""
    return "'" + str(text).replace("'", "''") + "'"


def total_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """The size of the file's blocks, used or free."""
    return _blocks(connection, "total_blocks")


def used_bytes(connection: duckdb.DuckDBPyConnection, database: str = "") -> int:
    """The size of the blocks in use, of the connection's database or of an attached one."""
    return _blocks(connection, "used_blocks", database)


def _blocks(connection: duckdb.DuckDBPyConnection, which: str, database: str = "") -> int:
    name = quoted(database) if database else "current_database()"
    ((size,),) = connection.execute(
        f"SELECT block_size * {which} FROM pragma_database_size() WHERE database_name = {name}"
    ).fetchall()
    return int(size)


def swap(path: Path) -> None:
    """Puts the rewritten file in the place of the old one, both closed: after a kill or a power cut it is either.

    Raises OSError, and leaves the old one, where either is still open, or its write-ahead log not worked in.
    """
    if {path.stat().st_ino, rewritten(path).stat().st_ino} & set(_open_inodes()):
        raise OSError(f"{path.name} is still in use")
    other = rewritten(path)
    for file in (path, other):
        for suffix in _LOGS:
            if file.with_name(file.name + suffix).exists():
                raise OSError(f"{file.name}{suffix} is left")
    descriptor = os.open(other, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    other.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_inodes() -> Iterator[int]:
    """The inodes of the files that this process has open (proc(5), /proc/pid/fd)."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.fstat(int(descriptor)).st_ino


def remove_file(path: Path) -> None:
    """Removes a database's file and logs, if they are there."""
    for suffix in ("", *_LOGS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def make_tables(connection: duckdb.DuckDBPyConnection, database: str = "") -> None:
    """Makes the tables, empty, in the connection's database or in an attached one."""
    prefix = f"{database}." if database else ""
    for level in LEVELS:
        columns = ", ".join(f"{name} {kind}" for name, kind in columns_of(level).items())
        connection.execute(f"CREATE TABLE {prefix}{level.table} ({columns})")
    for name, columns in BOOKS.items():
        connection.execute(f"CREATE TABLE {prefix}{name} ({columns})")


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _create(path: Path) -> None:
    """Makes an empty store. It appears whole under its name, or not at all, so a kill can't leave half a file."""
    unfinished = path.with_name(f"{path.name}.new-{os.getpid()}-{threading.get_ident()}")
    try:
        with duckdb.connect(str(unfinished), config=_SETTINGS) as connection:
            make_tables(connection)
            connection.execute(f"INSERT INTO adumbra_store VALUES ({SCHEMA_VERSION}, 0, 0)")
            connection.execute("CHECKPOINT")  # closing does it too, but keeps silent when it fails
        with contextlib.suppress(FileExistsError):  # another process was first: its store is the store
            path.hardlink_to(unfinished)
    finally:
        remove_file(unfinished)


def bring_up_to_date(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Adds the columns that the catalogue has gained, and brings an older format to this one: all or nothing."""
    columns = _columns(connection)
    if "schema_version" not in columns.get("adumbra_store", ()):
        raise StoreError(f"{path} is a DuckDB file, but not a metric store", "name another file, or move this one away")
    ((version,),) = connection.execute("SELECT max(schema_version) FROM adumbra_store").fetchall()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the metric store {path} was made by a newer Adumbra (its format is {version}, this one knows {SCHEMA_VERSION})",
            "upgrade Adumbra, or name another file",
        )
    connection.begin()
    try:
        if version < 2:
            _from_version_1(connection)
            columns = _columns(connection)
        for level in LEVELS:
            for name, kind in columns_of(level).items():
                if name not in columns[level.table]:
                    connection.execute(f"ALTER TABLE {level.table} ADD COLUMN {name} {kind}")
        connection.commit()
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.rollback()
        raise


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """The columns of each table."""
    found: dict[str, set[str]] = {}
    rows = connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    return found


def _from_version_1(connection: duckdb.DuckDBPyConnection) -> None:
    """Format 1 named network and VM in each row, had no roll-ups, and no books but how far each network reached."""
    there = _columns(connection)["intervals"]
    connection.execute("ALTER TABLE intervals RENAME TO intervals_1")
    connection.execute("ALTER TABLE adumbra_store RENAME TO adumbra_store_1")
    make_tables(connection)
    connection.execute(f"INSERT INTO adumbra_store VALUES ({SCHEMA_VERSION}, 0, 0)")
    connection.execute(
        "INSERT INTO networks SELECT row_number() OVER (ORDER BY network, origin) - 1, network, origin "
        "FROM (SELECT DISTINCT network, origin FROM intervals_1)"
    )
    connection.execute(
        "INSERT INTO vms SELECT row_number() OVER (ORDER BY n.id, o.vm) - 1, n.id, o.vm "
        "FROM (SELECT DISTINCT network, origin, vm FROM intervals_1) AS o JOIN networks AS n USING (network, origin)"
    )
    interval_ns = f"CAST(round(o.interval_s * {NANOSECONDS}) AS BIGINT)"
    values = {"network": "n.id", "vm": "v.id", "interval_ns": interval_ns}
    names = [name for name in columns_of(RAW) if name in values or name in there]
    connection.execute(
        f"INSERT INTO intervals ({', '.join(names)}) SELECT {', '.join(values.get(name, f'o.{name}') for name in names)} "
        "FROM intervals_1 AS o JOIN networks AS n ON o.network = n.network AND o.origin = n.origin "
        "JOIN vms AS v ON v.network = n.id AND v.vm = o.vm ORDER BY n.id, v.id, o.start_ns"
    )
    # A run ends where the start is not one interval behind the one before it (of the same length and phase).
    connection.execute(
        "INSERT INTO runs SELECT network, interval_ns, min(start_ns), max(start_ns) + interval_ns FROM ("
        "SELECT *, start_ns - interval_ns * row_number() OVER "
        "(PARTITION BY network, interval_ns, start_ns % interval_ns ORDER BY start_ns) AS run "
        "FROM (SELECT DISTINCT network, interval_ns, start_ns FROM intervals)) GROUP BY network, interval_ns, run"
    )
    for level in LEVELS[1:]:
        length = level.length_ns
        connection.execute(
            f"INSERT INTO due SELECT network, {length}, min(first_ns) // {length} * {length}, "
            f"(max(end_ns) + {length - 1}) // {length} * {length} FROM runs GROUP BY network"
        )
    for table in ("intervals_1", "adumbra_store_1", "reach"):
        connection.execute(f"DROP TABLE {table}")


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns the database's errors into one line that says what was being done and what to do next."""
    try:
        yield
    except duckdb.Error as error:
        what, mend = _explain(error)
        kind = StoreBusyError if "has it open" in what else StoreError
        raise kind(f"could not {doing}: {what}", mend) from error
    except OSError as error:
        raise StoreError(f"could not {doing}: {error.strerror or error}", "check the folder and its permissions") from error


def _explain(error: duckdb.Error) -> tuple[str, str]:
    text = str(error)
    if holder := _HOLDER.search(text):
        program = Path(holder["program"]).name
        return (
            f"process {holder['pid']} ({program}) has it open",
            f"one process owns the file, so wait for it to end (`ps -p {holder['pid']}` shows it), or use its API if it serves",
        )
    if "Could not set lock" in text:
        return "another process has it open", "one process owns the file, so wait for it to end, or use its API if it serves"
    if "No space left" in text or "Disk quota" in text or "File too large" in text:
        return "the disk is full", "what was stored before is as it was; free some space and run the same again"
    if "Permission denied" in text or "Read-only file system" in text:
        return "the file or its folder can't be written to", "give this user the right to write both"
    if "replaying WAL" in text:
        return (
            "the .wal file beside it is damaged, or of another store",
            "put back the file that it belongs to, or move it away",
        )
    if "not a valid DuckDB" in text or "external extensions is disabled" in text:
        return "it is no DuckDB file", "name another file, or move this one away"
    if "has been invalidated" in text:
        return "it failed before and is closed until it is opened anew", "run the command again; all acknowledged data are safe"
    first_line = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    return first_line, "check the disk and the file's permissions, and run the same again"
