"""Upkeep of the embedded store: what is kept of old time, and a file rewritten while others read and write."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.store.conftest import at_ns, make_batch

import adumbra.store.duckdb as metric_store
from adumbra.schema.errors import InputError, StoreError
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.store import duckdb_file, duckdb_upkeep
from adumbra.store.duckdb import DuckDBStore, Rewriting
from adumbra.store.levels import LEVELS, NEVER, RAW, ROLLED, Kept, Retention, Source, sources
from adumbra.store.protocol import Upkeep

HOUR_S = 3600
SHORT = Retention(raw_s=HOUR_S, minute_s=3 * HOUR_S, five_minutes_s=5 * HOUR_S)
ALWAYS = Rewriting(free_share=0.0, growth=0.0, least_bytes=0)


def hours(first: int, count: int, network: str = "shop") -> MetricBatch:
    """Hours of two VMs, in intervals of 20 s."""
    return make_batch([float(first * HOUR_S + 20 * n) for n in range(180 * count)], network=network, interval_s=20.0)


def counted(store: DuckDBStore, step_s: float | None, **query: Any) -> list[float]:
    """What was counted of the first VM."""
    return store.read(SeriesQuery("shop", ("rx_bytes",), ("web-1",), step_s=step_s, **query)).values["rx_bytes"][0].tolist()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    with DuckDBStore(tmp_path / "metrics.duckdb", SHORT) as store:
        yield store


class TestRetention:
    def test_old_time_is_answered_by_what_is_left_of_it(self, store: DuckDBStore) -> None:
        store.write(hours(0, 8))
        before = {step_s: counted(store, step_s) for step_s in (3600.0, 300.0, 60.0)}
        done = store.maintain(at_ns(100 * HOUR_S))
        assert done.rolled_up == 2 * 8 * (60 + 12 + 1)
        assert done.forgotten == 2 * (7 * 180 + 5 * 60 + 3 * 12)  # of 8 hours: raw of 7, minutes of 5, five minutes of 3
        assert counted(store, 3600.0) == before[3600.0] == [180.0] * 8
        assert counted(store, 300.0) == before[300.0][3 * 12 :]
        assert counted(store, 60.0) == before[60.0][5 * 60 :]
        assert counted(store, None) == [1.0] * 180
        assert store.span("shop") == (at_ns(0), at_ns(8 * HOUR_S))

    def test_a_step_finer_than_what_is_left_is_refused_or_a_gap_and_no_wrong_number(self, store: DuckDBStore) -> None:
        store.write(hours(0, 8))
        store.maintain(NEVER)
        with pytest.raises(InputError, match=r"a step of 20 s can't be made of the 5 min intervals stored for shop"):
            counted(store, 20.0, end_ns=at_ns(4 * HOUR_S))
        assert counted(store, None, end_ns=at_ns(4 * HOUR_S)) == [15.0] * 12  # the finest that is left in all this time is told
        assert counted(store, 40.0) == [2.0] * 90  # the last hour

    def test_time_is_counted_back_from_a_networks_newest_interval(self, store: DuckDBStore) -> None:
        store.write(hours(0, 1))
        store.write(hours(1000, 1, "other"))
        assert store.maintain(at_ns(2000 * HOUR_S)).forgotten == 0  # a capture of the past stays as it is
        store.write(hours(500_000, 1))  # by a clock that is wrong
        assert store.maintain(at_ns(HOUR_S)).forgotten == 0

    def test_a_vm_of_which_nothing_is_left_is_no_longer_there(self, tmp_path: Path) -> None:
        shortest = Retention(HOUR_S, HOUR_S, HOUR_S, HOUR_S)
        with DuckDBStore(tmp_path / "m.duckdb", shortest) as store:
            store.write(make_batch([0.0], ("old",)))
            store.write(make_batch([10.0 * HOUR_S, 11.0 * HOUR_S], ("new",)))
            assert store.vms("shop") == ("new", "old")
            store.maintain(NEVER)
            assert store.vms("shop") == ("new",)
            assert store.write(make_batch([12.0 * HOUR_S], ("old", "new"))) == 0
            assert store.vms("shop") == ("new", "old")

    def test_intervals_that_no_level_takes_up_are_kept_as_they_are(self, store: DuckDBStore) -> None:
        store.write(make_batch([7.0 * n for n in range(6000)], interval_s=7.0))
        assert store.maintain(NEVER) == Upkeep()
        assert counted(store, None) == [1.0] * 6000

    def test_nothing_is_done_where_nothing_is_due(self, store: DuckDBStore) -> None:
        store.write(hours(0, 8))
        store.maintain(NEVER)
        assert store.maintain(NEVER) == Upkeep()

    @pytest.mark.parametrize("wrong", [{"raw_s": 1e9}, {"raw_s": 60.0}, {"minute_s": 3600.0}, {"hour_s": float("nan")}])
    def test_what_cannot_be_kept_so_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(InputError, match="keep each level at least as long as the finer one, and an hour or more"):
            Retention(**wrong)


def test_each_time_is_read_from_the_coarsest_level_that_fits() -> None:
    minute, five, hour = ROLLED
    ns = NANOSECONDS
    kept = Kept((7200 * ns, 3600 * ns, 0, 0))
    due = {minute.length_ns: [(14_340 * ns, 14_460 * ns)], five.length_ns: [(14_100 * ns, 14_700 * ns)]}
    got = sources((1800 * ns, 14_430 * ns), 300 * ns, 0, kept, due)
    assert got == [
        Source(RAW, (14_340 * ns, 14_430 * ns)),
        Source(minute, (14_100 * ns, 14_340 * ns)),
        Source(five, (1800 * ns, 14_100 * ns)),
    ]
    assert {each.level for each in sources((0, 14_400 * ns), 3600 * ns, 0, kept, {})} == {hour}
    assert [each.level for each in sources((0, 14_400 * ns), 3600 * ns, ns, kept, {})] == [RAW, minute, five]
    assert (RAW, minute, five, hour) == LEVELS


class TestReaders:
    def test_a_reader_waits_for_no_writer_and_sees_what_was_there(self, store: DuckDBStore) -> None:
        store.write(hours(0, 1))
        with store._writing("write for long") as connection:
            connection.execute("DELETE FROM intervals")
            told: list[list[float]] = []
            reader = threading.Thread(target=lambda: told.append(counted(store, 3600.0)))
            reader.start()
            reader.join(10)
            assert told == [[180.0]]
            connection.rollback()
            connection.begin()

    def test_readers_see_each_write_whole_while_all_is_going_on(self, tmp_path: Path) -> None:
        wrong: list[object] = []
        over = threading.Event()
        with DuckDBStore(tmp_path / "m.duckdb", SHORT, ALWAYS) as store:
            store.write(hours(0, 1))

            def read() -> None:
                while not over.is_set():
                    try:
                        wrong.extend(value for value in counted(store, 3600.0) if value != 180.0)
                    except Exception as error:  # noqa: BLE001 (whatever it is, it is wrong)
                        wrong.append(error)

            def keep() -> None:
                while not over.is_set():
                    store.maintain(NEVER)

            others = [threading.Thread(target=act) for act in (read, read, keep)]
            for other in others:
                other.start()
            for number in range(1, 12):
                store.write(hours(number, 1))
            over.set()
            for other in others:
                other.join(60)
            store.maintain(NEVER)
            assert counted(store, 3600.0) == [180.0] * 12
        assert wrong == []


class TestRewriting:
    def test_space_comes_back(self, tmp_path: Path) -> None:
        path, rng = tmp_path / "metrics.duckdb", np.random.default_rng(1)
        with DuckDBStore(path) as store:
            for network in ("shop", "large"):
                whole = hours(0, 8 if network == "shop" else 160, network)
                noise = {name: rng.random(whole.one_sided.shape) for name in ("latency_ms_p50", "latency_ms_p95", "rtt_ms_p50")}
                store.write(MetricBatch(network, 20.0, whole.vms, whole.start_ns, noise, whole.one_sided, "x"))
            assert store.maintain(NEVER).freed_bytes is None  # so small a file isn't worth it
            want = store.read(SeriesQuery("shop", ("latency_ms_p50",)))
        with DuckDBStore(path) as store:
            store.delete_network("large")
        before = path.stat().st_size
        with DuckDBStore(path, rewriting=Rewriting(least_bytes=1_000_000, growth=1e9)) as store:
            freed = store.maintain(NEVER).freed_bytes
            assert freed == before - path.stat().st_size
            assert freed > before / 3
            got = store.read(SeriesQuery("shop", ("latency_ms_p50",)))
            np.testing.assert_array_equal(got.values["latency_ms_p50"], want.values["latency_ms_p50"])
            assert store.write(hours(8, 1)) == 0

    def test_what_changes_meanwhile_is_in_the_new_file(self, store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
        copies = duckdb_upkeep.copies
        store.write(hours(0, 4))
        store.write(hours(0, 4, "gone"))
        store.maintain(NEVER)

        def changing(connection: Any) -> Iterator[str]:
            yield from copies(connection)
            store.write(hours(4, 1))
            store.write(make_batch([3.0 * HOUR_S, 3.0 * HOUR_S + 20.0], value=100, interval_s=20.0))  # over what is rolled up
            store.amend(make_batch([3.0 * HOUR_S + 40.0], value=1000, interval_s=20.0))
            store.write(make_batch([20.0], ("web-1",), value=500, interval_s=20.0))  # where raw is gone
            store.delete_network("gone")
            store.write(hours(0, 1, "new"))

        monkeypatch.setattr(duckdb_upkeep, "copies", changing)
        assert store._rewrite() is not None
        for _ in range(2):
            assert counted(store, 3600.0)[1:] == [180.0, 180.0, 177 + 2 * 100 + 1000, 180.0]
            assert counted(store, 3600.0)[0] == 165 + 500  # in place of a cell of five minutes
            assert (store.vms("gone"), store.vms("new")) == ((), ("db", "web-1"))
            assert store.span("shop") == (at_ns(0), at_ns(5 * HOUR_S))
            store.maintain(NEVER)

    def test_a_failure_leaves_the_store_as_it_was(self, store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.write(hours(0, 2))

        def failing(path: Path) -> None:
            raise OSError("the disk is gone")

        monkeypatch.setattr(duckdb_file, "swap", failing)
        with pytest.raises(StoreError, match=r"could not rewrite .*: the disk is gone"):
            store._rewrite()
        assert counted(store, 3600.0) == [180.0, 180.0]
        assert store.write(hours(2, 1)) == 0
        assert [file.suffix for file in store.path.parent.iterdir() if "compacting" in file.name] == []

    def test_it_gives_up_for_a_reader_that_stays(self, store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metric_store, "_SWAP_WAITS_S", 0.05)
        store.write(hours(0, 1))
        inside, over = threading.Event(), threading.Event()

        def stay() -> None:
            with store._reading("stay"):
                inside.set()
                over.wait(20)

        reader = threading.Thread(target=stay)
        reader.start()
        inside.wait(20)
        assert store._rewrite() is None
        over.set()
        reader.join()
        assert store._rewrite() is not None
        assert counted(store, 3600.0) == [180.0]

    def test_a_file_that_two_stores_of_a_process_share_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.duckdb"
        with DuckDBStore(path, rewriting=ALWAYS) as one:
            one.write(hours(0, 1))
            with DuckDBStore(path, rewriting=ALWAYS) as other:
                assert one.maintain(NEVER).freed_bytes is None
                assert one._rewrite() is None
                other.write(hours(1, 1))
            assert one.maintain(NEVER).freed_bytes is not None
            assert counted(one, 3600.0) == [180.0, 180.0]

    def test_nobody_opens_the_file_in_the_moment_of_the_swap(
        self, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
    ) -> None:
        path = tmp_path / "metrics.duckdb"
        with duckdb_file.folder_held(path):
            process = spawn("hold_metrics", path)
            assert process.stdout is not None
            time.sleep(2.0)
            assert not select.select([process.stdout], [], [], 0)[0]
        assert process.stdout.readline() == "open\n"

    def test_what_a_killed_one_left_is_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.duckdb"
        for leftover in ("metrics.duckdb.compacting", "metrics.duckdb.compacting.wal"):
            (tmp_path / leftover).write_bytes(b"half")
        with DuckDBStore(path):
            assert os.listdir(tmp_path) == [path.name]
