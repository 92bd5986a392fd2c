"""Commands on the stores themselves: store check, store status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.output import Output, OutputOption, asked, progress_bar, say, show, table_of
from adumbra.cli.session import now_ns, own_workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.service.stores import Checked, Waits

app = typer.Typer(no_args_is_help=True, help="What the metric stores can do, and what waits to be sent to them.")

_WORDS = frozenset({"", "found"})


@app.command("check")
def check(output: OutputOption = Output.TABLE) -> None:
    """Write a few intervals to each store, read them back, compare, and delete them: what works, and how to mend the rest.

    Exit status 1 where something that is needed doesn't work.
    """
    from adumbra.service import stores

    with own_workspace("store") as opened, _silence(), progress_bar("checking stores") as tell:
        found = tuple(stores.check(opened, now_ns(), tell))
    show(output, [each.to_dict() for each in found], lambda: check_table(found))
    if not all(each.works for each in found):
        broken = ", ".join(each.store for each in found if not each.works)
        say(f"not all works that is needed: {broken}; run this again once it is mended")
        raise typer.Exit(1)


@contextmanager
def _silence() -> Iterator[None]:
    """Leaves out what stores log meanwhile: the table says it."""
    import logging

    import structlog

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def check_table(found: tuple[Checked, ...]) -> RenderableType:
    """A table a store: what was tried, what came of it, how to mend it."""
    from rich.console import Group

    tables = []
    for each in found:
        rows = []
        for probe in each.probes:
            told = f"{probe.told}; {probe.mend}" if probe.mend else probe.told
            rows.append((probe.what, probe.verdict.value, told, f"{probe.took_s * 1e3:,.0f}"))
        title = f"{each.store}{', read from' if each.read else ''}"
        tables.append(table_of(title, ("tried", "", "found", "ms"), rows, text=_WORDS))
    return Group(*tables)


@app.command("flush")
def flush(
    for_: Annotated[str | None, typer.Option("--for", help="For how long at most; 10m without it.", metavar="TIME")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send what waits for remote stores, and wait until that is done. Exit status 1 where some of it still waits then."""
    from adumbra.schema.units import parse_duration_s
    from adumbra.service import stores

    for_s = asked(parse_duration_s, for_ or "10m", "--for")
    with own_workspace("store") as opened:
        with progress_bar("sending") as tell:
            told = stores.flush(opened, for_s, tell)
        waits = stores.status(opened)
    show(output, [each.to_dict() for each in waits], lambda: status_table(waits))
    for sentence in told:
        say(sentence)
    if any(each.waiting and each.configured for each in waits):
        raise typer.Exit(1)


@app.command("status")
def status(output: OutputOption = Output.TABLE) -> None:
    """Show what waits to be sent to each remote store, and what was lost."""
    from adumbra.service import stores

    with own_workspace("store") as opened:
        waits = stores.status(opened)
    show(output, [each.to_dict() for each in waits], lambda: status_table(waits))


def status_table(waits: tuple[Waits, ...]) -> RenderableType:
    rows = [
        (
            _state(each), f"{each.waiting:,}", f"{each.waiting_bytes / 1e6:,.1f}", f"{each.dropped:,}", f"{each.damaged:,}",
            f"{each.refused:,}", each.store,
        )
        for each in waits
    ]  # fmt: skip
    columns = ("state", "waiting", "MB", "dropped", "damaged", "refused", "store")
    caption = "counts of batches; what waits goes on with the next `adumbra observe`, or with `adumbra store flush`"
    if not waits:
        caption = "there is no remote store: metrics are in the embedded one, and nothing waits"
    return table_of("what waits for stores", columns, rows, caption, text=frozenset({"store"}))


def _state(waits: Waits) -> str:
    if not waits.configured:
        return "not in ADUMBRA_STORE"
    if not waits.waiting:
        return "all sent"
    return "being sent" if waits.held else "waits"
