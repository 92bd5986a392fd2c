"""What every route is given: the workspace, the clock, and what the server is told to be careful of. Opens nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from adumbra.schema.access import Principal
from adumbra.service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Care:
    """What the server bounds. body_bytes: of a request; batch_bytes: of a tap's; requests_per_s, burst: of each client;
    tries_per_min: of each address, of sign-ins and tokens that aren't accepted."""

    body_bytes: int = 17 * 2**20
    batch_bytes: int = 64 * 2**20
    requests_per_s: float = 50.0
    burst: int = 200
    tries_per_min: int = 20


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes work with. wake: told that there is work for the loops; ready: whether they run; health: what is to be
    known of them, by loop; exposition: its own metrics, for Prometheus; insider: whoever of the server's own
    children has that token."""

    workspace: Workspace
    now: Callable[[], int]
    care: Care = field(default_factory=Care)
    secure: bool = False
    wake: Callable[[], None] = lambda: None
    ready: Callable[[], bool] = lambda: True
    health: Callable[[], dict[str, str]] = dict
    exposition: Callable[[], bytes] | None = None
    insider: Callable[[str], Principal | None] = lambda _: None


def _server(request: Request) -> Server:
    found: Server = request.app.state.server
    return found


At = Annotated[Server, Depends(_server)]
"""A route's parameter for the server."""
