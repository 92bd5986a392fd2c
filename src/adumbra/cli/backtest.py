"""The command that sizes on measured use and compares with the rules people use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.output import Output, OutputOption, asked, iso, progress_bar, say, show, table_of
from adumbra.cli.session import RayOption, fanned_out, now_ns, own_workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.profile.rules import Rule
    from adumbra.schema.backtests import Usages
    from adumbra.service.backtests import BacktestReport, ResourceReport
    from adumbra.service.schedules import Periods
    from adumbra.service.usages import Progress, Told

MAX_SHORTFALL = 0.5
NETWORK = "network:"


class RiskChoice(StrEnum):
    """Whose shortness the dial bounds."""

    PER_VM = "per-vm"
    POOLED = "pooled"
    BOTH = "both"


def register(root: typer.Typer) -> None:
    """Adds this room's top-level command."""
    root.command("backtest")(backtest)


def backtest(
    usage: Annotated[
        list[str],
        typer.Argument(help="CSV or Parquet files, a folder of them, a Prometheus server's URL, or network:NAME."),
    ],
    *,
    horizon: Annotated[
        str | None,
        typer.Option("--horizon", help="How long a size is meant for, at least --resize; if none, as that."),
    ] = None,
    resize: Annotated[str, typer.Option("--resize", help="How often sizes are set, from 00:00 UTC: 1h, 1d, 7d.")] = "1d",
    shortfall: Annotated[
        str, typer.Option("--shortfall", help="Settings of the dial: shares of time that may be short.")
    ] = "0.5%,1%,2%,5%",
    risk: Annotated[RiskChoice, typer.Option("--risk", help="Whose shortness the dial bounds.")] = RiskChoice.BOTH,
    rules: Annotated[str, typer.Option("--rules", help="The rules to compare with: all, none, or some, as a,b.")] = "all",
    resource: Annotated[str | None, typer.Option("--resource", help="Only these, as cpu_cores,memory_gb.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="The first time that is scored, such as 2026-01-31.")] = None,
    lead_in: Annotated[str, typer.Option("--lead-in", help="How far back rules look, and how much comes first.")] = "14d",
    step: Annotated[str | None, typer.Option("--step", help="The grid of samples, 1m to 1h; if none, 5m or theirs.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Read from then on: a date, or how long ago, as 30d.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Read up to then: a date, or how long ago.")] = None,
    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", help="What a VM has, where USAGE doesn't tell: VM=4, VM=m7i.large, or 4 for all."),
    ] = None,
    exporter: Annotated[str | None, typer.Option("--exporter", help="Which machines of a server: node or libvirt.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn by chance.", min=0)] = 1,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="A CSV of resource,usd_per_hour; else fitted to the catalogue.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for report.html, report.json, frontier.csv.")] = None,
    allocations: Annotated[
        Path | None, typer.Option("--allocations", help="A Parquet file for every size that was given.")
    ] = None,
    ray: RayOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Size your own history, day by day, and compare with the rules people use."""
    from adumbra.schema.backtests import Risk
    from adumbra.schema.units import parse_duration_s
    from adumbra.service.allocation_files import AllocationFile
    from adumbra.service.backtests import BacktestRequest
    from adumbra.service.backtests import backtest as run
    from adumbra.service.prices import prices_from
    from adumbra.service.report.files import checked_folder, write_report
    from adumbra.service.usages import Told

    request = BacktestRequest(
        periods=_periods(resize, horizon, lead_in, first),
        shortfalls=asked(shares, shortfall, "--shortfall"),
        risks=tuple(Risk) if risk is RiskChoice.BOTH else (Risk(risk.value),),
        rules=_rules(rules),
        resources=None if resource is None else tuple(dict.fromkeys(each.strip() for each in resource.split(","))),
        seed=seed,
        prices=prices_from(prices),
    )
    step_s = None if step is None else asked(parse_duration_s, step, "--step")
    told = Told(machines_of(machine or ()), _between(since, until), exporter)
    if out is not None:
        checked_folder(out)
    with AllocationFile(allocations) if allocations else nullcontext() as sizes, progress_bar("back-test") as tell:
        tell(None, "reading")
        usages = _read(usage, step_s, request.resources, told, lambda share, doing: tell((share or 0) * 0.1, doing))
        with fanned_out(ray) as fanout:
            report = run(usages, request, lambda share, doing: tell(0.1 + 0.8 * (share or 0), doing), fanout=fanout)
        if sizes is not None:
            for found in report.resources:
                tell(0.92, f"writing the sizes of {found.resource}")
                sizes.add(found.use, found.schedule, [each.given for each in found.scored])
        if out is not None:
            tell(0.95, "writing the report")
            write_report(report, out)
    show(output, report.to_dict(), lambda: tables(report))
    if output is Output.TABLE:
        _say_next(report, out, allocations)


def _read(
    usage: Sequence[str], step_s: float | None, resources: Sequence[str] | None, told: Told, progress: Progress
) -> Usages:  # fmt: skip
    """Measured use from where the user says: files or a server, or what is stored of a network. Raises InputError."""
    from adumbra.schema.errors import InputError
    from adumbra.service.usages import Told, read_usages, usages_of

    if not any(each.startswith(NETWORK) for each in usage):
        return read_usages(usage[0] if len(usage) == 1 else usage, step_s, resources, told, progress)
    if len(usage) > 1 or told != Told():
        raise InputError(
            "a network's stored use is read alone, and whole", "leave out other USAGE, --since, --until, --machine, --exporter"
        )
    with own_workspace("backtest network:...") as opened:
        return usages_of(opened, usage[0].removeprefix(NETWORK), step_s)


def _periods(resize: str, horizon: str | None, lead_in: str, first: str | None) -> Periods:
    """What the options say of times. Raises InputError."""
    from adumbra.schema.units import parse_duration_s
    from adumbra.service.schedules import Periods

    resize_s = asked(parse_duration_s, resize, "--resize")
    horizon_s = resize_s if horizon is None else asked(parse_duration_s, horizon, "--horizon")
    first_ns = None if first is None else asked(instant_ns, first, "--from")
    return Periods(resize_s, horizon_s, asked(parse_duration_s, lead_in, "--lead-in"), first_ns)


def shares(text: str) -> tuple[float, ...]:
    """Settings of the dial, "0.5%,1%": shares above 0, increasing, each once. Raises ValueError."""
    from adumbra.schema.units import parse_share

    found = sorted({parse_share(each) for each in text.split(",")})
    if found[0] <= 0 or found[-1] > MAX_SHORTFALL:
        raise ValueError(f"{text[:40]!r}: give shares above 0 %, up to {MAX_SHORTFALL:.0%}")
    return tuple(found)


def instant_ns(text: str) -> int:
    """A day or a time, ISO 8601, in UTC where no zone is told, in ns since the epoch. Raises ValueError."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no date; write it like 2026-01-31 or 2026-01-31T12:00:00Z") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000_000


def _between(since: str | None, until: str | None) -> tuple[int, int]:
    """The time from which, and before which, samples are read, in ns since the epoch. Raises InputError."""
    from adumbra.service.usages import ALWAYS

    start_ns = asked(ago_or_instant_ns, since, "--since") if since else ALWAYS[0]
    if until:
        return start_ns, asked(ago_or_instant_ns, until, "--until")
    return start_ns, now_ns() if since else ALWAYS[1]


def ago_or_instant_ns(text: str) -> int:
    """A date or time, or how long ago, "30d", in ns since the epoch. Raises ValueError."""
    from adumbra.schema.units import parse_duration_s

    try:
        return now_ns() - round(parse_duration_s(text) * 1e9)
    except ValueError:
        return instant_ns(text)


def machines_of(told: Sequence[str]) -> dict[str, str]:
    """What VMs have: "VM=4" or "VM=m7i.large"; without a name, of all others. A name may hold =. Raises InputError."""
    from adumbra.schema.errors import InputError

    found: dict[str, str] = {}
    for each in told:
        vm, _, has = each.rpartition("=")
        if not has or (vm or "*") in found:
            raise InputError(
                f"--machine: {each[:60]!r} says nothing, or says it again", "give VM=4, VM=m7i.large, or 4 for all"
            )
        found[vm or "*"] = has
    return found


def _rules(text: str) -> tuple[Rule, ...]:
    from adumbra.profile.rules import rules_named

    return () if text.strip() == "none" else rules_named([each.strip() for each in text.split(",")])


def tables(report: BacktestReport) -> RenderableType:
    """What was found of each resource: every rule's figures, and ours where it is short as often."""
    from rich.console import Group

    return Group(*(part for found in report.resources for part in _of_resource(report, found)))


def _of_resource(report: BacktestReport, found: ResourceReport) -> Sequence[RenderableType]:
    from rich.text import Text

    from adumbra.schema.units import format_count, format_duration
    from adumbra.service.report.words import FIGURES, PROMISED, RESOURCE_NAMES, called, cells, compared, promises, verdicts

    name = RESOURCE_NAMES[found.resource]
    periods = report.request.periods
    title = f"{name} of {format_count(len(found.use.panel.vms), 'VM')}, sized every {format_duration(periods.resize_s)}, "
    title += f"{iso(report.first_ns)} to {iso(report.end_ns)}"
    caption = "allocated: of what was provisioned; short: of the measured intervals, less those that no size "
    caption += "could have avoided; p95 VM, worst VM: the same of single VMs; unmet: of the demand; resizes: of a VM"
    parts = [table_of(title, FIGURES, [(called(each.given), *cells(each)) for each in found.shown], caption, close=True)]
    if found.comparisons:
        caption = "Adumbra along its dial, where it is short as often as the rule; its 95 %: interval, bootstrap over VMs; "
        caption += "not reached: Adumbra is so seldom short at no setting of --shortfall that was tried"
        parts.append(table_of(f"{name}: at the same shortness", *compared(found), caption, close=True))
    kept = promises(found)
    if kept:
        parts.append(table_of(f"{name}: is the promise kept?", PROMISED, kept))
    return [*parts, *(Text(f"{name}: {sentence}\n") for sentence in verdicts(found))]


def _say_next(report: BacktestReport, out: Path | None, allocations: Path | None) -> None:
    for note in [*report.notes, *(note for found in report.resources for note in found.notes)]:
        say(f"  {note}")
    if allocations is not None:
        say(f"every size: {allocations}")
    say(f"next: open {out / 'report.html'}" if out else "next: the same with --out DIR, for a page of plots, JSON and CSV")
