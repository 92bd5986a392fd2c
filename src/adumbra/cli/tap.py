"""The command of a tap on another host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.observe import LayerOption, SourceArgument, accounts_table
from adumbra.cli.output import Output, OutputOption, asked, progress_bar, say, show
from adumbra.cli.session import now_ns, stop_on_signal
from adumbra.schema.sources import Layer

if TYPE_CHECKING:
    from adumbra.http_asking import HttpAccess
    from adumbra.service.tap_control import Following
    from adumbra.store.urls import StoreAddress

TOKEN = "ADUMBRA_TOKEN"  # noqa: S105 the variable's name


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("tap")(tap)


def tap(  # noqa: PLR0917 - options of a command
    name: NameArgument,
    source: SourceArgument,
    server: Annotated[
        list[str] | None, typer.Option("--server", metavar="URL", help="Where to ship to; give more than one to try in turn.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help=f"A file that holds the token; without it, {TOKEN} does.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The authorities to trust in place of the system's.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Trust any certificate, and send the token unencrypted to another host.")
    ] = False,
    spec: Annotated[Path | None, typer.Option("--spec", help="Without a server: the network's spec.")] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Without a server: where metrics go.")] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop once nothing came for 5 s (a file just ends).")
    ] = False,
    for_: Annotated[str | None, typer.Option("--for", help="Stop after so long, such as 10m.", metavar="TIME")] = None,
    layer: LayerOption = Layer.AUTO,
    workers: Annotated[int, typer.Option("--workers", help="Processes that share a capture or a live interface.")] = 1,
    source_number: Annotated[int | None, typer.Option("--source-number", hidden=True)] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Observe a source on this host for a network that a server keeps: only metrics leave the host.

    What is measured waits on disk while no server answers. ^C or SIGTERM ends it in good order.
    """
    from adumbra.schema.units import parse_duration_s
    from adumbra.service.following import ObserveOptions
    from adumbra.service.tapping import TapJob
    from adumbra.service.tapping import tap as run
    from adumbra.settings import load_settings
    from adumbra.telemetry import set_up_log

    settings = load_settings()
    set_up_log(settings.log_level, settings.log_format)
    for_s = asked(parse_duration_s, for_, "--for") if for_ is not None else None
    following, address = _without_server(name, spec, store, server)
    servers = tuple(_access(url, token_file, ca, insecure=insecure) for url in server or ())
    with progress_bar(f"tapping {source}") as tell, stop_on_signal() as stopped:
        options = ObserveOptions(layer, workers, for_s, until_idle, stopped, lambda: say(f"observing {source} for {name}"))
        job = TapJob(
            name, source, settings.home, servers, following, address, options, os.uname().nodename, source_number,
            round(settings.spool_gb * 1e9), settings.drain_s, say=say,
        )  # fmt: skip
        observation = run(job, now_ns, tell)
    show(output, observation.to_dict(), lambda: accounts_table(observation))


def _without_server(
    name: str, spec: Path | None, store: str | None, servers: list[str] | None
) -> tuple[Following | None, StoreAddress | None]:
    """The spec and the store, where there is to be no server. Raises InputError for options that don't go together."""
    from adumbra.schema.errors import InputError
    from adumbra.service.networks import read_spec
    from adumbra.service.tap_control import from_file
    from adumbra.store.urls import parse_stores

    if servers and (spec is not None or store is not None):
        raise InputError("a tap ships to servers, or by a spec into a store", "give --server, or --spec and --store")
    if servers:
        return None, None
    if spec is None or store is None:
        raise InputError("the tap has nowhere to ship to", "give --server URL, or --spec FILE and --store URL")
    (address, *others) = parse_stores(store).addresses
    if others or not address.is_remote:
        raise InputError("a tap ships into one store that other hosts reach", "write --store prometheus+http://host:9090")
    return from_file(name, read_spec(spec), spec), address


def _access(url: str, token_file: Path | None, ca: Path | None, *, insecure: bool) -> HttpAccess:
    """How a server is reached. Raises InputError where its token would be sent unencrypted to another host."""
    from adumbra.http_asking import HttpAccess
    from adumbra.schema.addresses import is_loopback
    from adumbra.schema.errors import InputError

    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not insecure:
        raise InputError(f"{parts.hostname} would be sent the token unencrypted", "give an https:// address, or --insecure")
    token = "" if token_file is not None else os.environ.get(TOKEN, "")
    if token_file is None and not token:
        raise InputError("the tap has no token", f"set {TOKEN}, or give --token-file; `adumbra token create` makes one")
    return HttpAccess(url, token=token, token_file=token_file, ca=ca, insecure=insecure, give_up_s=2.0)
