"""Who asks, and whether they may: by a token, or by the console's sign-in. Each route says what it takes."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.requests import HTTPConnection

from adumbra.api.context import At, Server, passes_for
from adumbra.schema.access import Principal, Role
from adumbra.schema.errors import AccessError, ForbiddenError, NotFoundError
from adumbra.service import access

COOKIE = "adumbra_session"
CSRF_HEADER = "X-CSRF-Token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = HTTPBearer(auto_error=False, description="A token of `adumbra token create`.")
_SESSION = APIKeyCookie(name=COOKIE, auto_error=False, description="The console's sign-in; changes need X-CSRF-Token, too.")


def _principal(request: Request, at: At, bearer: object = Security(_BEARER), cookie: object = Security(_SESSION)) -> Principal:
    del bearer, cookie  # they stand here for the OpenAPI description
    who = who_asks(at, request)
    passes_for(request.scope, who)
    return who


def who_asks(at: Server, request: HTTPConnection) -> Principal:
    """Whoever asks, by their token or sign-in; by a sign-in, a change must repeat its CSRF token.

    Raises AccessError for somebody who isn't known, ForbiddenError for a change that the console may not have asked for.
    """
    given = request.headers.get("Authorization", "")
    if given:
        kind, _, secret = given.partition(" ")
        if kind.lower() != "bearer":
            raise AccessError("only bearer tokens are taken", "send `Authorization: Bearer TOKEN`")
        return at.insider(secret.strip()) or access.by_token(at.workspace, secret.strip(), at.now())
    cookie_secret = request.cookies.get(COOKIE, "")
    if not cookie_secret:
        raise AccessError("this needs a token", "send `Authorization: Bearer TOKEN`; `adumbra token create` makes one")
    who, session = access.by_session(at.workspace, cookie_secret, at.now())
    if request.scope.get("method", "GET") not in _SAFE and not secrets.compare_digest(
        request.headers.get(CSRF_HEADER, "").encode(), session.csrf.encode()
    ):
        raise ForbiddenError(f"a change by a sign-in needs its {CSRF_HEADER}", "reload the page, or use a token")
    return who


Known = Annotated[Principal, Depends(_principal)]
"""Whoever asks, whatever they may."""


def _that_may(role: Role) -> Callable[..., Awaitable[Principal]]:
    async def check(who: Known, request: Request) -> Principal:  # not in a thread: there is nothing to wait for
        name = request.path_params.get("name")
        return allowed(who, role, name)

    return check


def allowed(who: Principal, role: Role, network: str | None) -> Principal:
    """Raises ForbiddenError for what they may not do. A network that isn't theirs is, to them, not there."""
    if who.once and (role is not Role.ADMIN or network is not None):
        raise ForbiddenError("this token makes the first tokens and users, and nothing else", "make a token by it first")
    if network is not None and not who.sees(network):
        raise NotFoundError(f"there is no network {network[:63]!r}", "or it is not one of yours")
    if not who.may(role, network) and not (network is None and role is not Role.ADMIN and who.role.includes(role)):
        of = "" if who.networks is None else " of some networks"
        raise ForbiddenError(
            f"{who.name} is {who.role.value}{of}, and this needs {role.value}", "ask an administrator for such a token"
        )
    return who


Viewer = Annotated[Principal, Depends(_that_may(Role.VIEWER))]
"""Whoever asks, once they may read: the network in the path, or what is of all (a route then shows only what they see)."""
Operator = Annotated[Principal, Depends(_that_may(Role.OPERATOR))]
"""Whoever asks, once they may change the network in the path."""
Admin = Annotated[Principal, Depends(_that_may(Role.ADMIN))]
"""Whoever asks, once they may do all: to the network in the path, or, where there is none, to all networks."""


async def _that_gives(who: Known) -> Principal:
    if who.role is not Role.ADMIN:
        raise ForbiddenError(f"{who.name} is {who.role.value}, and this needs admin", "ask an administrator")
    return who


Giver = Annotated[Principal, Depends(_that_gives)]
"""Whoever asks, once they may give rights to others: an administrator, of all networks or of some."""
