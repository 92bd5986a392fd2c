"""The app: routes, errors, and what every answer carries. Reads no environment and opens no store."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope

from adumbra import __version__
from adumbra.api import oidc
from adumbra.api.access import who_asks
from adumbra.api.context import Server
from adumbra.api.events_stream import Streams
from adumbra.api.limits import Limits
from adumbra.api.oidc import Oidc
from adumbra.api.problems import MEDIA_TYPE, add_problems
from adumbra.api.routes import (
    audit,
    batches,
    calibration,
    events,
    forecasts,
    health,
    jobs,
    live,
    metrics,
    metrics_page,
    networks,
    plans,
    policies,
    profiles,
    sessions,
    shadows,
    sources,
    specs,
    streams,
    tokens,
    trainings,
    users,
    whatif,
)
from adumbra.api.shapes.common import Problem
from adumbra.schema.errors import ForbiddenError
from adumbra.service.access import HASHED_AT_ONCE

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "It can't be read", 401: "Nobody known asks", 403: "They may not", 404: "It isn't there",
        408: "It came too slowly",
        409: "It doesn't fit what there is", 412: "It was changed meanwhile", 413: "It is too large", 422: "It is not right",
        429: "Too much at once", 503: "A store is busy or away",
    }.items()
}  # fmt: skip


class Api(FastAPI):
    """The app behind its limits, which stand before all else, so that all answers carry what they add.

    state.server: what the routes work with. state.page_headers, if set: what answers beyond the API carry (limits.py).
    """

    def __init__(self, server: Server, **described: Any) -> None:
        super().__init__(**described)
        self.state.server = server
        self.state.hashing = asyncio.Semaphore(HASHED_AT_ONCE)
        self._describing = threading.Lock()
        self._described = b""

    def build_middleware_stack(self) -> ASGIApp:
        server: Server = self.state.server

        def vouch(scope: Scope) -> None:
            with suppress(ForbiddenError):  # somebody is known; what they may, the route says
                who_asks(server, HTTPConnection(scope))

        return Limits(super().build_middleware_stack(), server.care, vouch, lambda: getattr(self.state, "page_headers", {}))

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            _problems_as_such(super().openapi())
        return super().openapi()

    def described(self) -> bytes:
        """The OpenAPI as JSON. Written the first time, which takes seconds: for a thread, not for the loop that serves all."""
        with self._describing:
            self._described = self._described or orjson.dumps(self.openapi())
        return self._described


def make_app(server: Server, signs_in: Oidc | None = None) -> FastAPI:
    """The API over a server. signs_in: who vouches for users beside it, if anybody does."""
    app = Api(
        server, title="Adumbra", version=__version__, openapi_url=None, docs_url=None, redoc_url=None,
        summary="Sizes for the VMs of a virtual network before they boot.", generate_unique_id_function=_operation,
    )  # fmt: skip
    app.state.oidc = signs_in
    app.state.streams = Streams(server.care.streams, server.care.stream_s)  # whoever stops the server ends them
    add_problems(app)
    app.include_router(health.router)
    for each in (
        networks, specs, shadows, sources, batches, metrics, calibration, trainings, forecasts, profiles, whatif, policies,
        plans, live, events, jobs, streams, tokens, users, sessions, audit,
    ):  # fmt: skip
        app.include_router(each.router, prefix="/v1", responses=_PROBLEMS)
    app.include_router(oidc.router, prefix="/v1")
    app.include_router(metrics_page.router, responses={code: _PROBLEMS[code] for code in (401, 403, 404)})

    def openapi() -> Response:
        return Response(app.described(), media_type="application/json")

    app.add_api_route("/v1/openapi.json", openapi, include_in_schema=False)
    return app


def _problems_as_such(told: dict[str, Any]) -> None:
    """Lets the OpenAPI say of problems what they are sent as."""
    for operations in told["paths"].values():
        for operation in operations.values():
            for code, answer in operation["responses"].items():
                if code >= "400" and (content := answer.get("content")):
                    answer["content"] = {MEDIA_TYPE: next(iter(content.values()))}


def _operation(route: APIRoute) -> str:
    """A route's name in the OpenAPI: its module's and its function's."""
    return f"{route.endpoint.__module__.rpartition('.')[2]}_{route.name}"
