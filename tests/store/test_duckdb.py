"""What is DuckDB's own: its one file, who may open it, and what it does when that file is not what it should be."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from tests.store.conftest import at_ns
from tests.store.format_1 import write_format_1

from adumbra.schema.errors import StoreError
from adumbra.schema.records import MetricBatch, Origin, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.duckdb_file import SCHEMA_VERSION

MakeBatch = Callable[..., MetricBatch]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.duckdb"


def test_a_constructor_opens_nothing(path: Path) -> None:
    store = DuckDBStore(path)
    assert not path.exists()
    with pytest.raises(RuntimeError, match="`with`"):
        store.vms("shop")


def test_only_the_store_itself_is_left_in_its_folder(tmp_path: Path, batch: MakeBatch) -> None:
    with DuckDBStore(tmp_path / "new" / "folder" / "metrics.duckdb") as store:
        store.write(batch([1]))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["metrics.duckdb"]


def test_a_second_process_is_told_which_one_has_it(path: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    holder = spawn("hold_metrics", path)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(StoreError) as refusal, DuckDBStore(path):
        pass
    said = str(refusal.value)
    assert f"process {holder.pid} (" in said
    assert "has it open; one process owns the file, so wait for it to end" in said
    assert "\n" not in said
    assert "lock" not in said.lower()
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.wait(timeout=20) == 0
    with DuckDBStore(path) as store:
        assert store.vms("shop") == ()


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(range(256)) * 80, b"\0" * 20_000], ids=["empty", "text", "noise", "zeros"]
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="it is no DuckDB file; name another file") as refusal, DuckDBStore(path):
        pass
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content


def test_another_kind_of_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(StoreError, match="it is no DuckDB file"), DuckDBStore(path):
        pass


def test_somebody_elses_duckdb_file_is_refused(path: Path) -> None:
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE intervals (a INTEGER)")
    with pytest.raises(StoreError, match="but not a metric store"), DuckDBStore(path):
        pass


@pytest.mark.parametrize(
    "path_of", [lambda tmp: tmp, lambda tmp: tmp / "file" / "metrics.duckdb"], ids=["a folder", "under a file"]
)
def test_a_path_that_cannot_be_is_refused_in_one_line(tmp_path: Path, path_of: Callable[[Path], Path]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="could not open the metric store") as refusal, DuckDBStore(path_of(tmp_path)):
        pass
    assert "\n" not in str(refusal.value)


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    with DuckDBStore(path):
        pass
    with duckdb.connect(str(path)) as newer:
        newer.execute("UPDATE adumbra_store SET schema_version = schema_version + 1")
    with pytest.raises(StoreError, match=f"its format is {SCHEMA_VERSION + 1}.*upgrade Adumbra"), DuckDBStore(path):
        pass


def test_a_store_of_an_older_version_gets_the_columns_that_it_lacks(path: Path, batch: MakeBatch) -> None:
    with DuckDBStore(path) as store:
        store.write(batch([1]))
    with duckdb.connect(str(path)) as older:
        older.execute("ALTER TABLE intervals DROP COLUMN storage_ops")
        older.execute("ALTER TABLE intervals ADD COLUMN since_forgotten DOUBLE")
    with DuckDBStore(path) as store:
        store.write(batch([2]))
        read = store.read(SeriesQuery("shop", ("storage_ops", "rx_bytes"), ("web-1",)))
    assert str(read.values["storage_ops"].tolist()) == "[[nan, 1.0]]"
    assert read.values["rx_bytes"].tolist() == [[1, 1]]


def test_a_store_of_format_1_is_brought_to_this_one(path: Path, batch: MakeBatch) -> None:
    shop, other = batch([float(n) for n in (*range(100), *range(200, 300))]), batch([60.0, 120.0], ("c",), interval_s=60.0)
    live = replace(batch([10.0], value=5), origin=Origin.LIVE)
    write_format_1(path, shop, replace(other, network="other"), live)
    for _ in range(2):
        with DuckDBStore(path) as store:
            assert (store.vms("shop"), store.vms("other")) == (("db", "web-1"), ("c",))
            assert store.span("shop") == (at_ns(0), at_ns(300))
            series = store.read(SeriesQuery("shop", ("rx_bytes", "loss_ratio"), ("web-1",)))
            want = [1.0] * 100 + [math.nan] * 100 + [1.0] * 100
            for values in series.values.values():
                np.testing.assert_array_equal(values, [want])
            assert store.read(SeriesQuery("shop", ("rx_bytes",), origin=Origin.LIVE)).values["rx_bytes"].tolist() == [[6], [5]]
            assert store.read(SeriesQuery("other", ("rx_bytes",))).values["rx_bytes"].tolist() == [[1, 1]]
            store.maintain(at_ns(0))
            rolled = store.read(SeriesQuery("shop", ("rx_bytes",), ("web-1",), step_s=60.0))
            np.testing.assert_array_equal(rolled.values["rx_bytes"], [[60, 40, math.nan, 40, 60]])
    with DuckDBStore(path) as store:
        assert store.write(shop) == 400


def test_two_stores_of_one_process_see_each_others_rows(path: Path, batch: MakeBatch) -> None:
    with DuckDBStore(path) as one, DuckDBStore(path) as other:
        one.write(batch([1]))
        assert other.write(batch([1, 2])) == 2
        assert one.write(batch([2])) == 2
        assert one.read(SeriesQuery("shop", ("rx_packets",), ("web-1",), step_s=10.0)).values["rx_packets"].tolist() == [[2]]


def test_pandas_and_pyarrow_are_not_needed(path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "pyarrow", "polars"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NotInstalled())
sys.path.insert(0, {str(Path(__file__).parent)!r})
from another_process import DuckDBStore, numbered
with DuckDBStore(Path({str(path)!r})) as store:
    print(store.write(numbered(0, 1)), store.write(numbered(0, 1)), len(store.vms("shop")))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert (run.stdout, run.stderr) == ("0 400 40\n", "")
