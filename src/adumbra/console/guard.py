"""Lets nobody at the console's pages, uploads or sockets who isn't signed in, nor pages of other sites act for who is. ASGI.

NiceGUI's own files (scripts, styles, fonts) are open: they are the same for everybody.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.requests import cookie_parser

from adumbra.console.context import SCOPE_KEY, Console, Visitor
from adumbra.schema.errors import AccessError, StoreError
from adumbra.service import access

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "adumbra_session"
"""The same as the API's, so that a sign-in holds for both."""
CSRF_HEADER = "x-csrf-token"
SIGN_IN = "/sign-in"
SOCKET = "/_nicegui_ws"
CLIENT = "/_nicegui/client/"
_OPEN = ("/_nicegui/",)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SLACK_BYTES = 64 * 1024  # what a form adds to the file that it carries
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Nothing from other hosts, whatever stands in a page. Vue compiles its templates in the browser, so that eval is needed."""
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class Guard:
    """Stands before NiceGUI's app."""

    def __init__(self, app: App, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        if scope["type"] == "http" and (path == "/favicon.ico" or (path.startswith(_OPEN) and not path.startswith(CLIENT))):
            await self._passed_on(scope, receive, send)
            return
        if path == "/v1" or path.startswith("/v1/"):  # the API has no such route; a page is no answer to a program
            await _answer(send, 404, b'{"type":"urn:adumbra:problem:not-found","title":"there is no such route","status":404}',
                          [(b"content-type", b"application/problem+json")])  # fmt: skip
            return
        headers = _headers(scope)
        visitor = await self._visitor(scope, headers)
        if visitor is None:
            await _turned_away(scope, receive, send)
            return
        if not _of_this_site(scope, headers, visitor) or not _of_this_visitor(scope, visitor):
            await _refused(scope, receive, send, 403)
            return
        scope[SCOPE_KEY] = visitor
        if path.startswith(CLIENT):
            most = self._console.capture_bytes + _SLACK_BYTES
            if int(headers.get("content-length") or 0) > most:
                await _refused(scope, receive, send, 413)
                return
            receive = _counted(receive, most)
        await self._passed_on(scope, receive, _safely(send))

    async def _passed_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To NiceGUI. Whoever leaves before the answer comes is no error, though Starlette's middleware says so."""
        left = False

        async def receiving() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        try:
            await self._app(scope, receiving, send)
        except RuntimeError as error:
            if not (left and "No response returned" in str(error)):
                raise

    async def _visitor(self, scope: Scope, headers: dict[str, str]) -> Visitor | None:
        secret = session_secret(headers.get("cookie", ""))
        if not secret:
            return None
        console = self._console
        try:
            who, session = await asyncio.to_thread(access.by_session, console.workspace, secret, console.now())
        except AccessError:
            return None
        except StoreError:
            return None
        client = scope.get("client")
        return Visitor(console, who, secret, session.csrf, client[0] if client else "?")


def session_secret(cookies: str) -> str:
    """The sign-in's secret in a Cookie header, "" for none."""
    return cookie_parser(cookies).get(COOKIE, "")  # the API's: what other programs of this host set mustn't matter


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def same_site(origin: str, host: str) -> bool:
    """Whether an Origin header is of the host that was asked."""
    return urlsplit(origin).netloc.lower() == host.lower() != ""


def _of_this_site(scope: Scope, headers: dict[str, str], visitor: Visitor) -> bool:
    """Whether a change, or a socket, is asked for by a page of ours: by its Origin, or by the token that only ours have."""
    if scope["type"] == "http" and scope["method"] in _SAFE and not str(scope["path"]).startswith(SOCKET):
        return True
    origin = headers.get("origin", "")
    if origin:
        return same_site(origin, headers.get("host", ""))
    if hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), visitor.csrf.encode()):
        return True
    # Browsers send an Origin with every socket and every change; what polls from our own pages may come without one.
    return scope["type"] == "http" and scope["method"] in _SAFE and headers.get("sec-fetch-site") == "same-origin"


def _of_this_visitor(scope: Scope, visitor: Visitor) -> bool:
    """Whether a socket is for a page that was made for them."""
    if not str(scope["path"]).startswith(SOCKET):
        return True
    from nicegui import Client

    named = parse_qs(bytes(scope.get("query_string", b"")).decode("latin-1")).get("client_id", [""])[0]
    client = Client.instances.get(named)
    if client is None:
        return True  # no page of that number is there: NiceGUI has the browser load it again
    owner = client.request.scope.get(SCOPE_KEY)
    return owner is not None and owner.who.user_id == visitor.who.user_id


async def _turned_away(scope: Scope, receive: Receive, send: Send) -> None:
    """A page sends to the sign-in, and back; all else is refused."""
    page = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} and not str(scope["path"]).startswith("/_nicegui")
    if not page:
        await _refused(scope, receive, send, 401)
        return
    query = bytes(scope.get("query_string", b"")).decode("latin-1")
    target = str(scope["path"]) + (f"?{query}" if query else "")
    where = SIGN_IN + ("" if target == "/" else f"?to={quote(target)}")
    await _answer(send, 303, b"", [(b"location", where.encode()), (b"cache-control", b"no-store")])


async def _refused(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": "sign in"})
        return
    words = {401: b"sign in", 403: b"this did not come from a page of this console", 413: b"too large"}[status]
    await _answer(send, status, words, [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")])


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})


def _counted(receive: Receive, most: int) -> Receive:
    """The same, as long as no more bytes come than that; then the request counts as broken off."""
    had = 0

    async def counting() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        return {"type": "http.disconnect"} if had > most else message

    return counting


def _safely(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = {name.lower() for name, _ in message["headers"]}
            message = {**message, "headers": [*message["headers"], *(each for each in _HEADERS if each[0] not in named)]}
        await send(message)

    return sending
