"""The command that lists the sources that are observed for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, iso, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from adumbra.schema.jobs import SourceRecord

_WORDS = frozenset({"source", "what is to be known"})


def register(root: typer.Typer) -> None:
    """Adds this room's top-level command."""
    root.command("sources")(sources)


def sources(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """List the sources that a server, or taps on other hosts, observe for a network, newest first."""
    with uses() as use:
        found = use.sources(name)
    rows = [
        (
            str(each.id), each.source, each.host or each.place.value, each.state.value,
            iso(each.seen_ns)[:19] if each.seen_ns else "-", f"{_offered(each):,}", each.trouble or "-",
        )
        for each in found
    ]  # fmt: skip
    columns = ("number", "source", "at", "state", "last heard", "offered", "what is to be known")
    caption = "" if rows else f"there are none; run `adumbra tap {name} SOURCE --server URL` where the traffic is"
    show(output, [_data(each) for each in found], lambda: table_of(f"sources of {name}", columns, rows, caption, text=_WORDS))


def _offered(source: SourceRecord) -> int:
    return int(source.accounts.get("offered") or 0)


def _data(source: SourceRecord) -> dict[str, Any]:
    return {
        "id": source.id, "source": source.source, "place": source.place, "host": source.host, "state": source.state,
        "options": source.options, "restarts": source.restarts, "created": iso(source.created_ns),
        "seen": iso(source.seen_ns) if source.seen_ns else None, "trouble": source.trouble, "accounts": source.accounts,
    }  # fmt: skip
