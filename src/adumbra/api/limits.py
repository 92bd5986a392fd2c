"""What a server takes from its clients: how often, how much, how slowly; and the headers that browsers are to heed.

Stands before the app, so that what is too much is refused before it is read or understood. Pure ASGI; opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adumbra.api.access import COOKIE
from adumbra.api.buckets import Buckets, Known, place
from adumbra.api.context import ASKING, Asking, Care
from adumbra.api.problems import of_error, problem
from adumbra.schema.errors import AdumbraError

API = "/v1/"
_UPLOADS = "/_nicegui/client/"
"""Where the console's pages send the captures that somebody uploads."""
PAGES = 10
"""So many times as often may be asked for what is beyond the API: a page of the console is many small files."""
_SIGN_IN = frozenset({
    ("POST", "/v1/sessions"), ("PUT", "/v1/sessions/current/password"), ("GET", "/v1/oidc/return"), ("POST", "/sign-in"),
    ("POST", "/first-user"),
})  # fmt: skip
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_API_POLICY = (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_API_HEADERS = {  # of an answer without, and with an ETag
    False: (_API_POLICY, (b"cache-control", b"no-store")),
    True: (_API_POLICY, (b"cache-control", b"private, no-cache")),
}

Vouch = Callable[[Scope], object]
"""Raises AdumbraError for a request of whoever isn't known. May take its time: it is called in a thread."""


class _RefusedError(HTTPException):
    """What was read of a request is too much, or came too slowly; the app goes no further, and its answer isn't sent."""

    def __init__(self) -> None:
        super().__init__(400)


@dataclass(slots=True)
class _Body:
    """How a request's body comes. most: of how many bytes it may be; began_s: when the app began to read it."""

    most: int
    began_s: float | None = None
    received: int = 0
    vouched: bool = False
    ended: bool = False
    refusal: JSONResponse | None = None


@dataclass(slots=True)
class Limits:
    """The app, within bounds. vouch: tells strangers from those who are known, before a large body is read.

    page_headers: what answers beyond the API carry, such as the console's Content-Security-Policy; an answer's own stand.
    """

    app: ASGIApp
    care: Care
    vouch: Vouch
    page_headers: Callable[[], Mapping[str, str]] = dict
    _requests: Buckets = field(init=False)
    _pages: Buckets = field(init=False)
    _tries: Buckets = field(init=False)
    _known: Known = field(init=False)
    _pending: dict[bytes, int] = field(default_factory=dict, init=False)
    _reading_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        care = self.care
        self._requests = Buckets(care.requests_per_s, care.burst, care.clients)
        self._pages = Buckets(care.requests_per_s * PAGES, care.burst * PAGES, care.clients)
        self._tries = Buckets(care.tries_per_min / 60, care.tries_per_min, care.clients)
        self._known = Known(care.clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        asked = _Asked.of(scope)
        scope[ASKING] = Asking()
        send = self._with_headers(scope, send)
        refusal = self._too_often(asked, self._requests if scope["path"].startswith(API) else self._pages)
        if refusal is not None:
            await _refuse(refusal, scope, receive, send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        elif self._may_be_wrong(asked):
            await self._try(asked, scope, receive, send)
        else:
            await self._answer(asked, scope, receive, send)

    # How often

    def _too_often(self, asked: _Asked, buckets: Buckets) -> JSONResponse | None:
        """Charges whoever asks: by whom they were known lately, else by their address."""
        if wait_s := buckets.take(self._known.mark(asked.secret) or asked.place, _now_s()):
            return _later(429, "too-often", "these are too many requests at once", wait_s)
        return None

    def _may_be_wrong(self, asked: _Asked) -> bool:
        """Whether what somebody comes with may be a guess: a password, or a token by which nobody was known lately."""
        return asked.signs_in or (asked.bearer and self._known.mark(asked.secret) is None)

    async def _try(self, asked: _Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets somebody try; each address so often. A try is charged before it is made, and given back if all was right.

        Requests with the same token at the same time are one try.
        """
        charged = asked.signs_in or asked.secret not in self._pending
        if charged and (wait_s := self._tries.take(asked.place, _now_s())):
            answer = _later(429, "tries", "too many names, passwords or tokens from here were wrong", wait_s)
            await _refuse(answer, scope, receive, send)
            return
        self._pending[asked.secret] = self._pending.get(asked.secret, 0) + 1
        pending = True

        def settle(status: int) -> None:
            nonlocal pending
            if not pending:
                return
            pending = False
            self._pending[asked.secret] -= 1
            if not self._pending[asked.secret]:
                del self._pending[asked.secret]
            if status == 401:
                what = "a sign-in" if asked.signs_in else "a token"
                structlog.get_logger(__name__).warning(f"{what} was not accepted", address=asked.place)
            elif charged:
                self._tries.give_back(asked.place)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                settle(message["status"])  # not at the end, which of a stream is far
            await send(message)

        try:
            await self._answer(asked, scope, receive, noted)
        finally:
            settle(401)

    # How much, and how slowly

    async def _answer(self, asked: _Asked, scope: Scope, receive: Receive, send: Send) -> None:
        body, began = _Body(self._most(scope)), False
        if asked.body_bytes is not None:
            body.refusal = await self._foreseen(asked.body_bytes, body, scope)

        async def told(message: Message) -> None:
            nonlocal began
            if body.refusal is not None and not began:
                return  # ours is sent in its place
            if message["type"] == "http.response.start":
                self._note(asked, scope, message["status"])
            began = True
            await send(message)

        if body.refusal is None:
            try:
                await self.app(scope, self._reading(body, scope, receive), told)
            except _RefusedError:
                if began:
                    raise
            finally:
                self._reading_bytes -= body.received
        if body.refusal is not None and not began:
            await _refuse(body.refusal, scope, receive, send)

    def _note(self, asked: _Asked, scope: Scope, status: int) -> None:
        """Learns from the answer whether whoever asks is known."""
        asking: Asking = scope[ASKING]
        if asking.who and asked.secret:
            self._known.note(asked.secret, asking.who)
        elif status == 401:
            self._known.forget(asked.secret)

    def _most(self, scope: Scope) -> int:
        path = scope["path"]
        if path.startswith(_UPLOADS) and "/upload/" in path:
            return self.care.upload_bytes
        batch = scope["method"] in {"POST", "PATCH"} and path.startswith(API) and path.endswith(("/batches", "/calibration"))
        return self.care.batch_bytes if batch else self.care.body_bytes

    async def _foreseen(self, size: int, body: _Body, scope: Scope) -> JSONResponse | None:
        """Refuses what is said to be too large; and of strangers, what is more than they need."""
        if size > body.most:
            return _too_large(body.most)
        return await self._of_a_stranger(body, scope) if size > self.care.stranger_bytes else None

    async def _of_a_stranger(self, body: _Body, scope: Scope) -> JSONResponse | None:
        try:
            await run_in_threadpool(self.vouch, scope)
        except AdumbraError as error:
            return of_error(error)
        body.vouched = True
        return None

    def _reading(self, body: _Body, scope: Scope, receive: Receive) -> Receive:
        async def read() -> Message:
            if body.refusal is not None:
                raise _RefusedError
            if body.ended:
                return await receive()
            message = await self._next(body, receive)
            if message["type"] == "http.request":
                body.refusal = self._counted(body, len(message.get("body", b"")))
                if body.refusal is None and body.received > self.care.stranger_bytes and not body.vouched:
                    body.refusal = await self._of_a_stranger(body, scope)
                if body.refusal is not None:
                    raise _RefusedError
                body.ended = not message.get("more_body", False)
            return message

        return read

    async def _next(self, body: _Body, receive: Receive) -> Message:
        """The next piece, if it comes in time: each within wait_s, and all of them at bytes_per_s at least."""
        if body.began_s is None:
            body.began_s = _now_s()
        late_s = body.began_s + self.care.wait_s + body.received / self.care.bytes_per_s
        try:
            async with asyncio.timeout(max(0.0, min(self.care.wait_s, late_s - _now_s()))):
                return await receive()
        except TimeoutError:
            body.refusal = _later(408, "too-slow", "the request came too slowly", 1.0)
            raise _RefusedError from None

    def _counted(self, body: _Body, more: int) -> JSONResponse | None:
        body.received += more
        self._reading_bytes += more
        if body.received > body.most:
            return _too_large(body.most)
        if self._reading_bytes > self.care.bodies_bytes:
            return _later(503, "busy", "too much is being sent to this server at this moment", 2.0)
        return None

    # What browsers are to heed

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        async def headed(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                message["headers"] = self._with_more(scope, list(message.get("headers", ())))
            await send(message)

        return headed

    def _with_more(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """An answer's headers with those that it lacks."""
        there = {name.lower() for name, _ in headers}
        more = list(_HEADERS)
        if scope["path"].startswith(API):
            more += _API_HEADERS[b"etag" in there]
        else:
            more += ((name.lower().encode(), value.encode()) for name, value in self.page_headers().items())
        if scope.get("scheme") in {"https", "wss"} and _has_a_name(scope):
            more.append((b"strict-transport-security", b"max-age=31536000"))
        return headers + [each for each in more if each[0] not in there]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the headers of a request tell. secret: a hash of what they come with, b"" for nothing; bearer: whether that is a
    token; signs_in: whether it brings a password or a provider's word; body_bytes: None where that isn't said beforehand."""

    place: str
    secret: bytes
    bearer: bool
    signs_in: bool
    body_bytes: int | None

    @classmethod
    def of(cls, scope: Scope) -> _Asked:
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of several the first counts, as it does for the app
        client = scope.get("client")
        bearer = headers.get(b"authorization", b"")
        given = bearer or cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE, "").encode()
        told = headers.get(b"content-length", b"0")
        chunked = b"transfer-encoding" in headers
        signs_in = (scope.get("method"), scope["path"]) in _SIGN_IN
        return cls(
            place(client[0]) if client else "?",
            hashlib.sha256(given).digest() if given else b"",
            bool(bearer),
            signs_in,
            int(told) if told.isdigit() and len(told) < 20 and not chunked else None,
        )


async def _refuse(answer: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading what is left of the request; the connection ends with it."""
    if scope["type"] == "http":
        answer.headers["Connection"] = "close"
        await answer(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await answer(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1013})


def _too_large(most: int) -> JSONResponse:
    return problem(413, "too-large", f"the request is of more than {most:,} bytes", "send less at a time")


def _later(status: int, kind: str, title: str, wait_s: float) -> JSONResponse:
    seconds = max(1, math.ceil(wait_s))
    answer = problem(status, kind, title, f"ask again in {seconds} s")
    answer.headers["Retry-After"] = str(seconds)
    return answer


def _has_a_name(scope: Scope) -> bool:
    """Whether the server is called by a name of its own: browsers would remember for all of a host what is said of one port."""
    host = Headers(scope=scope).get("host", "").partition(":")[0]
    return bool(host) and host != "localhost" and not host.startswith("[") and not host.replace(".", "").isdecimal()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
