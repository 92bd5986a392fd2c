"""The command that serves: API, console and loops in one process, wired together here. Does no work of theirs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.session import now_ns

if TYPE_CHECKING:
    from adumbra.cli.serving import Listening
    from adumbra.daemon.loops import Loop
    from adumbra.daemon.server import Plan
    from adumbra.service.tls import Certificate
    from adumbra.service.workspace import Workspace
    from adumbra.settings import ServeSettings


RENEW_S = 60.0
"""How often is looked whether there is another certificate."""


def register(root: typer.Typer) -> None:
    """Adds the command."""
    root.command("serve")(serve)


def serve(
    host: Annotated[str | None, typer.Option("--host", help="The address to bind to. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="The port; 0: any that is free. Default: 8642.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="A certificate, and what signed it, in PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key, in PEM.")] = None,
    insist: Annotated[bool, typer.Option("--insist", help="Bind beyond this host without TLS.")] = False,
) -> None:
    """Serve the API and the console, and run the loops, until ^C or SIGTERM; a second one ends it at once.

    Each option may be a variable as well, such as ADUMBRA_SERVE_PORT; docs/serve.md has all of them.
    """
    from adumbra.daemon.serving import one_server
    from adumbra.service.opening import storage_of
    from adumbra.service.workspace import Workspace
    from adumbra.settings import load_serve_settings, load_settings
    from adumbra.telemetry import set_up_log

    settings, serving = load_settings(), load_serve_settings()
    told = {"host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key, "insist": insist or None}
    serving = serving.model_copy(update={name: value for name, value in told.items() if value is not None})
    set_up_log(settings.log_level if "log_level" in settings.model_fields_set else "info", settings.log_format)
    storage = storage_of(settings)
    # Where several servers share the state, another may have to go on with what a tap was told is stored: it isn't left in this
    # one's spool, but in the tap's.
    storage = replace(storage, direct="://" in storage.state)
    with Workspace(settings.home, storage) as workspace, one_server(workspace):
        _serve(workspace, serving, settings.captures)


def _serve(workspace: Workspace, settings: ServeSettings, captures: Path | None) -> None:
    """Wires a server together, and runs it to its end."""
    from adumbra.service import tls

    notes = (*tls.check(settings), *_about_stores(workspace))  # before anything else is loaded: it says what is wrong at once
    certificate = tls.certificate(settings)
    notes += certificate.sentences(now_ns()) if certificate else ()

    from adumbra import __version__
    from adumbra.api.app import make_app
    from adumbra.api.connections import raise_open_files, uvicorn_options
    from adumbra.api.context import Care, Server
    from adumbra.api.measured import Measured
    from adumbra.api.oidc import SIGN_IN, of_settings
    from adumbra.cli.serving import Running, listening_on, run
    from adumbra.console.app import add_console
    from adumbra.console.context import Console
    from adumbra.daemon.server import Daemon
    from adumbra.settings import load_oidc_settings
    from adumbra.store.scrape import exposition
    from adumbra.telemetry import Requests, Telemetry

    care = Care(connections=settings.connections)
    raise_open_files(care)
    listening = listening_on(settings.host, settings.port, tls=certificate is not None)
    telemetry, requests = Telemetry(__version__), Requests()
    daemon = Daemon(workspace, now_ns, lambda: listening.own_url, _plan(), others=_renewing(certificate))
    daemon.watch(telemetry)
    telemetry.watch(requests.readings)
    server = Server(
        workspace, now_ns, care, secure=certificate is not None, wake=daemon.wake, ready=daemon.ready, health=daemon.health,
        captures=captures, exposition=lambda: exposition(telemetry.registry), insider=daemon.insiders.known,
    )  # fmt: skip
    app = make_app(server, of_settings(load_oidc_settings(), settings.url or listening.url))
    sign_on = SIGN_IN if app.state.oidc is not None else ""
    console = Console(workspace, now_ns, daemon.wake, secure=certificate is not None, sign_on=sign_on, captures=captures)
    add_console(app, console)
    running = Running(
        Measured(app, requests), daemon, uvicorn_options(settings, care, certificate.context if certificate else None),
        uvicorn_options(settings, care), lambda: _greet(workspace, listening, notes), app.state.streams.end,
    )  # fmt: skip
    run(running, listening)


def _renewing(certificate: Certificate | None) -> list[Loop]:
    """The loop that reads a certificate again once it has changed."""
    from adumbra.daemon.loops import Loop

    def renew() -> None:
        if certificate is not None:
            certificate.renew()

    return [] if certificate is None else [Loop("certificate", renew, RENEW_S)]


def _plan() -> Plan:
    from adumbra.daemon.learning import Schedule
    from adumbra.daemon.server import Plan
    from adumbra.daemon.watching import Watch
    from adumbra.settings import load_loop_settings

    settings = load_loop_settings()
    schedule = Schedule(settings.train_every, settings.train_first, settings.train_growth)
    return Plan(settings.jobs, schedule, Watch(settings.watch_every, settings.calibrate_every))


def _about_stores(workspace: Workspace) -> tuple[str, ...]:
    """What doesn't go together where several servers share their state."""
    embedded = any(not address.is_remote for address in workspace.storage.stores.addresses)
    if workspace.state.on_one_host or not embedded:
        return ()
    why = "other servers may share the state, but not the metrics, which are in a file of this one"
    return (f"{why}: give all of them one metric store, as ADUMBRA_STORE, so that another can go on with its networks",)


def _greet(workspace: Workspace, listening: Listening, notes: tuple[str, ...]) -> None:
    """Says where it listens; at the first start, on standard error alone, the token that lets somebody in."""
    from adumbra.service import access

    sys.stdout.write(f"listening on {listening.url}\n")
    sys.stdout.flush()
    for note in notes:
        sys.stderr.write(f"{note}\n")
    first = access.first_token(workspace, now_ns())
    if first is not None:
        sys.stderr.write(
            "this is the first start. The administrator's token, for one act within a day (make a token or a user by it):\n"
            f"{first.secret}\n"
        )
    sys.stderr.flush()
