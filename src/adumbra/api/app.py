"""The app: routes, errors, and what every answer carries. Reads no environment and opens no store."""

from __future__ import annotations

from fastapi import FastAPI

from adumbra import __version__
from adumbra.api.context import Server
from adumbra.api.problems import add_problems
from adumbra.api.routes import metrics_page, networks
from adumbra.api.shapes.common import Problem

_PROBLEMS = {
    code: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for code, text in {
        401: "Nobody known asks", 403: "They may not", 404: "It isn't there", 409: "It doesn't fit what there is",
        412: "It was changed meanwhile", 413: "It is too large", 422: "It is not right", 429: "Too much at once",
        503: "A store is busy or away",
    }.items()
}  # fmt: skip


def make_app(server: Server) -> FastAPI:
    """The API over a server."""
    app = FastAPI(
        title="Adumbra", version=__version__, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None,
        summary="Sizes for the VMs of a virtual network before they boot.",
    )  # fmt: skip
    app.state.server = server
    add_problems(app)
    for each in (networks,):
        app.include_router(each.router, prefix="/v1", responses=_PROBLEMS)  # type: ignore[arg-type]
    app.include_router(metrics_page.router, responses={code: _PROBLEMS[code] for code in (401, 403)})
    return app
