"""The app: routes, errors, and what every answer carries. Reads no environment and opens no store."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from adumbra import __version__
from adumbra.api.context import Server
from adumbra.api.events_stream import Streams
from adumbra.api.problems import MEDIA_TYPE, add_problems
from adumbra.api.routes import (
    calibration,
    events,
    forecasts,
    health,
    jobs,
    metrics,
    networks,
    plans,
    profiles,
    shadows,
    specs,
    streams,
    trainings,
    whatif,
)
from adumbra.api.shapes.common import Problem

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "It can't be read", 401: "Nobody known asks", 403: "They may not", 404: "It isn't there",
        409: "It doesn't fit what there is", 412: "It was changed meanwhile", 413: "It is too large", 422: "It is not right",
        429: "Too much at once", 503: "A store is busy or away",
    }.items()
}  # fmt: skip


def make_app(server: Server) -> FastAPI:
    """The API over a server."""
    app = FastAPI(
        title="Adumbra", version=__version__, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None,
        summary="Sizes for the VMs of a virtual network before they boot.", generate_unique_id_function=_operation,
    )  # fmt: skip
    app.state.server = server
    app.state.streams = Streams(server.care.streams, server.care.stream_s)  # whoever stops the server ends them
    add_problems(app)
    app.include_router(health.router)
    for each in (
        networks, specs, shadows, metrics, calibration, trainings, forecasts, profiles, whatif, plans, events, jobs, streams,
    ):  # fmt: skip
        app.include_router(each.router, prefix="/v1", responses=_PROBLEMS)
    write = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _problems_as_such(write())
        return write()

    app.openapi = described  # type: ignore[method-assign]
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
