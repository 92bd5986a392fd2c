"""Commands on tokens, by which programs are known to the API: token create, list, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.access_uses import access_uses
from adumbra.cli.output import Output, OutputOption, asked, iso, say, show, table_of
from adumbra.cli.session import now_ns
from adumbra.schema.access import Role

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.schema.access import TokenRecord

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the tokens by which programs are known to the API.")

RoleOption = Annotated[Role, typer.Option("--role", help="What it may do, each all that the one before may, too.")]
NetworksOption = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="NETWORK", help="Of this network only; may be given again. All without."),
]
NumberArgument = Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="The token's number, as `token list` shows it.")]
_WORDS = frozenset({"networks", "state"})


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for: who is named in the audit log.")],
    role: RoleOption = Role.VIEWER,
    network: NetworksOption = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="It holds so long: 90d. Ever without.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token. Its secret is shown this once, and kept nowhere."""
    from adumbra.schema.access import NewToken
    from adumbra.schema.units import parse_keep_s

    now = now_ns()
    ends_ns = None if expires is None else now + round(asked(parse_keep_s, expires, "--expires") * 1e9)
    new = NewToken(name, role, networks_of(network), ends_ns)
    with access_uses() as use:
        made = use.issue(new)
    show(
        output,
        _data(made.record, now) | {"secret": made.secret},
        lambda: _table(f"made token {made.record.id}", [made.record], now),
    )
    if output is Output.TABLE:
        typer.echo(made.secret)  # whole, however narrow the terminal
        say("this is the one time that the secret is shown; give it as `Authorization: Bearer SECRET`")


@app.command("list")
def listing(
    all_: Annotated[bool, typer.Option("--all", help="Those that hold no more, too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the tokens that hold, newest first."""
    now = now_ns()
    with access_uses() as use:
        found = use.tokens()
    shown = [each for each in found if all_ or each.holds(now)]
    caption = "" if shown else "there are none; run `adumbra token create NAME`"
    show(output, [_data(each, now) for each in shown], lambda: _table("tokens", shown, now, caption))


@app.command("revoke")
def revoke(number: NumberArgument, output: OutputOption = Output.TABLE) -> None:
    """Revoke a token: it is refused from this moment on."""
    now = now_ns()
    with access_uses() as use:
        done = use.revoke(number)
    show(output, _data(done, now), lambda: _table(f"revoked token {number}", [done], now))


def networks_of(given: list[str] | None) -> tuple[str, ...] | None:
    """Networks as they are kept: None for all, each once."""
    return tuple(dict.fromkeys(given)) if given else None


def networks_shown(networks: tuple[str, ...] | None) -> str:
    """Networks as they are read."""
    return "all" if networks is None else ", ".join(networks)


def time_shown(time_ns: int | None, none: str = "-") -> str:
    """A time as it is read, to the second."""
    return none if time_ns is None else iso(time_ns)[:19]


def _state(record: TokenRecord, now: int) -> str:
    if record.revoked_ns is not None:
        return "used up" if record.once and record.used_ns == record.revoked_ns else "revoked"
    return "holds" if record.holds(now) else "expired"


def _data(record: TokenRecord, now: int) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "networks": record.networks,
        "state": _state(record, now),
        "created": iso(record.created_ns),
        "expires": iso(record.expires_ns) if record.expires_ns is not None else None,
        "revoked": iso(record.revoked_ns) if record.revoked_ns is not None else None,
        "used": iso(record.used_ns) if record.used_ns is not None else None,
        "once": record.once,
    }


def _table(title: str, found: list[TokenRecord], now: int, caption: str = "") -> RenderableType:
    rows = [
        (
            str(each.id), each.name, each.role.value, networks_shown(each.networks), _state(each, now),
            time_shown(each.expires_ns, "never"), time_shown(each.used_ns, "never"),
        )
        for each in found
    ]  # fmt: skip
    columns = ("number", "name", "role", "networks", "state", "ends", "last used")
    return table_of(title, columns, rows, caption, text=_WORDS, names=frozenset({"name", "role"}))
