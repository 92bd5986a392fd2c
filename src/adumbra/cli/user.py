"""Commands on users, who sign in at the console: user add, list, rights, disable, enable, password."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.access_uses import access_uses
from adumbra.cli.output import Output, OutputOption, iso, say, show, table_of
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

    password = _password()
    with access_uses() as use:
        made = use.add_user(NewUser(name, role, networks_of(network)), password)
    show(output, _data(made), lambda: _table(f"added {name}", [made]))


@app.command("list")
def listing(output: OutputOption = Output.TABLE) -> None:
    """List the users, by name."""
    with access_uses() as use:
        found = use.users()
    caption = "" if found else "there are none; run `adumbra user add NAME`"
    show(output, [_data(each) for each in found], lambda: _table("users", list(found), caption))


@app.command("rights")
def rights(name: NameArgument, role: RoleOption, network: NetworksOption = None, output: OutputOption = Output.TABLE) -> None:
    """Give a user another role or other networks, from their next request on."""
    with access_uses() as use:
        done = use.set_rights(name, role, networks_of(network))
    show(output, _data(done), lambda: _table(f"gave {name} other rights", [done]))


@app.command("disable")
def disable(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Let a user sign in no more, and end their sign-ins."""
    with access_uses() as use:
        done = use.set_disabled(name, disabled=True)
    show(output, _data(done), lambda: _table(f"{name} may sign in no more", [done]))


@app.command("enable")
def enable(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Let a user sign in again."""
    with access_uses() as use:
        done = use.set_disabled(name, disabled=False)
    show(output, _data(done), lambda: _table(f"{name} may sign in", [done]))


@app.command("password")
def password(name: NameArgument) -> None:
    """Give a user another password, asked for at a terminal or read from standard input, and end their sign-ins."""
    given = _password()
    with access_uses() as use:
        use.set_password(name, given)
    say(f"{name} has another password; their sign-ins ended")


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
