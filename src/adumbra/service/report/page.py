"""The report of a back-test as one HTML page: verdicts, figures, tables, method. Everything is in it; nothing is fetched.

What comes from outside (names of files and VMs, notes) is escaped wherever it stands; a policy in the page lets no script run
but its own two, and lets nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from adumbra.schema.backtests import Risk
from adumbra.schema.units import format_count, format_duration, format_number, format_time
from adumbra.service.backtests import DECLARED, ORACLE, OURS, BacktestReport, ResourceReport, Scored
from adumbra.service.report import figures
from adumbra.service.report.chosen import beside, vms_to_show
from adumbra.service.report.words import FIGURES, PROMISED, RESOURCE_NAMES, called, cells, compared, promises, verdicts

_ROOM = "adumbra.service.report"
_OF_UNIT = {"cpu_cores": "a core", "memory_gb": "a GB of memory", "bandwidth_mbps": "a Mbps", "storage_gb": "a GB of storage"}
_METHOD = """\
Allocated: the sum of the sizes as a percentage of the sum of what was provisioned; a size counts up to what the VM was given, \
and isn't rounded to whole cores.
Short: the percentage of measured intervals in which use was above the size, less those in which it was above what was \
provisioned, which no size could have avoided.
p95 VM and worst VM: the same of the VM that is short more often than 95 % of the VMs, and of the worst. Unmet: the percentage \
of the demand above the size. Longest: the longest time for which a VM was short without a pause.
The dial: the share of time that may be short. Per VM: each VM's own share. Pooled: the average over the VMs, each VM bounded, \
so that risk goes where it saves most.
At the same shortness: Adumbra's curve over its dial, read where it is short as often as the rule. The interval of the saving \
is a paired bootstrap over VMs: VMs are drawn with replacement, and all are scored on the same draws. An interval that holds 0 \
shows no difference.""".splitlines()


def page(report: BacktestReport) -> str:
    """The whole page as text, to be written as UTF-8."""
    drawn: dict[str, Any] = {}
    numbers = count(1)

    def plot(figure: figures.Figure | None, caption: str, *, above: bool = False) -> str:
        if figure is None:
            return ""
        key = f"f{next(numbers)}"
        drawn[key] = figure
        height = figure["layout"]["height"]
        style = f"min-height:{height}px"
        div = f'<div class="plot" data-figure="{key}" style="{style}" role="img" aria-label="{_e(_plain(caption))}"></div>'
        said = f"<figcaption>{caption}</figcaption>"
        return f"<figure>{said + div if above else div + said}</figure>"

    body = "".join([_head(report), *(_section(each, plot) for each in report.resources), _mended(report), _method(report)])
    return _document(f"Back-test of sizes: {report.source}", body, drawn)


def _document(title: str, body: str, drawn: Mapping[str, Any]) -> str:
    from plotly.offline import get_plotlyjs

    own = importlib.resources.files(_ROOM)
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    scripts = [get_plotlyjs(), own.joinpath("page.js").read_text(encoding="utf-8")]
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_e(title)}</title>
<style>{style}</style>
</head>
<body>
<main>{body}</main>
<script type="application/json" id="figures">{_json(drawn)}</script>
{code}
</body>
</html>
"""


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that can stand in a page: no character of it can end the element it stands in. Raises ValueError for NaN."""
    plain = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _e(raw: object) -> str:
    return html.escape(str(raw))


def _plain(marked_up: str) -> str:
    """The words of a caption of ours, without its marks."""
    import re

    return html.unescape(re.sub(r"<[^>]*>", "", marked_up))


def _head(report: BacktestReport) -> str:
    links = "".join(f'<a href="#{_e(each.resource)}">{_name(each)}</a>' for each in report.resources)
    cards = "".join(
        f'<div class="verdict"><p><strong>{_name(each)}</strong></p>'
        + "".join(f"<p>{_e(sentence)}</p>" for sentence in verdicts(each))
        + "</div>"
        for each in report.resources
    )
    periods = report.request.periods
    set_every = f"set every {format_duration(periods.resize_s)} and meant for {format_duration(periods.horizon_s)}"
    scored = f"scored from {_day(report.first_ns)} to {_day(report.end_ns)}"
    return (
        f"<h1>Sizes against the rules people use</h1>"
        f'<p class="dim"><code>{_e(report.source)}</code>: {format_count(report.vms, "VM")} in steps of '
        f"{_e(format_duration(report.step_s))}, {_e(scored)}; sizes {_e(set_every)}{_money(report)}. In plots: drag to look "
        "closer, click twice to see all again.</p>"
        f'<div class="verdicts">{cards}</div>'
        f'<nav aria-label="Sections">{links}<a href="#mended">What was mended</a><a href="#method">Method</a></nav>'
    )


def _money(report: BacktestReport) -> str:
    prices = report.request.prices
    if prices is None:
        return ""
    units = ", ".join(f"{format_number(price)} for {_OF_UNIT[name]}" for name, price in prices.per_hour.items())
    return _e(f"; US dollars an hour: {units} ({prices.source})")


def _day(time_ns: int) -> str:
    return format_time(time_ns).removesuffix("T00:00:00Z")


def _name(found: ResourceReport) -> str:
    return _e(RESOURCE_NAMES.get(found.resource, found.resource))


def _section(found: ResourceReport, plot: Any) -> str:
    name, chosen = _name(found), beside(found)
    parts = [f'<h2 id="{_e(found.resource)}">{name}</h2>']
    parts.append(f"<h3>{name}: what sizes cost, against how often they are short</h3>")
    declared = any(each.given.rule == DECLARED for each in found.scored)
    parts.append(
        plot(
            figures.frontier(found),
            "Each rule's sizes, by how much they allocate and how often they are short. The oracle knows the largest use to "
            "come. Lower is cheaper, further left is safer: a point below and to the left of another beats it. Each point of a "
            "curve is one setting of the dial." + (" Not drawn: <i>declared</i>, at 100 %." if declared else ""),
        )
    )
    parts.append(_table(FIGURES, [(_class(each), [called(each.given), *cells(each)]) for each in found.shown]))
    if found.comparisons:
        parts.append(f"<h3>{name}: Adumbra where it is short as often as each rule</h3>")
        columns, rows = compared(found)
        parts.append(_table(columns, [("", row) for row in rows]))
    promised = plot(
        figures.promise(found),
        "What the dial was asked for, and what came. In the band the outcome is within 0.7 to 1.3 times.",
    )
    over_time = plot(
        figures.coverage(found, chosen),
        "How much of the time VMs had enough, over the time that is scored; dashed across: what the dial asks for.",
    )
    parts.append(f"<h3>{name}: is the promise kept?</h3>")
    parts.append(f'<div class="pair">{promised}{over_time}</div>')
    kept = promises(found)
    if kept:
        parts.append(_table(PROMISED, [("", row) for row in kept]))
    parts.append(f"<h3>{name}: how the shortness is spread over the VMs</h3>")
    everyone = [each for each in found.scored if each.given.rule not in {ORACLE, DECLARED}]
    parts.append(plot(figures.bands(everyone), "Shares of VMs by how much of the time each was short."))
    parts += _some_vms(found, chosen, plot)
    return "".join(parts)


def _some_vms(found: ResourceReport, chosen: Sequence[Scored], plot: Any) -> Iterable[str]:
    shown = vms_to_show(chosen)
    if shown:
        yield f"<h3>{_name(found)}: some VMs over time</h3>"
    for why, vm in shown:
        name = _e(found.use.panel.vms[vm][:120])
        yield plot(figures.sizes(found, vm, chosen), f"<b>{name}</b>: {_e(why)}", above=True)


def _class(each: Scored) -> str:
    if each.given.rule == OURS:
        return "pooled" if each.given.risk is Risk.POOLED else "per-vm"
    return ORACLE if each.given.rule == ORACLE else ""


def _table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th scope=col>{_e(column).replace(chr(10), '<br>')}</th>" for column in columns)
    body = "".join(f'<tr class="{_e(kind)}">' + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for kind, row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _mended(report: BacktestReport) -> str:
    notes = [*report.notes, *(note for each in report.resources for note in each.notes)]
    said = "".join(f"<li>{_e(note)}</li>" for note in notes) or "<li>Nothing was mended or left out.</li>"
    return f'<h2 id="mended">What was mended or left out</h2><ul>{said}</ul>'


def _method(report: BacktestReport) -> str:
    periods = report.request.periods
    resize, lead_in = format_duration(periods.resize_s), format_duration(periods.lead_in_s)
    origins = (
        f"At every origin (each {resize} from 00:00 UTC, after a lead-in of {lead_in}) each rule, and Adumbra, gives each VM a "
        "size from what was measured before; it is held to the next origin, and compared with what came. Nothing after an "
        "origin is seen, but by the oracle, which nobody can have."
    )
    steps = [origins, *_METHOD]
    return '<h2 id="method">Method in short</h2><ul>' + "".join(f"<li>{_e(step)}</li>" for step in steps) + "</ul>"
