"""Asks one Adumbra server, by http_asking, and turns its problems back into errors. Knows no noun."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from adumbra.client.access import Access
from adumbra.http_asking import Answer, HttpAsker, LaterError, Trouble
from adumbra.schema.errors import AccessError, AdumbraError, NotFoundError, ServerError
from adumbra.schema.problems import error_of_plain

MOST_BYTES = 512 * 2**20
"""The most that is read of an answer."""
MOST_PAGES = 10_000
PAGE = 1000
_TELLING_BYTES = 256 * 2**10
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


class _Server(HttpAsker):
    """Asks an Adumbra server, whose problems are errors again."""

    mends: Mapping[Trouble, str] = {
        Trouble.AWAY: "is `adumbra serve` running there, and ADUMBRA_SERVER right?",
        Trouble.UNTRUSTED: "give what signed its certificate by ADUMBRA_SERVER_CA",
        Trouble.LONG: "ask for less",
        Trouble.FILES: "check ADUMBRA_SERVER_CA",
    }

    def error(self, trouble: Trouble, what: str, mend: str) -> AdumbraError:
        return (AccessError if trouble is Trouble.TOKEN else ServerError)(what, mend)

    def place(self, url: str) -> str:
        del url
        return self.access.url

    def judge(self, answer: Answer, place: str) -> None:
        if answer.good or answer.status == 304:
            return
        error = self._problem(answer, place)
        if answer.status in _LATER:
            raise LaterError(error, answer.retry_after_s)
        raise error

    def _problem(self, answer: Answer, place: str) -> AdumbraError:
        if 300 <= answer.status < 400:
            return ServerError(f"{place} sends us elsewhere", "give the address that it is at")
        if answer.status == 401 and not self.access.token and self.access.token_file is None:
            return AccessError(f"{place} asks who you are", "give a token by ADUMBRA_TOKEN, or its file by ADUMBRA_TOKEN_FILE")
        try:
            return error_of_plain(json.loads(self.hidden(answer.body.decode("utf-8", "replace"))))
        except (ValueError, KeyError, TypeError, AttributeError):
            said = self.told(answer)
            told = f"{place} answers {answer.status}, and not as an Adumbra server does" + (f": {said}" if said else "")
            return ServerError(told, "is it the right address, or is a proxy in between?")


class Asker:
    """Asks one server. Opened by `with`; threads may share it. say: is told, in a sentence, when it waits for the server."""

    def __init__(self, access: Access, say: Callable[[str], None] = lambda _: None) -> None:
        self.access = access
        self._say = say
        self._server = _Server(access.http)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)

    def ask(self, request: Request) -> Answer:
        """Sends a request until the server has answered it, with growing pauses, and gives what it said.

        Raises the error of a problem that the server tells of, and ServerError where it can't be reached, is too busy, or
        doesn't answer as a server of this program's.
        """
        tried: list[AdumbraError] = []

        def again(error: AdumbraError) -> None:
            if not tried:
                self._say(f"{error.what}; trying again for {self.access.give_up_s:g} s")
            tried.append(error)

        headers, content = _headers(request), request.content
        if request.json is not None:
            content, headers["Content-Type"] = json.dumps(request.json, allow_nan=False).encode(), "application/json"
        elif content is None and request.method == "POST":
            content = b""
        params = {name: value for name, value in request.params.items() if value is not None}
        try:
            return self._server.ask(
                request.method, f"{self.access.base}{request.path}", content=content,
                form=params or None, headers=headers, most_bytes=MOST_BYTES, telling_bytes=_TELLING_BYTES, on_retry=again,
            )  # fmt: skip
        except NotFoundError:
            if request.method == "DELETE" and tried:
                return Answer(204, b"")  # the try before, whose answer was lost, did it
            raise

    def get(self, path: str, **params: Any) -> Any:
        """What stands at a path, as plain data."""
        return data(self.ask(Request("GET", path, params)))

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
        with self._server.lines(request.method, f"{self.access.base}{request.path}", _headers(request)) as lines:
            yield lines


def data(answer: Answer) -> Any:
    """An answer's body as JSON. Raises ServerError where it is none."""
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        raise ServerError("the server's answer is no JSON", "is it an Adumbra server, of a version like this one?") from None


def _headers(request: Request) -> dict[str, str]:
    headers = {"Accept": request.accept, **request.headers}
    if request.key:
        headers["Idempotency-Key"] = request.key
    if request.version is not None:
        headers["If-Match"] = f'"{request.version}"'
    return headers
