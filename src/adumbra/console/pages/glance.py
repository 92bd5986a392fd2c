"""All networks at a glance, and making a new one."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from nicegui import ui

from adumbra.console.context import Visitor, visitor_of
from adumbra.console.parts import frame
from adumbra.console.parts.markup import Cell, Column, Raw, chip, confidence_chip, e, fact, facts, link, state_chip, table
from adumbra.console.parts.sizes import cost_words
from adumbra.console.rights import change, may
from adumbra.schema.access import Principal, Role
from adumbra.schema.errors import AdumbraError, SpecError
from adumbra.schema.spec import spec_to_dict
from adumbra.service import networks
from adumbra.service.pictures.networks import STATES, Glance, glances
from adumbra.service.pictures.words import ago, dollars, short_duration
from adumbra.service.workspace import Workspace

PAGE = 50
REFRESH_S = 3.0
_COLUMNS = (
    Column("Network"), Column("State"), Column("VMs", figure=True), Column("Learned from"), Column("Confidence"),
    Column("Expected a month", figure=True), Column("Against declared"), Column("Sources"), Column("Last data"),
)  # fmt: skip
_EXAMPLE = """\
name: shop
cidrs: [10.20.0.0/16]
subnets:
  - {name: web, cidr: 10.20.1.0/24}
links:
  - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}
vms:
  - {name: web, count: 2, subnet: web, role: app, type: m7i.large, ports: [443]}
targets: {shortfall: 1%}
"""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of networks: those shown, how many there are in all that fit, and which of these is the first."""

    shown: tuple[Glance, ...]
    fitting: int
    first: int


def listing(visitor: Visitor, wanted: str, first: int) -> Listing:
    """The networks that are theirs to see and whose name holds the words, so many from the first on."""
    who = visitor.again()
    key = ("networks", who.networks, wanted, first)
    return visitor.console.looks.shared(key, lambda _: _listing(visitor.console.workspace, who, wanted, first))


def _listing(workspace: Workspace, who: Principal, wanted: str, first: int) -> Listing:
    records = [each for each in workspace.state.networks() if who.sees(each.name) and wanted in each.name]
    first = min(first, max(0, len(records) - 1) // PAGE * PAGE)
    return Listing(glances(workspace, records[first : first + PAGE]), len(records), first)


def listing_table(found: Listing, now_ns: int) -> str:
    return table("Networks", _COLUMNS, [_row(each, now_ns) for each in found.shown])


def _row(each: Glance, now_ns: int) -> list[Cell]:
    cost, against = cost_words(each.costs)
    learned = short_duration(each.learned_s) if each.learned_s is not None else "not yet"
    sources: Cell = f"{each.sources} watched" if each.sources else "none"
    if each.troubled:
        sources = Raw(f"{e(sources)} {chip(f'{each.troubled} in trouble', 'bad').markup}")
    state = state_chip(each.state, STATES[each.state])
    if each.jobs:
        state = Raw(f'{state.markup} <span class="dim">{each.jobs} at work</span>')
    return [
        link(each.name, f"/networks/{each.name}"), state, f"{each.vms:,}", learned, confidence_chip(each.confidence), cost,
        against, sources, ago(now_ns, each.last_ns),
    ]  # fmt: skip


def totals(found: Listing) -> str:
    """What is shown, in sums."""
    proposed = [each.costs for each in found.shown if each.costs.proposed is not None and each.costs.declared is not None]
    saved = sum((each.declared or 0) - (each.proposed or 0) for each in proposed)
    sized, against = sum(each.proposed or 0 for each in proposed), sum(each.declared or 0 for each in proposed)
    return facts(
        fact("Networks", f"{found.fitting:,}", f"{sum(each.vms for each in found.shown):,} VMs on this page"),
        fact("Sized", f"{sum(each.learned_s is not None for each in found.shown):,}", "have a profile"),
        fact("Expected a month", dollars(sized) if proposed else "–",
             f"declared {dollars(against)}" if proposed else "no sizes yet"),
        fact("Saved a month", Raw(f'<span class="{"less" if saved >= 0 else "more"}">{e(dollars(abs(saved)))}</span>')
             if proposed else "–", "by the sizes against what was declared" if saved >= 0 else "more than was declared"),
    )  # fmt: skip


async def page(request: Request) -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, "Networks", "/"):
        ui.html(
            "<h1>Networks</h1><p class=lead>What each shadow knows, how sure it is, and what its network would cost.</p>",
            sanitize=False,
        )
        await _Glances(visitor).build()
        if may(visitor.who, Role.OPERATOR):
            _Making(visitor).build()


class _Glances:
    """The list, which follows what happens."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._wanted, self._first = "", 0

    async def build(self) -> None:
        self._sums = frame.Shown()
        with frame.section("All networks", "all"):
            self._filter = ui.input("Only names with", on_change=self._search).props(
                'outlined dense debounce="300" type="search"'
            )
            self._list = frame.Shown()
            with ui.element("div").classes("row") as self._pages:
                ui.button("Earlier", on_click=lambda: self._turn(-PAGE)).props("flat")
                self._where = ui.label()
                ui.button("Later", on_click=lambda: self._turn(PAGE)).props("flat")
        await self.refresh()
        ui.timer(REFRESH_S, self.refresh, immediate=False)

    async def refresh(self) -> None:
        found = await frame.asked(lambda: listing(self._visitor, self._wanted, self._first))
        if found is None:
            return
        self._first = found.first
        self._sums.show(totals(found) if found.fitting else "")
        many = found.fitting > PAGE
        self._pages.set_visibility(many)
        self._filter.set_visibility(many or bool(self._wanted))
        self._where.set_text(f"{found.first + 1:,} to {found.first + len(found.shown):,} of {found.fitting:,}")
        if found.shown:
            self._list.show(listing_table(found, self._visitor.console.now()))
        else:
            self._list.show('<p class="dim">There is no such network.</p>' if self._wanted else _nothing())

    async def _search(self) -> None:
        self._wanted, self._first = str(self._filter.value or "").strip().lower(), 0
        await self.refresh()

    async def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        await self.refresh()


def _nothing() -> str:
    return (
        "<p>There are no networks yet. Describe one below: its shadow is made with it, in the same moment, and watches what "
        "you attach to it.</p>"
    )


class _Making:
    """Pasting a spec, with what is wrong with it beside its lines, and creating its network."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    def build(self) -> None:
        with frame.section("Create a network", "create"):
            ui.html(
                '<p class="dim">Paste its description (YAML or JSON). It is checked as you type; nothing is made yet.</p>',
                sanitize=False,
            )
            with ui.element("div").classes("pair"):
                with ui.element("div"):
                    self._text = ui.textarea("Description of the network", on_change=self._check)
                    self._text.props('outlined debounce="300" spellcheck="false" autocomplete="off"').classes("mono")
                    with ui.element("div").classes("row").style("margin-top:.6rem"):
                        ui.button("Create the network", on_click=self._create).props("unelevated")
                        ui.button("Start from an example", on_click=lambda: self._text.set_value(_EXAMPLE)).props("flat")
                self._found = frame.Shown(
                    '<p class="dim">What is wrong with it, or what it would make, stands here.</p>', live=True
                )

    async def _check(self) -> None:
        text = str(self._text.value or "")
        self._found.show(await frame.asked(lambda: checked(text)) or "")

    async def _create(self) -> None:
        text = str(self._text.value or "")
        made = await frame.asked(lambda: create(self._visitor, text))
        if made is not None:
            ui.navigate.to(f"/networks/{made}")


def create(visitor: Visitor, text: str) -> str:
    """Creates the network that a spec describes, and gives its name. Raises SpecError, ConflictError, ForbiddenError."""
    spec = networks.check(text, "line")
    console = visitor.console
    change(
        visitor, "create network", Role.OPERATOR, spec.name,
        lambda: networks.create(console.workspace, text, "line", console.now()),
        asked=spec_to_dict(spec), after=lambda made: {"version": made.record.version},
    )  # fmt: skip
    console.wake()
    return spec.name


def checked(text: str) -> str:
    """What a spec would make, or its problems by line, each with the line itself."""
    if not text.strip():
        return '<p class="dim">What is wrong with it, or what it would make, stands here.</p>'
    try:
        spec = networks.check(text, "line")
    except SpecError as error:
        return problems(text, error)
    except AdumbraError as error:
        return frame.problem(error)
    vms = sum(group.count for group in spec.vms)
    return (
        f'<p class="fine"><strong>{e(spec.name)}</strong> is right: {len(spec.subnets):,} subnets, {vms:,} VMs, '
        f"{len(spec.links):,} links, intervals of {spec.interval:g} s.</p>"
    )


def problems(text: str, error: SpecError) -> str:
    lines = text.splitlines() or [""]
    told = []
    for each in error.problems[:50]:
        _, _, rest = each.partition(":")
        number, _, what = rest.partition(":")
        if number.isdecimal():
            at = int(number)
            near = range(max(1, at - 1), min(len(lines), at + 1) + 1)
            shown = "\n".join(
                f"<mark>{row:>4} {e(lines[row - 1][:160])}</mark>" if row == at else f"{row:>4} {e(lines[row - 1][:160])}"
                for row in near
            )
            told.append(f'<li><span class="at">Line {at}</span>: {e(what.strip())}<pre class="lines">{shown}</pre></li>')
        else:
            told.append(f"<li>{e(each)}</li>")
    more = len(error.problems) - len(told)
    count = f"{len(error.problems)} thing{'s' if len(error.problems) > 1 else ''} to mend"
    return f'<h3>{count}</h3><ol class="problems">{"".join(told)}</ol>' + (f"<p>and {more} more</p>" if more > 0 else "")
