"""CloudWatch exports of measured use: one metric each, as CSV or as the AWS CLI's JSON. Turns them into usage columns.

Reads files; calls no cloud.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.service.usage_columns import LATEST_S, shown
from adumbra.service.usage_csv import Layout, rows_of
from adumbra.service.usage_table import UsageTable

MAX_JSON_BYTES = 256 * 2**20
MAX_POINTS = 4_000_000
PERIODS_S = (60, 300, 900, 3600)
_DOCS = "see docs/usage-files.md"
_INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that tells of a usage column. summed: it is an amount a period; percent_of: the column of what is 100 %."""

    column: str
    summed: bool = False
    percent_of: str | None = None


METRICS: Mapping[str, Metric] = {
    "cpuutilization": Metric("cpu_cores", percent_of="cpu_cores_provisioned"),
    "networkin": Metric("rx_bytes_per_s", summed=True),
    "networkout": Metric("tx_bytes_per_s", summed=True),
    "diskreadbytes": Metric("read_bytes_per_s", summed=True),
    "diskwritebytes": Metric("write_bytes_per_s", summed=True),
    "ebsreadbytes": Metric("read_bytes_per_s", summed=True),
    "ebswritebytes": Metric("write_bytes_per_s", summed=True),
    "memusedpercent": Metric("memory_bytes", percent_of="memory_bytes_provisioned"),
    "memused": Metric("memory_bytes"),
    "diskused": Metric("storage_bytes"),
}
"""By name without case, spaces, _ and -: EC2's metrics, and the CloudWatch agent's mem_used_percent, mem_used and disk_used.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_metrics_with_cloudwatch.html
"""
STATISTICS = ("sum", "average", "maximum", "value")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one VM: time_ns int64[n] and values float64[n], by a statistic (of STATISTICS)."""

    vm: str
    metric: str
    statistic: str
    time_ns: Ints
    values: Floats
    where: str


Provisioned = Callable[[str, str], float | None]
"""What a VM has of a column, where somebody said so."""


def is_export(names: Sequence[str]) -> bool:
    """Whether a CSV file's columns are those of an export: a time and statistics, no VM."""
    told = {name.strip().lower() for name in names}
    return "timestamp" in told and "vm" not in told and bool(told & set(STATISTICS))


def series_of_csv(layout: Layout) -> Series:
    """The series in a CSV export, whose file's name says of which metric and VM. Raises InputError with file and line."""
    told = [name.strip().lower() for name in layout.names]
    vm, metric = of_name(layout.path)
    statistic = statistic_of(metric, told)
    at, value_at = told.index("timestamp"), told.index(statistic)
    times, values = list[int](), list[float]()
    for line, row in rows_of(layout):
        if len(times) >= MAX_POINTS:
            raise InputError(f"{layout.path} has more than {MAX_POINTS:,} rows", "give a shorter time")
        where = f"{layout.path}:{line}"
        times.append(_time_ns(row[at].strip(), where))
        values.append(_number(row[value_at].strip(), where))
    return Series(vm, metric, statistic, np.array(times, np.int64), np.array(values), f"{layout.path}")


def series_of_json(path: Path) -> Iterator[Series]:
    """The series in what `aws cloudwatch get-metric-statistics` or `get-metric-data` printed. Raises InputError."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{path} has more than {MAX_JSON_BYTES >> 20} MB", "give the metrics in several files")
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({shown(error, 80)})", f"give what the AWS CLI printed; {_DOCS}") from None
    try:
        if "Datapoints" in told:
            yield _of_statistics(path, told)
            return
        for each in told["MetricDataResults"]:
            yield _of_data(path, each)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(
            f"{path} is not what `aws cloudwatch get-metric-statistics` or `get-metric-data` prints",
            f"give its output as it came, by --output json; {_DOCS}",
        ) from None


def _of_statistics(path: Path, told: Mapping[str, Any]) -> Series:
    points = told["Datapoints"]
    vm, named = of_name(path, str(told.get("Label") or ""))
    kinds = {name.lower() for point in points for name in point}
    statistic = statistic_of(named, kinds) if points else "average"
    times = [_time_ns(str(point["Timestamp"]), f"{path}") for point in points]
    values = [float(point[statistic.capitalize()]) for point in points]
    return Series(vm, named, statistic, np.array(times, np.int64), np.array(values, np.float64), f"{path}")


def _of_data(path: Path, told: Mapping[str, Any]) -> Series:
    """A result's label is "METRIC", "VM METRIC" or "METRIC VM"; its statistic isn't told."""
    times = [_time_ns(str(each), f"{path}") for each in told["Timestamps"]]
    values = np.array([float(each) for each in told["Values"]], np.float64)
    if len(times) != len(values):
        raise ValueError("lengths")
    vm, metric = of_name(path, str(told.get("Label") or told["Id"]))
    return Series(vm, metric, "value", np.array(times, np.int64), values, f"{path}")


def statistic_of(metric: str, told: Collection[str]) -> str:
    """The statistic to be read of those that are told: sums of amounts, else means, else the largest; of memory and storage the
    largest first. Raises InputError where it is none of them.
    """
    kind = METRICS[metric]
    peaks = kind.column in {"memory_bytes", "storage_bytes"}
    order = ("sum", "average") if kind.summed else ("maximum", "average") if peaks else ("average", "maximum")
    found = next((each for each in (*order, "value") if each in told), None)
    if found is None:
        raise InputError(f"of {metric} there is neither {' nor '.join(order)}", f"ask CloudWatch for {order[0].capitalize()}")
    return found


def of_name(path: Path, label: str = "") -> tuple[str, str]:
    """The VM and the metric that a label or, for what it lacks, a file's name tells. Raises InputError where neither does."""
    name = path.name
    for ending in (".gz", ".zst", ".csv", ".json"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    for text in (label, name):
        for metric in METRICS:
            pattern = "[ _-]?".join(metric)
            found = re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text, re.IGNORECASE)
            if found:
                rest = (text[: found.start()] + " " + text[found.end() :]) if text is label else ""
                vm = rest.strip(" _-") or _vm_of(name)
                return vm, metric
    raise InputError(
        f"{path}: neither its name nor what is in it tells a metric that is known here",
        f"name it after VM and metric, such as i-0abc_CPUUtilization.csv; {_DOCS}",
    )


def _vm_of(name: str) -> str:
    """The VM in a file's name: an instance's identifier, or what is left without the metric's name."""
    found = _INSTANCE.search(name)
    if found:
        return found[0]
    rest = name
    for metric in METRICS:
        rest = re.sub(rf"(?<![a-z0-9]){'[ _-]?'.join(metric)}(?![a-z0-9])", " ", rest, flags=re.IGNORECASE)
    return "_".join(part for part in re.split(r"[ _]+", rest) if part) or name


def _time_ns(text: str, where: str) -> int:
    """ISO 8601, with a zone or in UTC; or seconds since the epoch."""
    try:
        if re.fullmatch(r"[0-9]{9,10}(\.[0-9]+)?", text):
            return round(float(text) * NANOSECONDS)
        when = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
        since = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        if not 0 <= since.total_seconds() <= LATEST_S:
            raise ValueError
        return (since.days * 86_400 + since.seconds) * NANOSECONDS
    except (ValueError, OverflowError):
        raise InputError(
            f"{where}: the time {shown(text, 40)!r} is no time", "give ISO 8601 such as 2026-01-31T12:00:00Z"
        ) from None


def _number(text: str, where: str) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise InputError(f"{where}: {shown(text, 40)!r} is no number", "leave it empty where nothing was measured") from None


def add_series(table: UsageTable, series: Sequence[Series], provisioned: Provisioned) -> Iterator[str]:
    """Puts series into a table; gives what is to be said of them. Raises InputError for percentages of nobody knows what."""
    guessed = set[str]()
    by_vm: dict[str, list[Series]] = {}
    for each in series:
        by_vm.setdefault(each.vm, []).append(each)
    for vm, several in by_vm.items():
        columns = [pair for each in several for pair in _columns(each, provisioned, guessed)]
        times = np.unique(np.concatenate([times for _, times, _ in columns]))
        told: dict[str, Floats] = {}
        for name, at, values in columns:
            np.fmax.at(told.setdefault(name, np.full(len(times), np.nan)), np.searchsorted(times, at), values)
        table.add_rows([vm] * len(times), times, told, several[0].where)
    yield f"CloudWatch exports of {len(by_vm):,} VMs ({len(series):,} series)"
    if guessed:
        yield f"{'; '.join(sorted(guessed))}, the time between its points, as in basic monitoring: give Sum to be sure"


def _columns(series: Series, provisioned: Provisioned, guessed: set[str]) -> Iterator[tuple[str, Ints, Floats]]:
    """The usage columns that a series tells of: name, times, values."""
    metric = METRICS[series.metric]
    values = series.values
    if metric.percent_of is not None:
        has = provisioned(series.vm, metric.percent_of)
        if has is None:
            what, vm = "how many cores" if metric.column == "cpu_cores" else "how much memory", shown(series.vm)
            raise InputError(
                f"{series.where} tells {series.metric} in percent, and it isn't known {what} {vm} has",
                f"say it: --machine '{vm}=4' (cores), by a type as '{vm}=m7i.large', or of all alike: m7i.large",
            )
        values = values / 100.0 * has
        yield metric.percent_of, series.time_ns, np.full(len(values), has)
    elif metric.summed:
        period_s = _period_s(series)
        values = values / period_s
        if series.statistic != "sum":
            guessed.add(f"{series.metric} is taken as bytes in {period_s:g} s")
    yield metric.column, series.time_ns, values


def _period_s(series: Series) -> float:
    """The period that a series' points are of: the usual distance of two, as CloudWatch has them."""
    times = np.unique(series.time_ns)
    if len(times) < 2:
        return 300.0
    usual = float(np.median(np.diff(times))) / NANOSECONDS
    return min(PERIODS_S, key=lambda period: abs(period - usual)) if usual < 5_400 else usual
