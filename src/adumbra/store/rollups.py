"""The SQL of roll-ups, made from the metric catalogue: one way for all levels. Text only; touches no database.

A column of a roll-up's cell is beside its value what it takes to roll it up further without loss: a mean's `_ns`, the time
that its known values cover, and of a last value `_at`, when the interval began that it is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adumbra.schema.metrics import METRICS, Metric, Rollup
from adumbra.store.levels import RAW, Level

RAW_KEYS: dict[str, str] = {
    "network": "INTEGER NOT NULL", "vm": "INTEGER NOT NULL", "start_ns": "BIGINT NOT NULL", "interval_ns": "BIGINT NOT NULL",
    "one_sided": "BOOLEAN NOT NULL", "source": "VARCHAR NOT NULL",
}  # fmt: skip
ROLLED_KEYS: dict[str, str] = {
    "network": "INTEGER NOT NULL", "vm": "INTEGER NOT NULL", "start_ns": "BIGINT NOT NULL", "rows_in": "BIGINT NOT NULL",
    "one_sided": "BIGINT NOT NULL",
}  # fmt: skip
"""`rows_in`: how many intervals went in; `one_sided`: how many of them only one side was seen of."""


def kind_of(metric: Metric) -> str:
    return "BIGINT" if metric.whole else "DOUBLE"


def _beside(metric: Metric) -> str | None:
    """The name of what is kept beside a column's value, if anything is."""
    return {Rollup.MEAN: f"{metric.name}_ns", Rollup.LAST: f"{metric.name}_at"}.get(metric.rollup)


def columns_of(level: Level) -> dict[str, str]:
    """The columns of a level's table and their types."""
    if level == RAW:
        return RAW_KEYS | {metric.name: kind_of(metric) for metric in METRICS}
    columns = dict(ROLLED_KEYS)
    for metric in METRICS:
        columns[metric.name] = kind_of(metric)
        if (beside := _beside(metric)) is not None:
            columns[beside] = "BIGINT"
    return columns


def ready(level: Level, metrics: Sequence[Metric]) -> str:
    """The columns of a level's rows in the form that is rolled up, the same from raw intervals and cells."""
    if level != RAW:
        names = [name for metric in metrics for name in (metric.name, _beside(metric)) if name is not None]
        return ", ".join(["vm", "start_ns", "rows_in", "one_sided", *names])
    raw = ["vm", "start_ns", "CAST(1 AS BIGINT) AS rows_in", "CAST(one_sided AS BIGINT) AS one_sided"]
    for metric in metrics:
        raw.append(metric.name)
        if (beside := _beside(metric)) is not None:
            told = "interval_ns" if metric.rollup is Rollup.MEAN else "start_ns"
            raw.append(f"CASE WHEN {metric.name} IS NOT NULL THEN {told} END AS {beside}")
    return ", ".join(raw)


def value(metric: Metric) -> str:
    """The SQL that makes one value of a column of ready rows, as the catalogue says; NULLs count for nothing."""
    name = metric.name
    match metric.rollup:
        case Rollup.SUM:
            return f"sum({name})"
        case Rollup.MAX:
            return f"max({name})"
        case Rollup.LAST:
            return f"arg_max({name}, {name}_at)"
        case Rollup.MEAN:
            return f"sum({name} * {name}_ns) / sum({name}_ns)"


def cell() -> str:
    """The columns of a cell, behind its keys, from the ready rows that go into it; in the order of `columns_of`."""
    return ", ".join(["CAST(sum(rows_in) AS BIGINT)", "CAST(sum(one_sided) AS BIGINT)", *_cell_columns()])


def _cell_columns() -> Iterator[str]:
    for metric in METRICS:
        # However large a count a hostile source told, it stops no roll-up.
        bounded = f"least({value(metric)}, {2**63 - 1})" if metric.whole else value(metric)
        yield f"CAST({bounded} AS {kind_of(metric)})"
        if metric.rollup is Rollup.MEAN:
            yield f"CAST(sum({metric.name}_ns) AS BIGINT)"
        elif metric.rollup is Rollup.LAST:
            yield f"max({metric.name}_at)"
