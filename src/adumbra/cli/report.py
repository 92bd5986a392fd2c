"""The command that writes a network's report: one page to send to whoever signs off its sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import progress_bar, say
from adumbra.cli.session import now_ns, own_workspace


def register(root: typer.Typer) -> None:
    """Adds this room's top-level command."""
    root.command("report")(report)


def report(
    name: NameArgument, out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page that is written.")]
) -> None:
    """Write one page of a network: topology, sizes and reasons, cost, charts, the plan. It needs nothing from outside."""
    from adumbra.schema.errors import InputError
    from adumbra.service.report import network as network_report
    from adumbra.store.files import replace_file

    if out.is_dir():
        raise InputError(f"{out} is a folder", f"name a file in it, such as {out / f'{name}.html'}")
    with own_workspace(f"report {name}") as opened, progress_bar(f"report of {name}") as tell:
        found = network_report.found_of(opened, name, now_ns, tell)
    text = network_report.page(found)
    try:
        replace_file(out, text.encode())
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror})", "give another file") from None
    say(f"written: {out} ({len(text.encode()) // 1000:,} kB)")
