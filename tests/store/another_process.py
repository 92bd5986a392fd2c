"""Run as a process of its own by the stores' tests: holds a store, writes until killed, dies half-way, or fills a disk.

Says on its standard output what it has done, a line each, once it is done: the test believes no more than that.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

import adumbra.store.duckdb_file as metric_file
import adumbra.store.duckdb_rows as metric_rows
import adumbra.store.duckdb_upkeep as metric_upkeep
from adumbra.schema.errors import ConflictError, StoreError
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.schema.state import NewTraining
from adumbra.store.duckdb import DuckDBStore, Rewriting
from adumbra.store.levels import Retention
from adumbra.store.state import StateStore

SHORT = Retention(raw_s=3600.0, minute_s=2 * 3600.0, five_minutes_s=3 * 3600.0)
ALWAYS = Rewriting(free_share=0.0, growth=0.0, least_bytes=0)
VMS = tuple(f"web-{number}" for number in range(1, 41))
PER_BATCH = 10


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def numbered(number: int, value: int) -> MetricBatch:
    """Batch `number`: the ten intervals from 10 * number on, in which every metric has this value."""
    shape = (PER_BATCH, len(VMS))
    columns = {m.name: np.full(shape, value, np.int64 if m.whole else np.float64) for m in METRICS}
    starts = (number * PER_BATCH + np.arange(PER_BATCH)) * NANOSECONDS
    return MetricBatch("shop", 1.0, VMS, starts, columns, np.zeros(shape, np.bool_), "pcap:test.pcap")


def hold_metrics(path: Path) -> None:
    with DuckDBStore(path):
        say("open")
        sys.stdin.readline()


def write_metrics(path: Path, first: int) -> None:
    """Writes new batches from `first` on, and over every new one also once more the one before it, with a larger value."""
    with DuckDBStore(path) as store:
        say("open")
        for number in range(first, first + 10_000):
            store.write(numbered(number, 1))
            say(number, 1)
            if number > first:
                store.write(numbered(number - 1, 2))
                say(number - 1, 2)


def die_writing_metrics(path: Path) -> None:
    """Is killed when the old rows are out and the new ones in, and only the commit is left to do."""
    insert = metric_rows.insert

    def insert_and_die(*arguments: Any) -> None:
        insert(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    metric_rows.insert = insert_and_die
    with DuckDBStore(path) as store:
        store.write(numbered(0, 2))


def hour_of(number: int) -> MetricBatch:
    """Hour `number`: 180 intervals of 20 s of four VMs, in which every metric is 1."""
    whole = numbered(0, 1)
    starts = (number * 3600 + 20 * np.arange(180)) * NANOSECONDS
    columns = {name: np.ones((180, 4), values.dtype) for name, values in whole.columns.items()}
    return MetricBatch("shop", 20.0, VMS[:4], starts, columns, np.zeros((180, 4), np.bool_), whole.source)


def keep_metrics(path: Path, first: int) -> None:
    """Writes hour after hour; after each it rolls up, forgets and rewrites the file."""
    with DuckDBStore(path, SHORT, ALWAYS) as store:
        say("open")
        for number in range(first, first + 10_000):
            store.write(hour_of(number))
            say("written", number)
            done = store.maintain(2**62)
            say("kept", number, done.rolled_up, done.forgotten, done.freed_bytes is not None)


def die_swapping(path: Path, after: int) -> None:
    """Is killed when the old file is closed: just before, or just after, the new one takes its place."""
    swap = metric_file.swap

    def swap_and_die(file: Path) -> None:
        if after:
            swap(file)
        os.kill(os.getpid(), signal.SIGKILL)

    metric_file.swap = swap_and_die
    with DuckDBStore(path, SHORT, ALWAYS) as store:
        store.write(hour_of(0))
        say("written", 0)
        store.maintain(2**62)


def die_migrating(path: Path) -> None:
    """Is killed when an older format is brought to this one, and only the commit is left to do."""
    migrate = metric_file._from_version_1

    def migrate_and_die(connection: Any) -> None:
        migrate(connection)
        os.kill(os.getpid(), signal.SIGKILL)

    metric_file._from_version_1 = migrate_and_die
    with DuckDBStore(path):
        pass


def die_at_step(path: Path, step: str) -> None:
    """Is killed when rows are rolled up, or taken away, and only the commit is left to do."""
    act = getattr(metric_upkeep, step)

    def act_and_die(*arguments: Any) -> None:
        if act(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(metric_upkeep, step, act_and_die)
    with DuckDBStore(path, SHORT) as store:
        for number in range(5):
            store.write(hour_of(number))
            say("written", number)
        store.maintain(2**62)


def die_after_writing_metrics(path: Path) -> None:
    """Is killed with its last commit in the write-ahead log only."""
    with DuckDBStore(path) as store:
        store.write(numbered(0, 1))
        os.kill(os.getpid(), signal.SIGKILL)


def fill_metrics(path: Path, limit_bytes: int) -> None:
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    with DuckDBStore(path) as store:
        for number in range(10_000):
            try:
                store.write(numbered(number, 1))
            except StoreError as error:
                say("error", error)
                break
            say(number, 1)
        say("span", *(store.span("shop") or ()))


def write_state(path: Path, first: int) -> None:
    with StateStore(path) as store:
        say("open")
        for number in range(first, first + 100_000):
            store.create_network(f"n{number}", "spec", number)
            say("created", number)


def die_writing_state(path: Path, statement: str) -> None:
    """Is killed right after the first statement that begins so has been carried out."""

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def _executed(*arguments: Any) -> None:
        if arguments[2].lstrip().startswith(statement):
            os.kill(os.getpid(), signal.SIGKILL)

    with StateStore(path) as store:
        store.create_network("shop", "spec", 1)


def die_training(path: Path, statement: str) -> None:
    """Saves a second training that is to serve, and is killed right after the first statement that begins so."""
    with StateStore(path) as store:

        @sa.event.listens_for(sa.Engine, "after_cursor_execute")
        def _executed(*arguments: Any) -> None:
            if arguments[2].lstrip().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        store.save_training("shop", NewTraining({"n": 2}, b"two", {"seed": 2}, against=1), 20)


def save_trainings(path: Path, times: int) -> None:
    """One of several that train at once: whoever was overtaken by another compares again."""
    with StateStore(path) as store:
        for _ in range(times):
            while True:
                serving = store.training("shop")
                new = NewTraining({}, b"models", against=serving.version if serving else None)
                try:
                    say(store.save_training("shop", new, 1).kept.version)
                    break
                except ConflictError:
                    continue


def die_observing(path: Path) -> None:
    with StateStore(path) as store:
        say("begun", store.begin_observation("shop", "pcap:shop.pcap", "f", 5).id)
        os.kill(os.getpid(), signal.SIGKILL)


def observe(path: Path) -> None:
    with StateStore(path) as store:
        say("begun", store.begin_observation("shop", "pcap:shop.pcap", "f", 5).id)
        sys.stdin.readline()


def fill_state(path: Path, limit_bytes: int) -> None:
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    with StateStore(path) as store:
        for number in range(10_000):
            try:
                store.create_network(f"n{number}", "spec " * 10_000, number)
            except StoreError as error:
                say("error", error)
                break
            say("created", number)
        say("there", len(store.networks()))


def write_as_nobody(state: Path, metrics: Path, scratch: Path) -> None:
    """Tries both stores as a user that may only read them (root is made another user, for root may write anything)."""
    with StateStore(scratch / "s.sqlite"), DuckDBStore(scratch / "m.duckdb") as store:
        store.write(numbered(0, 1))  # loads all that is loaded late, while it can be
    if os.getuid() == 0:
        os.setuid(65534)
    for opened in (StateStore(state), DuckDBStore(metrics)):
        try:
            with opened as store:
                if isinstance(store, StateStore):
                    store.create_network("other", "", 2)
        except StoreError as error:
            say(error)


def lock_state(path: Path) -> None:
    """Holds the right to write, as a process does that is in the middle of an act."""
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        say("locked")
        sys.stdin.readline()


def hold_state(url: str) -> None:
    """Is in the middle of an act on the network `shop`, as PostgreSQL has them, until it is told to go on."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM networks WHERE name = 'shop' FOR UPDATE")
        say("held")
        sys.stdin.readline()


def count_up(path: Path, times: int) -> None:
    """One of several processes that use one store at once."""
    with StateStore(path) as store:
        for _ in range(times):
            store.update_network("shop", "spec", 1)
    say("done")


if __name__ == "__main__":
    act, *given = sys.argv[1:]
    globals()[act](*(int(word) if word.isdecimal() else Path(word) if word.startswith("/") else word for word in given))
