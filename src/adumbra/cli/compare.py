"""The command on the live network: what was predicted against what is measured. Computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, console, iso, progress_bar, say, show, table_of
from adumbra.cli.session import stop_on_signal, uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.scale.score import Figures, Score, Share
    from adumbra.service.live import Comparison

_RESOURCES = {
    ("cpu_cores", ""): "CPU cores", ("memory_gb", ""): "memory GB", ("bandwidth_mbps", "rx"): "in Mbps",
    ("bandwidth_mbps", "tx"): "out Mbps", ("storage_gb", ""): "storage GB",
}  # fmt: skip
"""What is shown, by resource and way; the busier way is in the JSON."""
_COLUMNS = ("VM", "resource", "predicted", "measured", "error", "in 80 %", "size", "short", "so")
_EVERY_S = 1.0
_LOOK_S = 0.2


def register(root: typer.Typer) -> None:
    """Adds this room's top-level command."""
    root.command("live")(live)


def live(
    name: NameArgument,
    *,
    last: Annotated[str, typer.Option("--last", help="How much of what was measured, from its end.")] = "1h",
    step: Annotated[
        str | None,
        typer.Option("--step", help="The step on which both are compared. Default: 10s or more.", show_default=False),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option("--watch", help="Show it again so often, until ^C.", metavar="SECONDS", show_default=False),
    ] = None,
    read: Annotated[
        str | None,
        typer.Option(
            "--read", help="First read the machines for so long, where no server does.", metavar="SECONDS", show_default=False
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what was predicted of the VMs against what the real ones use."""
    from adumbra.schema.errors import InputError

    last_s, step_s = _duration(last, "--last"), None if step is None else _duration(step, "--step")
    again_s = None if watch is None else _duration(watch, "--watch")
    for_s = None if read is None else _duration(read, "--read")
    if again_s is not None and not 0.5 <= again_s <= 86_400:
        raise InputError(f"--watch: every {again_s:g} s is not possible", "give 500ms to 24h, such as 5s")
    if for_s is not None and not 1 <= for_s <= 86_400:
        raise InputError(f"--read: {for_s:g} s is not possible", "give 1s to 24h, such as 30s")
    if for_s is not None:
        _read(name, for_s)
    if again_s is None:
        with uses() as use:
            _show(use.compare(name, last_s, step_s), output)
        return
    with stop_on_signal() as stopped:
        while not stopped():
            with uses() as use:  # opened each time: others want the stores meanwhile
                found = use.compare(name, last_s, step_s)
            if output is Output.TABLE and console().is_terminal:
                console().clear()
            _show(found, output)
            _wait(again_s, stopped)


def _duration(text: str, option: str) -> float:
    """Seconds, as a duration or as a bare number of them."""
    from adumbra.schema.units import parse_duration_s

    return asked(parse_duration_s, f"{text}s" if text.replace(".", "", 1).isdigit() else text, option)


def _read(name: str, for_s: float) -> None:
    from adumbra.schema.units import format_count
    from adumbra.service.live import ByHand

    with uses() as use, progress_bar(f"reading {name}") as tell, stop_on_signal() as stopped:
        by_hand = ByHand(for_s, min(_EVERY_S, for_s), lambda wait_s: _wait(wait_s, stopped), stopped, tell)
        rows = use.read_live(name, by_hand)
    say(f"read {format_count(rows, 'interval')} of real machines")


def _wait(for_s: float, stopped: Callable[[], bool]) -> None:
    until_s = time.monotonic() + for_s
    while not stopped() and (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(_LOOK_S, left_s))


def _show(found: Comparison, output: Output) -> None:
    show(output, found.to_dict(), lambda: table(found))


def table(found: Comparison) -> RenderableType:
    """Each VM's resources, and a word about it."""
    rows = []
    for vm in found.vms:
        shown = [each for each in vm.scores if (each.resource, each.way) in _RESOURCES and (each.paired or each.only_measured)]
        if not shown:
            rows.append((vm.vm, *["-"] * (len(_COLUMNS) - 2), vm.word))
        rows += [
            (vm.vm if number == 0 else "", *_cells(each), vm.word if number == 0 else "") for number, each in enumerate(shown)
        ]
    return table_of(
        _title(found), _COLUMNS, rows, _caption(found), text=frozenset({"so"}), names=frozenset({"resource"}), close=True
    )  # fmt: skip


def _title(found: Comparison) -> str:
    from adumbra.schema.units import format_duration

    span_s = (found.end_ns - found.start_ns) / 1e9
    return (
        f"{found.network}: predicted against measured, {format_duration(span_s)} from {iso(found.start_ns)[:19]}Z, "
        f"steps of {format_duration(found.step_s)}"
    )


def _cells(score: Score) -> tuple[str, ...]:
    from adumbra.schema.units import format_number, format_share

    promise = score.promise
    size = promise.provisioned if promise else None
    short = promise.short if promise else None
    return (
        _RESOURCES[score.resource, score.way], _both(score.predicted), _both(score.measured), format_share(score.error, 2),
        _share(score.coverage), "-" if size is None else format_number(size), format_share(short.share if short else None, 2),
    )  # fmt: skip


def _both(figures: Figures | None) -> str:
    from adumbra.schema.units import format_number

    return "-" if figures is None else f"{format_number(figures.mean)} / {format_number(figures.p95)}"


def _share(share: Share | None) -> str:
    return "-" if share is None else f"{share.share * 100:.0f} % ({share.low * 100:.0f}-{share.high * 100:.0f})"


def _caption(found: Comparison) -> str:
    from adumbra.schema.units import format_share

    told = [
        "predicted, measured: mean / 95th percentile; error: median |predicted - measured| / measured;",
        "in 80 %: the share of measured use inside the emulation's 80 % interval (95 % interval of that share);",
        f"size: the profile's; short: how often more was used, of {format_share(found.shortfall)} that were promised"
        if found.shortfall is not None
        else "size, short: there is no profile",
    ]
    least = [each.paired for vm in found.vms for each in vm.scores if each.paired]
    if least and min(least) < found.steps:
        told.append(f"of {found.steps:,} steps, both are known in {min(least):,} at the least; gaps are left out")
    if found.learned_until_ns is not None:
        told.append(
            f"the emulation has learned from measured use until {iso(found.learned_until_ns)[:19]}Z: error and interval are "
            "of later time alone"
        )
    return "\n".join(told)
