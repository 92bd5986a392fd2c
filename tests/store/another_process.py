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

import adumbra.store.duckdb as metric_store
from adumbra.schema.errors import StoreError
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.state import StateStore

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
    insert = metric_store._insert

    def insert_and_die(*arguments: Any) -> None:
        insert(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    metric_store._insert = insert_and_die
    with DuckDBStore(path) as store:
        store.write(numbered(0, 2))


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


def count_up(path: Path, times: int) -> None:
    """One of several processes that use one store at once."""
    with StateStore(path) as store:
        for _ in range(times):
            store.update_network("shop", "spec", 1)
    say("done")


if __name__ == "__main__":
    act, *given = sys.argv[1:]
    globals()[act](*(int(word) if word.isdecimal() else Path(word) if word.startswith("/") else word for word in given))
