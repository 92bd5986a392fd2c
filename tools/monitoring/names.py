"""The tables of docs/monitoring.md: every metric's name, kind, labels and meaning, and the alerts. Pure: gives text."""

from __future__ import annotations

from collections.abc import Iterator

from tools.monitoring.rules import alerts

from adumbra.schema.metrics import METRICS, SIMULATED_WHERE_ONE_SIDED, Kind
from adumbra.schema.own_metrics import OWN_METRICS
from adumbra.store.series import BESIDE, INTERVAL_END

_BEGIN, _END = "<!-- {}: from the catalogue, by `python -m tools.monitoring` -->", "<!-- {}: end -->"


def with_tables(page: str) -> str:
    """The page with its tables written anew. Raises ValueError where the marks of one are not there."""
    for name, lines in (("vm metrics", vm_table()), ("own metrics", own_table()), ("alerts", alert_table())):
        begin, end = _BEGIN.format(name), _END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no place for the table of {name}: write {begin} and {end}")
        page = "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])
    return page


def vm_table() -> Iterator[str]:
    """A line a family: the bounds of one are told beside what they are the bounds of."""
    yield "| name | kind | how it is come by | column | what it is |"
    yield "|---|---|---|---|---|"
    families: dict[str, list[str]] = {}
    for metric in METRICS:
        families.setdefault(metric.family, []).append(metric.name)
    first = {metric.family: metric for metric in reversed(METRICS)}
    for family, columns in families.items():
        metric = first[family]
        if metric.name.endswith(("_low", "_high")):
            continue
        bounded = f"{metric.name}_low" in {each.name for each in METRICS}
        name = f"`{family}`" + (f", with `{_bound(metric.name, 'low')}`, `{_bound(metric.name, 'high')}`" if bounded else "")
        how = metric.provenance.value + (", simulated where one-sided" if metric.name in SIMULATED_WHERE_ONE_SIDED else "")
        column = f"`{columns[0]}`" + (" ..." if metric.kind is Kind.HISTOGRAM else "")
        yield f"| {name} | {metric.kind.value} | {how} | {column} | {metric.help} |"
    for name, told in BESIDE.items():
        labels = "; labels `network`, `origin`, `interval`" if name == INTERVAL_END else ""
        yield f"| `{name}` | gauge | observed | | {told.rstrip('.')}{labels}. |"


def _bound(column: str, end: str) -> str:
    return next(metric.prometheus for metric in METRICS if metric.name == f"{column}_{end}")


def own_table() -> Iterator[str]:
    yield "| name | kind | labels | what it is |"
    yield "|---|---|---|---|"
    for metric in OWN_METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |"


def alert_table() -> Iterator[str]:
    yield "| alert | severity | after | when |"
    yield "|---|---|---|---|"
    for alert in alerts():
        when = alert.expr.replace("|", "\\|")
        yield f"| [{alert.name}](#{alert.name.lower()}) | {alert.severity} | {alert.hold} | `{when}` |"
