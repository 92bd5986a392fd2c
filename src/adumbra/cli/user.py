"""Commands on users, who sign in at the console: user add, list, rights, disable, enable, password."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.output import Output, OutputOption, iso, say, show, table_of
from adumbra.cli.session import now_ns, workspace
from adumbra.cli.token import NetworksOption, RoleOption, networks_of, networks_shown, time_shown
from adumbra.schema.access import Role

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.schema.access import UserRecord

app = typer.Typer(no_args_is_help=True, help="Add and list the users who sign in at the console, and let them in or not.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
_WORDS = frozenset({"networks", "state"})


@app.command("add")
def add(
    name: NameArgument, role: RoleOption = Role.VIEWER, network: NetworksOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Add a user. The password is asked for at a terminal, or read from standard input, a line."""
    from adumbra.schema.access import NewUser
    from adumbra.service import access

    password = _password()
    new, now = NewUser(name, role, networks_of(network)), now_ns()
    with workspace() as opened:
        act = access.LocalAct(opened, "adumbra user add", now)
        told = {"name": name, "role": role, "networks": network}
        made = act.make(lambda: access.add_user(opened, new, password, now), told, after=access.told)
    show(output, _data(made), lambda: _table(f"added {name}", [made]))


@app.command("list")
def listing(output: OutputOption = Output.TABLE) -> None:
    """List the users, by name."""
    from adumbra.service import access

    with workspace() as opened:
        found = access.users_for(opened, access.local_user(), access.MAX_LISTED)
    caption = "" if found else "there are none; run `adumbra user add NAME`"
    show(output, [_data(each) for each in found], lambda: _table("users", list(found), caption))


@app.command("rights")
def rights(name: NameArgument, role: RoleOption, network: NetworksOption = None, output: OutputOption = Output.TABLE) -> None:
    """Give a user another role or other networks, from their next request on."""
    from adumbra.service import access

    now = now_ns()
    with workspace() as opened:
        before = access.user(opened, name)
        act = access.LocalAct(opened, "adumbra user rights", now)
        told = {"role": role, "networks": network}
        done = act.make(
            lambda: access.set_rights(opened, name, role, networks_of(network)), told, access.told(before), access.told
        )  # fmt: skip
    show(output, _data(done), lambda: _table(f"gave {name} other rights", [done]))


@app.command("disable")
def disable(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Let a user sign in no more, and end their sign-ins."""
    done = _set_disabled("adumbra user disable", name, now_ns())
    show(output, _data(done), lambda: _table(f"{name} may sign in no more", [done]))


@app.command("enable")
def enable(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Let a user sign in again."""
    done = _set_disabled("adumbra user enable", name, None)
    show(output, _data(done), lambda: _table(f"{name} may sign in", [done]))


@app.command("password")
def password(name: NameArgument) -> None:
    """Give a user another password, asked for at a terminal or read from standard input, and end their sign-ins."""
    from adumbra.service import access

    given, now = _password(), now_ns()
    with workspace() as opened:
        before = access.told(access.user(opened, name))
        act = access.LocalAct(opened, "adumbra user password", now)
        act.make(lambda: access.set_password(opened, name, given), before=before, after=lambda _: before)
    say(f"{name} has another password; their sign-ins ended")


def _set_disabled(what: str, name: str, disabled_ns: int | None) -> UserRecord:
    from adumbra.service import access

    with workspace() as opened:
        before, who = access.user(opened, name), access.local_user()
        act = access.LocalAct(opened, what, now_ns())
        return act.make(
            lambda: access.disable(opened, who, name, disabled_ns), before=access.told(before), after=access.told
        )  # fmt: skip


def _password() -> str:
    """A password: from a terminal, unseen and twice; else the first line of standard input. Never an argument, which all see.

    Raises InputError where it isn't given, or not the same twice.
    """
    from getpass import getpass

    from adumbra.schema.errors import InputError
    from adumbra.service.access import MAX_PASSWORD, check_password

    if not sys.stdin.isatty():
        given = sys.stdin.readline(MAX_PASSWORD + 2).removesuffix("\n").removesuffix("\r")
        if not given:
            raise InputError("no password came on standard input", "write it there, a line, or run this at a terminal")
        check_password(given)
        return given
    given = getpass("password: ")
    check_password(given)
    if getpass("again: ") != given:
        raise InputError("the two passwords are not the same", "run the command again")
    return given


def _data(record: UserRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "networks": record.networks,
        "created": iso(record.created_ns),
        "disabled": iso(record.disabled_ns) if record.disabled_ns is not None else None,
        "external": record.external,
    }


def _state(record: UserRecord) -> str:
    return "may sign in" if record.disabled_ns is None else "disabled"


def _table(title: str, found: list[UserRecord], caption: str = "") -> RenderableType:
    rows = [
        (
            each.name, each.role.value, networks_shown(each.networks), _state(each),
            "OIDC" if each.external else "password", time_shown(each.created_ns),
        )
        for each in found
    ]  # fmt: skip
    columns = ("user", "role", "networks", "state", "signs in by", "created")
    return table_of(title, columns, rows, caption, text=_WORDS, names=frozenset({"role", "signs in by"}))
