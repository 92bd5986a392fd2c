"""Commands on traffic: observe a source, and read the metrics that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, iso, progress_bar, say, show, table_of
from adumbra.cli.session import stop_on_signal, uses
from adumbra.schema.sources import Layer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.cli.uses import Uses
    from adumbra.schema.records import Floats, Series
    from adumbra.service.observations import Observation

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="What to observe: pcap:FILE, live:IFACE, vxlan:PORT, geneve:PORT, gre:, erspan:, netflow:PORT, sflow:PORT, "
        "flowlog:FILE.",
        metavar="SOURCE",
    ),
]
LayerOption = Annotated[
    Layer,
    typer.Option("--layer", help="Of packets in tunnels: auto (the outermost that is the network's), outermost, innermost."),
]
_ALWAYS = frozenset({"  parsed", "    to or from the network's VMs"})
_OUTCOMES = {
    "elsewhere": "of other workers' shares",
    "not_ip": "not IP",
    "unknown_link": "of an unknown link type",
    "link_truncated": "cut off in the link header",
    "ip_truncated": "cut off in the IP header",
    "ip_malformed": "malformed IP",
}
_FLOW_KINDS = frozenset({"netflow", "ipfix", "sflow", "flowlog"})
_ROWS_A_VM = 12
_ROWS_SHOWN = 60
_BLOCKS = "▁▂▃▄▅▆▇█"
_MARKS = "ⁱ inferred, ˢ simulated by the emulated VM, the rest observed"


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("observe")(observe)
    root.command("metrics")(metrics)


def observe(  # noqa: PLR0917 - options of a command
    name: NameArgument,
    source: SourceArgument,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop once nothing came for 5 s (a file just ends).")
    ] = False,
    for_: Annotated[str | None, typer.Option("--for", help="Stop after so long, such as 10m.", metavar="TIME")] = None,
    layer: LayerOption = Layer.AUTO,
    workers: Annotated[int, typer.Option("--workers", help="Processes that share a capture or a live interface.")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a source's traffic pass the network's shadow, and keep the metrics. ^C ends a source that goes on, in good order."""
    from adumbra.schema.units import parse_duration_s
    from adumbra.service import observations

    for_s = asked(parse_duration_s, for_, "--for") if for_ is not None else None
    goes_on = observations.goes_on(source)
    with uses() as use, progress_bar(f"observing {source}") as tell, stop_on_signal(goes_on) as stopped:
        options = observations.ObserveOptions(layer, workers, for_s, until_idle, stopped, lambda: _say_ready(source))
        observation = use.observe(name, source, options, tell)
    show(output, observation.to_dict(), lambda: accounts_table(observation))


def _say_ready(source: str) -> None:
    say(f"observing {source}; ^C ends it, and keeps what was seen")


def accounts_table(observation: Observation) -> RenderableType:
    """Where every frame, or flow, of an observation went."""
    accounts = observation.accounts
    parts = {
        "  parsed": accounts.parsed,
        "    to or from the network's VMs": accounts.attributed,
        "    to or from other addresses of the network": accounts.unclaimed,
        "    foreign": accounts.foreign,
        **{f"  {_OUTCOMES.get(name, name)}": count for name, count in accounts.outcomes.items() if name != "parsed"},
        "too late for their interval": accounts.late,
        "not tracked, the connection table being full": accounts.untracked,
        "TCP header not readable": accounts.transport_unread,
        "peers, requests or times left out, their tables being full": accounts.uncounted,
        "attempts by scanners, or background radiation": accounts.scanned_attempts,
        "attempts that gave way in a full connection table": accounts.evicted_attempts,
        **{f"exports: {name.replace('_', ' ')}": count for name, count in accounts.exports.items()},
        "turned away by the source's own filter": accounts.losses.filtered,
        "dropped before the tap": accounts.losses.dropped,
        "bytes that could not be read": accounts.losses.unread_bytes,
    }
    rows = [("offered by the source", f"{accounts.offered:,}")]
    rows += [(text, f"{count:,}") for text, count in parts.items() if count or text in _ALWAYS]
    unit = "flows" if observation.source.partition(":")[0] in _FLOW_KINDS else "packets"
    return table_of(f"{observation.network} observed {observation.source}", (unit, "count"), rows, _told(observation))


def _told(observation: Observation) -> str:
    """What came of an observation, in words."""
    from adumbra.schema.units import format_duration

    accounts = observation.accounts
    length_s = ((observation.end_ns or 0) - (observation.start_ns or 0)) / 1e9
    told = [f"{observation.intervals:,} intervals stored, {format_duration(length_s)} in all"]
    if not observation.intervals:
        told = ["no interval stored" + ("" if accounts.parsed else ": nothing that the source gave could be read")]
    if observation.replaced:
        told.append(f"{observation.replaced:,} rows were observed before, and are replaced")
    if accounts.losses.ended:
        told.append(accounts.losses.ended)
    if accounts.losses.freezes:
        told.append(f"the ring was full {accounts.losses.freezes:,} times; share the interface with --workers")
    if accounts.scanners:
        told.append(f"{accounts.scanners:,} sources scan: what they send is kept out of the demand")
    if observation.one_sided:
        names = ", ".join(observation.one_sided[:5]) + (", ..." if len(observation.one_sided) > 5 else "")
        told.append(f"only one direction was seen of {names}: nobody answers, or the answers pass elsewhere")
    if accounts.parsed and not accounts.attributed:
        told.append("nothing was to or from this network's VMs: check the spec's addresses, or map old ones with `donors`")
    return "; ".join([*told, *observation.notes])


def metrics(
    name: NameArgument,
    vm: Annotated[list[str] | None, typer.Option("--vm", help="Only this VM; may be given again.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="From this time on: ISO 8601, or 15m before the end.")] = None,
    step: Annotated[str | None, typer.Option("--step", help="The grid, such as 1s or 5m; by default the stored one.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show metrics per VM and interval, each with how it was come by."""
    from adumbra.schema.units import parse_duration_s

    with uses() as use:
        query: dict[str, Any] = {"vms": tuple(vm or ())}
        if since is not None:
            query["start_ns"] = _since(since, use.span(name))
        if step is not None:
            query["step_s"] = asked(parse_duration_s, step, "--step")
        elif output is Output.TABLE:
            query["step_s"] = table_step(use, name, query)
        series = use.metrics(name, query)
    show(output, series_data(series), lambda: series_table(series))


def _since(text: str, span: tuple[int, int] | None) -> int:
    """A time in ns: ISO 8601, or a duration before the end of what is stored."""
    from adumbra.schema.units import parse_duration_s

    if text[:1].isdigit() and "-" not in text:
        before_s = asked(parse_duration_s, text, "--since")
        return (span[1] if span else 0) - round(before_s * 1e9)
    time = asked(datetime.fromisoformat, text, "--since")
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e9)


def table_step(use: Uses, name: str, query: Mapping[str, Any]) -> float | None:
    """A step that shows what is stored in a dozen rows a VM."""
    span, interval_s = use.span(name), use.network(name).spec.interval
    if span is None:
        return None
    length_s = (span[1] - max(span[0], query.get("start_ns") or span[0])) / 1e9
    for nice in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800):
        if nice * _ROWS_A_VM >= length_s and nice % interval_s == 0:
            return float(nice)
    return None


def series_data(series: Series) -> dict[str, Any]:
    """A series as plain data: one row a VM and interval that is known, counts whole, what isn't known null."""
    import numpy as np

    from adumbra.schema.metrics import BY_NAME, SIMULATED_WHERE_ONE_SIDED, Provenance

    told = [BY_NAME[name] for name in series.values]
    rows = []
    for v, vm in enumerate(series.vms):
        for t in np.flatnonzero(~np.isnan(series.one_sided[v])):
            row: dict[str, Any] = {"vm": vm, "time": iso(series.start_ns + round(t * series.step_s * 1e9))}
            for metric in told:
                value = float(series.values[metric.name][v, t])
                row[metric.name] = None if np.isnan(value) else int(value) if metric.whole else value
            if series.one_sided[v, t]:
                row["provenance"] = dict.fromkeys(sorted(SIMULATED_WHERE_ONE_SIDED), Provenance.SIMULATED.value)
            rows.append(row)
    return {
        "network": series.network,
        "interval_s": series.step_s,
        "units": {metric.name: metric.unit for metric in told},
        "provenance": {metric.name: metric.provenance.value for metric in told},
        "columns": list(series.values),
        "rows": rows,
    }


def series_table(series: Series) -> RenderableType:
    """The metrics that people look at first, a row a VM and step."""
    import numpy as np

    from adumbra.schema.units import format_duration

    known = ~np.isnan(series.one_sided)
    rows = []
    for v, vm in enumerate(series.vms):
        for t in np.flatnonzero(known[v])[-_ROWS_SHOWN:]:
            of = {name: float(values[v, t]) for name, values in series.values.items()}
            rows.append((
                vm, iso(series.start_ns + round(t * series.step_s * 1e9))[11:19],
                _figure(of["rx_bytes"] * 8e-6 / series.step_s), _figure(of["tx_bytes"] * 8e-6 / series.step_s),
                _figure(of["connections_attempted"] / series.step_s), _figure(of["requests"] / series.step_s),
                _figure(of["rtt_ms_p50"]), _figure(of["response_ms_p50"]), _figure(of["latency_ms_p99"]),
                f"{of['cpu_utilization']:.1%}", _figure(of["memory_bytes"] / 1e6), f"{of['missed_packets']:.0f}",
            ))  # fmt: skip
    columns = (
        "VM", "from", "in Mbps", "out Mbps", "conn/s", "req/s ⁱ", "rtt ms", "resp ms ⁱ", "p99 ms ˢ", "CPU ˢ", "mem MB ˢ",
        "missed",
    )  # fmt: skip
    title = f"{series.network}, steps of {format_duration(series.step_s)}"
    if not rows:
        return table_of(title, columns, rows, "nothing stored yet; run `adumbra observe` first")
    return table_of(title, columns, rows, f"{_MARKS}. All columns: --output json")


def summary_table(series: Series) -> RenderableType:
    """What each VM's shadow saw, a row a VM: means, peaks, and traffic over time as a line."""
    import numpy as np

    rows = []
    for v, vm in enumerate(series.vms):
        of = {name: values[v] for name, values in series.values.items()}
        mbps = np.fmax(of["rx_bytes"], of["tx_bytes"]) * 8e-6 / series.step_s
        cores, attempted, requests = (of[name] / series.step_s for name in ("cpu_seconds", "connections_attempted", "requests"))
        rows.append((
            vm, _sparkline(mbps), _figure(np.nanmean(mbps)), _figure(np.nanmax(mbps)),
            _figure(np.nanmean(attempted)), _figure(np.nanmean(requests)),
            _figure(_nanmedian(of["rtt_ms_p50"])), _figure(_nanmedian(of["response_ms_p50"])),
            _figure(np.nanmean(cores)), _figure(np.nanmax(cores)),
        ))  # fmt: skip
    columns = ("VM", "traffic over time", "Mbps", "peak", "conn/s", "req/s ⁱ", "rtt ms", "resp ms ⁱ", "cores ˢ", "peak ˢ")
    return table_of(
        f"{series.network}: what its shadow saw, per VM", columns, rows, _MARKS, text=frozenset({"traffic over time"})
    )


def _sparkline(values: Floats, width: int = 30) -> str:
    """Values over time as a line of blocks, each the mean of a stretch; a gap is a blank."""
    import numpy as np

    top = np.nanmax(values)
    split = [part for part in np.array_split(values, width) if len(part)]
    parts = [float(np.nanmean(part)) if not np.isnan(part).all() else float("nan") for part in split]
    if not top > 0:
        return "▁" * len(parts)
    most = float(np.nanmax(np.array(parts)))
    return "".join(" " if np.isnan(part) else _BLOCKS[min(7, int(part / most * 7.999))] for part in parts)


def _nanmedian(values: Floats) -> float:
    known = values[values == values]  # noqa: PLR0124 (NaN differs from itself)
    return float(sorted(known)[len(known) // 2]) if len(known) else float("nan")


def _figure(value: float) -> str:
    """A number in three significant figures, without an exponent; a dash for what isn't known."""
    if value != value:  # noqa: PLR0124 (NaN differs from itself)
        return "-"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.4f}"
