"""The command that fits a network's emulated VMs to measured use. Says what changed; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, progress_bar, say, show, table_of
from adumbra.cli.session import uses
from adumbra.cli.uses import Calibrating

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.cli.uses import Recalibrated
    from adumbra.schema.calibration import Calibration, Fit
    from adumbra.service.calibrations import Calibrated


def register(app: typer.Typer) -> None:
    app.command("calibrate")(calibrate)


def calibrate(  # noqa: PLR0917 (options of a command)
    name: NameArgument,
    usage: Annotated[
        str | None,
        typer.Argument(
            help="Measured use: a CSV or Parquet file, a Prometheus URL, or live: for its live readings.",
            show_default=False,
            metavar="[USAGE]",
        ),
    ] = None,
    show_it: Annotated[bool, typer.Option("--show", help="Show what was learned last; change nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the roles' priors.")] = False,
    from_traffic: Annotated[
        bool, typer.Option("--from-traffic", help="Learn from observed response times, where nothing was measured.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Go on from the last calibration with later USAGE; what is older fades.")
    ] = False,
    measured_on: Annotated[
        str | None,
        typer.Option(
            "--measured-on",
            help="What it was measured on: a type, or a core's speed in reference cores. Default: the declared type.",
            show_default=False,
            metavar="TYPE|SPEED",
        ),
    ] = None,
    train_share: Annotated[
        str, typer.Option("--train-share", help="Share of the time that is fitted when the error is told.", show_default=True)
    ] = "33%",
    output: OutputOption = Output.TABLE,
) -> None:
    """Fit the demand model to measured use: what each VM's connections, requests and bytes cost."""
    from adumbra.schema.errors import InputError
    from adumbra.schema.units import parse_share

    if sum((usage is not None, show_it, reset, from_traffic)) != 1:
        raise InputError("one thing at a time", f"give one of: adumbra calibrate {name} USAGE, --from-traffic, --show, --reset")
    if update and usage is None:
        raise InputError("--update goes on with later use", f"give it: adumbra calibrate {name} USAGE --update")
    if measured_on is not None and (show_it or reset):
        raise InputError("--measured-on says on what use was measured", "give it with USAGE, or with --from-traffic")
    share = asked(parse_share, train_share, "--train-share")
    if not 0.05 <= share <= 0.95:
        raise InputError(f"--train-share: {train_share} leaves too little on one side", "give 5% to 95%")
    with uses() as use:
        if show_it:
            done = use.calibration(name)
            if done.found is None:
                raise InputError(
                    f"{name} was not calibrated: it follows its roles' priors", f"run `adumbra calibrate {name} USAGE`"
                )
        else:
            with progress_bar(f"calibrating {name}") as tell:
                done = use.uncalibrate(name, tell) if reset else use.calibrate(
                    name, Calibrating(usage, update, measured_on, share), tell
                )  # fmt: skip
    _say_what_became(done)
    found = done.found
    if found is None:
        show(output, {"network": name, "vms": []}, lambda: f"{name} follows its roles' priors")
        return
    show(output, found.to_dict(), lambda: calibration_table(found))
    if output is Output.TABLE:
        for line in lines(found.calibration):
            say(line)


def _say_what_became(done: Recalibrated) -> None:
    """What became of stored time."""
    if done.stale:
        say("stored time was not yet emulated by it: run the same calibration again")
    if done.rows:
        say(f"{done.rows:,} stored rows emulated anew")
    for store in done.keeping:
        say(f"{store} keeps what was written first: of stored time its simulated figures stay, new time follows")


def calibration_table(found: Calibrated) -> RenderableType:
    """Each fit: its rows, its error before and after on held-out time, and how often the interval held."""
    rows = []
    for vm in found.calibration.vms:
        for resource, fit in vm.fits.items():
            rows.append(
                (
                    vm.vm,
                    resource,
                    f"{fit.rows:,}",
                    _percent(fit.error_before),
                    _percent(fit.error_after),
                    _percent(fit.coverage),
                )
            )
        rows.extend((vm.vm, resource, "-", "-", "-", "-") for resource in vm.refused)
    columns = ("VM", "resource", "rows", "error before", "after", "in the 80 %")
    follows = found.calibration.follows
    caption = "errors: median |predicted - measured| / measured on time the fit had not seen"
    if follows is not None:
        caption += f"; before: by calibration {follows}; after: each step told by what was learned before it"
    title = f"{found.calibration.network}: calibration {found.version}"
    if follows is not None:
        title += f", which goes on from {follows}"
    return table_of(title, columns, rows, caption, text=frozenset({"resource"}))


def lines(calibration: Calibration) -> list[str]:
    """What changed, VM by VM, in lines to read; then on what it was measured, and what was mended or left out."""
    from adumbra.service import measured_on

    told = []
    for vm in calibration.vms:
        for resource, fit in vm.fits.items():
            told.append(f"{vm.vm}, {resource}: {_sentence(fit)}")
        told.extend(f"{vm.vm}, {resource}: nothing learned, {why}" for resource, why in vm.refused.items())
    return told + measured_on.told(calibration.vms) + [f"note: {note}" for note in calibration.notes]


def _sentence(fit: Fit) -> str:
    return "; ".join(fit.changed) or "as the prior had it"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.3g} %"
