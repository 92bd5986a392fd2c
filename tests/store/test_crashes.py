"""Processes killed at work, full disks, files one may not write: what was acknowledged is there once, nothing by halves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from tests.store.conftest import make_batch
from tests.store.format_1 import write_format_1

from adumbra.schema.errors import StoreError
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.levels import LEVELS, Retention
from adumbra.store.state import StateStore

Spawn = Callable[..., subprocess.Popen[str]]
VMS, PER_BATCH = 40, 10  # as another_process.py has them
ROUNDS = 5
HOUR_NS = 3600 * NANOSECONDS
SHORT = Retention(raw_s=3600.0, minute_s=2 * 3600.0, five_minutes_s=3 * 3600.0)


def killed_after(process: subprocess.Popen[str], seconds: float, lines: int = 0) -> list[str]:
    """What the process said between opening its store and its death by SIGKILL: so many lines, and for so long after."""
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    first = [process.stdout.readline() for _ in range(lines)]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read()  # not communicate(): it would leave out what readline() has read ahead
    process.wait(20)
    assert process.returncode == -signal.SIGKILL
    return [line for line in (*first, *said.splitlines(keepends=True)) if line.endswith("\n")]


def held(store: DuckDBStore) -> dict[int, int]:
    """The batches in the store and the value in them. Fails where one is there by halves, or any row of it twice."""
    series = store.read(SeriesQuery("shop", ("rx_packets", "memory_bytes")))
    assert len(series.vms) in {0, VMS}
    held = {}
    for first in range(0, series.steps, PER_BATCH):
        number = (series.start_ns // NANOSECONDS + first) // PER_BATCH
        for values in (v[:, first : first + PER_BATCH] for v in series.values.values()):
            assert values.shape == (VMS, PER_BATCH)
            assert np.unique(values).size == 1, f"batch {number} is there by halves"
            if not np.isnan(values[0, 0]):
                held[number] = int(values[0, 0])
    summed = store.read(SeriesQuery("shop", ("rx_packets",), step_s=float(PER_BATCH))).values["rx_packets"]
    assert np.nansum(summed) == VMS * PER_BATCH * sum(held.values()), "a row is there twice"
    return held


def test_a_killed_writer_leaves_every_acknowledged_batch_once(tmp_path: Path, spawn: Spawn) -> None:
    chance, path = random.Random(2), tmp_path / "metrics.duckdb"
    want: dict[int, int] = {}
    for _ in range(ROUNDS):
        first = max(want, default=-1) + 2
        said = killed_after(spawn("write_metrics", path, first), chance.uniform(0.0, 0.5))
        acknowledged = {int(number): int(value) for number, value in map(str.split, said)}
        want |= acknowledged
        with DuckDBStore(path) as store:
            there = held(store)
        assert all(there[number] >= value for number, value in want.items())
        unasked = {number: value for number, value in there.items() if want.get(number) != value}
        assert len(unasked) <= 1, "more than the one batch that was under way"
        want = there
    assert len(want) > ROUNDS


def test_a_kill_between_removal_and_commit_changes_nothing(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "metrics.duckdb"
    killed_after(spawn("write_metrics", path, 0), 0.2)
    with DuckDBStore(path) as store:
        before = held(store)
    assert spawn("die_writing_metrics", path).wait(timeout=20) == -signal.SIGKILL
    with DuckDBStore(path) as store:
        assert held(store) == before


def check_levels(store: DuckDBStore) -> set[int]:
    """Fails where a level says of any hour other than that all is there, or that it is gone. Returns the hours."""
    by_hour = store.read(SeriesQuery("shop", ("rx_packets", "cpu_utilization"), step_s=3600.0))
    hours = {by_hour.start_ns // HOUR_NS + t for t in range(by_hour.steps) if not np.isnan(by_hour.one_sided[0, t])}
    for step_s in (3600.0, 300.0, 60.0, None):
        series = by_hour if step_s == 3600.0 else store.read(SeriesQuery("shop", tuple(by_hour.values), step_s=step_s))
        counted = series.values["rx_packets"]
        assert set(np.unique(counted[~np.isnan(counted)])) <= {series.step_s / 20.0}, f"steps of {series.step_s} s differ"
        assert set(np.unique(series.values["cpu_utilization"][~np.isnan(counted)])) <= {1.0}
    for level in LEVELS[1:]:  # what is there of a level, whether it is read or not
        told = store._opened().execute(f"SELECT sum(rx_packets) - sum(rows_in), min(rx_packets) FROM {level.table}").fetchall()
        assert told in ([(0, level.length_ns // (20 * NANOSECONDS))], [(None, None)])
    return hours


def test_a_killed_keeper_leaves_every_level_right(tmp_path: Path, spawn: Spawn) -> None:
    chance, path = random.Random(5), tmp_path / "metrics.duckdb"
    want: set[int] = set()
    doings: list[list[str]] = []
    for _ in range(ROUNDS + 2):
        process = spawn("keep_metrics", path, max(want, default=-1) + 1)
        said = killed_after(process, chance.uniform(0.0, 0.5), chance.randint(0, 5))
        doings += [line.split() for line in said]
        with DuckDBStore(path, SHORT) as store:
            there = check_levels(store)
            assert want | {int(words[1]) for words in map(str.split, said) if words[0] == "written"} <= there
            assert len(there - want) <= sum(line.startswith("written") for line in said) + 1
            store.maintain(2**62)
            assert check_levels(store) == there
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        want = there
    assert any(words[0] == "kept" and words[3] != "0" and words[4] == "True" for words in doings), "nothing was ever kept"


@pytest.mark.parametrize("after", [0, 1])
def test_a_kill_at_the_swap_of_the_rewritten_file_leaves_one_of_both(tmp_path: Path, spawn: Spawn, after: int) -> None:
    path = tmp_path / "metrics.duckdb"
    process = spawn("die_swapping", path, after)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert path.with_name("metrics.duckdb.compacting").exists() is not bool(after)
    with DuckDBStore(path, SHORT) as store:
        assert check_levels(store) == {0}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("step", ["_roll_up", "let_go"])
def test_a_kill_within_upkeep_changes_no_answer(tmp_path: Path, spawn: Spawn, step: str) -> None:
    path = tmp_path / "metrics.duckdb"
    assert spawn("die_at_step", path, step).wait(timeout=60) == -signal.SIGKILL
    for _ in range(2):
        with DuckDBStore(path, SHORT) as store:
            assert check_levels(store) == {0, 1, 2, 3, 4}
            store.maintain(2**62)


def test_a_kill_within_a_migration_leaves_the_old_store(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "metrics.duckdb"
    write_format_1(path, make_batch([10, 11, 12]))
    assert spawn("die_migrating", path).wait(timeout=60) == -signal.SIGKILL
    with duckdb.connect(str(path)) as old:
        assert old.execute("SELECT schema_version FROM adumbra_store").fetchall() == [(1,)]
    with DuckDBStore(path) as store:
        assert store.read(SeriesQuery("shop", ("rx_packets",))).values["rx_packets"].tolist() == [[2, 2, 2], [1, 1, 1]]


def test_a_log_left_behind_by_another_store_is_not_taken_for_this_ones(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "metrics.duckdb"
    assert spawn("die_after_writing_metrics", path).wait(timeout=20) == -signal.SIGKILL
    path.unlink()
    with pytest.raises(StoreError, match=r"the \.wal file beside it is damaged, or of another store"), DuckDBStore(path):
        pass


def test_a_log_cut_short_loses_no_more_than_the_commit_that_it_cut(tmp_path: Path, spawn: Spawn) -> None:
    path, log = tmp_path / "metrics.duckdb", tmp_path / "metrics.duckdb.wal"
    with DuckDBStore(path):
        pass
    for last in (0, 100):
        assert spawn("die_after_writing_metrics", path).wait(timeout=20) == -signal.SIGKILL
        os.truncate(log, log.stat().st_size - last)
        with DuckDBStore(path) as store:
            assert held(store) == ({} if last else {0: 1})
            store.delete_network("shop")


def test_a_killed_creator_leaves_each_network_with_its_shadow(place: Path | str, spawn: Spawn) -> None:
    chance, path = random.Random(3), place
    there: set[str] = set()
    for turn in range(ROUNDS):
        first = turn * 100_000
        said = killed_after(spawn("write_state", path, first), chance.uniform(0.0, 0.3))
        acknowledged = {f"n{line.split()[1]}" for line in said}
        with StateStore(path) as store:
            names = {network.name for network in store.networks()}
            for name in names - there:
                assert store.shadow(name).network == name
                assert [event.kind for event in store.events(name)] == ["network.created"]
        assert there | acknowledged <= names
        assert len(names - there - acknowledged) <= 1
        there = names
    assert len(there) > ROUNDS


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE shadows", "INSERT INTO networks", "INSERT INTO shadows", "INSERT INTO events"]
)
def test_a_kill_within_the_creation_leaves_neither_network_nor_shadow(place: Path | str, spawn: Spawn, statement: str) -> None:
    path = place
    assert spawn("die_writing_state", path, statement).wait(timeout=20) == -signal.SIGKILL
    with StateStore(path) as store:
        assert (store.networks(), store.events()) == ((), ())
        assert store.create_network("shop", "spec", 1).name == store.shadow("shop").network == "shop"
        assert [event.kind for event in store.events()] == ["network.created"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB. Mounting one needs root."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"can't mount a tmpfs here: {tried.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def filled(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """How many acts were acknowledged, the error that came then, and what the store said after it."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = said.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error "))
    return at, lines[at], lines[at + 1].split()


def check_full_metrics(process: subprocess.Popen[str], path: Path) -> None:
    acknowledged, error, after = filled(process)
    assert acknowledged > 1
    assert f"could not store 10 intervals of shop in {path}: the disk is full; what was stored before is as it was" in error
    assert after == ["span", "0", str(acknowledged * PER_BATCH * NANOSECONDS)]
    with DuckDBStore(path) as store:
        assert held(store) == dict.fromkeys(range(acknowledged), 1)


def check_full_state(process: subprocess.Popen[str], path: Path, why: str) -> None:
    acknowledged, error, after = filled(process)
    assert acknowledged > 1
    assert f"could not create the network n{acknowledged} in {path}: {why}; what was stored before is as it was" in error
    assert after == ["there", str(acknowledged)]
    with StateStore(path) as store:
        assert len(store.networks()) == len(store.events(limit=1000)) == acknowledged


@pytest.mark.root
def test_metrics_on_a_full_disk(tiny_disk: Path, spawn: Spawn) -> None:
    check_full_metrics(spawn("fill_metrics", tiny_disk / "m.duckdb", 0), tiny_disk / "m.duckdb")


@pytest.mark.root
def test_state_on_a_full_disk(tiny_disk: Path, spawn: Spawn) -> None:
    check_full_state(spawn("fill_state", tiny_disk / "s.sqlite", 0), tiny_disk / "s.sqlite", "the disk is full")


def test_metrics_beyond_the_largest_file_allowed(tmp_path: Path, spawn: Spawn) -> None:
    check_full_metrics(spawn("fill_metrics", tmp_path / "m.duckdb", 2_000_000), tmp_path / "m.duckdb")


def test_state_beyond_the_largest_file_allowed(tmp_path: Path, spawn: Spawn) -> None:
    why = "the disk refused to read or write"
    check_full_state(spawn("fill_state", tmp_path / "s.sqlite", 2_000_000), tmp_path / "s.sqlite", why)


def test_stores_that_may_only_be_read_say_so(tmp_path: Path, spawn: Spawn) -> None:
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, within reach of other users
        folder = Path(name)
        with StateStore(folder / "s.sqlite") as state, DuckDBStore(folder / "m.duckdb"):
            state.create_network("shop", "", 1)
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        said, _ = spawn("write_as_nobody", folder / "s.sqlite", folder / "m.duckdb", tmp_path).communicate(timeout=20)
        folder.chmod(0o755)
        lines = said.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.endswith("the file or its folder can't be written to; give this user the right to write both")
