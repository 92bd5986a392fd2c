"""A network's page: what its shadow knows, and how sure it is; what would be done, and why. Follows what happens meanwhile."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from adumbra.console.context import Visitor, visitor_of
from adumbra.console.looks import Seen
from adumbra.console.parts import frame
from adumbra.console.parts.attach import Sources
from adumbra.console.parts.curves import Curves
from adumbra.console.parts.lives import lives_table
from adumbra.console.parts.markup import Column, bullets, details, e, state_chip, table
from adumbra.console.parts.plan import PlanPart
from adumbra.console.parts.sizes import overview_facts, sizes_table
from adumbra.console.parts.sliders import WhatIf, queue
from adumbra.console.parts.told import events_list, job_line
from adumbra.console.rights import allowed, change, may
from adumbra.schema.access import Role
from adumbra.schema.errors import AdumbraError, TooLittleDataError
from adumbra.schema.jobs import JobKind
from adumbra.schema.spec import spec_to_dict
from adumbra.schema.units import format_duration, format_number, format_share, format_time
from adumbra.service import live, networks
from adumbra.service.pictures.loads import Loads
from adumbra.service.pictures.networks import STATES, Overview, Working, overview
from adumbra.service.pictures.topology import sentences, svg, topology

REFRESH_S = 2.0
COMPARE_NS = 10 * 10**9
"""How often is compared anew: steps are no shorter."""
_NOT_LIVE = "Nothing is measured: real VMs are read once the network is active, where their provider tells of their use."
_PARTS = (
    ("Topology", "topology"), ("Charts", "charts"), ("Sizes", "sizes"), ("Live", "live"), ("What if", "whatif"),
    ("Plan", "plan"), ("Sources", "sources"), ("Events", "events"),
)  # fmt: skip


async def page(request: Request, name: str) -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, name, ""):
        try:
            found = await _known(visitor, name)
        except AdumbraError as error:
            ui.context.client.status_code = 404
            ui.html(f'<h1>There is nothing here</h1>{frame.problem(error)}<p><a href="/">All networks</a></p>', sanitize=False)
            return
        await NetworkPage(visitor, found).build()


async def _known(visitor: Visitor, name: str) -> Overview:
    import asyncio

    allowed(visitor.who, Role.VIEWER, name)
    return await asyncio.to_thread(overview, visitor.console.workspace, name)


class NetworkPage:
    """The page of one network, for one visitor."""

    def __init__(self, visitor: Visitor, found: Overview) -> None:
        self._visitor, self._found = visitor, found
        self._curves, self._whatif = Curves(visitor, found), WhatIf(visitor, found)
        self._plan, self._sources = PlanPart(visitor, found, self.refresh), Sources(visitor, found.name)
        self._seen: Seen | None = None
        self._compared_ns = -COMPARE_NS

    async def build(self) -> None:
        self._head = frame.Shown()
        self._jobs = frame.Shown(live=True)
        self._buttons()
        jumps = "".join(f'<a href="#{key}">{name}</a>' for name, key in _PARTS)
        ui.html(f'<nav class="jump" aria-label="Parts of this page">{jumps}</nav>', sanitize=False)
        self._facts = frame.Shown()
        with frame.section("Topology, and what it carries now", "topology"):
            self._picture = frame.Shown()
        self._curves.build()
        with frame.section("Sizes against what was declared", "sizes"):
            self._sizes = frame.Shown()
        with frame.section("Live: predicted and measured", "live"):
            self._live = frame.Shown(f'<p class="dim">{_NOT_LIVE}</p>')
        self._whatif.build()
        await self._plan.build()
        self._sources.build()
        with frame.section("Events", "events"):
            self._events = frame.Shown()
        await self._look_again()
        ui.timer(REFRESH_S, self.refresh)  # what takes longer comes once the page is there

    def _buttons(self) -> None:
        visitor, name = self._visitor, self._found.name
        if not may(visitor.who, Role.OPERATOR, name):
            return
        with ui.element("div").classes("row q-mb"):
            self._train = ui.button("Train", on_click=lambda: self._queue(JobKind.TRAIN, {})).props("unelevated")
            self._size = ui.button("Size the VMs", on_click=lambda: self._queue(JobKind.PROFILE, {})).props("outline")
            ui.button("Change the description…", on_click=self._describe).props("flat")

    async def refresh(self) -> None:
        """Looks again at everything, and sends what changed."""
        seen = await self._look_again()
        if seen is None or seen is self._seen:
            return
        self._seen = seen
        for part in (self._curves, self._whatif):
            part.follow(seen.overview)
            await part.refresh()
        await self._compare()
        await self._replan(seen)

    async def _compare(self) -> None:
        """What was predicted against what is measured, as soon as anything is, and not at every look."""
        visitor, name, now_ns = self._visitor, self._found.name, self._visitor.console.now()
        if 0 <= now_ns - self._compared_ns < COMPARE_NS:
            return
        self._compared_ns = now_ns

        def seen() -> str:
            allowed(visitor.again(), Role.VIEWER, name)
            return visitor.console.looks.shared(("live", name), look)

        def look(before: str | None) -> str:
            del before
            try:
                return lives_table(live.compare(visitor.console.workspace, name))
            except TooLittleDataError:
                return f'<p class="dim">{_NOT_LIVE}</p>'

        told = await frame.asked(seen)
        if told is not None:
            self._live.show(told)

    async def _look_again(self) -> Seen | None:
        """What is known without working anything out; None where it can't be seen, which is told."""
        visitor, name = self._visitor, self._found.name

        def look() -> Seen:
            allowed(visitor.again(), Role.VIEWER, name)
            return visitor.console.looks.network(name)

        seen = await frame.asked(look)
        if seen is None:
            return None
        found, now_ns = seen.overview, visitor.console.now()
        self._jobs.show("".join(job_line(each, now_ns) for each in _to_tell(seen.jobs, now_ns)))
        self._facts.show(overview_facts(found, now_ns))
        self._sources.show(seen.sources)
        if seen is self._seen:  # then only how long ago things were is new
            return seen
        self._found = found
        self._head.show(_headline(found))
        self._picture.show(picture(found, seen.load))
        self._sizes.show(_sizes(found))
        self._events.show(events_list(seen.events))
        return seen

    async def _replan(self, seen: Seen) -> None:
        decided = max((each.id for each in seen.events if each.kind.startswith(("plan.", "policy."))), default=0)
        await self._plan.refresh(seen.overview, decided)

    async def _queue(self, kind: JobKind, asked: dict[str, object]) -> None:
        if await frame.asked(lambda: queue(self._visitor, self._found.name, kind, asked)) is not None:
            frame.said({JobKind.TRAIN: "Training is queued.", JobKind.PROFILE: "Sizing is queued."}.get(kind, "It is queued."))
            await self.refresh()

    async def _describe(self) -> None:
        from adumbra.console.pages.glance import checked

        visitor, name = self._visitor, self._found.name
        record = await frame.asked(lambda: visitor.console.workspace.state.network(name))
        if record is None:
            return
        with (
            ui.dialog() as dialog,
            ui.card().style("width:52rem;max-width:96vw").props(f'aria-label="Description of {e(name)}"'),
        ):
            ui.html(f"<h2>Description of {e(name)}, version {record.version}</h2>", sanitize=False)
            text = (
                ui.textarea("Description", value=record.spec_text)
                .props('outlined debounce="300" spellcheck="false"')
                .classes("mono")
            )
            told = frame.Shown(live=True)

            async def check() -> None:
                told.show(await frame.asked(lambda: checked(str(text.value or ""))) or "")

            async def put() -> None:
                if await frame.asked(lambda: redescribe(visitor, name, str(text.value or ""), record.version)) is not None:
                    dialog.close()
                    await self.refresh()

            text.on_value_change(check)
            with ui.element("div").classes("row"):
                ui.button("Put it in place", on_click=put).props("unelevated")
                ui.button("Leave it", on_click=dialog.close).props("flat")
        dialog.open()


def redescribe(visitor: Visitor, name: str, text: str, was: int) -> int:
    """Gives a network another spec, in the log; gives its new version. Raises SpecError, PreconditionError."""
    from adumbra.schema.errors import InputError

    console = visitor.console
    spec = networks.check(text, "line")
    if spec.name != name:
        raise InputError(f"the description is of {spec.name}, not of {name}", "a network keeps its name")
    before = networks.get(console.workspace, name)
    made = change(
        visitor, "update network", Role.OPERATOR, name,
        lambda: networks.update(console.workspace, text, "line", console.now(), was),
        asked=spec_to_dict(spec), before=spec_to_dict(before.spec) | {"version": before.record.version},
        after=lambda network: {"version": network.record.version},
    )  # fmt: skip
    console.wake()
    return made.record.version


def _to_tell(jobs: tuple[Working, ...], now_ns: int) -> tuple[Working, ...]:
    """The jobs that go on, and those that failed or ended within the last minutes."""
    return tuple(each for each in jobs if not each.state.over or now_ns - (each.finished_ns or 0) < 300 * 10**9)[:4]


def _headline(found: Overview) -> str:
    cidrs = ", ".join(str(cidr) for cidr in found.spec.cidrs[:4])
    lead = f"{len(found.vms):,} VMs in {cidrs} · version {found.version} · {STATES[found.state]}"
    return f'<div class="headline"><h1>{e(found.name)}</h1>{state_chip(found.state).markup}</div><p class="lead">{e(lead)}</p>'


def picture(found: Overview, load: Loads) -> str:
    """The topology, twice: for wide and narrow screens; and as a table."""
    label = f"Topology of {found.name}"
    wide = topology(found.spec, found.vms, load.vms)
    tall = topology(found.spec, found.vms, load.vms, down=True)
    since = ""
    if load.until_ns is not None:
        since = (
            f"Load: the mean of the last {format_duration(load.window_s)}, up to {format_time(load.until_ns)[:19]}Z. "
            'Rates are <span class="mark observed">observed</span>, requests <span class="mark inferred">inferred</span>, CPU '
            '<span class="mark simulated">simulated</span>; the bar is the CPU’s busy share.'
        )  # fmt: skip
    columns = (
        Column("VM"), Column("In Mbps", figure=True), Column("Out Mbps", figure=True), Column("Requests/s", figure=True),
        Column("CPU", figure=True), Column("Latency p99", figure=True),
    )  # fmt: skip
    rows = [
        [vm, format_number(one.rx_mbps), format_number(one.tx_mbps), format_number(one.requests_per_s),
         format_share(one.cpu, 2),
         format_duration(one.latency_ms_p99 / 1e3)]
        for vm, one in list(load.vms.items())[:200]
    ]  # fmt: skip
    words = bullets(sentences(wide)) + table("Load of each VM", columns, rows, empty="Nothing was seen yet.")
    return (
        f'<div class="wide">{svg(wide, label)}</div><div class="tall">{svg(tall, label)}</div><p class="dim">{since}</p>'
        + details("In words, and as a table", words)
    )


def _sizes(found: Overview) -> str:
    if found.profile is None:
        about = '<p class="dim">There is no profile yet. What is declared:</p>'
    else:
        profile = found.profile
        about = (
            f'<p class="dim">For {e(format_duration(profile.horizon_s))}, short in at most '
            f"{e(format_share(profile.shortfall))} of the time; learned from {e(format_duration(profile.learned_s))} by "
            f"{e(profile.model)}. Each cell: declared → "
            "<strong>proposed</strong>; below it, what is believed to be needed, from its median to its 99 % point.</p>"
        )
    stars = any(row.priced_as for row in found.sizes)
    note = '<p class="dim">* the cheapest type that holds what is declared, for its price</p>' if stars else ""
    return about + sizes_table(found.sizes, f"Sizes of {found.name}") + note
