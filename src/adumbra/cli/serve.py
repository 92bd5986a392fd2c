"""The command that serves: API, console and loops in one process, wired together here. Does no work of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.session import now_ns, opened_workspace

if TYPE_CHECKING:
    import socket

    from adumbra.service.workspace import Workspace


def register(root: typer.Typer) -> None:
    """Adds the command."""
    root.command("serve")(serve)


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The port; 0 for any that is free.")] = 8642,
) -> None:
    """Serve the API and the console, and run the loops, until ^C or SIGTERM; a second one ends it at once."""
    from adumbra.daemon.serving import one_server
    from adumbra.settings import load_settings
    from adumbra.telemetry import set_up_log

    settings = load_settings()
    set_up_log(settings.log_level if "log_level" in settings.model_fields_set else "info", settings.log_format)
    with opened_workspace() as workspace, one_server(workspace):
        _serve(workspace, host, port)


def _serve(workspace: Workspace, host: str, port: int) -> None:
    from adumbra.api.app import make_app
    from adumbra.api.context import Server
    from adumbra.cli.serving import bound, run, url_of
    from adumbra.daemon.server import Daemon

    workspace.state  # noqa: B018  opened, and brought up to date, before anything listens
    listener = bound(host, port)
    daemon = Daemon(workspace, now_ns)
    app = make_app(Server(workspace, now_ns, wake=daemon.wake, ready=daemon.ready, health=daemon.health))

    def listening() -> None:
        _greet(workspace, listener, url_of(listener))

    run(app, listener, daemon, listening)


def _greet(workspace: Workspace, listener: socket.socket, url: str) -> None:
    """Says where it listens; at the first start, on standard error alone, the token that lets somebody in."""
    del listener
    import sys

    from adumbra.service import access

    sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()
    first = access.first_token(workspace, now_ns())
    if first is not None:
        sys.stderr.write(
            f"this is the first start. The administrator's token, for one act within a day (make a token by it):\n"
            f"{first.secret}\n"
        )
        sys.stderr.flush()
