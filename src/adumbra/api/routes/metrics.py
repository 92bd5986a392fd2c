"""Metrics of a network: on a grid, or the newest interval."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from adumbra.api.access import Viewer
from adumbra.api.answers import written
from adumbra.api.asked import NetworkName, Since, Until, VmNames, ns_of
from adumbra.api.context import At
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.metrics import MetricsOut
from adumbra.schema.errors import InputError
from adumbra.schema.metrics import BY_NAME, NAMES, TOLD, provenance
from adumbra.schema.records import Origin, Series
from adumbra.service import charts
from adumbra.service.charts import SHOWN, Wanted

router = APIRouter(prefix="/networks/{name}/metrics", tags=["metrics"])

ALL = "all"
_ColumnName = Annotated[str, Field(json_schema_extra={"enum": [*NAMES, ALL]})]
Columns = Annotated[
    list[_ColumnName],
    Query(
        alias="column", max_length=len(NAMES), examples=[["cpu_utilization", "rx_bytes"]],
        description=f"Only these columns; may be given again. {ALL}: whatever people read. Else those looked at first.",
    ),
]  # fmt: skip


@router.get("", summary="Metrics of a network's VMs on a regular grid", response_model=MetricsOut)
def show(
    name: NetworkName,
    at: At,
    who: Viewer,
    *,
    vms: VmNames = [],  # noqa: B006
    columns: Columns = [],  # noqa: B006
    since: Since = None,
    until: Until = None,
    step_s: Annotated[
        float | None, Query(ge=0.001, le=31 * 86_400, description="The step; a multiple of what is stored. Else what suits.")
    ] = None,
    points: Annotated[int, Query(ge=1, le=10_000, description="About how many steps, where no step is given.")] = 300,
    origin: Annotated[Origin, Query(description="Of the emulated VMs, or of the real ones.")] = Origin.SHADOW,
) -> Any:
    """Of no VM where nothing is stored. At most 1,000,000 values: ask for less time, or a longer step."""
    wanted = Wanted(chosen_columns(columns), tuple(vms), ns_of(since), ns_of(until), step_s, points, origin)
    return written(metrics_out(charts.chart(at.workspace, name, wanted), origin))


@router.get("/latest", summary="The newest interval of a network's metrics", response_model=MetricsOut)
def latest(
    name: NetworkName,
    at: At,
    who: Viewer,
    *,
    vms: VmNames = [],  # noqa: B006
    columns: Columns = [],  # noqa: B006
    origin: Annotated[Origin, Query(description="Of the emulated VMs, or of the real ones.")] = Origin.SHADOW,
) -> Any:
    """Of no VM where nothing is stored."""
    wanted = Wanted(chosen_columns(columns), tuple(vms), origin=origin)
    return written(metrics_out(charts.latest(at.workspace, name, wanted), origin))


def chosen_columns(columns: list[str]) -> tuple[str, ...]:
    """The columns that are meant. Raises InputError for one that isn't known."""
    for column in columns:
        if column != ALL and column not in BY_NAME:
            raise InputError(f"there is no metric {column[:60]!r}", f"there are: {', '.join(SHOWN)} and others; or give {ALL}")
    named = (each for column in columns for each in (TOLD if column == ALL else (column,)))
    return tuple(dict.fromkeys(named)) or SHOWN


def metrics_out(series: Series, origin: Origin) -> dict[str, Any]:
    """MetricsOut as plain data and arrays."""
    values = {column: np.ascontiguousarray(each) for column, each in series.values.items()}
    one_sided = np.ascontiguousarray(series.one_sided)
    return {
        "network": series.network, "origin": origin.value, "start": instant(series.start_ns), "step_s": series.step_s,
        "steps": series.steps, "columns": {column: _column(column, origin) for column in values},
        "vms": {vm: {column: each[row] for column, each in values.items()} for row, vm in enumerate(series.vms)},
        "one_sided": {vm: one_sided[row] for row, vm in enumerate(series.vms)},
    }  # fmt: skip


def _column(name: str, origin: Origin) -> dict[str, Any]:
    metric, live = BY_NAME[name], origin is Origin.LIVE
    return {
        "unit": metric.unit, "provenance": provenance(name, live=live).value,
        "one_sided_provenance": provenance(name, one_sided=True, live=live).value, "rollup": metric.rollup.value,
        "help": metric.help,
    }  # fmt: skip
