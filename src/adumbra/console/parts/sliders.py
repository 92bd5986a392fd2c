"""The what-if sliders: more traffic on the declared machines, and sizes at another shortfall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from nicegui import events, ui

from adumbra.console.context import Visitor
from adumbra.console.parts import frame
from adumbra.console.parts.markup import e
from adumbra.console.parts.told import dial_table, traffic_table
from adumbra.console.rights import change, may
from adumbra.schema.access import Role
from adumbra.schema.jobs import JobKind
from adumbra.schema.units import format_duration, format_number, format_share
from adumbra.service.pictures.networks import Overview

T = TypeVar("T")
FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SHORTFALLS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


class Dial:
    """A slider over stops, with its name and its value in words; the arrow keys go from stop to stop. The browser's own."""

    def __init__(self, label: str, words: Sequence[str], at: int, on_change: Callable[[int], Awaitable[None]]) -> None:
        self._words, self._on_change, self._at = words, on_change, at
        with ui.element("div").classes("dial"):
            ui.html(f'<span class="label">{e(label)}</span>', sanitize=False)
            self._value = ui.html(e(words[at]), sanitize=False).classes("value").props('aria-hidden="true"')
            self._slider = ui.element("input").props(
                f'type="range" min="0" max="{len(words) - 1}" step="1" defaultValue="{at}"'
            )
            self._slider.props(f'aria-label="{e(label)}" aria-valuetext="{e(words[at])}"')
        # The words change in the browser, at once: what the server sent again would lag behind the hand.
        told = json.dumps(list(words))
        self._slider.on(
            "input",
            self._moved,
            js_handler=f"(event) => {{ const at = Number(event.target.value); "
            f"event.target.setAttribute('aria-valuetext', {told}[at]); emit(at); }}",
        )

    @property
    def at(self) -> int:
        return self._at

    async def _moved(self, event: events.GenericEventArguments) -> None:
        self._at = min(max(int(event.args), 0), len(self._words) - 1)
        self._value.set_content(e(self._words[self._at]))
        await self._on_change(self._at)


class _Latest:
    """Answers one question at a time, and of those asked meanwhile only the last: a slider's stops on the way are skipped."""

    def __init__(self) -> None:
        self._asked, self._turn = 0, asyncio.Lock()

    async def of(self, ask: Callable[[], T]) -> T | None:
        """The answer; None where another question came after this one, or it failed, which is told."""
        self._asked += 1
        mine = self._asked
        async with self._turn:
            found = await frame.asked(ask) if mine == self._asked else None
        return found if mine == self._asked else None


class WhatIf:
    """The section of both sliders."""

    def __init__(self, visitor: Visitor, found: Overview) -> None:
        self._visitor, self._found = visitor, found
        self._traffic_turn, self._dial_turn = _Latest(), _Latest()
        self._known: tuple[object, ...] = ()

    def build(self) -> None:
        self._part = frame.section("What if", "whatif")
        with self._part:
            self._none = frame.Shown('<p class="dim">Something has to be seen first.</p>')
            with ui.element("div").classes("pair") as self._both:
                with ui.element("div"):
                    ui.html("<h3>There were other traffic</h3>", sanitize=False)
                    words = [f"{format_number(each)} × what was seen" for each in FACTORS]
                    self._traffic = Dial("Traffic", words, FACTORS.index(1.0), self._other_traffic)
                    self._shows = frame.Shown(live=True)
                with ui.element("div"):
                    ui.html("<h3>VMs might be short more, or less often</h3>", sanitize=False)
                    target = min(range(len(SHORTFALLS)), key=lambda i: abs(SHORTFALLS[i] - self._found.spec.targets.shortfall))
                    words = [f"short in at most {format_share(each)} of the time" for each in SHORTFALLS]
                    self._dial = Dial("Shortfall", words, target, self._other_dial)
                    self._sizes = frame.Shown(live=True)
                    self._keep = ui.button("Make these the profile", on_click=self._make).props("outline")
                    self._keep.set_visibility(False)

    def follow(self, found: Overview) -> None:
        self._found = found

    async def refresh(self) -> None:
        """Answers again, where what was learned or declared is new."""
        found = self._found
        self._none.element.set_visibility(found.watched is None)
        self._both.set_visibility(found.watched is not None)
        known = (found.watched is not None, found.learned, found.version)
        if found.watched is None or known == self._known:
            return
        self._known = known
        await self._other_traffic(self._traffic.at)
        await self._other_dial(self._dial.at)

    async def _other_traffic(self, at: int) -> None:
        previews, name = self._visitor.console.previews, self._found.name
        found = await self._traffic_turn.of(lambda: previews.traffic(name, FACTORS[at]))
        if found is not None:
            about = (
                f'<p class="dim">Of {e(format_duration(found.observed_s))} of traffic, on the declared machines; simulated.</p>'
            )
            self._shows.show(about + traffic_table(found))

    async def _other_dial(self, at: int) -> None:
        if self._found.learned is None:
            self._sizes.show('<p class="dim">Nothing was learned yet: train first.</p>')
            return
        previews, name = self._visitor.console.previews, self._found.name
        found = await self._dial_turn.of(lambda: previews.sizes(name, SHORTFALLS[at]))
        if found is None:
            return
        self._sizes.show(dial_table(found, self._found))
        kept = self._found.profile
        differs = kept is None or kept.shortfall != found.shortfall
        self._keep.set_visibility(differs and may(self._visitor.who, Role.OPERATOR, name))

    async def _make(self) -> None:
        shortfall = SHORTFALLS[self._dial.at]
        job = await frame.asked(lambda: queue(self._visitor, self._found.name, JobKind.PROFILE, {"shortfall": shortfall}))
        if job is not None:
            self._keep.set_visibility(False)
            frame.said(f"Sizes at {format_share(shortfall)} are being made.")


def queue(
    visitor: Visitor, network: str, kind: JobKind, asked: dict[str, object], role: Role = Role.OPERATOR
) -> int:  # fmt: skip
    """Queues work for the daemon, in the log; gives its number. role: that it takes. Raises ConflictError where too much
    waits, ForbiddenError."""
    console = visitor.console
    job = change(
        visitor, f"queue {kind.value}", role, network,
        lambda: console.workspace.state.jobs.add(network, kind, asked, visitor.who.name, console.now()),
        asked={"kind": kind.value, **asked}, after=lambda made: {"job": made.id},
    )  # fmt: skip
    console.wake()
    return job.id
