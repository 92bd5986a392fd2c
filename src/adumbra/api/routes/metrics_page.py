"""What the server tells of itself, for Prometheus to scrape: to this host without a token, to others by a viewer's."""

from __future__ import annotations

import ipaddress

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from adumbra.api.access import allowed, who_asks
from adumbra.api.context import At
from adumbra.schema.access import Role
from adumbra.schema.errors import ForbiddenError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
router = APIRouter(tags=["server"])


@router.get(
    "/metrics", summary="The server's own metrics, in Prometheus' text format", response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
)  # fmt: skip
def metrics_page(request: Request, at: At) -> Response:
    if not _of_this_host(request):
        who = allowed(who_asks(at, request), Role.VIEWER, None)
        if who.networks is not None:
            raise ForbiddenError("the page tells of all networks, and this token is of some", "ask for one of all networks")
    if at.exposition is None:
        raise HTTPException(404, "this server keeps no metrics of its own")
    return Response(at.exposition(), media_type=CONTENT_TYPE)


def _of_this_host(request: Request) -> bool:
    """Whether somebody on this host asks, and not for somebody else, as a proxy does."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
