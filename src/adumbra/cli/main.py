"""The `adumbra` command: gathers the commands, and turns errors into one line and an exit status."""

from __future__ import annotations

import errno
import os
import sys

import typer

from adumbra import __version__
from adumbra.cli import (
    backtest,
    calibrate,
    compare,
    demo,
    generate,
    learn,
    live,
    mirror,
    model,
    network,
    observe,
    plan,
    policy,
    report,
    serve,
    sources,
    store,
    tap,
    token,
    user,
    whatif,
)
from adumbra.schema.errors import AdumbraError

app = typer.Typer(
    name="adumbra",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sizes for the VMs of a virtual network before they boot, learned from the traffic meant for them.",
)
app.add_typer(network.app, name="network")
app.add_typer(mirror.app, name="mirror")
app.add_typer(store.app, name="store")
app.add_typer(model.app, name="model")
app.add_typer(policy.app, name="policy")
app.add_typer(plan.app, name="plan")
app.add_typer(token.app, name="token")
app.add_typer(user.app, name="user")
for module in (
    demo,
    network,
    observe,
    tap,
    calibrate,
    learn,
    backtest,
    whatif,
    generate,
    live,
    compare,
    sources,
    report,
    serve,
):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adumbra {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    del version


def run() -> None:
    """Runs the command line. Exit status: 0 done, 1 failed, 2 the input is wrong, 130 stopped by the user."""
    sys.exit(_status())


def _status() -> int:
    try:
        app(standalone_mode=True)
    except AdumbraError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _complain("stopped; what was committed stays, and the same command can be run again", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        advice = "free some space and run the command again" if error.errno == errno.ENOSPC else "mend that and run it again"
        return _complain(f"the system refused: {error.strerror or error}; {advice}", 1)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _complain(text: str, status: int) -> int:
    line = " ".join("".join(c if c.isprintable() else "?" if c != "\n" else " " for c in text).split())
    sys.stderr.write(f"adumbra: {line}\n")
    return status
