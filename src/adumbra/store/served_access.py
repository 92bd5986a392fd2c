"""Asks one of several Adumbra servers over the same state: the one that answered last, and the next where it doesn't.

Turns their problems into errors of ours. Knows no route.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from adumbra.http_asking import TELLING_BYTES, Answer, HttpAccess
from adumbra.schema.errors import ConflictError, InputError, NotFoundError, StoreError, StoreUnavailableError
from adumbra.store.http_access import StoreAsker


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a server. parts: of the path below /v1, not yet encoded; query: what stands behind it."""

    method: str
    parts: tuple[str, ...]
    query: dict[str, str] | None = None
    content: bytes | None = None
    media_type: str = "application/json"
    most_bytes: int = TELLING_BYTES
    give_up_s: float | None = None

    @property
    def path(self) -> str:
        path = "/v1/" + "/".join(quote(part, safe="") for part in self.parts)
        return f"{path}?{urlencode(self.query)}" if self.query else path


class Servers:
    """Several addresses of servers that share their state. Opened by `with`; threads may share it."""

    def __init__(self, accesses: Sequence[HttpAccess], on_retry: Callable[[], None] = lambda: None) -> None:
        if not accesses:
            raise ValueError("there is no server to ask; give one at least")
        self._clients = tuple(StoreAsker(access, on_retry) for access in accesses)
        self._turn = threading.Lock()
        self._at = 0
        self._opened = ExitStack()

    @property
    def name(self) -> str:
        """The server that is asked now."""
        return self._clients[self._at].access.url

    def __enter__(self) -> Self:
        """Opens no connection: a server that is down is met by what is asked first, not here."""
        with ExitStack() as opening:
            for client in self._clients:
                opening.enter_context(client)
            self._opened = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def ask(self, wanted: Wanted) -> Answer:
        """The answer of the first server that gives one, good or not.

        Raises StoreUnavailableError where none does, as the one that was asked first said it.
        """
        first: StoreUnavailableError | None = None
        begin = self._at
        for turn in range(len(self._clients)):
            at = (begin + turn) % len(self._clients)
            try:
                answer = self._asked(self._clients[at], wanted)
            except StoreUnavailableError as error:
                first = first or error
                continue
            with self._turn:
                self._at = at
            return answer
        assert first is not None
        raise first

    def told(self, wanted: Wanted) -> Any:
        """What a server answers, as data. Raises what `judged` does."""
        return self.judged(self.ask(wanted), wanted).data

    def judged(self, answer: Answer, wanted: Wanted) -> Told:
        """An answer that is good. Raises NotFoundError, ConflictError, InputError or StoreError, as the server says it."""
        if answer.good:
            return Told(answer)
        what, mend = self._problem(answer)
        where = f"{wanted.method} {'/'.join(wanted.parts)[:80]} at {self.name}"
        kinds = {404: NotFoundError, 409: ConflictError, 412: ConflictError, 422: InputError, 400: InputError, 413: InputError}
        if answer.status in kinds:
            raise kinds[answer.status](what, mend)
        raise StoreError(
            f"{where} was answered by {answer.status}: {what}", mend or "is the address that of an Adumbra server?"
        )

    def _problem(self, answer: Answer) -> tuple[str, str]:
        """What a problem (RFC 9457) says, and what to do about it."""
        client = self._clients[self._at]
        try:
            told = json.loads(answer.body)
            title, detail = str(told["title"])[:500], str(told.get("detail", ""))[:500]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return client.told(answer) or "nothing that can be read", ""
        return client.hidden(title), client.hidden(detail)

    def _asked(self, client: StoreAsker, wanted: Wanted) -> Answer:
        headers = {"Accept": "application/json, */*"}
        if wanted.content is not None:
            headers["Content-Type"] = wanted.media_type
        return client.ask(
            wanted.method, client.access.joined(wanted.path), content=wanted.content, headers=headers,
            most_bytes=max(wanted.most_bytes, TELLING_BYTES + 1), give_up_s=wanted.give_up_s,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """A good answer."""

    answer: Answer

    @property
    def data(self) -> Any:
        """What it says, as data. Raises StoreError where it isn't JSON."""
        if not self.answer.body:
            return None
        try:
            return json.loads(self.answer.body)
        except (ValueError, RecursionError):
            raise StoreError("the server answers what no Adumbra would", "is the address right?") from None
