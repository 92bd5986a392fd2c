"""Errors as problems (RFC 9457): what went wrong, and how to mend it. An unforeseen one is logged, and never told."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from adumbra.api.context import ASKING, Asking
from adumbra.schema.errors import AdumbraError, SpecError, UnknownNetworkError
from adumbra.schema.problems import PREFIX, plain_of, problem_of

MEDIA_TYPE = "application/problem+json"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def add_problems(app: FastAPI) -> None:
    """Lets every error of the app be answered as a problem."""
    app.add_exception_handler(AdumbraError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def problem(status: int, kind: str, title: str, detail: str = "", problems: list[str] | None = None) -> JSONResponse:
    """An answer that tells of a problem."""
    told: dict[str, Any] = {"type": f"{PREFIX}{kind}", "title": title, "status": status, "detail": detail}
    if problems:
        told["problems"] = problems
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "2"}, 429: {"Retry-After": "1"}}.get(status)
    return JSONResponse(told, status, headers, MEDIA_TYPE)


def told_of(error: AdumbraError) -> dict[str, Any]:
    """What is told of an error of this program's where the answer has begun."""
    return plain_of(error)


def of_error(error: AdumbraError) -> JSONResponse:
    """The answer to an error of this program's."""
    status, kind = problem_of(error)
    problems = list(error.problems) if isinstance(error, SpecError) else None
    return problem(status, kind, error.what, error.mend, problems)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AdumbraError)
    asking = request.scope.get(ASKING)
    if isinstance(error, UnknownNetworkError) and not (isinstance(asking, Asking) and asking.sees_all):
        error = error.discreet()
    return of_error(error)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:20]]
    return problem(422, "input", "the request is not of the form that this route takes", "see /v1/openapi.json", problems)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    mend = f"see /v1/openapi.json for what there is beside {request.url.path[:200]}" if error.status_code in {404, 405} else ""
    answer = problem(error.status_code, "http", str(error.detail), mend)
    answer.headers.update(error.headers or {})
    if error.status_code == 405:  # the first route of a path knows of its own methods only
        answer.headers["Allow"] = ", ".join(method for method in _METHODS if _takes(request, method))
    return answer


def _takes(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    structlog.get_logger(__name__).error("request failed", path=request.url.path, exc_info=error)
    return problem(500, "fault", "the server failed at this, by a fault of its own", "its log tells more; report it")
