"""The frontier: reports of back-tests, kept by the workspace, or made here from a usage file that is small enough."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from nicegui import events, ui

from adumbra.console.context import Visitor, visitor_of
from adumbra.console.parts import frame
from adumbra.console.parts.markup import Cell, Column, details, e, link, progress, table
from adumbra.console.rights import allowed, change, may
from adumbra.schema.access import Principal, Role
from adumbra.schema.errors import AdumbraError, ConflictError, ForbiddenError
from adumbra.schema.units import format_bytes, format_number, format_share, format_time
from adumbra.service import captures, frontiers
from adumbra.service.frontiers import Kept, Rule, Usage
from adumbra.service.observations import Progress

MAX_USAGE_BYTES = 8_000_000
"""How large a usage file may be that is worked on here; beyond it, `adumbra backtest` is the way."""
_LEAD_INS = {"1 day": 1, "3 days": 3, "7 days": 7, "14 days": 14}
_NAMES = {"cpu_cores": "CPU", "memory_gb": "Memory", "bandwidth_mbps": "Bandwidth", "storage_gb": "Storage"}
_ONE_AT_A_TIME = threading.Lock()
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data: blob:; frame-ancestors 'self'"
    ),
    "X-Frame-Options": "SAMEORIGIN", "Cache-Control": "private, no-store",
}  # fmt: skip
"""A report is a page of its own, that may ask nothing of this server, though it stands in a page of it."""


def everyones(who: Principal) -> Principal:
    """Back-tests are of no network: they are for those who see all. Raises ForbiddenError."""
    if not who.sees(None):
        raise ForbiddenError("back-tests are for those who see all networks", "ask an administrator")
    return who


def report_file(name: str, request: Request) -> Response:
    """A report's page, as it was written."""
    visitor = visitor_of(request)
    try:
        everyones(visitor.who)
        return FileResponse(frontiers.page_of(visitor.console.workspace, name), media_type="text/html", headers=REPORT_HEADERS)
    except AdumbraError as error:
        return Response(str(error), 404, media_type="text/plain; charset=utf-8")


async def page(request: Request, report: str = "") -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, "Frontier", "/frontier"):
        ui.html(
            "<h1>Frontier</h1><p class=lead>What sizes cost against how often they are short, on measured history: Adumbra’s "
            "beside the rules people use.</p>", sanitize=False,
        )  # fmt: skip
        try:
            everyones(visitor.who)
        except AdumbraError as error:
            ui.context.client.status_code = 403
            ui.html(frame.problem(error), sanitize=False)
            return
        found = await asyncio.to_thread(frontiers.listing, visitor.console.workspace)
        chosen = report or (found[0].name if found else "")
        with frame.section("Reports", "reports"):
            ui.html(reports_table(found, chosen), sanitize=False)
            if may(visitor.who, Role.OPERATOR):
                _Making(visitor).build()
        if chosen:
            await _show(visitor, chosen)


def reports_table(found: Sequence[Kept], chosen: str) -> str:
    rows: list[list[Cell]] = [
        [link(each.name, f"/frontier?report={each.name}"), format_time(each.made_ns)[:16].replace("T", " "),
         format_bytes(each.size_bytes), "shown below" if each.name == chosen else ""]
        for each in found
    ]  # fmt: skip
    columns = (Column("Report"), Column("Made"), Column("Size", figure=True), Column(""))
    empty = "No report is kept. Make one below, or by: adumbra backtest USAGE --out $ADUMBRA_HOME/backtests/NAME"
    return table("Reports of back-tests", columns, rows, empty=empty)


async def _show(visitor: Visitor, name: str) -> None:
    try:
        rules = await asyncio.to_thread(frontiers.rules_of, visitor.console.workspace, name)
    except AdumbraError as error:
        ui.html(frame.problem(error), sanitize=False)
        return
    with frame.section(name, "shown"):
        ui.html(
            f'<iframe class="frontier" title="The frontier of {e(name)}" src="/backtests/{e(name)}" sandbox="allow-scripts">'
            f'</iframe><p><a href="/backtests/{e(name)}" target="_blank" rel="noopener">Open it alone</a></p>'
            + details("The frontier as a table", frontier_table(rules)), sanitize=False,
        )  # fmt: skip


def frontier_table(rules: Sequence[Rule]) -> str:
    rows: list[list[Cell]] = [
        [_NAMES.get(each.resource, each.resource), f"{each.rule} {each.risk or ''}".strip(), format_share(each.dial),
         _percent(each.allocated_percent), _percent(each.short_percent)]
        for each in rules
    ]  # fmt: skip
    columns = (
        Column("Resource"), Column("Rule"), Column("Dial", figure=True),
        Column("Allocated", figure=True), Column("Short", figure=True),
    )  # fmt: skip
    return table("Each rule: allocated, in % of what was provisioned, against short, in % of the time", columns, rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{format_number(value)} %"


class _Making:
    """A report of a usage file that is sent. One is made at a time: it takes the server's cores."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._told: tuple[float | None, str] = (None, "")

    def build(self) -> None:
        ui.html(
            '<h3 style="margin-top:1rem">Make one</h3><p class="dim">Of a usage file (CSV or Parquet) of up to '
            f"{e(format_bytes(MAX_USAGE_BYTES))}; larger ones by <code>adumbra backtest</code>.</p>", sanitize=False,
        )  # fmt: skip
        with ui.element("div").classes("row"):
            self._name = ui.input("Name of the report").props('outlined dense autocomplete="off"').classes("grow")
            self._lead = ui.select(list(_LEAD_INS), value="14 days", label="Learns first from").props("outlined dense")
            self._lead.style("min-width:11rem")
            upload = ui.upload(
                auto_upload=True, max_file_size=MAX_USAGE_BYTES, max_files=1, on_upload=self._came,
                on_rejected=lambda: ui.notify("That file is too large for here: use `adumbra backtest`.", type="negative"),
            ).classes("hidden-input")  # fmt: skip
            self._upload = upload
            ui.button("Send a usage file…").props("unelevated").on(
                "click", js_handler=f"() => runMethod({upload.id}, 'pickFiles', [])"
            )
        self._state = frame.Shown(live=True)

    async def _came(self, event: events.UploadEventArguments) -> None:
        visitor = self._visitor
        name = str(self._name.value or "").strip() or Path(event.file.name).stem[:80]
        lead_in_s = _LEAD_INS[str(self._lead.value)] * 86_400.0
        self._upload.reset()
        follow = ui.timer(1.0, self._tell)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / captures.tidy(event.file.name)
                await event.file.save(path)
                made = await asyncio.to_thread(make, visitor, name, Usage(path, lead_in_s), self._note)
        except AdumbraError as error:
            self._state.show(frame.problem(error))
            return
        finally:
            follow.cancel()
        ui.navigate.to(f"/frontier?report={made.name}")

    def _note(self, share: float | None, doing: str) -> None:
        self._told = (share, doing)

    def _tell(self) -> None:
        share, doing = self._told
        self._state.show(
            f'<p class="job">{progress(share, "Back-test: how far").markup} <span class="dim">{e(doing)}</span></p>'
        )


def make(visitor: Visitor, name: str, usage: Usage, tell: Progress) -> Kept:
    """Makes a report, in the log. Raises what frontiers.make raises, and ConflictError while another is made."""
    everyones(allowed(visitor.again(), Role.OPERATOR))
    if usage.file.stat().st_size > MAX_USAGE_BYTES:
        raise ConflictError("this usage file is too large for here", "use `adumbra backtest`")
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise ConflictError("a back-test is being worked on", "wait until it ends")
    console = visitor.console
    try:
        return change(
            visitor, "make back-test", Role.OPERATOR, None,
            lambda: frontiers.make(console.workspace, name, usage, console.now, tell), asked={"name": name},
        )  # fmt: skip
    finally:
        _ONE_AT_A_TIME.release()
