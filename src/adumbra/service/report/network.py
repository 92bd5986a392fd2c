"""The report of a network as one HTML page, to send to whoever signs off its sizes. Everything is in it; nothing is fetched.

It holds no script at all: pictures are SVG, and a policy in the page lets nothing run or be loaded. What comes from outside is
escaped.
"""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adumbra.schema.errors import AdumbraError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Quantiles
from adumbra.schema.sizing import Confidence
from adumbra.schema.units import format_duration, format_number, format_share, format_time
from adumbra.service import activations, learning, live
from adumbra.service.observations import Progress
from adumbra.service.pictures import charts, drawn
from adumbra.service.pictures.charts import VmCharts
from adumbra.service.pictures.lives import TITLES, LiveCell, LivePicture, live_picture
from adumbra.service.pictures.loads import Loads, loads
from adumbra.service.pictures.networks import Observed, Overview, Size, VmSizes, overview, sources_of
from adumbra.service.pictures.plans import Diff, diff
from adumbra.service.pictures.topology import svg, topology
from adumbra.service.pictures.words import MEANS, NAMES, NONE, Mark, amount, dollars, month, percent_change, short_duration
from adumbra.service.providers import usual_provider
from adumbra.service.workspace import Workspace

MAX_CHARTED = 60
"""VMs that are drawn over time: of larger networks those that cost most."""
_CONFIDENCE = {
    Confidence.LOW: "little was seen yet, or what was seen is not like the time that the sizes are for; expect them to change",
    Confidence.MEDIUM: "the patterns that matter were seen some times; expect smaller changes",
    Confidence.HIGH: "the patterns that matter were seen often, and forecasts of them held",
}

_HOW_TO_READ = """\
No VM of this network need exist yet. A shadow stands in for each: it counts the traffic that is meant for the VM, and an \
emulated machine carries the same requests, to say what CPU, memory and storage they would take.
The promise is the shortfall: a VM may want more than it has in at most {shortfall} of the intervals. Memory has to hold the \
largest value: what doesn't fit is killed.
Sizes round up to what can be bought. Prices are those of the catalogue, on demand, for 730 hours a month; disks and traffic \
are not in them.
The shaded band of a forecast is its 80 % interval; the share of time in which such intervals held on held-out data stands \
at the top. The band around what is simulated is what is believed of the role: measured use narrows it (adumbra calibrate).
Confidence is low until a week's pattern was seen; a size of low confidence errs to the large side.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """All that a report tells. plan: None where none can be made; why_no_plan: then, why. left_out: VMs that aren't drawn.
    lives: what was predicted against what was measured, None where nothing was."""

    overview: Overview
    loads: Loads
    charts: tuple[VmCharts, ...]
    left_out: int
    sources: tuple[Observed, ...]
    plan: Diff | None
    why_no_plan: str
    made_ns: int
    lives: LivePicture | None = None


def found_of(workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None) -> Found:
    """Looks at all that the report tells. Raises NotFoundError for a network that isn't there."""
    seen = overview(workspace, name)
    progress(0.1, "forecasting")
    expected = _expected(workspace, seen)
    costly = sorted(seen.sizes, key=lambda row: -(row.proposed_month or row.declared_month or 0.0))
    chosen = {row.vm for row in costly[:MAX_CHARTED]}
    drawings = []
    for number, row in enumerate(seen.sizes):
        if row.vm in chosen:
            progress(0.2 + 0.6 * number / len(seen.sizes), f"drawing {row.vm}")
            series = charts.read(workspace, name, row.vm, seen.spec.interval, None)
            if series is not None and series.steps:
                drawings.append(charts.vm_charts(row, series, charts.read_live(workspace, name, row.vm, series), expected))
    progress(0.9, "planning")
    plan, why = _plan(workspace, seen, now)
    left_out = max(0, len(seen.sizes) - MAX_CHARTED)
    return Found(
        seen, loads(workspace, name), tuple(drawings), left_out, sources_of(workspace, name), plan, why, now(),
        _compared(workspace, name),
    )  # fmt: skip


def _compared(workspace: Workspace, name: str) -> LivePicture | None:
    try:
        return live_picture(live.compare(workspace, name))
    except TooLittleDataError:
        return None


def _expected(workspace: Workspace, seen: Overview) -> Mapping[str, Quantiles]:
    if seen.learned is None or seen.watched is None:
        return {}
    try:
        return learning.forecast(workspace, seen.name, charts.horizon_for(seen.watched_s))
    except AdumbraError:  # the charts say that there is no forecast
        return {}


def _plan(workspace: Workspace, seen: Overview, now: Callable[[], int]) -> tuple[Diff | None, str]:
    if seen.profile is None:
        return None, "There are no sizes yet."
    try:
        by = usual_provider(workspace, seen.name)
        return diff(activations.activate(workspace, seen.name, by, now, dry_run=True).plan), ""
    except AdumbraError as error:
        return None, str(error)


def page(found: Found) -> str:
    """The whole page as text, to be written as UTF-8."""
    seen = found.overview
    body = "".join([
        _head(found), _topology(found), _sizes(seen), _reasons(seen.sizes), _live(found.lives), _over_time(found),
        _planned(found), _seen(found.sources),
        _how_to_read(seen),
    ])  # fmt: skip
    shared = importlib.resources.files("adumbra.service.pictures").joinpath("pictures.css").read_text(encoding="utf-8")
    own = importlib.resources.files("adumbra.service.report").joinpath("network.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sizes of {_e(seen.name)}</title>
<style>{shared}
{own}</style>
</head>
<body>
<main>{body}</main>
</body>
</html>
"""


def _e(raw: object) -> str:
    return html.escape(str(raw), quote=True)


def _head(found: Found) -> str:
    seen, costs = found.overview, found.overview.costs
    profile = seen.profile
    made = format_time(found.made_ns - found.made_ns % NANOSECONDS)
    if profile is None:
        verdict = "Nothing is proposed yet: no sizes were made. What is declared is shown below."
    else:
        verdict = (
            f"For {format_duration(profile.horizon_s)}, with each VM short in at most {format_share(profile.shortfall)} of the "
            f"time, {len(profile.vms):,} VMs are proposed at {dollars(costs.proposed) if costs.proposed is not None else NONE} "
            "a month"
        )
        if costs.proposed is not None and costs.declared is not None:
            verdict += (
                f", {percent_change(costs.proposed, costs.declared)} than the {dollars(costs.declared)} that are declared"
            )
        verdict += "."
    trust = f" Confidence: {seen.confidence.value}; {_CONFIDENCE[seen.confidence]}." if seen.confidence else ""
    facts = [
        ("Watched", short_duration(seen.watched_s) if seen.watched else "nothing yet"),
        ("Learned from", short_duration(profile.learned_s) if profile else "not yet"),
        ("Confidence", seen.confidence.value if seen.confidence else NONE),
        ("Declared a month", dollars(costs.declared) if costs.declared is not None else NONE),
        ("Proposed a month", dollars(costs.proposed) if costs.proposed is not None else NONE),
    ]
    if seen.learned and seen.learned.held:
        name, held = min(seen.learned.held, key=lambda each: each[1])
        facts.append((f"80 % intervals held ({NAMES.get(name, name)})", format_share(held, 2)))
    told = "".join(f"<div><dt>{_e(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in facts)
    return (
        f"<h1>Sizes of {_e(seen.name)}</h1><p class=dim>Made {_e(made)} of version {seen.version}; the network is "
        f"{_e(seen.state.value)}.</p><p class=verdict>{_e(verdict + trust)}</p><dl class=facts>{told}</dl>"
    )


def _topology(found: Found) -> str:
    seen = found.overview
    wide, tall = (topology(seen.spec, seen.vms, found.loads.vms, down=down) for down in (False, True))
    label = f"Topology of {seen.name}"
    caption = "Subnets, VMs and links, with round trip and capacity."
    if found.loads.until_ns is not None:
        caption += (
            f" Load: the mean of the last {format_duration(found.loads.window_s)} that were seen, up to "
            f"{format_time(found.loads.until_ns)[:19]}Z; rates observed, requests inferred, CPU simulated."
        )
    return (
        f"<h2>What it is</h2><figure><div class=wide>{svg(wide, label)}</div><div class=tall>{svg(tall, label)}</div>"
        f"<figcaption>{_e(caption)}</figcaption></figure>"
    )


def _sizes(seen: Overview) -> str:
    heads = "".join(f"<th scope=col>{_e(name)}</th>" for name in ("VM", *NAMES.values(), "Type", "$ a month", "Confidence"))
    rows = "".join(_row(row) for row in seen.sizes)
    stars = (
        "<p class=dim>* the cheapest type that holds what is declared, for its price</p>"
        if any(r.priced_as for r in seen.sizes)
        else ""
    )
    return (
        "<h2>Sizes against what was declared</h2><p class=dim>Each cell: declared → <b>proposed</b>. Below, what is believed "
        "to be needed to stay within the promise: from the median of that belief to its 99 % point.</p><div class=scroll "
        f'tabindex=0 role=region aria-label="Sizes"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{stars}"
    )


def _row(row: VmSizes) -> str:
    sizes = "".join(f"<td>{_size(size, row)}</td>" for size in row.sizes)
    declared = row.declared_type or (f"{row.priced_as}*" if row.priced_as else NONE)
    type_ = f"{_e(declared)} → <b>{_e(row.proposed_type)}</b>" if row.proposed_type else _e(declared)
    was = NONE if row.declared_month is None else dollars(row.declared_month)
    price = _e(was)
    if row.proposed_month is not None:
        price += f" → <b>{_e(dollars(row.proposed_month))}</b>"
        if row.declared_month:
            price += f"<small>{_e(percent_change(row.proposed_month, row.declared_month))}</small>"
    confidence = row.confidence.value if row.confidence else NONE
    return (
        f"<tr><th scope=row>{_e(row.vm)}<small>{_e(row.subnet)} · {_e(row.role)}</small></th>{sizes}<td>{type_}</td>"
        f"<td>{price}</td><td>{_e(confidence)}</td></tr>"
    )


def _size(size: Size, row: VmSizes) -> str:
    told = size.declared is not None and not (size.resource == "storage_gb" and row.declared_type and not row.priced_as)
    declared = format_number(size.declared) if told and size.declared is not None else "not declared"
    if size.proposed is None:
        return _e(declared)
    believed = ""
    if size.estimate is not None:
        believed = f"<small>need {_e(format_number(size.estimate.p50, 2))} to {_e(format_number(size.estimate.p99, 2))}</small>"
    return f"{_e(declared)} → <b>{_e(amount(size.resource, size.proposed))}</b>{believed}"


def _reasons(rows: Sequence[VmSizes]) -> str:
    """What speaks of each VM's size and type; then how all was learned, each reason once."""
    own = "".join(f"<li><b>{_e(row.vm)}</b>: {_e('; '.join(row.told[:-1]) or row.told[-1])}</li>" for row in rows if row.told)
    of: dict[str, list[str]] = {}
    for row in rows:
        for reason in row.reasons:
            if reason not in row.told[:-1]:
                of.setdefault(reason, []).append(row.vm)
    if not own:
        return ""
    lines = []
    for reason, vms in of.items():
        who = "all" if len(vms) == len(rows) > 1 else ", ".join(vms[:6]) + (f" and {len(vms) - 6} more" if len(vms) > 6 else "")
        lines.append(f"<li><b>{_e(who)}</b>: {_e(reason)}</li>")
    return f"<h2>Why</h2><ul>{own}</ul><details><summary>How it was learned</summary><ul>{''.join(lines)}</ul></details>"


def _live(picture: LivePicture | None) -> str:
    if picture is None:
        return ""
    heads = "".join(f"<th scope=col>{_e(name)}</th>" for name in ("VM", *TITLES, "So"))
    rows = "".join(
        f"<tr><th scope=row>{_e(row.vm)}</th>{''.join(map(_live_cell, row.cells))}<td>{_e(row.word)}</td></tr>"
        for row in picture.rows
    )
    more = f"<p class=dim>and {picture.left_out:,} more VMs</p>" if picture.left_out else ""
    return (
        f"<h2>Predicted and measured</h2><p class=dim>{_e(picture.about)}</p><div class=scroll tabindex=0 role=region "
        f'aria-label="Predicted and measured"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _live_cell(cell: LiveCell | None) -> str:
    if cell is None:
        return f"<td>{NONE}</td>"
    held = f"<small>{_e(cell.held)}</small>" if cell.held else ""
    return f"<td>{_e(cell.predicted)} → <b>{_e(cell.measured)}</b>{held}</td>"


def _over_time(found: Found) -> str:
    if not found.charts:
        return "<h2>Over time</h2><p>Nothing was seen of any VM yet.</p>"
    marks = "".join(f'<span><span class="mark {each.value}">{each.value}</span> {_e(MEANS[each])}</span>' for each in Mark)
    parts = [f"<h2>Over time</h2><p class=legend>{marks}</p>"]
    for each in found.charts:
        figures = "".join(
            f"<figure><figcaption><b>{_e(chart.title)}</b>, {_e(chart.unit)}"
            + "".join(_mark(each) for each in dict.fromkeys(line.mark for line in chart.lines))
            + f"</figcaption>{drawn.svg(chart, f'{each.vm}: {chart.summary}')}"
            + (f"<figcaption>{_e('; '.join(chart.notes))}</figcaption>" if chart.notes else "") + "</figure>"
            for chart in each.charts
        )  # fmt: skip
        parts.append(f"<h3>{_e(each.vm)}</h3><div class=charts>{figures}</div>")
    if found.left_out:
        parts.append(f"<p class=dim>{found.left_out:,} VMs that cost less are not drawn.</p>")
    return "".join(parts)


def _mark(mark: Mark) -> str:
    return f' <span class="mark {mark.value}">{mark.value}</span>'


def _planned(found: Found) -> str:
    plan = found.plan
    if plan is None:
        return f"<h2>What activating would change</h2><p>{_e(found.why_no_plan)}</p>"
    lines = []
    for each in plan.changes:
        settings = "; ".join(
            f"{one.name} {f'{one.was} → ' if one.was is not None else ''}{one.value}" for one in each.settings
        )  # fmt: skip
        stops = f" <em>interrupts: {_e(each.interrupts)}</em>" if each.interrupts else ""
        told = f'<span class="dim">{_e(settings)}</span>'
        lines.append(f"<li><b>{_e(each.sign)} {_e(each.act)}</b> {_e(each.kind)} {_e(each.name)} {told}{stops}</li>")
    price = f" The machines then cost {month(plan.price_per_hour)} a month." if plan.price_per_hour else ""
    more = f"<p class=dim>and {plan.left_out:,} more steps</p>" if plan.left_out else ""
    return (
        f"<h2>What activating would change</h2><p>{_e(plan.summary)}.{_e(price)}</p><ol class=diff>{''.join(lines)}</ol>{more}"
    )


def _seen(sources: Sequence[Observed]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{_e(each.source)}</th><td>{_e(each.state)}</td>"
        f"<td>{_e(', '.join(f'{count:,} {name}' for name, count in each.figures) or NONE)}</td><td>{each.lost:,}</td>"
        f"<td>{_e(each.trouble or 'none')}</td></tr>"
        for each in sources
    )
    if not rows:
        return "<h2>What was watched</h2><p>Nothing yet.</p>"
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("Source", "State", "Packets", "Lost", "Trouble"))
    return (
        f'<h2>What was watched</h2><div class=scroll tabindex=0 role=region aria-label="Sources"><table class=words><thead><tr>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _how_to_read(seen: Overview) -> str:
    shortfall = format_share(seen.profile.shortfall if seen.profile else seen.spec.targets.shortfall)
    lines = _HOW_TO_READ.format(shortfall=shortfall).splitlines()
    return f"<h2>How to read this</h2><ul>{''.join(f'<li>{_e(line)}</li>' for line in lines)}</ul>"
