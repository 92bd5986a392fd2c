"""Writes InfluxQL and reads its answers. Pure: asks no server. (docs.influxdata.com/influxdb/v1, InfluxQL reference.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from adumbra.schema.errors import StoreError
from adumbra.schema.metrics import Metric, Rollup
from adumbra.schema.records import Floats, Ints
from adumbra.store.lines import MEASUREMENT, tag

FIRST_NS, LAST_NS = -(2**63) + 2, 2**63 - 2
"""The times that InfluxDB knows."""

_NO_ANSWER = ("what was answered is no answer of InfluxDB", "is it InfluxDB, and does it take InfluxQL?")
_FUNCTIONS = {Rollup.SUM: "SUM", Rollup.MEAN: "MEAN", Rollup.MAX: "MAX", Rollup.LAST: "LAST"}


def identifier(name: str) -> str:
    """A name in double quotes, whatever is in it."""
    return '"' + _within(name).replace('"', '\\"') + '"'


def string(text: str) -> str:
    """A string in single quotes, whatever is in it."""
    return "'" + _within(text).replace("'", "\\'") + "'"


def _within(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def is_tagged(**tags: str) -> list[str]:
    """The conditions that points have just these tags."""
    return [f"{identifier(name)} = {string(tag(value))}" for name, value in tags.items()]


def any_of(name: str, values: Iterable[str]) -> str:
    """The condition that a tag has one of these values."""
    return "(" + " OR ".join(f"{identifier(name)} = {string(tag(value))}" for value in values) + ")"


def within(start_ns: int | None, end_ns: int | None) -> list[str]:
    """The conditions that points lie at start_ns or later, and before end_ns."""
    bounds = [] if start_ns is None else [f"time >= {min(max(start_ns, FIRST_NS), LAST_NS)}"]
    return bounds if end_ns is None else [*bounds, f"time < {min(max(end_ns, FIRST_NS), LAST_NS)}"]


def select(what: Iterable[str], where: Iterable[str], by: Iterable[str] = ()) -> str:
    """A SELECT from the measurement; `what` and `by` are InfluxQL, see `field` and `identifier`."""
    grouped = ", ".join(by)
    return f"SELECT {', '.join(what)} FROM {identifier(MEASUREMENT)} WHERE {' AND '.join(where)}" + (  # noqa: S608 quoted above
        f" GROUP BY {grouped}" if grouped else ""
    )


def delete(where: Iterable[str]) -> str:
    """A DELETE from the measurement; `where` may name tags and time only."""
    return f"DELETE FROM {identifier(MEASUREMENT)} WHERE {' AND '.join(where)}"  # noqa: S608 quoted above


def rolled_up(metric: Metric) -> str:
    """The call that makes one value of a column's values in a cell, as the catalogue says."""
    return f"{_FUNCTIONS[metric.rollup]}({identifier(metric.name)})"


def cells(step_ns: int, start_ns: int) -> str:
    """The grouping into cells of step_ns, one of which begins at start_ns."""
    return f"time({step_ns}ns, {start_ns % step_ns}ns)"


@dataclass(frozen=True, slots=True)
class Table:
    """A series of an answer: its tags, as they are stored; time_ns int64[n]; columns; rows as they came, time first."""

    tags: Mapping[str, str]
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    @property
    def time_ns(self) -> Ints:
        return self._array([row[0] for row in self.rows], np.int64, (len(self.rows),))

    @property
    def values(self) -> Floats:
        """float64[n, C] of what is after the time; what isn't there is NaN."""
        return self._array([row[1:] for row in self.rows], np.float64, (len(self.rows), len(self.columns) - 1))

    def _array(self, values: list[Any], kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
        try:
            return np.array(values, kind).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise StoreError(*_NO_ANSWER) from error


def read_answer(body: bytes, statements: int, hidden: Callable[[str], str] = str) -> list[list[Table]]:
    """The tables of each statement. Raises StoreError for what is no answer, and for one that says why there is none,
    without what `hidden` takes out of it.

    The answer comes in chunks, a line each: then the first error is told, and no limit on rows cuts it short. A database that
    isn't there holds nothing.
    """
    told: list[list[Table]] = [[] for _ in range(statements)]
    heard, error = set[int](), ""
    try:
        for chunk in body.splitlines():
            results = from_json(chunk)
            for result in results.get("results", []) if "error" not in results else [results]:
                error = error or str(result.get("error", ""))
                if not error:
                    told[result["statement_id"]] += map(_table, result.get("series", ()))
                    heard.add(result["statement_id"])
    except (ValueError, LookupError, TypeError, AttributeError) as wrong:
        raise StoreError(*_NO_ANSWER) from wrong
    if error and not error.startswith("database not found"):
        raise StoreError(f"InfluxDB says: {hidden(error[:300])}", "see its log")
    if not error and heard != set(range(statements)):
        raise StoreError(*_NO_ANSWER)
    return told


def _table(series: Mapping[str, Any]) -> Table:
    table = Table(dict(series.get("tags", {})), tuple(series["columns"]), series.get("values", []))
    if (
        series["name"] != MEASUREMENT
        or any(len(row) != len(table.columns) for row in table.rows)
        or not all(isinstance(value, str) for value in table.tags.values())
    ):
        raise ValueError("it is not what was asked for")
    return table


def in_groups(names: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """The names, at most so many at a time."""
    return (names[first : first + most] for first in range(0, len(names), most))
