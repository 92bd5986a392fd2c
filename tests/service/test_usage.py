"""Usage files as people have them: what is mended, what is refused, and what is said of it."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.schema.errors import InputError
from adumbra.service.usage import Usage, read_usage

KNOWN = {"web-1": "web-1", "db": "db", "10.0.0.5": "db"}
S = 1_000_000_000
PLAIN = "vm,time,cpu_cores\nweb-1,1700000000,0.5\nweb-1,1700000010,0.25\ndb,1700000000,1\ndb,1700000010,2\n"


def read(tmp_path: Path, text: str | bytes, name: str = "usage.csv") -> Usage:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_usage(path, KNOWN)


def cores(usage: Usage, vm: str = "web-1") -> list[float]:
    return next(each for each in usage.vms if each.vm == vm).columns["cpu_cores"].tolist()


def times_s(usage: Usage, vm: str = "web-1") -> list[float]:
    return (next(each for each in usage.vms if each.vm == vm).time_ns / S).tolist()


def packed(text: str, how: str, folder: Path) -> bytes:
    if how == "parquet":
        source, path = folder / "plain.csv", folder / "made.parquet"
        source.write_text(text)
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{path}' (FORMAT parquet)")
        return path.read_bytes()
    pack = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress, "bom": lambda raw: b"\xef\xbb\xbf" + raw}
    return pack[how](text.encode())


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd", "bom", "parquet"])
def test_every_form_reads_alike(tmp_path: Path, how: str) -> None:
    usage = read(tmp_path, packed(PLAIN, how, tmp_path))
    assert cores(usage) == [0.5, 0.25]
    assert cores(usage, "db") == [1, 2]
    assert [vm.length_s for vm in usage.vms] == [10, 10]
    assert times_s(usage) == [1_700_000_000, 1_700_000_010]
    assert usage.notes == ()


@pytest.mark.parametrize(
    "kind", ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_MS", "TIMESTAMP_NS", "BIGINT", "DOUBLE", "VARCHAR", "DECIMAL(18,3)"]
)
def test_times_of_every_kind_in_parquet(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "usage.parquet"
    moment = {
        "BIGINT": "1700000000",
        "DOUBLE": "1700000000",
        "VARCHAR": "'2023-11-14T22:13:20Z'",
        "DECIMAL(18,3)": "1700000000",
    }
    given = moment.get(kind, "TIMESTAMP '2023-11-14 22:13:20'")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        select = f"SELECT 'db' AS vm, CAST({given} AS {kind}) AS time, 1.5 AS cpu_cores, 'x' AS colour"
        connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    usage = read_usage(path, KNOWN)
    assert (times_s(usage, "db"), cores(usage, "db")) == ([1_700_000_000], [1.5])
    assert usage.notes == ("columns that mean nothing here: colour",)


TOLD = [
    ("time,cpu_cores,vm\n1700000010,0.2,web-1\n1700000000,0.1,web-1\n", [0.1, 0.2], "out of order"),
    (
        "vm,time,cpu_cores\nweb-1,1700000000,0.1\nweb-1,1700000000,0.3\nweb-1,1700000010,0.2\n",
        [0.3, 0.2],
        "repeat a VM and time",
    ),
    ("vm,time,cpu_cores\nweb-1,1700000000000,0.1\nweb-1,1700000010000,0.2\n", [0.1, 0.2], "milliseconds"),
    ("vm,time,cpu_cores\nweb-1,1700000000000000,0.1\nweb-1,1700000010000000,0.2\n", [0.1, 0.2], "microseconds"),
    ("vm,time,cpu_cores\nweb-1,2023-11-14T22:13:20,0.1\nweb-1,2023-11-14 22:13:30,0.2\n", [0.1, 0.2], "taken as UTC"),
    ("vm,time,cpu_cores\nother,1700000000,9\nweb-1,1700000000,0.1\n", [0.1], "that the network doesn't have: other"),
    ("VM, Time ,cpu_cores,note\nweb-1,1700000000,0.1,x\n", [0.1], "mean nothing here: note"),
    ("vm,time,cpu_cores\nweb-1,1700000000,\nweb-1,1700000010,NaN\n", [math.nan, math.nan], None),
    ("vm,time,cpu_cores\n\nweb-1,2023-11-14T23:13:20+01:00,0.1\n", [0.1], None),
]


@pytest.mark.parametrize(("text", "want", "note"), TOLD)
def test_what_can_be_mended_is_and_is_told(tmp_path: Path, text: str, want: list[float], note: str | None) -> None:
    usage = read(tmp_path, text)
    assert np.array_equal(cores(usage), want, equal_nan=True)
    assert times_s(usage)[0] == 1_700_000_000
    assert (not usage.notes) if note is None else any(note in each for each in usage.notes)


def test_a_machine_may_be_called_by_its_address(tmp_path: Path) -> None:
    assert cores(read(tmp_path, "vm,time,cpu_cores\n10.0.0.5,1700000000,0.7\n"), "db") == [0.7]


def damaged(packed: bytes) -> bytes:
    """With a block of a kind that there isn't, where the first one begins."""
    return packed[:10] + b"\xff" + packed[11:]


REFUSED = [
    ("", "is empty"),
    ("vm,time,cpu_cores\n", "has no rows"),
    ("vm,cpu_cores\nweb-1,1\n", ":1: there is no column 'time'"),
    ("vm,time,colour\nweb-1,1,red\n", ":1: there is no column of use"),
    ("vm,time,cpu_cores,cpu_cores\nweb-1,1,1,1\n", "is there twice"),
    ("vm,time,cpu_cores\nweb-1,yesterday,1\n", ":2: the time 'yesterday' is no time"),
    ("vm,time,cpu_cores\nweb-1,-5,1\n", ":2: the time lies outside"),
    ("vm,time,cpu_cores\nweb-1,inf,1\n", ":2: the time 'inf' is no time"),
    ("vm,time,cpu_cores\nweb-1,1700000000,1\nweb-1,1700000001,-1\n", ":3: cpu_cores is -1, which no machine has"),
    ("vm,time,cpu_cores\nweb-1,1700000000,1e5\n", ":2: cpu_cores is 1e5, which no machine has; give cores,"),
    (
        "vm,time,rx_bytes_per_s\nweb-1,1700000000,1e17\n",
        ":2: rx_bytes_per_s is 1e17, which no machine has; give bytes a second,",
    ),
    ("vm,time,cpu_cores\nweb-1,1700000000,inf\n", ":2: cpu_cores is inf"),
    ("vm,time,cpu_cores\nweb-1,1700000000,much\n", ":2: cpu_cores is 'much', which is no number"),
    ("vm,time,cpu_cores\nweb-1,1700000000\n", ":2: 2 values under 3 columns"),
    ("vm,time,cpu_cores\nx,1,1\ny,1,1\n", "has no row of a VM of this network (it has x, y)"),
    ("vm,time,cpu_cores\n" + "a" * 70_000, ":2: a line longer"),
    (b"vm,time,cpu_cores\nweb-1,17\xff\xfe,1\n", "is not text in UTF-8"),
    (b"vm,time,cpu_cores\nweb-1\x00,17,1\n", ":2: a zero byte"),
    (zstandard.compress(PLAIN.encode())[:-6], "can't be decompressed|has no|cut"),
    (gzip.compress(PLAIN.encode(), mtime=0)[:-12], "can't be read"),
    (damaged(gzip.compress(PLAIN.encode() * 50, mtime=0)), "can't be read"),
    (b"PAR1 this is not it PAR1", "is no Parquet file"),
]


@pytest.mark.parametrize(("text", "what"), REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str | bytes, what: str) -> None:
    if isinstance(text, bytes) and text.startswith(b"\x28\xb5"):
        try:
            read(tmp_path, text)
        except InputError:
            return
        pytest.skip("the decompressor gave all that there was")
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    assert what in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_usage(tmp_path / "none.csv", KNOWN)


def test_a_parquet_file_of_long_values_takes_little_memory(tmp_path: Path) -> None:
    """800 MB of text in a file of some kB. What a child's getrusage tells counts its parent's memory too; VmHWM doesn't."""
    path = tmp_path / "long.parquet"
    with duckdb.connect() as connection:
        made = "SELECT repeat('x', 4000000) AS vm, 1700000000 AS time, 0.5 AS cpu_cores FROM range(200)"
        connection.execute(f"COPY ({made}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    assert path.stat().st_size < 1_000_000
    script = (
        "import sys, duckdb; from pathlib import Path; from adumbra.service.usage import read_usage\n"
        "from adumbra.schema.errors import InputError\n"
        "def most_kb(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = most_kb()\n"
        "try: read_usage(Path(sys.argv[1]), {'web': 'web'})\n"
        "except InputError as error: print('refused', len(str(error)) < 500)\n"
        "print((most_kb() - before) // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert told[:2] == ["refused", "True"]
    assert int(told[2]) < 200  # MB


def test_parquet_can_reach_no_other_file(tmp_path: Path) -> None:
    """A path with SQL in it is a path."""
    path = tmp_path / "x'; COPY (SELECT 1) TO 'there.csv'; --.parquet"
    path.write_bytes(packed(PLAIN, "parquet", tmp_path))
    assert cores(read_usage(path, KNOWN)) == [0.5, 0.25]
    assert not (tmp_path / "there.csv").exists()


cells = st.one_of(
    st.text(max_size=12), st.floats().map(str), st.integers().map(str), st.sampled_from(["web-1", "db", "", "1700000000"])
)


@given(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=12), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path: Path, rows: list[list[str]], headed: bool) -> None:
    text = ("vm,time,cpu_cores\n" if headed else "") + "\n".join(",".join(row) for row in rows)
    try:
        usage = read(tmp_path, text.encode("utf-8", "surrogatepass"))
    except InputError:
        return
    for vm in usage.vms:
        assert (np.diff(vm.time_ns) > 0).all()
        known = vm.columns["cpu_cores"][~np.isnan(vm.columns["cpu_cores"])]
        assert (known >= 0).all()
