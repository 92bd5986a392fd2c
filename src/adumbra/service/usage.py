"""Reads usage files: what was measured of VMs, one row a VM and time, as CSV or Parquet. Mends what can be, and says so.

Decides nothing about what is read; sends nothing anywhere.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints

MEASURES: tuple[str, ...] = (
    "cpu_cores", "memory_bytes", "rx_bytes_per_s", "tx_bytes_per_s", "storage_bytes", "read_bytes_per_s",
    "write_bytes_per_s", "cpu_cores_provisioned", "memory_bytes_provisioned",
)  # fmt: skip
"""The columns of a usage file beside `vm` and `time`."""
MAX_ROWS = 5_000_000
MAX_LINE = 65_536  # characters
MAX_UNKNOWN = 5  # names of VMs or columns that a note lists
LATEST_S = 9.2e9  # what fits in ns since the epoch as int64, with room: the year 2261
_MOST_CORES, _MOST_BYTES = 65_536.0, 1e16
_MOST = {"cpu_cores": _MOST_CORES, "cpu_cores_provisioned": _MOST_CORES}
"""The most of anything that a machine has; of what isn't named, _MOST_BYTES, or bytes a second."""
MAX_CELL = 256  # characters of a value in Parquet; names, times and numbers have fewer
_SHORTER = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
_HOW = "write one row a VM and time, under a first line such as: vm,time,cpu_cores,memory_bytes"
_ZSTD, _GZIP, _PARQUET = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"PAR1"


@dataclass(frozen=True, slots=True)
class UsageVm:
    """What was measured of one VM. time_ns int64[n], increasing; each value is for [time, time + length_s), the usual distance
    of two times; columns: name -> float64[n], NaN where nothing was told.
    """

    vm: str
    time_ns: Ints
    length_s: float
    columns: Mapping[str, Floats]

    @property
    def end_ns(self) -> int:
        return int(self.time_ns[-1]) + round(self.length_s * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured, from a file or a server. `notes`: in words, what was mended or left out."""

    source: str
    vms: tuple[UsageVm, ...]
    notes: tuple[str, ...] = ()


def read_usage(path: Path, known: Mapping[str, str]) -> Usage:
    """The usage of known VMs: `known` has the VM's name for each name or address by which a file may call it.

    CSV (plain, gzip or zstd) or Parquet, told by its content. Rows in any order; of two with the same VM and time the later
    stands; times without a zone are UTC; epoch times in ms, us or ns are told by their size. Raises InputError with file,
    line (row), what, and how to mend it.
    """
    table = UsageTable(str(path), known)
    try:
        with path.open("rb") as file:
            begins = file.read(4)
        if begins == _PARQUET:
            _read_parquet(path, table)
        else:
            with _decompressed(path, begins) as text:
                _read_csv(text, table)
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path} can't be read ({told})", "give a CSV or Parquet file of measured use") from None
    return table.usage()


@contextmanager
def _decompressed(path: Path, begins: bytes) -> Iterator[io.TextIOBase]:
    import zstandard

    with path.open("rb") as file:
        raw: BinaryIO = file
        if begins.startswith(_GZIP):
            raw = cast("BinaryIO", gzip.GzipFile(fileobj=file))
        elif begins == _ZSTD:
            raw = cast(
                "BinaryIO", zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file, read_across_frames=True)
            )
        try:
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        except (zstandard.ZstdError, gzip.BadGzipFile) as error:
            raise InputError(f"{path} can't be decompressed ({error})", "compress it again, or give it plain") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not text in UTF-8", "give a CSV or Parquet file of measured use") from None


def _lines(text: io.TextIOBase, table: UsageTable) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE or "\0" in line:
            what = f"a line longer than {MAX_LINE:,} characters" if len(line) > MAX_LINE else "a zero byte"
            raise InputError(f"{table.source}:{number}: {what}", "give a CSV or Parquet file of measured use")
        yield line


def _read_csv(text: io.TextIOBase, table: UsageTable) -> None:
    reader = csv.reader(_lines(text, table))
    try:
        first = next(reader, None)
        if first is None:
            raise InputError(f"{table.source} is empty", _HOW)
        table.begin(first, f"{table.source}:1")
        for row in reader:
            if not row:
                continue
            where = f"{table.source}:{reader.line_num}"
            if len(row) != len(first):
                raise InputError(
                    f"{where}: {len(row)} values under {len(first)} columns", "give each row as many as the first line"
                )
            table.add(row, where)
    except csv.Error as error:
        raise InputError(f"{table.source}:{reader.line_num}: this is not CSV ({error})", _HOW) from None


def _read_parquet(path: Path, table: UsageTable) -> None:
    import duckdb

    config: dict[str, Any] = {
        "memory_limit": "1GB", "threads": 2,
        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
    }  # fmt: skip
    try:
        with duckdb.connect(config=config) as connection:
            source = [str(path.resolve())]
            connection.execute("SET allowed_paths = ?", [source])  # this file, and no SQL can reach another
            connection.execute("SET enable_external_access = false")
            described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", source).fetchall()
            kinds = {str(name): str(kind) for name, kind, *_ in described}
            wanted = table.begin(list(kinds), str(path))
            chosen = ", ".join(_as_plain(name, kinds[name]) for name in wanted)
            result = connection.execute(f"SELECT {chosen} FROM read_parquet(?)", source)  # noqa: S608
            table.keep_only(wanted)
            number = 0
            while rows := result.fetchmany(2_000):
                for row in rows:
                    number += 1
                    table.add(row, f"{path}: row {number}")
    except duckdb.Error as error:
        first_line = (str(error).strip().splitlines() or ["unknown"])[0][:200]
        raise InputError(f"{path} is no Parquet file that can be read ({first_line})", "write it again, or give CSV") from None


def _as_plain(name: str, kind: str) -> str:
    """The SQL that gives a column as text or a number, and a time as text or ns since the epoch."""
    quoted = '"' + name.replace('"', '""') + '"'
    if name.strip().lower() == "time" and kind.startswith(("TIMESTAMP", "DATE")):
        return f"epoch_ns(CAST({quoted} AS TIMESTAMP_NS))" if "TIME ZONE" not in kind else f"epoch_us({quoted}) * 1000"
    return f"left(CAST({quoted} AS VARCHAR), {MAX_CELL})" if kind not in {"DOUBLE", "FLOAT", "BIGINT", "INTEGER"} else quoted


@dataclass(slots=True)
class _Rows:
    times: array[int] = field(default_factory=lambda: array("q"))
    values: list[array[float]] = field(default_factory=list)


class UsageTable:
    """Rows as they are read, by VM, and what had to be mended."""

    def __init__(self, source: str, known: Mapping[str, str]) -> None:
        self.source = source
        self._known = known
        self._vm_at = self._time_at = -1
        self._at: dict[str, int] = {}
        self._rows: dict[str, _Rows] = {}
        self._count = 0
        self._ignored: list[str] = []
        self._unknown: Counter[str] = Counter()
        self._mended: Counter[str] = Counter()

    def begin(self, names: Sequence[str], where: str) -> list[str]:
        """Takes the names of the columns; gives those that are wanted, as they are written."""
        told = [name.strip().lower() for name in names]
        for needed in ("vm", "time"):
            if needed not in told:
                raise InputError(f"{where}: there is no column {needed!r}", _HOW)
        double = next((name for name, count in Counter(told).items() if count > 1 and name in {*MEASURES, "vm", "time"}), None)
        if double is not None:
            raise InputError(f"{where}: the column {double!r} is there twice", "leave one")
        if not set(told) & set(MEASURES):
            raise InputError(f"{where}: there is no column of use", f"give any of {', '.join(MEASURES)}")
        self._ignored = [name for name in told if name not in {*MEASURES, "vm", "time"}]
        self._place(told)
        return [name for name, plain in zip(names, told, strict=True) if plain in {*MEASURES, "vm", "time"}]

    def keep_only(self, names: Sequence[str]) -> None:
        """Rows come with these columns only from now on."""
        self._place([name.strip().lower() for name in names])

    def _place(self, told: list[str]) -> None:
        self._vm_at, self._time_at = told.index("vm"), told.index("time")
        self._at = {name: told.index(name) for name in MEASURES if name in told}

    def add(self, row: Sequence[Any], where: str) -> None:
        """A row, its values as text or numbers. Raises InputError for one that can't be."""
        self._count += 1
        if self._count > MAX_ROWS:
            raise InputError(
                f"{self.source} has more than {MAX_ROWS:,} rows", "give a shorter time, or means over longer steps"
            )
        called = str(row[self._vm_at]).strip()
        vm = self._known.get(called)
        if vm is None:
            if len(self._unknown) < 1000 or called in self._unknown:
                self._unknown[called] += 1
            return
        time_ns = self._time_ns(row[self._time_at], where)
        values = [_amount(row[place], name, where) for name, place in self._at.items()]
        rows = self._rows.get(vm)
        if rows is None:
            rows = self._rows[vm] = _Rows(values=[array("d") for _ in self._at])
        rows.times.append(time_ns)
        for column, value in zip(rows.values, values, strict=True):
            column.append(value)

    def _time_ns(self, given: Any, where: str) -> int:
        if isinstance(given, int) and not isinstance(given, bool) and abs(given) >= 1e17:
            return self._in_range(given, where)  # exact ns
        text = str(given).strip()
        try:
            seconds = float(text)
        except ValueError:
            return self._in_range(self._iso_ns(text, where), where)
        for least, per_second, unit in _SHORTER:
            if abs(seconds) >= least:
                self._mended[f"times are taken as {unit} since the epoch"] += 1
                seconds /= per_second
                break
        if not math.isfinite(seconds):
            raise InputError(f"{where}: the time {text[:40]!r} is no time", "give ISO 8601, or seconds since the epoch")
        return self._in_range(round(seconds * NANOSECONDS), where)

    def _iso_ns(self, text: str, where: str) -> int:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"{where}: the time {text[:40]!r} is no time",
                "give ISO 8601 such as 2026-01-31T12:00:00Z, or seconds since the epoch",
            ) from None
        if when.tzinfo is None:
            self._mended["times without a zone are taken as UTC"] += 1
            when = when.replace(tzinfo=UTC)
        whole = when - datetime(1970, 1, 1, tzinfo=UTC)
        return (whole.days * 86_400 + whole.seconds) * NANOSECONDS + whole.microseconds * 1000

    def _in_range(self, time_ns: int, where: str) -> int:
        if not 0 <= time_ns <= LATEST_S * NANOSECONDS:
            raise InputError(f"{where}: the time lies outside 1970 to 2261", "give ISO 8601, or seconds since the epoch")
        return time_ns

    def usage(self) -> Usage:
        """What was read. Raises InputError where none of it is of a known VM."""
        if not self._rows:
            if not self._count:
                raise InputError(f"{self.source} has no rows", _HOW)
            raise InputError(
                f"{self.source} has no row of a VM of this network (it has {_listed(self._unknown)})",
                f"call them as the network does: {_listed(dict.fromkeys(self._known.values()))}",
            )
        repeated, turned = 0, 0
        vms = []
        for vm, rows in self._rows.items():
            times = np.frombuffer(rows.times, np.int64)
            turned += int((np.diff(times) < 0).any())
            order = np.argsort(times, kind="stable")
            last = np.append(np.diff(times[order]) > 0, True)  # of equal times, the one that came last
            repeated += int((~last).sum())
            kept = order[last]
            columns = {
                name: np.frombuffer(values, np.float64)[kept] for name, values in zip(self._at, rows.values, strict=True)
            }
            vms.append(UsageVm(vm, times[kept], _usual_step_s(times[kept]), columns))
        return Usage(self.source, tuple(vms), tuple(self._notes(repeated, turned)))

    def _notes(self, repeated: int, turned: int) -> Iterator[str]:
        for what, count in self._mended.items():
            yield f"{what} ({count:,} rows)"
        if repeated:
            yield f"{repeated:,} rows repeat a VM and time; the last of each stands"
        if turned:
            yield f"the rows of {turned} VMs were out of order, and were sorted"
        if self._unknown:
            rows = sum(self._unknown.values())
            yield f"{rows:,} rows are of machines that the network doesn't have: {_listed(self._unknown)}"
        if self._ignored:
            yield f"columns that mean nothing here: {_listed(self._ignored)}"


def _amount(given: Any, name: str, where: str) -> float:
    """A measured amount; NaN where nothing is told. Raises InputError for what can't be one."""
    if given is None:
        return math.nan
    text = str(given).strip()
    if not text or text.lower() in {"nan", "null", "none", "na"}:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise InputError(
            f"{where}: {name} is {text[:40]!r}, which is no number", "leave it empty where nothing was measured"
        ) from None
    if not 0 <= value <= _MOST.get(name, _MOST_BYTES):
        unit = "cores" if name in _MOST else "bytes a second" if name.endswith("_per_s") else "bytes"
        mend = f"give {unit}, and leave it empty where nothing was measured"
        raise InputError(f"{where}: {name} is {text[:40]}, which no machine has", mend)
    return value


def _usual_step_s(times: Ints) -> float:
    """The usual distance of two times, to the millisecond; 0 where there is one only."""
    return round(float(np.median(np.diff(times))) / NANOSECONDS, 3) if len(times) > 1 else 0.0


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name[:63]) for name in every[:MAX_UNKNOWN])
    return shown + (f" and {len(every) - MAX_UNKNOWN} more" if len(every) > MAX_UNKNOWN else "")
