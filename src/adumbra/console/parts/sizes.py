"""Sizes against what was declared, as a table with its reasons; and costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from adumbra.console.parts.markup import Cell, Column, Raw, bullets, confidence_chip, details, e, fact, facts, of, table
from adumbra.schema.units import format_number, format_share
from adumbra.service.pictures.networks import Overview, Size, VmSizes
from adumbra.service.pictures.prices import Costs
from adumbra.service.pictures.words import NAMES, NONE, ago, amount, dollars, percent_change, short_duration

COLUMNS = (
    Column("VM"), *(Column(name) for name in NAMES.values()), Column("Type"), Column("$ a month", figure=True),
    Column("Confidence"),
)  # fmt: skip


MAX_ROWS = 200
"""VMs in a table."""


def left_out(count: int) -> str:
    """Says that a table has not all of so many VMs."""
    return f'<p class="dim">{MAX_ROWS:,} of {count:,} VMs are shown; <code>adumbra profile --output json</code> has all.</p>'


def cost_words(costs: Costs) -> tuple[Cell, Cell]:
    """What the network is to cost a month, and that against what was declared."""
    if costs.proposed is None:
        declared = "nothing declared has a price" if costs.declared is None else f"declared {dollars(costs.declared)}"
        return "no sizes yet", declared
    if costs.declared is None:
        return dollars(costs.proposed), "what is declared has no price"
    return dollars(costs.proposed), Raw(
        f"{change(costs.proposed, costs.declared)} than the {e(dollars(costs.declared))} declared"
    )


def change(proposed: float, declared: float) -> str:
    """How a price changes, marked as good or bad; as markup."""
    told = percent_change(proposed, declared)
    kind = "less" if told.endswith("less") else "more" if told.endswith("more") else ""
    return f'<span class="{kind}">{e(told)}</span>'


def overview_facts(found: Overview, now_ns: int) -> str:
    """A network's figures at first sight."""
    cost, against = cost_words(found.costs)
    if found.costs.estimated:
        against = Raw(f"{of(against)}; {found.costs.estimated} priced by the cheapest type that fits")
    last = found.watched[1] if found.watched else None
    learned = found.learned
    known = found.profile or learned
    each = [
        fact("Watched", short_duration(found.watched_s) if found.watched else "nothing yet",
             f"last data {ago(now_ns, last)}" if last else "attach a source below"),
        fact("Learned from", "not yet" if known is None else short_duration(known.learned_s),
             f"training {learned.version}, {ago(now_ns, learned.made_ns)}" if learned else "train once something was seen"),
        fact("Confidence", confidence_chip(found.confidence),
             "of the VM that is known least" if found.confidence else "no sizes yet"),
        fact("Expected a month", cost, against),
    ]  # fmt: skip
    if learned and learned.held:
        name, held = min(learned.held, key=lambda one: one[1])
        each.append(
            fact(
                "80 % intervals held",
                format_share(held, 2),
                f"of the time on held-out data, at least ({NAMES.get(name, name)})",
            )
        )
    return facts(*each)


def sizes_table(rows: Sequence[VmSizes], caption: str) -> str:
    """Each VM's sizes, with its reasons in a fold; of many VMs, those that cost most."""
    if len(rows) > MAX_ROWS:
        costly = sorted(rows, key=lambda row: -(row.proposed_month or row.declared_month or 0.0))[:MAX_ROWS]
        return sizes_table(costly, caption) + left_out(len(rows))
    cells = [
        [_name(row), *(_size(size, row) for size in row.sizes), _type(row), _month(row), confidence_chip(row.confidence)]
        for row in rows
    ]
    return table(caption, COLUMNS, cells, below=[reasons(row) if row.reasons else "" for row in rows])


def _name(row: VmSizes) -> Raw:
    return Raw(f'{e(row.vm)}<span class="believed">{e(row.subnet)} · {e(row.role)}</span>')


def reasons(row: VmSizes) -> str:
    """Why a VM is sized so: what speaks of it first, then how all was learned."""
    rest = [each for each in row.reasons if each not in row.told]
    first = "".join(f'<li class="first">{e(each)}</li>' for each in row.told[:2])
    more = "".join(f"<li>{e(each)}</li>" for each in row.told[2:])
    how = details("How it was learned", bullets(rest)) if rest else ""
    return details(Raw(f"Why {e(row.vm)} is sized so"), f"<ul>{first}{more}</ul>{how}", "why")


def _size(size: Size, row: VmSizes) -> Raw:
    declared = "not declared" if size.declared is None else format_number(size.declared)
    if size.resource == "storage_gb" and size.declared is not None and row.declared_type and not row.priced_as:
        declared = "not declared"  # a type says nothing of disks
    if size.proposed is None:
        return Raw(f'<span class="was">{e(declared)}</span>')
    believed = ""
    if size.estimate is not None:
        low, high = format_number(size.estimate.p50, 2), format_number(size.estimate.p99, 2)
        believed = (
            f'<span class="believed" title="what is needed, as believed: median to 99 %">need {e(low)} to {e(high)}</span>'
        )
    return Raw(
        f'<span class="was">{e(declared)}</span> → <span class="now">{e(amount(size.resource, size.proposed))}</span>{believed}'
    )


def _type(row: VmSizes) -> Raw:
    declared = row.declared_type or (f"{row.priced_as}*" if row.priced_as else "–")
    if row.proposed_type is None:
        return Raw(f'<span class="was">{e(declared)}</span>' + (" → none fits" if row.reasons else ""))
    return Raw(f'<span class="was">{e(declared)}</span> → <span class="now">{e(row.proposed_type)}</span>')


def _month(row: VmSizes) -> Raw:
    was = NONE if row.declared_month is None else dollars(row.declared_month)
    if row.proposed_month is None:
        return Raw(f'<span class="was">{e(was)}</span>')
    told = f'<span class="was">{e(was)}</span> → <span class="now">{e(dollars(row.proposed_month))}</span>'
    if row.declared_month:
        told += f'<span class="believed">{change(row.proposed_month, row.declared_month)}</span>'
    return Raw(told)
