"""Plans, sources, jobs, events and answers to what-ifs, as HTML. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adumbra.console.parts.markup import Cell, Column, Raw, bullets, chip, e, progress, table
from adumbra.console.parts.sizes import MAX_ROWS, change, left_out
from adumbra.schema.jobs import JobState
from adumbra.schema.sizing import NetworkProfile
from adumbra.schema.state import EventRecord
from adumbra.schema.units import format_duration, format_number, format_share, format_time
from adumbra.service.pictures.networks import FIGURE_MEANS, Observed, Overview, Working
from adumbra.service.pictures.plans import Change, Diff
from adumbra.service.pictures.prices import costs
from adumbra.service.pictures.words import NAMES, NONE, ago, amount, dollars, month
from adumbra.service.whatif import Answers

_KINDS = {"running": "busy", "waiting": "calm", "queued": "calm", "done": "good", "failed": "bad", "interrupted": "bad"}


def diff_list(diff: Diff) -> str:
    """A plan, line by line."""
    notes = f"<p>What the policy says:</p>{bullets(diff.notes)}" if diff.notes else ""
    if not diff.changes:
        return f'<p class="fine">{e(diff.summary)}</p>{notes}'
    before = f" (now {e(month(diff.price_before_per_hour))})" if diff.price_before_per_hour else ""
    price = f" The machines then cost {e(month(diff.price_per_hour))} a month{before}." if diff.price_per_hour else ""
    approval = f'<p class="stops">An administrator must approve it: {e(diff.approval)}.</p>' if diff.approval else ""
    more = f'<p class="dim">and {diff.left_out:,} more steps</p>' if diff.left_out else ""
    lines = "".join(_change(each) for each in diff.changes)
    return f'<p>{e(diff.summary[0].upper() + diff.summary[1:])}.{price}</p>{approval}<ol class="diff">{lines}</ol>{more}{notes}'


def _change(each: Change) -> str:
    settings = []
    for one in each.settings:
        was = f"<del>{e(one.was)}</del> → " if one.was is not None else ""
        settings.append(f"{e(one.name)} {was}{e(one.value)}")
    stops = f' <span class="stops">interrupts: {e(each.interrupts)}</span>' if each.interrupts else ""
    told = f' <span class="dim">{"; ".join(settings)}</span>' if settings else ""
    return (
        f'<li class="{e(each.act)}"><b><span aria-hidden="true">{e(each.sign)}</span> '
        f"{e(each.act)}</b> {e(each.kind)} {e(each.name)}{told}{stops}</li>"
    )


def figures(source: Observed) -> Raw:
    """Where a source's packets went."""
    if not source.figures:
        return Raw('<span class="dim">nothing told yet</span>')
    told = "".join(
        f'<span title="{e(FIGURE_MEANS.get(name, name))}"{" class=lost" if name in {"dropped", "unreadable"} else ""}>'
        f"{count:,} {e(name)}</span>"
        for name, count in source.figures
    )
    return Raw(f'<span class="figures">{told}</span>')


def losses(source: Observed) -> Raw:
    if not source.figures:
        return Raw(NONE)
    offered = dict(source.figures).get("offered", 0)
    if source.lost == 0:
        return Raw("none")
    share = f" ({format_share(source.lost / offered, 2)})" if offered else ""
    return Raw(f'<span class="lost">{source.lost:,}{e(share)}</span>')


def source_chip(source: Observed) -> Raw:
    return chip(source.state, _KINDS.get(source.state, "still"))


SOURCE_COLUMNS = (
    Column("Source"), Column("State"), Column("Where"), Column("Last word"), Column("Packets"), Column("Lost"),
    Column("Trouble"),
)  # fmt: skip


def source_name(source: str) -> Cell:
    """A source to read; of a long path, its end."""
    kind, _, rest = source.partition(":")
    if len(source) <= 40 or "/" not in rest:
        return source
    return Raw(f'<span title="{e(source)}">{e(kind)}:…/{e(rest.rpartition("/")[2])}</span>')


def source_cells(source: Observed, now_ns: int) -> list[Cell]:
    again = f", begun again {source.restarts} times" if source.restarts else ""
    trouble: Cell = (
        Raw(f'<span class="lost">{e(source.trouble[:300])}</span>') if source.trouble else Raw('<span class="dim">none</span>')
    )
    return [
        source_name(source.source), source_chip(source), f"{source.where}{again}", ago(now_ns, source.seen_ns), figures(source),
        losses(source), trouble,
    ]  # fmt: skip


def job_line(job: Working, now_ns: int) -> str:
    """A job as a line: what it is, how far, what it does now."""
    kind = _KINDS.get(job.state.value, "still")
    told = job.doing if job.state is JobState.RUNNING else job.trouble if job.state is JobState.FAILED else ""
    bar = progress(job.share, f"{job.kind}: how far").markup if job.state in {JobState.RUNNING, JobState.QUEUED} else ""
    share = f" {job.share * 100:.0f} %" if job.share is not None and job.state is JobState.RUNNING else ""
    when = ago(now_ns, job.finished_ns or job.created_ns)
    return (
        f'<p class="job"><strong>{e(job.kind)}</strong> {chip(job.state.value, kind).markup}{bar}{e(share)} '
        f'<span class="dim">{e(told[:300])}{" · " if told else ""}{e(when)}, by {e(job.by)}</span></p>'
    )


def events_list(events: Sequence[EventRecord]) -> str:
    if not events:
        return '<p class="dim">Nothing has happened yet.</p>'
    lines = "".join(
        f'<li><time datetime="{e(format_time(each.time_ns))}">{e(format_time(each.time_ns)[:19].replace("T", " "))}</time>'
        f"<span>{e(each.message[:500])}</span></li>"
        for each in events
    )
    return f'<ol class="events" tabindex="0" aria-label="Events, newest first">{lines}</ol>'


def traffic_table(found: Answers) -> str:
    """What the declared machines show with so many times the traffic."""
    rows: list[list[Cell]] = []
    for answer in found.vms[:MAX_ROWS]:
        choice = answer.choices[0]
        on = choice.type or f"{choice.machine.cpu_cores:g} cores, {choice.machine.memory_gb:g} GB"
        fits = chip("fits", "good") if choice.fits else Raw(
            f'{chip("short", "bad").markup} <span class="dim">{e("; ".join(choice.short))}</span>'
        )  # fmt: skip
        tried, now = choice.tried, answer.now.tried
        rows.append([
            Raw(f'{e(answer.vm)}<span class="believed">{e(on)}{" (assumed)" if answer.assumed else ""}</span>'),
            _from_to(now.cpu_utilization, tried.cpu_utilization),
            format_share(_rounded(tried.cpu_p99), 2), format_duration(tried.latency_ms_p99 / 1e3),
            format_share(_rounded(tried.loss), 2), f"{format_number(tried.memory_gb, 2)} GB", fits,
        ])  # fmt: skip
    columns = (
        Column("VM"), Column("CPU", figure=True), Column("CPU p99", figure=True), Column("Latency p99", figure=True),
        Column("Lost", figure=True), Column("Memory", figure=True), Column("Fits?"),
    )  # fmt: skip
    return table(f"With {format_number(found.factor)} times the traffic", columns, rows)


def _from_to(now: float, then: float) -> str:
    before, after = format_share(_rounded(now), 2), format_share(_rounded(then), 2)
    return after if before == after else f"{before} → {after}"


def _rounded(share: float) -> float:
    return round(share, 4) if math.isfinite(share) else share


def dial_table(found: NetworkProfile, overview: Overview) -> str:
    """The sizes at another setting of the dial."""
    known = {row.vm: row for row in overview.sizes}
    rows: list[list[Cell]] = []
    for vm in found.vms[:MAX_ROWS]:
        declared = known[vm.vm].declared_month if vm.vm in known else None
        proposed = None if vm.price_per_hour is None else vm.price_per_hour * 730
        price = NONE if proposed is None else dollars(proposed)
        if proposed is not None and declared:
            price = Raw(f"{e(price)} <span class=believed>{change(proposed, declared)}</span>")  # type: ignore[assignment]
        rows.append([
            Raw(f'{e(vm.vm)}<span class="believed">{e(vm.type or "none fits")}</span>'),
            *(amount(name, float(getattr(vm, name))) for name in NAMES), price,
        ])  # fmt: skip
    columns = (
        Column("VM"), *(Column(name, figure=True) for name in NAMES.values()), Column("$ a month", figure=True),
    )  # fmt: skip
    total = costs(overview.vms, found)
    told = NONE if total.proposed is None else dollars(total.proposed)
    if total.proposed is not None and total.declared:
        told += f" a month, {change(total.proposed, total.declared)} than declared"
    about = f"<p>Short in at most <strong>{e(format_share(found.shortfall))}</strong> of the time: {told}.</p>"
    more = left_out(len(found.vms)) if len(found.vms) > MAX_ROWS else ""
    return about + table(f"Sizes at a shortfall of {format_share(found.shortfall)}", columns, rows) + more
