"""The command that generates traffic: a capture of what a network's VMs would see."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, iso, progress_bar, say, show, table_of
from adumbra.cli.session import uses
from adumbra.cli.whatif import factor

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.service.generation import Generated

OutArgument = Annotated[
    str, typer.Argument(help="The capture to write; .pcap.zst is compressed, - is standard output.", metavar="OUT.pcap")
]


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("generate")(generate)


def generate(  # noqa: PLR0917 - options of a command
    name: NameArgument,
    out: OutArgument,
    duration: Annotated[str, typer.Option("--duration", help="How long: 60s, 10m.", metavar="TIME")] = "60s",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")] = 1,
    start: Annotated[
        str | None,
        typer.Option("--start", help="From when, ISO 8601; by default the end of what was observed.", metavar="TIME"),
    ] = None,
    traffic: Annotated[str, typer.Option("--traffic", help="How much of what was seen: 2x, 1.5x, 50%.")] = "1x",
    connections_per_s: Annotated[
        float | None, typer.Option("--connections-per-s", help="Instead: connections from outside, of all VMs together.")
    ] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="Cut conversations at both ends, as a capture is; else all are whole.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write a capture of traffic like that seen: whole TCP conversations, from clients and between the VMs."""
    from adumbra.schema.errors import InputError
    from adumbra.schema.units import parse_duration_s
    from adumbra.service import generation

    options = generation.GenerateOptions(
        asked(parse_duration_s, duration, "--duration"), seed, asked(_time_ns, start, "--start") if start else None,
        asked(factor, traffic, "--traffic"), connections_per_s, cut,
    )  # fmt: skip
    if out == "-" and sys.stdout.isatty():
        raise InputError("a capture is no text for a terminal", "give a file, or pass - on to another command")
    with uses() as use, progress_bar(f"generating {name}") as tell:
        target = sys.stdout.buffer if out == "-" else Path(out)
        generated = use.generate(name, target, options, tell)
    with redirect_stdout(sys.stderr if out == "-" else sys.stdout):
        show(output, generated.to_dict(), lambda: generated_table(generated))
    if output is Output.TABLE:
        for note in generated.model.notes:
            say(f"note: {note}")
        if out != "-":
            say(f"next: adumbra observe NETWORK pcap:{out}, or tcpreplay --intf1 INTERFACE {out}")


def _time_ns(text: str) -> int:
    time = datetime.fromisoformat(text)
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e9)


def generated_table(generated: Generated) -> RenderableType:
    """What each VM sees in the generated traffic, a second."""
    from adumbra.schema.units import format_bytes, format_duration, format_rate
    from adumbra.service.generation import rates_of

    rows = []
    for vm, rate in rates_of(generated).items():
        inbound = rate["connections_attempted"] - rate["connections_initiated"]
        rows.append((
            vm, f"{inbound:.3g}", f"{rate['connections_initiated']:.3g}", f"{rate['requests']:.3g}",
            format_rate(8 * rate["rx_bytes"]), format_rate(8 * rate["tx_bytes"]),
            f"{rate['rx_packets']:,.0f}", f"{rate['tx_packets']:,.0f}",
        ))  # fmt: skip
    wanted, account = generated.wanted, generated.account
    columns = ("VM", "conn/s in", "conn/s out", "req/s", "in", "out", "packets/s in", "packets/s out")
    title = f"{generated.network}: {format_duration(wanted.duration_s)} of traffic from {iso(wanted.start_ns)} on, "
    title += f"seed {wanted.seed}" + (f", {wanted.factor:.3g} times what was seen" if wanted.factor != 1.0 else "")
    where = "standard output" if generated.place == "-" else generated.place
    caption = f"{account.packets:,} packets, {format_bytes(account.bytes)} before compression, in {where}"
    if account.skipped:
        caption += f"; {account.skipped:,} connections left out: no IP version in common"
    return table_of(title, columns, rows, caption)
