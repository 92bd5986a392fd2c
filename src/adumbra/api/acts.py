"""Changes: each logged with who made it, and, with an idempotency key, made once however often it is asked for."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request

from adumbra.api.access import COOKIE, Known
from adumbra.api.context import At, Server
from adumbra.schema.access import Act, Principal
from adumbra.schema.errors import ConflictError, InputError, NotFoundError
from adumbra.service import access

T = TypeVar("T")
_KEY = Header(
    alias="Idempotency-Key", max_length=200, description="A word of your own: asking again with it does nothing twice."
)


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is asked for: who, what, from where, and under which key."""

    server: Server
    who: Principal
    what: str
    origin: str
    network: str | None
    key: str
    fingerprint: str

    def make(
        self,
        do: Callable[[], T],
        asked: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
        after: Callable[[T], Mapping[str, Any] | None] = lambda _: None,
        network: str | None = None,
    ) -> T:
        """Does it, in the log. asked, before, after: what the log tells, without secrets; network: where the path has none."""
        now_ns = self.server.now()
        act = Act(
            self.who, self.what, self.origin, self.network or network, self.key, self.fingerprint, asked, before
        )  # fmt: skip
        return access.make(self.server.workspace, act, now_ns, do, after)

    def make_once(self, do: Callable[[], T], again: Callable[[str], T], **told: Any) -> tuple[T, bool]:
        """Does it unless it was done before under its key; then `again` finds, by its subject, what came of it.

        Gives that, and whether it was done now. Raises ConflictError for a key that another request was given.
        """
        if self.key:
            found = self._done()
            if found is not None:
                return again(found), False
            try:
                return self.make(do, **told), True
            except ConflictError:
                found = self._done()  # another request with the same key came first, this very moment
                if found is None:
                    raise
                return again(found), False
        return self.make(do, **told), True

    def _done(self) -> str | None:
        found = self.server.workspace.state.access.act_by_key(self.who, self.key)
        if found is None:
            return None
        if found.fingerprint != self.fingerprint or found.what != self.what:
            raise InputError("this Idempotency-Key was given for another request", "choose a new one for each change")
        if not found.subject:
            raise NotFoundError("what came of this request isn't there any more", "ask again with a new key")
        return found.subject


async def _change(request: Request, at: At, who: Known, idempotency_key: Annotated[str | None, _KEY] = None) -> Change:
    body = await request.body()
    # Keyed with what the client comes with, so that no password that is in a body can be guessed from what is kept of it.
    known_by = (request.headers.get("Authorization") or request.cookies.get(COOKIE, "")).encode()
    fingerprint = hmac.new(
        known_by, request.url.path.encode() + b"\0" + request.url.query.encode() + b"\0" + body, "sha256"
    ).hexdigest()
    origin = request.client.host if request.client else "?"
    what = f"{request.method} {_template(request)}"
    return Change(at, who, what, origin, request.path_params.get("name"), idempotency_key or "", fingerprint)


def _template(request: Request) -> str:
    """The route's path, with names in braces. FastAPI tells it without what its router was included under."""
    path = request.url.path
    route = str(getattr(request.scope.get("route"), "path", path))
    under = path.split("/")[: path.count("/") + 1 - route.count("/")]
    return "/".join(under) + route if len(under) > 1 else route


Changing = Annotated[Change, Depends(_change)]
"""A route's parameter for the change that it makes."""
