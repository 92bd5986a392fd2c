"""Counts what a server answers, and how long that takes, by route. Changes nothing of it."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adumbra.telemetry import Requests

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"


class Measured:
    """An app around another. What isn't of a route that there is counts as "other", so that nobody makes labels by asking."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began_s = 0, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._requests.begun()
        try:
            await self._app(scope, receive, sent)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            self._requests.ended(method, _route(scope), status, time.monotonic() - began_s)


def _route(scope: Scope) -> str:
    """The route's path as it is declared, such as /v1/networks/{name}."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else _OTHER
