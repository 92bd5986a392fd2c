"""Server-sent events (WHATWG HTML, 9.2): whoever follows is told what is new, until they leave or time is up.

What is new is looked for now and then, in a thread: stores tell nobody by themselves. Decides nothing about what is told.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from adumbra.api.problems import told_of
from adumbra.schema.errors import AdumbraError

HEARTBEAT_S = 10.0
_RETRY_MS = 2_000


@dataclass(frozen=True, slots=True)
class Message:
    """Something new. event: of which kind; data: as JSON; id: from which whoever comes again goes on, "" for none."""

    event: str
    data: Any
    id: str = ""

    def encoded(self) -> bytes:
        named = f"id: {self.id}\n".encode() if self.id else b""
        data = orjson.dumps(self.data, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"%sevent: %s\ndata: %s\n\n" % (named, self.event.encode(), data)


class Follower(Protocol):
    """Somebody who follows something. pause_s: how long to wait between two looks."""

    @property
    def pause_s(self) -> float: ...

    def look(self) -> tuple[Sequence[Message], bool]:
        """What is new since the last look, and whether nothing will come any more. Called in a thread, never twice at once."""
        ...


class Streams:
    """The streams of a server that are open, `most` at once, and of one client a share of them. Each ends by itself after
    longest_s; all end by `end`."""

    def __init__(self, most: int, longest_s: float) -> None:
        self.most, self.longest_s = most, longest_s
        self._of: Counter[str] = Counter()
        self._turn = threading.Lock()
        self._open = 0
        self._ended = False
        self._wake: set[Callable[[], object]] = set()

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open

    @property
    def share(self) -> int:
        """How many one client may have."""
        return max(self.most // 4, 4)

    def follow(self, follower: Follower, who: str = "") -> EventStream | None:
        """An answer that tells what is new; None where there are as many already. who: the client's mark."""
        with self._turn:
            if self._open >= self.most or self._of[who] >= self.share or self._ended:
                return None
            self._open += 1
            self._of[who] += 1
        return EventStream(self, follower, who)

    def end(self) -> None:
        """Ends all, for good: the server stops. From any thread."""
        with self._turn:
            self._ended = True
            wake = tuple(self._wake)
        for each in wake:
            each()

    def left(self, who: str = "") -> None:
        """One of a client's is over."""
        with self._turn:
            self._open -= 1
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]

    async def told(self, follower: Follower) -> AsyncIterator[bytes]:
        """What a stream says."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(stop.set)

        with self._turn:
            self._wake.add(wake)
            if self._ended:
                stop.set()
        try:
            yield f"retry: {_RETRY_MS}\n\n".encode()
            said_s = began_s = loop.time()
            while not stop.is_set() and loop.time() - began_s < self.longest_s:
                messages, over = await run_in_threadpool(_looked, follower)
                for message in messages:
                    yield message.encoded()
                if over:
                    return
                if messages:
                    said_s = loop.time()
                elif loop.time() - said_s >= HEARTBEAT_S:
                    said_s = loop.time()
                    yield b": still here\n\n"  # whoever left is noticed by it; proxies keep the connection
                await _wait(stop, min(follower.pause_s, max(began_s + self.longest_s - loop.time(), 0.0)))
        finally:
            with self._turn:
                self._wake.discard(wake)


class EventStream(StreamingResponse):
    """A stream as an answer. Its place is free again when it is over, however that comes."""

    media_type = "text/event-stream"

    def __init__(  # FastAPI looks for its status
        self, streams: Streams, follower: Follower, who: str = "", status_code: int = 200
    ) -> None:
        self._streams, self._who = streams, who
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(streams.told(follower), status_code, headers=headers, media_type=self.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.left(self._who)


def _looked(follower: Follower) -> tuple[Sequence[Message], bool]:
    """What a look finds; an error of this program's is told, and ends the stream."""
    try:
        return follower.look()
    except AdumbraError as error:
        return [Message("problem", told_of(error))], True
    except Exception as error:  # noqa: BLE001 (what a stream stumbles over must not be lost with it)
        structlog.get_logger(__name__).error("a stream failed", exc_info=error)
        return [], True


async def _wait(stop: asyncio.Event, for_s: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), for_s)
    except TimeoutError:
        return
