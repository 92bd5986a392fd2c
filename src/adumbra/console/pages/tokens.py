"""Who may act: tokens, made (their secret shown once) and revoked; and people who sign in. For administrators."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from adumbra.console.context import Visitor, visitor_of
from adumbra.console.parts import frame
from adumbra.console.parts.markup import Cell, Column, Raw, chip, e, of, table
from adumbra.console.rights import allowed, change
from adumbra.schema.access import NewToken, NewUser, Role, TokenRecord, UserRecord
from adumbra.schema.errors import AdumbraError, InputError
from adumbra.service import access
from adumbra.service.access import Issued
from adumbra.service.pictures.words import ago

DAY_NS = 86_400 * 10**9
SHOWN = 200
_ENDS = {"in 30 days": 30, "in 90 days": 90, "in a year": 365, "never": 0}
_ROLES = {
    Role.VIEWER.value: "viewer: reads", Role.OPERATOR.value: "operator: changes networks",
    Role.ADMIN.value: "admin: gives rights",
}  # fmt: skip


def theirs(text: str) -> tuple[str, ...] | None:
    """The networks that are named, by commas or blanks; None, for all, where none is."""
    return tuple(dict.fromkeys(text.replace(",", " ").split())) or None


def make_token(visitor: Visitor, name: str, role: Role, of_networks: str, days: int) -> Issued:
    """Makes a token, in the log. Raises InputError for a name that is none, or a network that isn't there."""
    console, now_ns = visitor.console, visitor.console.now()
    scope = theirs(of_networks)
    known = {each.name for each in console.workspace.state.networks()}
    unknown = [each for each in scope or () if each not in known]
    if unknown:
        raise InputError(f"there is no network {unknown[0][:63]!r}", "name those that are there, or none for all")
    new = NewToken(name.strip(), role, scope, now_ns + days * DAY_NS if days else None)
    return change(
        visitor, "create token", Role.ADMIN, None, lambda: access.issue(console.workspace, new, now_ns),
        asked={"name": new.name, "role": role.value, "networks": scope, "expires_ns": new.expires_ns},
        after=lambda made: access.told(made.record),
    )  # fmt: skip


def revoke(visitor: Visitor, number: int) -> TokenRecord:
    """Lets a token hold no more, in the log."""
    console = visitor.console
    return change(
        visitor, "revoke token", Role.ADMIN, None, lambda: console.workspace.state.access.revoke_token(number, console.now()),
        asked={"token": number}, before=access.told(console.workspace.state.access.token(number)), after=access.told,
    )  # fmt: skip


def make_user(visitor: Visitor, new: NewUser, password: str) -> UserRecord:
    """Adds somebody who may sign in, in the log. Raises InputError, ConflictError."""
    console = visitor.console
    return change(
        visitor, "create user", Role.ADMIN, None, lambda: access.add_user(console.workspace, new, password, console.now()),
        asked={"name": new.name, "role": new.role.value, "networks": new.networks}, after=access.told,
    )  # fmt: skip


async def page(request: Request) -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, "Access", "/tokens"):
        try:
            allowed(visitor.who, Role.ADMIN)
        except AdumbraError as error:
            ui.context.client.status_code = 403
            ui.html(f"<h1>Access</h1>{frame.problem(error)}", sanitize=False)
            return
        ui.html(
            "<h1>Access</h1><p class=lead>Tokens are for programs, users for people. Only hashes of secrets are kept.</p>",
            sanitize=False,
        )
        await _Tokens(visitor).build()
        await _Users(visitor).build()


class _Tokens:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    async def build(self) -> None:
        with frame.section("Tokens", "tokens"):
            self._place = ui.element("div")
            ui.html('<h3 style="margin-top:1rem">Make a token</h3>', sanitize=False)
            with ui.element("div").classes("row"):
                self._name = ui.input("Name of the token").props('outlined dense autocomplete="off"').classes("grow")
                self._role = (
                    ui.select(_ROLES, value=Role.VIEWER.value, label="Role").props("outlined dense").style("min-width:14rem")
                )
                self._networks = ui.input("Networks (none: all)").props('outlined dense autocomplete="off"').classes("grow")
                self._ends = (
                    ui.select(list(_ENDS), value="in 90 days", label="Ends").props("outlined dense").style("min-width:9rem")
                )
                ui.button("Make the token", on_click=self._make).props("unelevated")
        await self.refresh()

    async def refresh(self) -> None:
        visitor = self._visitor
        found = await frame.asked(lambda: visitor.console.workspace.state.access.tokens(SHOWN))
        if found is None:
            return
        self._place.clear()
        with self._place:
            if not found:
                ui.html('<p class="dim">There are no tokens.</p>', sanitize=False)
                return
            names = ("Token", "Role", "Networks", "Made", "Last used", "Ends", "State")
            with (
                ui.element("div").classes("scroll").props('tabindex="0" role="region" aria-label="Tokens"'),
                ui.element("table").classes("cards"),
            ):
                heads = (
                    "".join(f'<th scope="col">{name}</th>' for name in names)
                    + '<th scope="col"><span class=unseen>Act</span></th>'
                )
                ui.html(f"<tr>{heads}</tr>", sanitize=False, tag="thead")
                with ui.element("tbody"):
                    for each in found:
                        self._row(each, names)

    def _row(self, each: TokenRecord, names: tuple[str, ...]) -> None:
        now_ns = self._visitor.console.now()
        cells = token_cells(each, now_ns)
        with ui.element("tr"):
            for number, (name, cell) in enumerate(zip(names, cells, strict=True)):
                ui.html(f"<span>{of(cell)}</span>", sanitize=False, tag="td" if number else "th").props(
                    f'data-label="{name}"' + ("" if number else ' scope="row"')
                )
            with ui.element("td"):
                if each.holds(now_ns):
                    button = ui.button("Revoke", on_click=lambda _, one=each: self._revoke(one)).props("flat dense")
                    button.props(f'aria-label="Revoke {e(each.name)}"')

    async def _make(self) -> None:
        visitor = self._visitor
        name, role = str(self._name.value or ""), Role(str(self._role.value))
        of_networks, days = str(self._networks.value or ""), _ENDS[str(self._ends.value)]
        made = await frame.asked(lambda: make_token(visitor, name, role, of_networks, days))
        if made is None:
            return
        self._name.set_value("")
        with ui.dialog().props("persistent") as dialog, ui.card().props('aria-label="The new token"'):
            ui.html(
                f"<h2>{e(made.record.name)}</h2><p>This is shown <strong>once</strong>: keep it where secrets are kept.</p>"
                f'<p class="secret" tabindex="0">{e(made.secret)}</p>', sanitize=False,
            )  # fmt: skip
            with ui.element("div").classes("row"):
                ui.button("Copy", on_click=lambda: ui.clipboard.write(made.secret)).props("unelevated")
                ui.button("I have kept it", on_click=lambda: (dialog.close(), dialog.clear())).props("outline")
        dialog.open()
        await self.refresh()

    async def _revoke(self, each: TokenRecord) -> None:
        if await frame.asked(lambda: revoke(self._visitor, each.id)) is not None:
            frame.said(f"{each.name} holds no more.")
        await self.refresh()


def token_cells(each: TokenRecord, now_ns: int) -> list[Cell]:
    state = (
        chip("holds", "good") if each.holds(now_ns) else chip("revoked" if each.revoked_ns is not None else "ended", "still")
    )
    networks = "all" if each.networks is None else ", ".join(each.networks)
    ends = "never" if each.expires_ns is None else _in(each.expires_ns - now_ns)
    once = " (serves once)" if each.once else ""
    return [each.name + once, each.role.value, networks, ago(now_ns, each.created_ns), ago(now_ns, each.used_ns), ends, state]


def _in(left_ns: int) -> str:
    if left_ns <= 0:
        return "it has"
    days = left_ns / DAY_NS
    return f"in {days:.0f} days" if days >= 1.5 else f"in {left_ns / 3_600e9:.0f} h"


class _Users:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    async def build(self) -> None:
        with frame.section("People", "people"):
            self._list = frame.Shown()
            ui.html('<h3 style="margin-top:1rem">Add somebody</h3>', sanitize=False)
            with ui.element("div").classes("row"):
                self._name = ui.input("Name").props('outlined dense autocomplete="off"').classes("grow")
                self._password = ui.input(f"First password ({access.MIN_PASSWORD}+ characters)", password=True)
                self._password.props('outlined dense autocomplete="new-password"').classes("grow")
                self._role = (
                    ui.select(_ROLES, value=Role.VIEWER.value, label="Role").props("outlined dense").style("min-width:14rem")
                )
                self._networks = ui.input("Networks (none: all)").props('outlined dense autocomplete="off"').classes("grow")
                ui.button("Add", on_click=self._add).props("unelevated")
        await self.refresh()

    async def refresh(self) -> None:
        visitor = self._visitor
        found = await frame.asked(visitor.console.workspace.state.access.users)
        if found is not None:
            self._list.show(users_table(found, visitor.console.now()))

    async def _add(self) -> None:
        new = NewUser(str(self._name.value or "").strip(), Role(str(self._role.value)), theirs(str(self._networks.value or "")))
        password = str(self._password.value or "")
        if await frame.asked(lambda: make_user(self._visitor, new, password)) is not None:
            self._name.set_value("")
            self._password.set_value("")
            frame.said(f"{new.name} can sign in.")
            await self.refresh()


def users_table(found: tuple[UserRecord, ...], now_ns: int) -> str:
    columns = (Column("Name"), Column("Role"), Column("Networks"), Column("Since"), Column("State"))
    rows: list[list[Cell]] = [
        [each.name, each.role.value, "all" if each.networks is None else ", ".join(each.networks), ago(now_ns, each.created_ns),
         chip("may sign in", "good") if each.disabled_ns is None else Raw('<span class="dim">disabled</span>')]
        for each in found
    ]  # fmt: skip
    return table("People who may sign in", columns, rows, empty="Nobody may sign in.")
