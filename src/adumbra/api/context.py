"""What every route is given: the workspace, the clock, and what the server is told to be careful of. Opens nothing."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request

from adumbra.schema.access import Principal
from adumbra.service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Care:
    """What the server bounds. body_bytes: of a request; batch_bytes: of a tap's, or a usage file; upload_bytes: of a
    capture that is sent to the console; stranger_bytes: of whoever isn't known;
    bodies_bytes: of all requests that are read at a time; wait_s: for the next piece of a request; bytes_per_s: the slowest
    that a body may come; requests_per_s, burst: of each client; tries_per_min: of each address, of sign-ins and tokens that
    aren't accepted; clients: of how many that is known at a time; connections: how many are held; idle_s: how long one is
    that asks for nothing; head_bytes: of a request's line and headers; streams: that are open at once;
    stream_s: after which each of them ends."""

    body_bytes: int = 17 * 2**20
    batch_bytes: int = 64 * 2**20
    upload_bytes: int = 500 * 10**6 + 2**20
    stranger_bytes: int = 64 * 2**10
    bodies_bytes: int = 512 * 2**20
    wait_s: float = 20.0
    bytes_per_s: float = 4_096.0
    clients: int = 10_000
    connections: int = 1_200
    idle_s: float = 30.0
    head_bytes: int = 64 * 2**10
    requests_per_s: float = 50.0
    burst: int = 200
    tries_per_min: int = 20
    streams: int = 100
    stream_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes work with. wake: told that there is work for the loops; ready: whether they run; health: what is to be
    known of them, by loop; captures: the folder of files that sources of the server may name, None: none may; exposition: its
    own metrics, for Prometheus; insider: whoever of the server's own children has that token."""

    workspace: Workspace
    now: Callable[[], int]
    care: Care = field(default_factory=Care)
    secure: bool = False
    wake: Callable[[], None] = lambda: None
    ready: Callable[[], bool] = lambda: True
    health: Callable[[], dict[str, str]] = dict
    captures: Path | None = None
    exposition: Callable[[], bytes] | None = None
    insider: Callable[[str], Principal | None] = lambda _: None


@dataclass(slots=True)
class Asking:
    """What is known of a request while it is answered. who: whoever asks, once they are known; sees_all: all networks."""

    who: str = ""
    sees_all: bool = False


ASKING = "adumbra.asking"


def passes_for(scope: MutableMapping[str, Any], who: Principal) -> None:
    """Tells the limits, and what tells of errors, that whoever asks is known."""
    asking = scope.get(ASKING)
    if isinstance(asking, Asking):
        asking.who, asking.sees_all = who.mark, who.sees(None)


async def _server(request: Request) -> Server:  # not in a thread: there is nothing to wait for
    found: Server = request.app.state.server
    return found


At = Annotated[Server, Depends(_server)]
"""A route's parameter for the server."""
