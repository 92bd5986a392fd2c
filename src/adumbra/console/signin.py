"""Signing in and out: plain forms, which need no script. The first sign-in of all makes its user by the one-time token."""

from __future__ import annotations

import functools
import hashlib
import html
import importlib.resources
import secrets
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from adumbra.console.context import Console
from adumbra.console.guard import COOKIE, SIGN_IN, same_site, session_secret
from adumbra.schema.access import Act, NewUser, Role
from adumbra.schema.errors import AccessError, AdumbraError, ForbiddenError
from adumbra.service import access

router = APIRouter(include_in_schema=False)
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0b5fc0"/>'
    '<path d="M8 24 16 7l8 17" fill="none" stroke="#fff" stroke-width="3.2" stroke-linejoin="round" stroke-linecap="round"/>'
    '<path d="M13 19.5h12" stroke="#9cc7ff" stroke-width="3.2" stroke-linecap="round"/></svg>'
)
_FORM = "application/x-www-form-urlencoded"
_STATIC = {"console.css": "text/css", "console.js": "text/javascript"}
_MAX = 1_200
Short = Annotated[str, Form(max_length=_MAX)]
_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


@functools.cache
def static(name: str) -> str:
    """The text of a file of ours."""
    text = importlib.resources.files("adumbra.console").joinpath("static", name).read_text(encoding="utf-8")
    if name == "console.css":
        shared = importlib.resources.files("adumbra.service.pictures").joinpath("pictures.css").read_text(encoding="utf-8")
        return f"{shared}\n{text}"
    return text


@functools.cache
def static_url(name: str) -> str:
    """Where browsers find it; another one once it changes."""
    return f"/console/static/{name}?v={hashlib.sha256(static(name).encode()).hexdigest()[:12]}"


@router.get("/console/static/{name}")
def file(name: str) -> Response:
    if name not in _STATIC:
        return Response("there is no such file", 404, media_type="text/plain")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(static(name), media_type=f"{_STATIC[name]}; charset=utf-8", headers=headers)


@router.get(SIGN_IN)
def show(request: Request, to: str = "/") -> Response:
    console = _console(request)
    if _signed_in(console, request):
        return RedirectResponse(_inside(to), 303)
    return _page(_form(console, to))


@router.post(SIGN_IN)
def sign_in(request: Request, name: Short = "", password: Short = "", to: Short = "/") -> Response:
    console = _console(request)
    try:
        _own_page(request)
        signed = access.sign_in(console.workspace, name.strip(), password, console.now(), _origin(request))
    except AdumbraError as error:
        return _page(_form(console, to, error, name), _status(error))
    return _welcomed(console, request, signed.secret, to)


@router.post("/first-user")
def first_user(request: Request, token: Short = "", name: Short = "", password: Short = "") -> Response:
    """Makes the first administrator, by the token that the first start printed; it serves once."""
    console = _console(request)
    workspace = console.workspace
    try:
        _own_page(request)
        who = access.by_token(workspace, token.strip(), console.now())
        if not who.may(Role.ADMIN):
            raise ForbiddenError("this token makes no users", "give the one that the first start printed")
        new = NewUser(name.strip(), Role.ADMIN)
        act = Act(who, "console: first user", _origin(request), asked={"name": new.name, "role": new.role.value})
        now_ns = console.now()
        access.make(workspace, act, now_ns, lambda: access.add_user(workspace, new, password, now_ns), access.told)
        signed = access.sign_in(workspace, new.name, password, console.now(), _origin(request))
    except AdumbraError as error:
        return _page(_form(console, "/", error, name), _status(error))
    return _welcomed(console, request, signed.secret, "/")


@router.post("/sign-out")
def sign_out(request: Request, csrf: Short = "") -> Response:
    console = _console(request)
    secret = session_secret(request.headers.get("cookie", ""))
    try:
        who, session = access.by_session(console.workspace, secret, console.now())
    except AccessError:
        return _farewell(console, request)
    if not secrets.compare_digest(csrf.encode(), session.csrf.encode()):
        return Response("this did not come from a page of this console", 403, media_type="text/plain")
    act = Act(who, "console: sign out", _origin(request))
    access.make(console.workspace, act, console.now(), lambda: access.sign_out(console.workspace, secret), lambda _: None)
    return _farewell(console, request)


def _console(request: Request) -> Console:
    found: Console = request.app.state.console
    return found


def _origin(request: Request) -> str:
    return request.client.host if request.client else "?"


def _own_page(request: Request) -> None:
    """Raises ForbiddenError for a form that another site sends: it would sign somebody in as whom that site likes."""
    origin = request.headers.get("origin", "")
    if origin and not same_site(origin, request.headers.get("host", "")):
        raise ForbiddenError("this form came from another site", "open the console itself")


def _signed_in(console: Console, request: Request) -> bool:
    try:
        access.by_session(console.workspace, session_secret(request.headers.get("cookie", "")), console.now())
    except AccessError:
        return False
    return True


def _inside(to: str) -> str:
    """A path of this console: never another host."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable() else "/"


def _status(error: AdumbraError) -> int:
    return 403 if isinstance(error, ForbiddenError) else 401 if isinstance(error, AccessError) else 422


def _secure(console: Console, request: Request) -> bool:
    """Whether the browser came by TLS: to this server, or to a proxy that is trusted."""
    return console.secure or request.url.scheme == "https"


def _welcomed(console: Console, request: Request, secret: str, to: str) -> Response:
    answer = RedirectResponse(_inside(to), 303, headers={"Cache-Control": "no-store"})
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=access.SESSION_S,
        httponly=True,
        samesite="strict",
        secure=_secure(console, request),
        path="/",
    )
    return answer


def _farewell(console: Console, request: Request) -> Response:
    answer = RedirectResponse(SIGN_IN, 303, headers={"Cache-Control": "no-store", "Clear-Site-Data": '"cache"'})
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=_secure(console, request))
    return answer


def _form(console: Console, to: str, error: AdumbraError | None = None, name: str = "") -> str:
    first = not console.workspace.state.access.users()
    told = ""
    if error is not None:
        told = f'<p class="problem" role="alert" id="problem">{_e(error.what)}; {_e(error.mend)}.</p>'
    described = ' aria-describedby="problem" aria-invalid="true"' if error is not None else ""
    names = _field("name", "Name", "text", f'autocomplete="username" value="{_e(name)}" required maxlength="63"{described}')
    if first:
        least = access.MIN_PASSWORD
        return (
            "<h1>Welcome to Adumbra</h1><p>Nobody can sign in yet. Make the first administrator with the one-time token that "
            f'the first start printed.</p>{told}<form method="post" action="/first-user">'
            + _field("token", "One-time token", "password", f'autocomplete="off" required placeholder="adu_…"{described}')
            + names
            + _field("password", f"Password (at least {least} characters)", "password",
                     f'autocomplete="new-password" required minlength="{least}"')
            + '<button type="submit">Make the administrator, and sign in</button></form>'
        )  # fmt: skip
    elsewhere = ""
    if console.sign_on:
        elsewhere = f'<p class="elsewhere"><a href="{_e(console.sign_on)}">Sign in with your organisation</a></p>'
    return (
        f'<h1>Sign in</h1>{told}<form method="post" action="{SIGN_IN}">'
        f'<input type="hidden" name="to" value="{_e(_inside(to))}">'
        + names
        + _field("password", "Password", "password", f'autocomplete="current-password" required{described}')
        + f'<button type="submit">Sign in</button></form>{elsewhere}'
    )


def _field(name: str, label: str, kind: str, more: str) -> str:
    return f'<label for="{name}">{_e(label)}</label><input id="{name}" name="{name}" type="{kind}" {more}>'


def _page(form: str, status: int = 200) -> Response:
    icon = f"data:image/svg+xml,{FAVICON.replace('#', '%23').replace(chr(34), chr(39))}"
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Adumbra</title><link rel="icon" href="{icon}"><link rel="stylesheet" href="{static_url("console.css")}">
<script src="{static_url("console.js")}" defer></script></head>
<body class="signin"><main><p class="brand">{FAVICON}<span>Adumbra</span></p>{form}</main></body></html>"""
    headers = {
        "Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY",
    }  # fmt: skip
    return HTMLResponse(text, status, headers)


def _e(raw: str) -> str:
    return html.escape(raw, quote=True)
