"""Measured use of whole fleets: each defect mended or refused, and said; the same grid whatever the order of rows and files."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.schema.backtests import Usages
from adumbra.schema.errors import InputError
from adumbra.service.usages import Told, read_usages

T0 = 1_700_000_100  # a whole number of 5 minutes
STEP = 300
NAN = float("nan")
GB = 2**30


def at(step: float) -> str:
    return repr(T0 + step * STEP)


def csv_of(rows: list[tuple[object, ...]], columns: str = "cpu_cores") -> str:
    return f"vm,time,{columns}\n" + "".join(",".join(str(value) for value in row) + "\n" for row in rows)


def read(tmp_path: Path, text: str | bytes, step_s: float | None = None, **told: object) -> Usages:
    path = tmp_path / "usage.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_usages(path, step_s, None, Told(**told))  # type: ignore[arg-type]


def used(usages: Usages, resource: str = "cpu_cores", vm: int = 0) -> list[float]:
    return usages.resources[resource].panel.values[vm].tolist()


def same(found: list[float], want: list[float]) -> bool:
    return bool(np.array_equal(found, want, equal_nan=True))


def told(usages: Usages, part: str) -> bool:
    return any(part in note for note in usages.notes)


def day(levels: list[float], vm: str = "a") -> list[tuple[object, ...]]:
    return [(vm, at(step), level) for step, level in enumerate(levels)]


HAS = "cpu_cores,cpu_cores_provisioned"
HAS_MEMORY = "memory_bytes,memory_bytes_provisioned"
MENDED: list[tuple[str, str, list[float], str]] = [
    ("a gap stays one", csv_of([("a", at(0), 1), ("a", at(1), 2), ("a", at(3), 4)]), [1, 2, NAN, 4], "less than 7 days"),
    (
        "nothing told is a gap",
        csv_of([("a", at(0), 1), ("a", at(1), ""), ("a", at(2), "NaN"), ("a", at(3), 4)]),
        [1, NAN, NAN, 4],
        "",
    ),
    (
        "the largest of repeats stands",
        csv_of([("a", at(0), 3), ("a", at(0), 1), ("a", at(1), 2)]),
        [3, 2],
        "1 rows repeat a VM and time",
    ),
    ("rows out of order", csv_of([("a", at(2), 3), ("a", at(0), 1), ("a", at(1), 2)]), [1, 2, 3], "1 VMs were out of order"),
    (
        "milliseconds",
        csv_of([("a", (T0 + s * STEP) * 1000, s) for s in range(3)]),
        [0, 1, 2],
        "milliseconds since the epoch (3 rows)",
    ),
    ("microseconds", csv_of([("a", (T0 + s * STEP) * 10**6, s) for s in range(3)]), [0, 1, 2], "microseconds"),
    ("nanoseconds", csv_of([("a", (T0 + s * STEP) * 10**9, s) for s in range(3)]), [0, 1, 2], "nanoseconds"),
    ("no zone", csv_of([("a", f"2023-11-14 22:{m}:00", m) for m in (15, 20, 25)]), [15, 20, 25], "taken as UTC (3 rows)"),
    ("a zone", csv_of([("a", f"2023-11-15T00:{m}:00+01:30", m) for m in (15, 20)]), [15, 20], "less than 7 days"),
    (
        "samples late by seconds",
        csv_of([("a", at(s + late / STEP), s) for s, late in enumerate((1, 0, 4, 2, 0, 3))]),
        [0, 1, 2, 3, 4, 5],
        "",
    ),
    (
        "samples early and late",
        csv_of([("a", at(s + late / STEP), s) for s, late in enumerate((2, -2, 1, -1, 0, -3))]),
        [0, 1, 2, 3, 4, 5],
        "",
    ),
    (
        "samples off the grid",
        csv_of([("a", at(s + (299 + late) / STEP), s) for s, late in enumerate((0, 2, -2, 3, 0))]),
        [0, 1, 2, 3, 4],
        "",
    ),
    ("the mean of several", csv_of([("a", at(s / 5), s) for s in range(10)]), [2, 7], "samples are usually 60 s apart"),
    (
        "no cores told",
        csv_of([("a", at(0), 1, 2), ("a", at(1), 1.5, 0), ("a", at(2), 1, 2)], HAS),
        [1, 1.5, 1],
        "1 rows say that a VM has no cores",
    ),
    (
        "above the machine",
        csv_of([("a", at(0), 1, 2), ("a", at(1), 2.5, 2)], HAS),
        [1, 2.5],
        "1 values of cores in 1 VMs are above what the VM has, and are kept",
    ),
    (
        "absurd",
        csv_of([("a", at(s), 500 if s == 30 else 1, 2) for s in range(60)], HAS),
        [1.0] * 30 + [NAN] + [1.0] * 29,
        "1 values of cores are more than 100 times what the VM has",
    ),
    (
        "a few impossible",
        csv_of([("a", at(s), -3 if s == 7 else "inf" if s == 9 else s % 5) for s in range(300)]),
        [NAN if s in {7, 9} else float(s % 5) for s in range(300)],
        "2 values of cpu_cores are negative",
    ),
    (
        "a total",
        csv_of([("a", at(s), total) for s, total in enumerate((0, 300, 900, 150, 450))], "cpu_seconds_total"),
        [1, 2, 0.5, 1],
        "it began anew 1 times",
    ),
    ("rows of nobody", csv_of([("a", at(0), 1), ("", at(0), 9), ("a", at(1), 2)]), [1, 2], "1 rows name no VM"),
    ("since the start", csv_of([("a", s * STEP, s) for s in range(3)]), [0, 1, 2], "times begin before 1980"),
    ("semicolons", "vm;time;cpu_cores\na;1700000100;1\na;1700000400;2\n", [1, 2], ""),
    ("several ends of lines", "vm,time,cpu_cores\na,1700000100,1\r\na,1700000400,2\n", [1, 2], ""),
    (
        "columns of no meaning",
        csv_of([("a", at(0), 1, "x"), ("a", at(1), 2, "y")], "cpu_cores,colour"),
        [1, 2],
        "mean nothing here: colour",
    ),
]


@pytest.mark.parametrize(("text", "want", "note"), [case[1:] for case in MENDED], ids=[case[0] for case in MENDED])
def test_what_can_be_mended_is_and_is_said(tmp_path: Path, text: str, want: list[float], note: str) -> None:
    usages = read(tmp_path, text)
    assert same(used(usages), want)
    assert told(usages, note)
    assert usages.resources["cpu_cores"].panel.step_s == STEP


def growing(column: str) -> str:
    return csv_of([(vm, at(s), s * 1000 + vm_number) for vm_number, vm in enumerate("abc") for s in range(60)], column)


REFUSED: list[tuple[str, str, float | None, str]] = [
    ("a total called a rate", growing("rx_bytes_per_s"), None, "rx_bytes_per_s only ever grows in 3 of 3 VMs"),
    ("percent", csv_of([("a", at(s), 40 + s % 7, 4) for s in range(60)], HAS), None, "is cpu_cores in percent?"),
    ("millicores", csv_of([("a", at(s), 1800 + s % 7, 4) for s in range(60)], HAS), None, "is cpu_cores in millicores?"),
    ("gigabytes", csv_of([("a", at(s), 3.5) for s in range(60)], "memory_bytes"), None, "is it in kB, MB or GB?"),
    (
        "memory above the machine",
        csv_of([("a", at(s), 8 * GB, 2 * GB) for s in range(60)], HAS_MEMORY),
        None,
        "more than twice the memory",
    ),
    (
        "detail that isn't there",
        csv_of([("a", at(s), 1) for s in range(9)]),
        60,
        "samples 300 s apart, and a step of 60 s would be made of gaps",
    ),
    ("every 6 hours", csv_of([("a", at(s * 72), 1) for s in range(9)]), None, "usually 6 hours apart"),
    ("a step that divides no day", csv_of([("a", at(0), 1)]), 420, "a step of 420 s can't be used"),
    ("too fine a step", csv_of([("a", at(0), 1)]), 30, "a step of 30 s can't be used"),
    ("a stray time", csv_of([("a", 5, 1), *((f"v{n}", at(s), 1) for n in range(20) for s in range(2))]), None, "days"),
    (
        "negative as a rule",
        csv_of([("a", at(s), -1) for s in range(9)]),
        None,
        "usage.csv:2: cpu_cores is -1, which no machine has",
    ),
    ("no number", csv_of([("a", at(0), 1), ("a", at(1), "much")]), None, "usage.csv:3: cpu_cores is 'much'"),
    ("no time", csv_of([("a", at(0), 1), ("a", "31/12/2023", 1)]), None, "usage.csv:3: the time '31/12/2023' is no time"),
    ("no value at all", csv_of([("a", at(0), ""), ("a", at(1), "")]), None, "no value of use at all"),
    ("nobody's", csv_of([("", at(0), 1)]), None, "no row of a VM"),
    ("a long name", csv_of([("a" * 300, at(0), 1)]), None, "a VM whose name has 256 characters"),
    ("many columns", csv_of([], ",".join(f"c{n}" for n in range(2000)) + ",cpu_cores"), None, "2,003 columns"),
    ("a huge cell", csv_of([("a", at(0), "1" * 70_000)]), None, ":2: a line longer than"),
    ("an open quote", 'vm,time,cpu_cores\n"a,1700000100,1\na,1700000400,2\n', None, "usage.csv:"),
    ("other columns", "host,when,load\na,1,1\n", None, "there is no column 'vm'"),
    ("only first line", "vm,time,cpu_cores\n", None, "has no rows"),
]


@pytest.mark.parametrize(("text", "step_s", "what"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_mended_is_refused(tmp_path: Path, text: str, step_s: float | None, what: str) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, text, step_s)
    assert what in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.mend


def test_each_resource_in_its_unit(tmp_path: Path) -> None:
    columns = (
        "cpu_cores,memory_bytes,rx_bytes_per_s,tx_bytes_per_s,storage_bytes,cpu_cores_provisioned,memory_bytes_provisioned,"
        "storage_bytes_provisioned"
    )
    rows = [
        ("b", at(0), 0.5, 2 * GB, 1e6, 3e6, 10 * GB, 2, 4 * GB, 20 * GB),
        ("b", at(0.5), 1.5, 3 * GB, 9e6, 1e6, 11 * GB, 4, 4 * GB, 20 * GB),
        ("a", at(1), 0.25, GB, 1e6, "", 5 * GB, 1, "", ""),
    ]
    usages = read(tmp_path, csv_of(rows, columns), STEP)
    assert usages.resources["cpu_cores"].panel.vms == ("a", "b")
    assert usages.resources["cpu_cores"].panel.start_ns == T0 * 10**9
    assert same(used(usages, "cpu_cores", 1), [1.0, NAN])  # the mean of what throttles
    assert same(used(usages, "memory_gb", 1), [3.0, NAN])  # the largest of what kills
    assert same(used(usages, "bandwidth_mbps", 1), [40.0, NAN])  # the busier direction of the step
    assert same(used(usages, "bandwidth_mbps", 0), [NAN, 8.0])
    assert same(used(usages, "storage_gb", 1), [11.0, NAN])
    assert same(usages.resources["cpu_cores"].provisioned.tolist(), [1, 4])
    assert same(usages.resources["memory_gb"].provisioned.tolist(), [NAN, 4])
    assert same(usages.resources["storage_gb"].provisioned.tolist(), [NAN, 20])
    assert same(usages.resources["bandwidth_mbps"].provisioned.tolist(), [NAN, NAN])
    assert told(usages, "what 1 VMs have of cores changes")


def test_what_the_user_says_of_machines_holds_where_the_source_says_nothing(tmp_path: Path) -> None:
    rows = [("a", at(0), 1, 2), ("b", at(0), 1, ""), ("c", at(0), 1, "")]
    text = csv_of(rows, "cpu_cores,cpu_cores_provisioned")
    usages = read(tmp_path, text, machines={"a": "16", "b": "m7i.xlarge", "*": "8"})
    assert usages.resources["cpu_cores"].provisioned.tolist() == [2, 4, 8]
    with pytest.raises(InputError, match="no current instance type 'nosuch"):
        read(tmp_path, text, machines={"b": "nosuch.large"})


def test_only_the_time_that_is_asked_for_counts(tmp_path: Path) -> None:
    text = csv_of(day([1, 2, 3, 4]))
    usages = read(tmp_path, text, between=((T0 + STEP) * 10**9, (T0 + 3 * STEP) * 10**9))
    assert used(usages) == [2, 3]
    with pytest.raises(InputError, match="no row of a VM in that time"):
        read(tmp_path, text, between=(0, 10**9))


def test_resources_that_are_asked_for_and_not_told_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(csv_of(day([1, 2])))
    assert set(read_usages(path, None, ["cpu_cores"]).resources) == {"cpu_cores"}
    with pytest.raises(InputError, match="tells nothing of memory_gb; give a column memory_bytes"):
        read_usages(path, None, ["cpu_cores", "memory_gb"])
    with pytest.raises(InputError, match="no resource 'ram'"):
        read_usages(path, None, ["ram"])


def test_a_few_vms_with_samples_further_apart_keep_their_gaps(tmp_path: Path) -> None:
    rows = [row for number in range(40) for row in day([1.0] * 12, f"v{number:02d}")]
    usages = read(tmp_path, csv_of([*rows, *(("slow", at(s * 6), 2) for s in range(2))]))
    assert same(used(usages, vm=0), [2, NAN, NAN, NAN, NAN, NAN, 2, NAN, NAN, NAN, NAN, NAN])
    assert told(usages, "1 VMs have samples further apart than 300 s, with gaps between: slow")


def test_the_step_follows_the_samples(tmp_path: Path) -> None:
    usages = read(tmp_path, csv_of([("a", at(s * 3), s) for s in range(9)]))
    assert usages.resources["cpu_cores"].panel.step_s == 900
    coarse = read(tmp_path, csv_of(day([float(s) for s in range(13)])), 3600)
    assert coarse.resources["cpu_cores"].panel.step_s == 3600
    assert told(coarse, "samples are usually 300 s apart")


# One way of rows and another: whatever the order, the repeats and the files, the grid is the same.
samples = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "A"]), st.integers(0, 20_000),
        st.sampled_from(["", "0.1", "0.7", "1", "2.5"]), st.sampled_from(["", "0", "2", "4"]),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@given(samples, st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_rows_and_files_decides_nothing(
    tmp_path: Path, rows: list[tuple[str, int, str, str]], random: object, files: int
) -> None:
    columns = "cpu_cores,cpu_cores_provisioned"
    rows = [(vm, T0 + second, *rest) for vm, second, *rest in rows]  # type: ignore[misc]
    (tmp_path / "one.csv").write_text(csv_of(rows, columns))
    turned = [*rows, *rows[: len(rows) // 2]]
    random.shuffle(turned)  # type: ignore[attr-defined]
    parts = []
    for number in range(files):
        parts.append(tmp_path / f"part{number}.csv")
        parts[-1].write_text(csv_of(turned[number::files], columns))
    try:
        one = read_usages(tmp_path / "one.csv", 300)
    except InputError as refused:
        with pytest.raises(InputError) as again:
            read_usages(parts, 300)
        assert refused.mend == again.value.mend  # noqa: PT017
        return
    many = read_usages(parts, 300)
    for name, measured in one.resources.items():
        assert measured.panel.vms == many.resources[name].panel.vms
        assert measured.panel.start_ns == many.resources[name].panel.start_ns
        assert same(measured.panel.values.tolist(), many.resources[name].panel.values.tolist())
        assert same(measured.provisioned.tolist(), many.resources[name].provisioned.tolist())


@given(samples)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_grid_is_what_sql_says(tmp_path: Path, rows: list[tuple[str, int, str, str]]) -> None:
    """An oracle that knows neither chunks nor NumPy: each value once, the mean of a step."""
    path = tmp_path / "usage.csv"
    path.write_text(csv_of([(vm, T0 + second // STEP * STEP + second % 3 * 100, cores) for vm, second, cores, _ in rows]))
    with duckdb.connect() as connection:
        want = connection.execute(
            "SELECT vm, step, avg(value) FROM (SELECT vm, time // 300 AS step, max(cpu_cores) AS value FROM "
            "read_csv(?, columns = {vm: 'VARCHAR', time: 'BIGINT', cpu_cores: 'DOUBLE'}, header = true) GROUP BY vm, time) "
            "WHERE value IS NOT NULL GROUP BY vm, step", [str(path)]
        ).fetchall()  # fmt: skip
    if not want:
        return
    try:
        panel = read_usages(path, 300).resources["cpu_cores"].panel
    except InputError as refused:
        assert "would be made of gaps" in str(refused)  # noqa: PT017
        return
    first = panel.start_ns // 10**9 // STEP
    assert int(np.isfinite(panel.values).sum()) == len(want)
    for vm, step, value in want:
        assert panel.values[panel.vms.index(vm), step - first] == pytest.approx(value)


def packed(text: str, how: str, folder: Path) -> bytes:
    if how == "parquet":
        source, path = folder / "plain.csv", folder / "made"
        source.write_text(text)
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{path}' (FORMAT parquet)")
        return path.read_bytes()
    return {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[how](text.encode())


def test_a_folder_of_several_forms_is_one_source(tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    folder.mkdir()
    for number, (how, ending) in enumerate({"plain": "csv", "gzip": "csv.gz", "zstd": "csv.zst", "parquet": "parquet"}.items()):
        (folder / f"{number}.{ending}").write_bytes(packed(csv_of(day([1.0 + number, 2.0], f"v{number}")), how, tmp_path))
    (folder / "README.txt").write_text("no use")
    usages = read_usages(folder)
    assert usages.resources["cpu_cores"].panel.values.tolist() == [[1, 2], [2, 2], [3, 2], [4, 2]]
    assert told(usages, "1 other files of the folder were not read")


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd", "parquet"])
def test_a_file_that_is_cut_or_damaged_is_read_or_refused(tmp_path: Path, how: str) -> None:
    whole = packed(csv_of(day([0.5] * 200)), how, tmp_path)
    path = tmp_path / "cut"
    for size in range(0, len(whole), max(1, len(whole) // 6)):
        for damaged in (whole[:size], whole[:size] + b"\xff\x00" + whole[size + 2 :]):
            path.write_bytes(damaged)
            try:
                values = read_usages(path).resources["cpu_cores"].panel.values
            except InputError as refused:
                assert str(path) in str(refused)  # noqa: PT017
                continue
            assert np.nanmin(values) >= 0


@given(st.binary(max_size=300), st.sampled_from([b"", b"vm,time,cpu_cores\n", b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"{"]))
@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_there_are_they_are_read_or_refused(tmp_path: Path, noise: bytes, begin: bytes) -> None:
    path = tmp_path / ("noise.json" if begin == b"{" else "noise")
    path.write_bytes(begin + noise)
    try:
        read_usages(path)
    except InputError as refused:
        assert "\n" not in str(refused)  # noqa: PT017


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    """1.5 GB of rows in 3 MB is read to the bound on rows, and refused. VmHWM is what this process alone held at most."""
    path = tmp_path / "bomb.csv.gz"
    block = gzip.compress(b"a,1700000100,1\n" * 500_000, 6)
    path.write_bytes(gzip.compress(b"vm,time,cpu_cores\n") + block * 200)
    assert path.stat().st_size < 4_000_000
    script = (
        "import sys; from pathlib import Path; from adumbra.service.usage_table import UsageTable\n"
        "from adumbra.schema.errors import InputError\n"
        "def most_kb(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = most_kb()\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    with UsageTable('bomb', [path], 500_000) as table: table.add_file(path)\n"
        "except InputError as error: print('more than 500,000 rows' in str(error))\n"
        "print((most_kb() - before) // 1024)"
    )
    said = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True"
    assert int(said[1]) < 500  # MB


def test_no_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_usages(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="has no file of measured use"):
        read_usages(tmp_path)
    with pytest.raises(InputError, match="no file of measured use was given"):
        read_usages([])
    (tmp_path / "a*.csv").write_text(csv_of(day([1.0])))
    (tmp_path / "ab.csv").write_text(csv_of(day([2.0], "other")))
    assert read_usages(tmp_path / "a*.csv").resources["cpu_cores"].panel.vms == ("a",)  # a name is a name


def test_a_networks_stored_metrics_are_use_as_well(tmp_path: Path) -> None:
    from adumbra.schema.metrics import METRICS
    from adumbra.schema.records import MetricBatch
    from adumbra.service import networks
    from adumbra.service.usages import usages_of
    from adumbra.service.workspace import Workspace

    spec = (
        "name: lab\ncidrs: [10.1.0.0/24]\nsubnets: [{name: web, cidr: 10.1.0.0/24}]\ninterval: 60s\n"
        "vms: [{name: web, subnet: web, addresses: [10.1.0.5], type: m7i.xlarge}]\n"
    )
    seconds = 60.0
    steps = np.arange(30)
    columns = {each.name: np.zeros((30, 1), np.int64 if each.whole else np.float64) for each in METRICS}
    columns["cpu_seconds"] = np.full((30, 1), 30.0)
    columns["rx_bytes"] = np.full((30, 1), 7_500_000)
    start_ns = (T0 + 60 * steps) * 10**9
    batch = MetricBatch("lab", seconds, ("web",), start_ns, columns, np.zeros((30, 1), np.bool_), "made")
    with Workspace(tmp_path / "home") as workspace:
        networks.create(workspace, spec, "lab.yaml", T0 * 10**9)
        workspace.metrics.write(batch)
        usages = usages_of(workspace, "lab")
        with pytest.raises(InputError, match="a step of 420 s"):
            usages_of(workspace, "lab", 420)
    panel = usages.resources["cpu_cores"].panel
    assert (usages.source, panel.vms, panel.step_s) == ("network:lab", ("web",), 300)
    assert panel.values[0] == pytest.approx([0.5] * 6)
    assert usages.resources["bandwidth_mbps"].panel.values[0] == pytest.approx([1.0] * 6)
    assert usages.resources["cpu_cores"].provisioned.tolist() == [4]
    assert usages.resources["memory_gb"].provisioned.tolist() == [16]
