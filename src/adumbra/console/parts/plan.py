"""The plan part of a network's page: what a provider would change, who that is; carrying it out, and taking it away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from nicegui import background_tasks, ui

from adumbra.console.context import Visitor
from adumbra.console.parts import frame
from adumbra.console.parts.markup import e
from adumbra.console.parts.sliders import queue
from adumbra.console.parts.told import diff_list
from adumbra.console.planner import Question
from adumbra.console.rights import allowed, change, may
from adumbra.schema.access import Role
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import JobKind
from adumbra.schema.plans import PROVIDERS
from adumbra.schema.state import NetworkState, PlanRecord, PlanState
from adumbra.service import approvals
from adumbra.service.pictures.networks import Overview
from adumbra.service.pictures.plans import Diff
from adumbra.service.providers import usual_provider
from adumbra.service.workspace import Workspace

PATIENCE_S = 5.0
"""After which whoever looks is told that the provider hasn't answered yet."""
_NO_PROFILE = '<p class="dim">There is no profile yet: size the VMs first.</p>'
_STANDS = frozenset({NetworkState.ACTIVE, NetworkState.ACTIVATING, NetworkState.FAILED})
"""States in which something may stand that can be taken away."""
_WORDS = {
    JobKind.ACTIVATE: ("Activate", "The server carries out the plan above", "Carry out the plan"),
    JobKind.DEACTIVATE: (
        "Deactivate",
        "The server takes away what stands, not the shadow",
        "Take it away",
    ),
}
"""The act, what it does, and the word on its button."""


class PlanPart:
    """The section. acted: called once something was queued or decided, so that the page looks again."""

    def __init__(self, visitor: Visitor, found: Overview, acted: Callable[[], Awaitable[None]]) -> None:
        self._visitor, self._found, self._acted = visitor, found, acted
        self._mark: tuple[object, ...] = ()
        self._decided = 0
        self._waiting: PlanRecord | None = None

    async def build(self) -> None:
        workspace, name = self._visitor.console.workspace, self._found.name
        usual = await frame.asked(lambda: usual_provider(workspace, name)) or PROVIDERS[0]
        with frame.section("The plan: what activating would change", "plan"):
            with ui.element("div").classes("row q-mb"):
                self._by = ui.select(list(PROVIDERS), value=usual, label="Made by")
                self._by.props("outlined dense options-dense").style("min-width:11rem")
                self._by.on_value_change(self._again)
                ui.button("Plan again", on_click=self._again).props("flat")
            self._plan = frame.Shown(live=True)
            self._waits = frame.Shown(live=True)
            with ui.element("div").classes("row"):
                self._approve = ui.button("Approve it", on_click=self._approved).props("unelevated")
                self._reject = ui.button("Reject it", on_click=self._rejected).props("flat")
                self._activate = ui.button("Activate…", on_click=lambda: self._confirm(JobKind.ACTIVATE)).props("outline")
                self._away = ui.button("Deactivate…", on_click=lambda: self._confirm(JobKind.DEACTIVATE)).props("flat")
            for button in (self._approve, self._reject, self._activate, self._away):
                button.set_visibility(False)

    async def refresh(self, found: Overview, decided: int) -> None:
        """Plans anew where what a plan is made from is new. decided: the newest event of plans and policies."""
        self._found, self._decided = found, decided
        mark = (str(self._by.value), found.profiled_ns, found.version, found.state, decided)
        if mark == self._mark:
            return
        self._mark = mark
        may_act = may(self._visitor.who, Role.OPERATOR, found.name)
        self._activate.set_visibility(False)
        self._away.set_visibility(may_act and found.state in _STANDS)
        if found.profile is None:
            self._plan.show(_NO_PROFILE)
        else:
            background_tasks.create(self._show_plan(self._plan, Question(found.name, str(self._by.value), of=mark)))
        await self._look_who_waits()

    async def _again(self) -> None:
        self._mark = ()
        await self.refresh(self._found, self._decided)

    async def _show_plan(self, shown: frame.Shown, question: Question) -> None:
        """Shows a plan once its provider has answered, and until then whom it is waited for."""
        visitor, by = self._visitor, e(question.provider)
        shown.show(f'<p class="dim">Asking {by} what stands…</p>')
        try:
            asked = asyncio.wrap_future(await asyncio.to_thread(_ask, visitor, question))
            while not asked.done():
                await asyncio.wait({asked}, timeout=PATIENCE_S)
                if shown.element.is_deleted or self._is_old(question):
                    asked.add_done_callback(lambda late: late.cancelled() or late.exception())  # told to nobody
                    return
                if not asked.done():
                    shown.show(f'<p class="dim">{by} hasn’t answered yet; the plan comes here once it does.</p>')
            made: Diff = asked.result()
        except AdumbraError as error:
            if not self._is_old(question):
                shown.show(frame.problem(error))
            return
        if self._is_old(question):
            return
        about = f'<p class="dim">A dry run against what stands, by {by}: nothing is touched.</p>'
        shown.show(about + diff_list(made))
        if not question.away:
            self._activate.set_visibility(bool(made.changes) and may(visitor.who, Role.OPERATOR, question.network))

    def _is_old(self, question: Question) -> bool:
        """Whether another plan is to stand in its place by now."""
        return not question.away and question.of != self._mark

    async def _look_who_waits(self) -> None:
        """Tells of the plan that waits for approval, if one does, and offers to decide on it to whoever may."""
        visitor, name = self._visitor, self._found.name
        told = await frame.asked(lambda: waiting(visitor.console.workspace, name))
        self._waiting, words = told if told is not None else (None, "")
        self._waits.show(words)
        self._approve.set_visibility(self._waiting is not None and may(visitor.who, Role.ADMIN, name))
        self._reject.set_visibility(self._waiting is not None and may(visitor.who, Role.OPERATOR, name))

    async def _approved(self) -> None:
        plan, visitor, name = self._waiting, self._visitor, self._found.name
        if plan is not None:
            asked: dict[str, object] = {"provider": plan.plan["provider"], "plan": plan.id}
            if await frame.asked(lambda: queue(visitor, name, JobKind.ACTIVATE, asked, Role.ADMIN)) is not None:
                frame.said(f"Plan {plan.id} is approved, and queued.")
                await self._acted()

    async def _rejected(self) -> None:
        plan = self._waiting
        if plan is not None and await frame.asked(lambda: rejected(self._visitor, plan)) is not None:
            await self._acted()

    def _confirm(self, kind: JobKind) -> None:
        visitor, name, provider = self._visitor, self._found.name, str(self._by.value)
        word, does, does_it = _WORDS[kind]
        with ui.dialog() as dialog, ui.card().props(f'role="alertdialog" aria-label="{word} {e(name)}?"'):
            ui.html(f"<h2>{word} {e(name)}?</h2><p>{does}, by {e(provider)}.</p>", sanitize=False)
            if kind is JobKind.DEACTIVATE:
                background_tasks.create(self._show_plan(frame.Shown(live=True), Question(name, provider, away=True)))
            with ui.element("div").classes("row"):
                ui.button(does_it, on_click=lambda: dialog.submit(True)).props("unelevated")
                ui.button("Leave it", on_click=lambda: dialog.submit(False)).props("flat autofocus")

        async def ask() -> None:
            agreed = await dialog
            asked: dict[str, object] = {"provider": provider}
            if agreed and await frame.asked(lambda: queue(visitor, name, kind, asked)) is not None:
                frame.said("It is queued.")
                await self._acted()

        ui.timer(0, ask, once=True)


def _ask(visitor: Visitor, question: Question) -> Future[Diff]:
    allowed(visitor.again(), Role.VIEWER, question.network)
    return visitor.console.planner.ask(question)


def waiting(workspace: Workspace, name: str) -> tuple[PlanRecord | None, str]:
    """The plan of a network that waits for approval, and a paragraph on it; "" where none does."""
    found = workspace.state.plans.newest(name, (PlanState.AWAITING,))
    if found is None:
        return None, ""
    return found, f'<p class="stops">Plan {found.id} waits for approval: {e(str(found.plan.get("approval", "")))}.</p>'


def rejected(visitor: Visitor, plan: PlanRecord) -> PlanRecord:
    """Rejects a plan that waits, in the log. Raises ConflictError where it doesn't any more, ForbiddenError."""
    console = visitor.console
    return change(
        visitor, "reject plan", Role.OPERATOR, plan.network,
        lambda: approvals.reject(console.workspace, plan.network, plan.id, visitor.who.name, console.now),
        asked={"plan": plan.id}, after=lambda made: {"state": made.state.value},
    )  # fmt: skip
