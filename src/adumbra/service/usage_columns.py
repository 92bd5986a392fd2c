"""The columns of measured use: their names, what is possible in them, and the SQL that reads one from text or a number.

Names and expressions only: reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

MEASURES: tuple[str, ...] = (
    "cpu_cores", "memory_bytes", "rx_bytes_per_s", "tx_bytes_per_s", "storage_bytes", "read_bytes_per_s",
    "write_bytes_per_s", "cpu_cores_provisioned", "memory_bytes_provisioned", "storage_bytes_provisioned",
)  # fmt: skip
"""The columns of a usage file beside `vm` and `time`."""
TOTALS: Mapping[str, str] = {
    "cpu_seconds_total": "cpu_cores", "rx_bytes_total": "rx_bytes_per_s", "tx_bytes_total": "tx_bytes_per_s",
    "read_bytes_total": "read_bytes_per_s", "write_bytes_total": "write_bytes_per_s",
}  # fmt: skip
"""Columns that may be given instead: what was used since some beginning -> what its differences are."""
COLUMNS: tuple[str, ...] = (*MEASURES, *TOTALS)
RATES: tuple[str, ...] = tuple(TOTALS.values())
LATEST_S = 9.2e9  # what fits in ns since the epoch as int64, with room: the year 2261
MAX_CELL = 256  # characters of a value; names, times and numbers have fewer
MAX_LISTED = 5  # names of VMs or columns that a note lists
_MOST_CORES, _MOST_BYTES = 65_536.0, 1e16
_MISSING = "('', 'nan', 'null', 'none', 'na')"
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
            "FLOAT", "DOUBLE")  # fmt: skip


class Told(IntEnum):
    """How a row's time was written."""

    SECONDS = 0
    MILLISECONDS = 1
    MICROSECONDS = 2
    NANOSECONDS = 3
    WITHOUT_ZONE = 4
    WITH_ZONE = 5
    NOT = 6  # it is no time


def most_of(column: str) -> float:
    """The most of a column that a machine has; of totals, of what it may have counted."""
    return _MOST_CORES if column in {"cpu_cores", "cpu_cores_provisioned"} else 1e21 if column in TOTALS else _MOST_BYTES


def unit_of(column: str) -> str:
    """In what a column is given."""
    if column in TOTALS:
        return "seconds" if column.startswith("cpu") else "bytes"
    return "cores" if most_of(column) == _MOST_CORES else "bytes a second" if column.endswith("_per_s") else "bytes"


def is_number(kind: str) -> bool:
    return kind in _NUMBERS or kind.startswith("DECIMAL")


def is_plain(kind: str) -> bool:
    """Whether a column of this kind may hold amounts."""
    return kind == "VARCHAR" or is_number(kind)


def amount_sql(column: str, kind: str) -> str:
    """An amount as DOUBLE: NULL where nothing was told, -infinity for what is no number."""
    if is_number(kind):
        return f"nullif(CAST({column} AS DOUBLE), 'nan'::DOUBLE)"
    text = f"left({column}, {MAX_CELL})"
    missing = f"CASE WHEN {text} IS NULL OR lower(trim({text})) IN {_MISSING} THEN NULL ELSE '-inf'::DOUBLE END"
    return f"coalesce(nullif(TRY_CAST({text} AS DOUBLE), 'nan'::DOUBLE), {missing})"


def time_sql(column: str, kind: str) -> tuple[str, str]:
    """A time as ns since the epoch (BIGINT, NULL for what is none), and how it was written (Told)."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        zoned = "TIME ZONE" in kind
        ns = f"epoch_us({column}) * 1000" if zoned else f"epoch_ns(CAST({column} AS TIMESTAMP_NS))"
        return ns, f"CASE WHEN {column} IS NULL THEN {Told.NOT} ELSE {Told.WITH_ZONE} END"
    text = column if is_number(kind) else f"trim(left(CAST({column} AS VARCHAR), {MAX_CELL}))"
    number = f"TRY_CAST({text} AS DOUBLE)"
    written = f"TRY_CAST(CASE WHEN regexp_matches({text}, '^[0-9]{{4}}-[0-9]') THEN {text} END AS TIMESTAMPTZ)"
    if is_number(kind):
        written = "NULL::TIMESTAMPTZ"
    ns = (
        f"CASE WHEN {number} IS NULL THEN epoch_us({written}) * 1000"
        f" WHEN abs({number}) >= 1e17 THEN coalesce(TRY_CAST({text} AS BIGINT), TRY_CAST(round({number}) AS BIGINT))"
        f" WHEN abs({number}) >= 1e14 THEN TRY_CAST(round({number} * 1e3) AS BIGINT)"
        f" WHEN abs({number}) >= 1e11 THEN TRY_CAST(round({number} * 1e6) AS BIGINT)"
        f" ELSE TRY_CAST(round({number} * 1e9) AS BIGINT) END"
    )
    zone = f"regexp_matches(substr(CAST({text} AS VARCHAR), 11), '([A-Za-z]|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
    told = (
        f"CASE WHEN {number} IS NULL AND {written} IS NULL THEN {Told.NOT}"
        f" WHEN {number} IS NULL THEN CASE WHEN {zone} THEN {Told.WITH_ZONE} ELSE {Told.WITHOUT_ZONE} END"
        f" WHEN NOT isfinite({number}) THEN {Told.NOT}"
        f" WHEN abs({number}) >= 1e17 THEN {Told.NANOSECONDS} WHEN abs({number}) >= 1e14 THEN {Told.MICROSECONDS}"
        f" WHEN abs({number}) >= 1e11 THEN {Told.MILLISECONDS} ELSE {Told.SECONDS} END"
    )
    return ns, told


def shown(text: object, most: int = 63) -> str:
    """A name or value of the user's, short enough and safe to be shown."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:most])


def listed(names: Iterable[object]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else ""
    return ", ".join(shown(name) for name in every[:MAX_LISTED]) + more
