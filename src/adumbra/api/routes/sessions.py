"""Sign-ins: with a name and a password; who am I; a password of one's own; sign out. The secret is in a cookie alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from adumbra.api.access import COOKIE, CSRF_HEADER, Known
from adumbra.api.acts import Changing
from adumbra.api.context import At, Server
from adumbra.api.shapes.access import OwnPassword, SignIn, Whoami
from adumbra.api.shapes.common import instant
from adumbra.schema.access import Principal, SessionRecord, Through
from adumbra.schema.errors import BusyError, ForbiddenError, InputError
from adumbra.service import access

router = APIRouter(prefix="/sessions", tags=["access"])

SIGN_IN = "/v1/sessions"
"""Where a sign-in is asked for; failures count there."""


@router.post("", status_code=201, summary="Sign in: sets the cookie, and tells the CSRF token")
async def sign_in(asked: SignIn, request: Request, at: At, response: Response) -> Whoami:
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise ForbiddenError("a page of another site may not sign you in", "sign in at this server's own page")
    origin = request.client.host if request.client else "?"
    async with _turn(request):
        made = await run_in_threadpool(
            access.sign_in, at.workspace, asked.name, asked.password.get_secret_value(), at.now(), origin
        )
    set_cookie(response, request, at, made.secret, access.SESSION_S)
    user = made.session.user
    return Whoami(
        name=user.name, role=user.role, networks=_listed(user.networks), through=Through.SESSION,
        csrf=made.session.csrf, expires=instant(made.session.expires_ns),
    )  # fmt: skip


@asynccontextmanager
async def _turn(request: Request) -> AsyncIterator[None]:
    """One's turn at hashing a password, waited for without holding a thread that others need. Raises BusyError."""
    turns: asyncio.Semaphore = request.app.state.hashing
    try:
        async with asyncio.timeout(access.HASH_WAIT_S):
            await turns.acquire()
    except TimeoutError:
        raise BusyError("too many sign in at this moment", "try again in a few seconds") from None
    try:
        yield
    finally:
        turns.release()


@router.get("/current", summary="Who am I, and what may I do?")
def whoami(who: Known, request: Request, at: At) -> Whoami:
    session = _session(who, request, at)
    return Whoami(
        name=who.name, role=who.role, networks=_listed(who.networks), through=who.through, once=who.once,
        csrf=session.csrf if session else None, expires=instant(session.expires_ns) if session else None,
    )  # fmt: skip


@router.delete("/current", status_code=204, summary="Sign out")
def sign_out(who: Known, request: Request, at: At, change: Changing, response: Response) -> None:
    _of_session(who)
    change.make(lambda: access.sign_out(at.workspace, request.cookies[COOKIE]))
    set_cookie(response, request, at, "", 0)


@router.put("/current/password", status_code=204, summary="Give yourself another password; your sign-ins end")
def own_password(asked: OwnPassword, who: Known, request: Request, at: At, change: Changing, response: Response) -> None:
    _of_session(who)
    old, new = asked.current.get_secret_value(), asked.password.get_secret_value()
    change.make(lambda: access.change_password(at.workspace, who, old, new))
    set_cookie(response, request, at, "", 0)


def set_cookie(response: Response, request: Request, at: Server, secret: str, for_s: int) -> None:
    """Gives the browser what it signed in with; of 0 seconds, takes it away."""
    secure = at.secure or request.url.scheme == "https"
    response.set_cookie(COOKIE, secret, for_s, secure=secure, httponly=True, samesite="strict")


def _of_session(who: Principal) -> None:
    if who.session_id is None:
        raise InputError(
            "a token is no sign-in", f"sign in, and send its cookie with {CSRF_HEADER}; revoke tokens by /v1/tokens"
        )


def _session(who: Principal, request: Request, at: At) -> SessionRecord | None:
    return None if who.session_id is None else access.by_session(at.workspace, request.cookies[COOKIE], at.now())[1]


def _listed(networks: tuple[str, ...] | None) -> list[str] | None:
    return None if networks is None else list(networks)
