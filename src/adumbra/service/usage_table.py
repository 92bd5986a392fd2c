"""Rows of measured use, from files of any size: read into a temporary table, checked there, given back sorted by VM and time.

Mends nothing beyond how times are written; says nothing of what the values mean.
"""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.service.usage_columns import (
    COLUMNS,
    LATEST_S,
    MAX_CELL,
    Told,
    amount_sql,
    is_plain,
    listed,
    most_of,
    shown,
    time_sql,
    unit_of,
)  # fmt: skip
from adumbra.service.usage_csv import HOW, Layout, layout_of, readable, rows_of

if TYPE_CHECKING:
    import duckdb

MAX_ROWS = 50_000_000
MAX_VM_ROWS = 4_000_000
MAX_NAMES = 100_000
BATCH_ROWS = 1_000_000
MEMORY = "400MB"  # of DuckDB's own; what is beyond goes to the temporary folder
SCRATCH = "40GB"
SMALL_BYTES = 64 * 2**20
MOST_IMPOSSIBLE = 0.01
"""The share of a column's values that may be impossible and become gaps; above it the column is not what it is called."""
_PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of some VMs, sorted by VM and time. vms: their names; code int64[n]: which of them a row is of, increasing;
    time_ns int64[n]; row int64[n]: its place in the source; columns: name -> float64[n], NaN where nothing was told.
    """

    vms: tuple[str, ...]
    code: Ints
    time_ns: Ints
    row: Ints
    columns: Mapping[str, Floats]


@dataclass(slots=True)
class _File:
    """One file's rows in the table, from the first on. Its layout where it is CSV; told: what it is called, if it is none."""

    path: Path
    first: int
    layout: Layout | None = None
    told: str = ""


@dataclass(slots=True)
class Found:
    """What was met while reading: rows; times by how they were written; impossible values by column; columns without a
    meaning; rows without a VM's name.
    """

    rows: int = 0
    told: Counter[Told] = field(default_factory=Counter)
    impossible: Counter[str] = field(default_factory=Counter)
    ignored: list[str] = field(default_factory=list)
    nameless: int = 0


class UsageTable:
    """Opened by `with`; files are added, then read back. source: what all of it is called in errors; files: those that may be
    added; kept: the columns that are wanted of those that are told.
    """

    def __init__(
        self, source: str, files: Sequence[Path] = (), most_rows: int = MAX_ROWS, kept: Collection[str] = COLUMNS
    ) -> None:
        self.source = source
        self._readable = files
        self._kept = frozenset(kept)
        self.found = Found()
        self.columns: list[str] = []
        self._most_rows = most_rows
        self._stack = ExitStack()
        self._con: duckdb.DuckDBPyConnection

    def __enter__(self) -> Self:
        made = tempfile.TemporaryDirectory(prefix="adumbra-usage-", ignore_cleanup_errors=True)
        with ExitStack() as opening:
            self._folder = Path(opening.enter_context(made))
            self._con = opening.enter_context(self._opened())
            self._stack = opening.pop_all()
        return self

    def _opened(self) -> duckdb.DuckDBPyConnection:
        """A database of its own, which reaches the files that may be added and no other."""
        import duckdb

        folder = self._folder
        config: dict[str, Any] = {
            "memory_limit": MEMORY, "threads": 2, "temp_directory": str(folder / "spill"),
            "max_temp_directory_size": SCRATCH, "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false", "preserve_insertion_order": "true",
        }  # fmt: skip
        database = folder / "rows.duckdb" if _bytes_of(self._readable) > SMALL_BYTES else ":memory:"  # what is large is packed
        con = duckdb.connect(database, config=config)
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET enable_progress_bar = false")  # it would stand in our output
        con.execute("SET allowed_directories = ?", [[str(folder.resolve())]])  # no SQL can reach another file
        con.execute("SET allowed_paths = ?", [[str(path.resolve()) for path in self._readable]])
        con.execute("SET enable_external_access = false")
        amounts = ", ".join(f"{name} DOUBLE" for name in COLUMNS)
        con.execute(f"CREATE TABLE told (vm VARCHAR, time_ns BIGINT, told TINYINT, {amounts})")
        return con

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add_file(self, path: Path) -> None:
        """A CSV file (plain, gzip or zstd) or a Parquet file, told by its content. Raises InputError with file, line (row),
        what, and how to mend it.
        """
        with readable(path):
            if is_parquet(path):
                self.add_parquet(path)
            else:
                self.add_csv(layout_of(path))

    def add_rows(self, vms: Sequence[str], time_ns: Ints, columns: Mapping[str, Floats], where: str) -> None:
        """Rows that aren't a usage file's, n each: VMs' names, time_ns int64[n], columns float64[n], NaN where nothing is told.
        where: what a row is called in errors. Raises InputError for amounts that can't be.
        """
        kept = {name: values for name, values in columns.items() if name in self._kept}
        if not len(time_ns) or not kept:
            return
        given = {"vm": np.array(vms, object), "time_ns": np.asarray(time_ns, np.int64)}
        self._con.register("given", given | {name: np.asarray(values, np.float64) for name, values in kept.items()})
        amounts = "".join(f", nullif({name}, 'nan'::DOUBLE)" for name in kept)
        into = f"vm, time_ns, told, {', '.join(kept)}"
        self._con.execute(f"INSERT INTO told ({into}) SELECT trim(vm), time_ns, {Told.WITH_ZONE}{amounts} FROM given")  # noqa: S608
        self._con.unregister("given")
        self.columns += [name for name in kept if name not in self.columns]
        self._check(_File(Path(where), self.found.rows, told=where))

    def add_parquet(self, path: Path) -> None:
        """A Parquet file. Raises as add_file does."""
        import duckdb

        file = _File(path, self.found.rows)
        linked = self._linked(path)
        try:
            described = self._con.execute("DESCRIBE SELECT * FROM read_parquet(?)", [linked]).fetchall()
            kinds = {str(name): str(kind) for name, kind, *_ in described}
            wanted = self._wanted(list(kinds), str(path))
            self._insert(
                {plain: ('"' + name.replace('"', '""') + '"', kinds[name]) for plain, name in wanted.items()},
                "read_parquet(?)", [linked],
            )  # fmt: skip
        except duckdb.Error as error:
            raise InputError(
                f"{path} is no Parquet file that can be read ({_first_line(error)})", "write it again, or give CSV"
            ) from None
        self._check(file)

    def add_csv(self, layout: Layout) -> None:
        """A CSV file. Raises as add_file does."""
        import duckdb

        file = _File(layout.path, self.found.rows, layout=layout)
        wanted = self._wanted(layout.names, f"{layout.path}:1")
        places = {plain: (f"c{layout.names.index(name)}", "VARCHAR") for plain, name in wanted.items()}
        try:
            self._insert(places, _csv_sql(layout), [self._linked(layout.path), layout.packing])
        except duckdb.OutOfMemoryException as error:
            raise InputError(
                f"{layout.path} takes too much room to be read ({_first_line(error)})", "give fewer rows"
            ) from None
        except duckdb.Error:
            again = self._written_again(layout)  # or says which line is wrong
            try:
                self._insert(places, _csv_sql(again), [str(again.path), "none"])
            except duckdb.Error as error:
                raise InputError(f"{layout.path} can't be read as CSV ({_first_line(error)})", HOW) from None
            again.path.unlink()
        self._check(file)

    def _linked(self, path: Path) -> str:
        """A name by which DuckDB reads this file and no other: what a user's name means to it is not left to it."""
        link = self._folder / "source"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        return str(link)

    def _written_again(self, layout: Layout) -> Layout:
        """The same rows, written as every reader takes them, such as one whose lines end in several ways."""
        path = self._folder / "again.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([f"c{number}" for number in range(len(layout.names))])
            for number, (_, row) in enumerate(rows_of(layout)):
                if number > self._most_rows or (number % 100_000 == 0 and shutil.disk_usage(self._folder).free < 2**30):
                    break
                writer.writerow(row)
        return Layout(path, layout.names, ",", "none")

    def _wanted(self, names: Sequence[str], where: str) -> dict[str, str]:
        """The columns that mean something, as they are written in the file."""
        told = [name.strip().lower() for name in names]
        known = {*COLUMNS, "vm", "time"}
        for needed in ("vm", "time"):
            if needed not in told:
                raise InputError(f"{where}: there is no column {needed!r}", HOW)
        double = next((name for name, count in Counter(told).items() if count > 1 and name in known), None)
        if double is not None:
            raise InputError(f"{where}: the column {double!r} is there twice", "leave one")
        if not set(told) & set(COLUMNS):
            raise InputError(f"{where}: there is no column of use", f"give any of {', '.join(COLUMNS)}")
        ignored = [name for name in told if name not in known and name not in self.found.ignored]
        self.found.ignored += ignored[: max(0, 1_000 - len(self.found.ignored))]
        return {plain: name for name, plain in zip(names, told, strict=True) if plain in known}

    def _insert(self, columns: Mapping[str, tuple[str, str]], source: str, given: list[str]) -> None:
        """columns: plain name -> its SQL name and kind in the source."""
        for name, (_, kind) in columns.items():
            if name not in {"vm", "time"} and not is_plain(kind):
                raise InputError(f"{self.source}: the column {name} holds {shown(kind)}, no numbers", "give numbers")
        time, told = time_sql(*columns["time"])
        amounts = {name: amount_sql(*how) for name, how in columns.items() if name in self._kept}
        vm = f"trim(left(CAST({columns['vm'][0]} AS VARCHAR), {MAX_CELL}))"
        into = ", ".join(("vm", "time_ns", "told", *amounts))
        chosen = ", ".join((vm, time, told, *amounts.values()))
        left = self._most_rows + 1 - self.found.rows
        self._con.execute(f"INSERT INTO told ({into}) SELECT {chosen} FROM {source} LIMIT {left}", given)  # noqa: S608
        self.columns += [name for name in amounts if name not in self.columns]

    def _check(self, file: _File) -> None:
        """Raises InputError for the first row of a file that can't be; counts the rest."""
        names = [name for name in COLUMNS if name in self.columns]
        odd = [f"count({n}), count(*) FILTER ({n} = '-inf'), count(*) FILTER ({_impossible(n)})" for n in names]
        late = f"count(*) FILTER (time_ns NOT BETWEEN 0 AND {int(LATEST_S) * NANOSECONDS})"
        kinds = [f"count(*) FILTER (told = {kind:d})" for kind in Told]
        asked = ", ".join(("count(*)", "count(*) FILTER (time_ns IS NULL)", late, "count(*) FILTER (vm IS NULL OR vm = '')",
                           "count(*) FILTER (contains(vm, chr(0)))", *kinds, *odd))  # fmt: skip
        told = self._one(f"SELECT {asked} FROM told WHERE rowid >= {file.first}")  # noqa: S608
        count, timeless, late_count, nameless, zeros, *rest = (int(each) for each in told)
        self.found.rows += count
        if self.found.rows > self._most_rows:
            raise InputError(
                f"{self.source} has more than {self._most_rows:,} rows", "give a shorter time, or means over longer steps"
            )
        if timeless or zeros:
            self._refuse("time_ns IS NULL" if timeless else "contains(vm, chr(0))", "time", file)
        if late_count:
            self._refuse(f"time_ns NOT BETWEEN 0 AND {int(LATEST_S) * NANOSECONDS}", "range", file)
        self.found.nameless += nameless
        self.found.told.update(dict(zip(Told, rest, strict=False)))
        for name, values, texts, impossible in zip(names, *(rest[len(Told) + i :: 3] for i in range(3)), strict=True):
            if texts:
                self._refuse(f"{name} = '-inf'", name, file)
            if impossible > MOST_IMPOSSIBLE * values:
                self._refuse(_impossible(name), name, file)
            self.found.impossible[name] += impossible

    def _refuse(self, condition: str, column: str, file: _File) -> None:
        """Raises InputError for the first row of a file that meets a condition."""
        sql = f"SELECT min(rowid) FROM told WHERE rowid >= {file.first} AND {condition}"  # noqa: S608
        found = self._one(sql)
        where, text = self._place(int(found[0]) - file.first, "time" if column == "range" else column, file)
        if column == "range":
            raise InputError(f"{where}: the time lies outside 1970 to 2261", "give ISO 8601, or seconds since the epoch")
        if column == "time":
            mend = "give ISO 8601 such as 2026-01-31T12:00:00Z, or seconds since the epoch"
            raise InputError(f"{where}: the time {shown(text, 40)!r} is no time", mend)
        try:
            float(text)
        except ValueError:
            raise InputError(
                f"{where}: {column} is {shown(text, 40)!r}, which is no number", "leave it empty where nothing was measured"
            ) from None
        mend = f"give {unit_of(column)}, and leave it empty where nothing was measured"
        raise InputError(f"{where}: {column} is {shown(text, 40)}, which no machine has", mend)

    def _place(self, number: int, column: str, file: _File) -> tuple[str, str]:
        """Where the number-th row of a file stands, and what it has in a column, as it is written there."""
        if file.layout is not None:
            at = [name.strip().lower() for name in file.layout.names].index(column)
            for counted, (line, row) in enumerate(rows_of(file.layout)):
                if counted == number:
                    return f"{file.path}:{line}", row[at].strip()
            return f"{file.path}", ""
        if file.told:
            return file.told, str(self._one(f"SELECT {column} FROM told WHERE rowid = {file.first + number}")[0])  # noqa: S608
        described = self._con.execute("DESCRIBE SELECT * FROM read_parquet(?)", [self._linked(file.path)]).fetchall()
        name = next(str(each) for each, *_ in described if str(each).strip().lower() == column)
        quoted = '"' + name.replace('"', '""') + '"'
        sql = (
            f"SELECT left(CAST({quoted} AS VARCHAR), {MAX_CELL}) "  # noqa: S608
            "FROM read_parquet(?, file_row_number=true) WHERE file_row_number = ?"
        )
        return f"{file.path}: row {number + 1}", str(self._one(sql, [self._linked(file.path), number])[0])

    def _one(self, sql: str, given: list[Any] | None = None) -> tuple[Any, ...]:
        """The one row of an answer."""
        (row,) = self._con.execute(sql, given).fetchall()
        return tuple(row)

    def names(self, known: Mapping[str, str] | None = None) -> dict[str, int]:
        """Each VM's name and how many rows it has, sorted by name. known: the VM's name for each by which the source may call
        it; rows of others are left out. Without: all, each as it is written. Raises InputError for names that can't be one.
        """
        con = self._con
        con.execute("CREATE OR REPLACE TABLE names (called VARCHAR, code INTEGER)")
        if known is None:
            sql = "SELECT count(*), max(length(vm)) FROM (SELECT DISTINCT vm FROM told WHERE vm <> '')"
            count, longest = self._one(sql)
            if count > MAX_NAMES:
                raise InputError(f"{self.source} has {count:,} VMs", f"give no more than {MAX_NAMES:,}: a part of them")
            if count and longest >= MAX_CELL:
                raise InputError(f"{self.source} has a VM whose name has {MAX_CELL} characters or more", "give shorter names")
            known = {str(vm): str(vm) for (vm,) in con.execute("SELECT DISTINCT vm FROM told WHERE vm <> ''").fetchall()}
        self._vms = tuple(sorted(set(known.values())))
        code = {vm: number for number, vm in enumerate(self._vms)}
        called, codes = np.array(list(known), object), np.array([code[vm] for vm in known.values()], np.int32)
        if len(called):
            con.register("given", {"called": called, "code": codes})
            con.execute("INSERT INTO names SELECT called, code FROM given")
            con.unregister("given")
        counted = con.execute(
            "SELECT code, count(*) FROM told JOIN names ON vm = called GROUP BY code ORDER BY code"
        ).fetchall()
        return {self._vms[number]: int(count) for number, count in counted}

    def unknown(self) -> tuple[dict[str, int], int]:
        """The first names (at most 1,000) that `names` didn't know, with their rows, and how many rows they have in all."""
        where = "FROM told WHERE vm <> '' AND vm NOT IN (SELECT called FROM names)"
        (rows,) = self._one(f"SELECT count(*) {where}")
        sql = f"SELECT vm, count(*), min(rowid) AS first {where} GROUP BY vm ORDER BY first LIMIT 1000"
        return {str(vm): int(count) for vm, count, _ in self._con.execute(sql).fetchall()}, int(rows)

    def times(self, vms: Sequence[str]) -> Iterator[Ints]:
        """Each of these VMs' times, int64[n], in order."""
        for vm in vms:
            sql = "SELECT time_ns FROM told JOIN names ON vm = called WHERE code = ? ORDER BY time_ns"
            yield np.asarray(self._con.execute(sql, [self._vms.index(vm)]).fetchnumpy()["time_ns"], np.int64)

    def span_ns(self, between: tuple[int, int] = (0, 2**63 - 1)) -> tuple[int, int] | None:
        """The first and the last time within [from, to) of the VMs that `names` knew; None where there is none."""
        sql = "SELECT min(time_ns), max(time_ns) FROM told JOIN names ON vm = called WHERE time_ns >= ? AND time_ns < ?"
        first, last = self._one(sql, list(between))
        return None if first is None else (int(first), int(last))

    def batches(
        self, counts: Mapping[str, int], columns: Sequence[str], between: tuple[int, int] = (0, 2**63 - 1)
    ) -> Iterator[Rows]:
        """The rows of VMs, as `names` gave them, some VMs at a time: whole VMs, about BATCH_ROWS rows. What is impossible in a
        column is a gap. Raises InputError for a VM with more rows than can be sorted at a time.
        """
        taken: list[str] = []
        held = 0
        for vm, count in counts.items():
            if count > MAX_VM_ROWS:
                raise InputError(
                    f"{self.source} has {count:,} rows of {shown(vm)}",
                    f"give no more than {MAX_VM_ROWS:,}: means over longer steps, or a shorter time",
                )
            if taken and held + count > BATCH_ROWS:
                yield self._batch(taken, columns, between)
                taken, held = [], 0
            taken.append(vm)
            held += count
        if taken:
            yield self._batch(taken, columns, between)

    def _batch(self, vms: list[str], columns: Sequence[str], between: tuple[int, int]) -> Rows:
        first, last = self._vms.index(vms[0]), self._vms.index(vms[-1])
        chosen = "".join(f", CASE WHEN NOT ({_impossible(name)}) THEN {name} END AS {name}" for name in columns)
        sql = (
            f"SELECT code, time_ns, told.rowid AS row{chosen} FROM told JOIN names ON vm = called "  # noqa: S608
            "WHERE code BETWEEN ? AND ? AND time_ns >= ? AND time_ns < ? ORDER BY code, time_ns, row"
        )
        got = self._con.execute(sql, [first, last, *between]).fetchnumpy()
        place = np.full(last - first + 1, -1, np.int64)
        place[[self._vms.index(vm) - first for vm in vms]] = np.arange(len(vms))
        amounts = {name: np.ma.filled(np.ma.asarray(got[name], np.float64), math.nan) for name in columns}
        return Rows(
            tuple(vms), place[np.asarray(got["code"], np.int64) - first], np.asarray(got["time_ns"], np.int64),
            np.asarray(got["row"], np.int64), amounts,
        )  # fmt: skip

    def notes(self) -> Iterator[str]:
        """In words, what was mended or left out while reading."""
        units = {
            Told.MILLISECONDS: "milliseconds", Told.MICROSECONDS: "microseconds", Told.NANOSECONDS: "nanoseconds"
        }  # fmt: skip
        for kind, unit in units.items():
            if self.found.told[kind]:
                yield f"times are taken as {unit} since the epoch ({self.found.told[kind]:,} rows)"
        if count := self.found.told[Told.WITHOUT_ZONE]:
            yield f"times without a zone are taken as UTC ({count:,} rows)"
        for name, count in self.found.impossible.items():
            if count:
                yield f"{count:,} values of {name} are negative, or more than any machine has: gaps now"
        if self.found.nameless:
            yield f"{self.found.nameless:,} rows name no VM: left out"
        if self.found.ignored:
            yield f"columns that mean nothing here: {listed(self.found.ignored)}"


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _PARQUET


def _bytes_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def _impossible(column: str) -> str:
    return f"{column} NOT BETWEEN 0 AND {most_of(column):.1f}"


def _csv_sql(layout: Layout) -> str:
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(layout.names)))
    delimiter = {"\t": "\\t"}.get(layout.delimiter, layout.delimiter)
    return (
        f"read_csv(?, columns = {{{columns}}}, auto_detect = false, header = true, delim = '{delimiter}', quote = '\"', "
        "escape = '\"', nullstr = '', compression = ?, max_line_size = 65536, strict_mode = true)"
    )


def _first_line(error: Exception) -> str:
    return shown((str(error).strip().splitlines() or ["unknown"])[0], 200)
