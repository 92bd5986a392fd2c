"""The sources of a network: what is watched and what was lost; attaching one by name, or a capture by sending it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from nicegui import events, ui

from adumbra.console.context import Visitor
from adumbra.console.parts import frame
from adumbra.console.parts.markup import e, of
from adumbra.console.parts.told import SOURCE_COLUMNS, source_cells, source_name
from adumbra.console.rights import allowed, change, may
from adumbra.schema.access import Role
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import SourceRecord, SourceState
from adumbra.schema.sources import parse_source
from adumbra.schema.units import format_bytes
from adumbra.service import captures, taps
from adumbra.service.pictures.networks import Observed, sources_of


def attach(visitor: Visitor, network: str, text: str, folder: Path | None = None) -> SourceRecord:
    """Has a source watched, in the log. folder: that its file must lie in, None: that of the server's captures.

    Raises InputError for what is none, ForbiddenError for a file elsewhere, ConflictError where it is watched already.
    """
    console = visitor.console
    asked = taps.Asked(str(parse_source(text.strip())), {})
    made = change(
        visitor, "attach source", Role.OPERATOR, network,
        lambda: taps.ask_for(console.workspace, network, asked, folder or console.captures, console.now()),
        asked={"source": asked.source}, after=lambda record: {"source": record.id},
    )  # fmt: skip
    console.wake()
    return made


def send(visitor: Visitor, network: str, name: str, content: BinaryIO) -> SourceRecord:
    """Keeps a capture that was sent, and has it watched, in the log; it isn't kept where it can't be watched.

    Raises ForbiddenError, and what captures.keep and `attach` raise.
    """
    console = visitor.console
    allowed(visitor.again(), Role.OPERATOR, network)
    source = captures.keep(console.workspace, network, name, content, console.kept_bytes)
    try:
        return attach(visitor, network, source, captures.folder_of(console.workspace, network))
    except BaseException:
        captures.drop(source)
        raise


def detach(visitor: Visitor, number: int) -> None:
    """Has a source watched no more, in the log."""
    console, sources = visitor.console, visitor.console.workspace.state.sources
    was = sources.get(number)
    message = f"{was.source} is not to be observed any more."
    change(
        visitor, "stop source", Role.OPERATOR, was.network,
        lambda: sources.move(number, SourceState.STOPPED, console.now(), message),
        before={"source": was.source, "state": was.state.value}, after=lambda source: {"state": source.state.value},
    )  # fmt: skip
    console.wake()


class SourceRows:
    """A table of sources, with a button to stop each that goes on."""

    def __init__(self, visitor: Visitor, *, networks: bool = False) -> None:
        self._visitor, self._networks = visitor, networks
        self._shown: tuple[tuple[Observed, str], ...] | None = None
        self._place = ui.element("div")

    def show(self, found: tuple[Observed, ...]) -> None:
        now_ns = self._visitor.console.now()
        keyed = tuple((each, of(source_cells(each, now_ns)[3])) for each in found)
        if keyed == self._shown:
            return
        self._shown = keyed
        self._place.clear()
        with self._place:
            if not found:
                ui.html('<p class="dim">No source is, or was, attached.</p>', sanitize=False)
                return
            self._table(found, now_ns)

    def _table(self, found: tuple[Observed, ...], now_ns: int) -> None:
        names = [*(["Network"] if self._networks else []), *(column.title for column in SOURCE_COLUMNS)]
        with (
            ui.element("div").classes("scroll").props('tabindex="0" role="region" aria-label="Sources"'),
            ui.element("table").classes("cards"),
        ):
            heads = (
                "".join(f'<th scope="col">{e(name)}</th>' for name in names)
                + '<th scope="col"><span class=unseen>Act</span></th>'
            )
            ui.html(f"<tr>{heads}</tr>", sanitize=False, tag="thead")
            with ui.element("tbody"):
                for each in found:
                    with ui.element("tr"):
                        self._row(each, names, now_ns)

    def _row(self, each: Observed, names: list[str], now_ns: int) -> None:
        cells = [of(cell) for cell in source_cells(each, now_ns)]
        if self._networks:
            cells.insert(0, f'<a href="/networks/{e(each.network)}">{e(each.network)}</a>')
        for number, (name, cell) in enumerate(zip(names, cells, strict=True)):
            ui.html(f"<span>{cell}</span>", sanitize=False, tag="td" if number else "th").props(
                f'data-label="{e(name)}"' + ("" if number else ' scope="row"')
            ).style("overflow-wrap:anywhere" if number == (1 if self._networks else 0) else "")
        with ui.element("td"):
            if each.going and each.id is not None and may(self._visitor.who, Role.OPERATOR, each.network):
                button = ui.button("Stop", on_click=lambda _, one=each: self._stop(one)).props("flat dense")
                button.props(f'aria-label="Stop watching {e(each.source)}"')

    async def _stop(self, each: Observed) -> None:
        number = each.id or 0
        await frame.asked(lambda: detach(self._visitor, number))
        self._shown = None


class Sources:
    """The section of a network's sources."""

    def __init__(self, visitor: Visitor, network: str) -> None:
        self._visitor, self._network = visitor, network

    def build(self) -> None:
        with frame.section("Sources, and what they lost", "sources"):
            self._rows = SourceRows(self._visitor)
            if may(self._visitor.who, Role.OPERATOR, self._network):
                self._attaching()

    def show(self, found: tuple[Observed, ...]) -> None:
        self._rows.show(found)

    async def refresh(self) -> None:
        found = await frame.asked(lambda: sources_of(self._visitor.console.workspace, self._network))
        if found is not None:
            self.show(found)

    def _attaching(self) -> None:
        most = self._visitor.console.capture_bytes
        ui.html(
            f'<h3 style="margin-top:1rem">Attach a source</h3><p class="dim">A capture from this computer (up to '
            f"{e(format_bytes(most))}), or what the server can reach: live:eth0, vxlan:4789, netflow:2055, or a "
            "pcap:FILE in its folder of captures.</p>",
            sanitize=False,
        )
        with ui.element("div").classes("row"):
            upload = ui.upload(
                label="A capture", auto_upload=True, max_file_size=most, max_files=1, on_upload=self._came,
                on_rejected=lambda: ui.notify(f"That capture is larger than {format_bytes(most)}.", type="negative"),
            ).classes("hidden-input")  # fmt: skip
            self._upload = upload
            ui.button("Send a capture…").props("unelevated").on(
                "click", js_handler=f"() => runMethod({upload.id}, 'pickFiles', [])"
            )
            self._text = ui.input("Source").props('outlined dense spellcheck="false" autocomplete="off"').classes("grow")
            self._text.on("keydown.enter", self._named)
            ui.button("Attach", on_click=self._named).props("outline")
        self._told = frame.Shown(live=True)

    async def _named(self) -> None:
        text = str(self._text.value or "")
        await self._attach(lambda: attach(self._visitor, self._network, text))

    async def _attach(self, do: Callable[[], SourceRecord]) -> None:
        import asyncio

        try:
            made = await asyncio.to_thread(do)
        except AdumbraError as error:
            self._told.show(frame.problem(error))
            return
        self._text.set_value("")
        self._told.show(f'<p class="fine">{of(source_name(made.source))} is watched from now on.</p>')
        await self.refresh()

    async def _came(self, event: events.UploadEventArguments) -> None:
        """A capture came: it is kept, then watched."""
        import tempfile

        name = event.file.name
        self._told.show(f'<p class="dim">Keeping {e(name)} …</p>')
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/capture"
            await event.file.save(path)

            def keep() -> SourceRecord:
                with open(path, "rb") as content:
                    return send(self._visitor, self._network, name, content)

            await self._attach(keep)
        self._upload.reset()
