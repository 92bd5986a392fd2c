"""What each command begins with: the workspace, the clock, and what the last process left half done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.output import progress_bar, say
from adumbra.schema.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.cli.uses import Uses
    from adumbra.client import Client
    from adumbra.fanout import Fanout
    from adumbra.service.workspace import Workspace
    from adumbra.settings import ClientSettings


RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Work on a Ray cluster: its head's HOST:PORT, or local.")
]


def now_ns() -> int:
    """The time, in ns since the epoch."""
    return time.time_ns()


@contextmanager
def stop_on_signal(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether ^C or SIGTERM came, for work that ends in good order by itself; a second one ends it at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        del frame
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)} if wanted else {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def fanned_out(ray: str | None) -> Iterator[Fanout]:
    """Where tasks are worked on: here, or on the Ray cluster that --ray names. Raises InputError, ClusterError."""
    if ray is None:
        from adumbra.fanout import IN_PROCESS

        yield IN_PROCESS
        return
    from adumbra.fanout_ray import RayFanout

    cluster = RayFanout(ray)
    with progress_bar("joining the Ray cluster") as tell:
        tell(None, ray)
        cluster.__enter__()
    try:
        yield cluster
    finally:
        cluster.__exit__()


@contextmanager
def uses(ray: str | None = None) -> Iterator[Uses]:
    """The use cases: of the server that ADUMBRA_SERVER names, or else of the user's workspace, with tasks worked on where `ray`
    says. Raises InputError for both."""
    client = server_client()
    if client is None:
        from adumbra.cli.here import Here

        with workspace() as opened, fanned_out(ray) as fanout:
            yield Here(opened, now_ns, fanout)
        return
    if ray is not None:
        raise InputError("--ray is for work on this host, and ADUMBRA_SERVER names a server", "leave --ray out, or unset that")
    from adumbra.cli.there import There

    with client:
        yield There(client, now_ns)


def server_client() -> Client | None:
    """A client of the server that ADUMBRA_SERVER names, yet to be opened; None where it names none. Raises InputError."""
    settings = _server()
    if settings is None:
        return None
    from adumbra.client import Client

    return Client.of(settings, say)


@contextmanager
def own_workspace(command: str, home: Path | None = None) -> Iterator[Workspace]:
    """The workspace of a command that is of this host alone. Raises InputError where ADUMBRA_SERVER names a server."""
    if home is None and _server() is not None:
        raise InputError(
            f"`adumbra {command}` works in this host's own workspace, and ADUMBRA_SERVER names a server",
            f"run `env -u ADUMBRA_SERVER adumbra {command} ...`",
        )
    with workspace(home) as opened:
        yield opened


def _server() -> ClientSettings | None:
    from adumbra.settings import load_client_settings

    settings = load_client_settings()
    return settings if settings.server else None


@contextmanager
def workspace(home: Path | None = None) -> Iterator[Workspace]:
    """The user's workspace, once what was interrupted in it is ended."""
    from adumbra.service.recovery import recover

    with opened_workspace(home) as opened:
        for told in recover(opened, now_ns()):
            say(told)
        with _logged():
            yield opened


@contextmanager
def _logged() -> Iterator[None]:
    """What the command changes is in the audit log as its act. Its arguments aren't: a store's URL may hold a password."""
    from typer.main import get_current_context  # type: ignore[attr-defined]  # Typer has no other way to it

    from adumbra.service.access import acting_locally

    context = get_current_context(silent=True)
    if context is None:
        yield
        return
    name = context.params.get("name")
    with acting_locally(context.command_path, now_ns(), name if isinstance(name, str) else None):
        yield


def opened_workspace(home: Path | None = None) -> Workspace:
    """The workspace that the environment names, as it was left.

    One of another folder keeps all to itself: a demo is nobody's data.
    """
    from adumbra.service.opening import storage_of
    from adumbra.service.upkeep import retention_of
    from adumbra.service.workspace import Storage, Workspace
    from adumbra.settings import load_settings

    settings = load_settings()
    if home is not None:
        return Workspace(home, Storage(retention=retention_of(settings)))
    storage = storage_of(settings)
    if any(address.is_remote for address in storage.stores.addresses):
        from adumbra.telemetry import set_up_log

        set_up_log(settings.log_level, settings.log_format)
    return Workspace(settings.home, storage, say)
