"""Asks one server: sends requests, tries again where that is harmless, turns problems back into errors. Knows no noun.

Everything that is read has a bound. No secret is in an error.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import stamina

from adumbra.client.access import Access, TokenAuth
from adumbra.schema.errors import AccessError, AdumbraError, ConflictError, InputError, NotFoundError, ServerError
from adumbra.schema.problems import error_of_plain
from adumbra.schema.version import __version__

MOST_BYTES = 512 * 2**20
"""The most that is read of an answer."""
MOST_PAGES = 10_000
PAGE = 1000
_TELLING_BYTES = 256 * 2**10
_WAIT_MAX_S = 5.0
_LATER = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. json, content: of the body, at most one of them; key: an Idempotency-Key of its own; version: of what is
    to be changed, as it was seen."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    version: int | None = None
    accept: str = "application/json"


@dataclass(frozen=True, slots=True)
class Said:
    """What a server answered, all well."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> Any:
        """The body as JSON. Raises ServerError where it is none."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            raise ServerError(
                "the server's answer is no JSON", "is it an Adumbra server, of a version like this one?"
            ) from None


class LaterError(Exception):
    """Another try may help. error: what is raised where none does."""

    def __init__(self, error: AdumbraError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


class Asker:
    """Asks one server. Opened by `with`; threads may share it. say: is told, in a sentence, when it waits for the server."""

    def __init__(self, access: Access, say: Callable[[str], None] = lambda _: None) -> None:
        self.access = access
        self._say = say
        self._auth = TokenAuth(access)
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        access = self.access
        self._client = httpx.Client(
            verify=_tls(access),
            auth=self._auth,
            headers={"User-Agent": f"adumbra/{__version__}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(access.timeout_s, connect=access.connect_timeout_s),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        )
        return self

    def __exit__(self, *exc: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def ask(self, request: Request) -> Said:
        """Sends a request until the server has answered it, with growing pauses, and gives what it said.

        Raises the error of a problem that the server tells of, and ServerError where it can't be reached, is too busy, or
        doesn't answer as a server of this program's.
        """
        until, began, tries = self.access.give_up_s, time.monotonic(), 0

        def later(error: Exception) -> bool | float:
            if not isinstance(error, LaterError):
                return False
            left_s = until - (time.monotonic() - began)
            if left_s <= (error.after_s or 0.0):
                return False
            if tries == 1:
                self._say(f"{error.error.what}; trying again for {until:g} s")
            return True if error.after_s is None else error.after_s * random.uniform(1.0, 1.2)  # noqa: S311 no secret

        try:
            often: Any = {"attempts": None, "timeout": until} if until > 0 else {"attempts": 1, "timeout": None}
            for attempt in stamina.retry_context(on=later, wait_max=_WAIT_MAX_S, wait_jitter=0.5, **often):
                with attempt:
                    tries += 1
                    return self._once(request)
        except LaterError as error:
            raise error.error from None
        except (NotFoundError, ConflictError) as error:
            if request.method == "DELETE" and isinstance(error, NotFoundError) and tries > 1:
                return Said(204, b"")  # the try before, whose answer was lost, did it
            raise
        raise AssertionError  # the last try raises what it met

    def get(self, path: str, **params: Any) -> Any:
        """What stands at a path, as plain data."""
        return self.ask(Request("GET", path, params)).data()

    def pages(self, path: str, most: int | None = None, **params: Any) -> Iterator[Mapping[str, Any]]:
        """The items at a path, page after page as they are wanted, `most` of them at most. Raises ServerError for pages without
        end."""
        after, left = None, most
        for _ in range(MOST_PAGES):
            if left is not None and left <= 0:
                return
            limit = PAGE if left is None else min(PAGE, left)
            page = self.get(path, **params, limit=limit, after=after)
            items = page["items"]
            yield from items if left is None else items[:left]
            left = None if left is None else left - len(items)
            after = page.get("next")
            if after is None:
                return
        raise ServerError(f"{path} has more than {MOST_PAGES:,} pages", "ask for less")

    @contextmanager
    def stream(self, request: Request) -> Iterator[Iterator[str]]:
        """The lines of an answer that goes on. Tried once. Raises as `ask` does, also while it is read."""
        with self._told(), self._opened().stream(**self._as_sent(request)) as response:
            if not response.is_success:
                self._judge(response, _read(response, _TELLING_BYTES, self.access.timeout_s))
            yield self._lines(response)

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        with self._told():
            yield from response.iter_lines()

    def _once(self, request: Request) -> Said:
        with self._told(), self._opened().stream(**self._as_sent(request)) as response:
            most = MOST_BYTES if response.is_success else _TELLING_BYTES
            body = _read(response, most, self.access.timeout_s)
            self._judge(response, body)
            return Said(response.status_code, body, dict(response.headers))

    def _as_sent(self, request: Request) -> dict[str, Any]:
        headers = {"Accept": request.accept, **request.headers}
        if request.key:
            headers["Idempotency-Key"] = request.key
        if request.version is not None:
            headers["If-Match"] = f'"{request.version}"'
        params = {name: value for name, value in request.params.items() if value is not None}
        sent: dict[str, Any] = {"method": request.method, "url": f"{self.access.base}{request.path}", "headers": headers}
        if params:
            sent["params"] = params
        if request.json is not None:
            sent["json"] = request.json
        if request.content is not None:
            sent["content"] = request.content
        return sent

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what the network does into LaterError."""
        place = self.access.url
        try:
            yield
        except httpx.TimeoutException:
            error = ServerError(f"{place} did not answer in time", "is it overloaded, or is something in between?")
            raise LaterError(error) from None
        except (httpx.RemoteProtocolError, httpx.DecodingError):
            raise LaterError(ServerError(f"{place} broke off, or does not speak HTTP", "is the port right?")) from None
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            what = self._auth.hidden(_short(str(error)))
            if "certificate" in what.lower():
                raise ServerError(
                    f"{place} can't be trusted: {what}", "give what signed its certificate by ADUMBRA_SERVER_CA"
                ) from None
            raise LaterError(
                ServerError(f"{place} can't be reached: {what}", "is `adumbra serve` running there, and ADUMBRA_SERVER right?")
            ) from None
        except httpx.InvalidURL:
            raise InputError(f"{place} is no address", "give one such as https://adumbra.example:8642") from None

    def _judge(self, response: httpx.Response, body: bytes) -> None:
        """Raises what an answer tells of, unless it is good."""
        status = response.status_code
        if response.is_success or status == 304:
            return
        error = self._error(response, body)
        if status in _LATER:
            raise LaterError(error, _retry_after_s(response))
        raise error

    def _error(self, response: httpx.Response, body: bytes) -> AdumbraError:
        place, status = self.access.url, response.status_code
        if 300 <= status < 400:
            return ServerError(f"{place} sends us elsewhere", "give the address that it is at")
        if status == 401 and not self._auth.token():
            return AccessError(f"{place} asks who you are", "give a token by ADUMBRA_TOKEN, or its file by ADUMBRA_TOKEN_FILE")
        try:
            return error_of_plain(json.loads(self._auth.hidden(body.decode("utf-8", "replace"))))
        except (ValueError, KeyError, TypeError, AttributeError):
            said = self._auth.hidden(_short(body[:200].decode("utf-8", "replace")))
            told = f"{place} answers {status}, and not as an Adumbra server does" + (f": {said}" if said else "")
            return ServerError(told, "is it the right address, or is a proxy in between?")

    def _opened(self) -> httpx.Client:
        if self._client is None:
            raise RuntimeError("the client isn't open: use it in a `with` block")
        return self._client


def _tls(access: Access) -> ssl.SSLContext | bool:
    if not access.url.strip().lower().startswith("https"):
        return True
    try:
        return ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the authorities' file {access.ca} can't be read ({error.strerror or 'no certificates'})",
            "check ADUMBRA_SERVER_CA",
        ) from None


def _read(response: httpx.Response, most_bytes: int, timeout_s: float) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":  # might become any length
        raise ServerError("the server sends a compressed answer that was not asked for", "is a proxy in between?")
    pieces, size, until = list[bytes](), 0, time.monotonic() + timeout_s
    for piece in response.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise ServerError(f"the server answers with more than {most_bytes:,} bytes", "ask for less")
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the answer takes too long")
    return b"".join(pieces)


def _retry_after_s(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    return float(text[:6]) if text.isascii() and text.isdecimal() else None


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return "".join(char if char.isprintable() else " " for char in line)[:200]
