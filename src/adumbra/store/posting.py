"""Posts remote-write requests: what a server refuses is found by halving, dropped and counted, and the rest is kept."""

from __future__ import annotations

import time
from collections.abc import Callable

from adumbra.http_asking import Answer
from adumbra.schema.errors import StoreUnavailableError
from adumbra.store.http_access import StoreAsker
from adumbra.store.remote_write import HEADERS, Request, encode, halves
from adumbra.store.tally import Refusals, Tally

MOST_HALVES = 256
"""How many further requests are made at most to find what is wrong with one; what is left then is dropped with the rest."""
_REASONS: tuple[tuple[str, str], ...] = (  # what servers say, and what it is counted as
    ("duplicate", "duplicate"),
    ("out of order", "out_of_order"),
    ("out-of-order", "out_of_order"),
    ("out of bounds", "too_old"),
    ("too old", "too_old"),
    ("too-old", "too_old"),
    ("label", "labels"),
    ("limit", "limit"),
)
_PARTIAL = ("err-mimir", "err-cortex", "ingester")


class Poster:
    """Posts to one address. Threads may share it."""

    def __init__(self, client: StoreAsker, url: str, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._url, self._tally = client, url, tally
        self._refusals = Refusals(tally, url, clock)

    def post(self, request: Request) -> None:
        """Sends a request, in parts where the server refuses some of it.

        Raises StoreUnavailableError where the server can't take any now, so that all is to be sent again later.
        """
        left, waiting = MOST_HALVES, [request]
        while waiting:
            part = waiting.pop()
            encoded = encode(part)
            if not encoded.samples:
                continue
            answer = self._client.ask("POST", self._url, content=encoded.body, headers=HEADERS)
            self._tally.count(requests=1, body_bytes=len(encoded.body))
            if answer.good:
                self._tally.count(samples=encoded.samples)
                continue
            reason = self._reason(answer)
            parts = halves(part) if left > 0 and reason != "partly_refused" else ()
            if parts:
                left -= len(parts)
                waiting += reversed(parts)  # the earlier first, as a series takes its samples in order of time
            else:
                self._refusals.drop(reason, encoded.samples, answer.status, self._client.told(answer))

    def _reason(self, answer: Answer) -> str:
        said = self._client.told(answer)
        if answer.status in {404, 405, 501}:
            raise StoreUnavailableError(
                f"{self._url} takes no remote writes ({answer.status} {said})",
                "start Prometheus with --web.enable-remote-write-receiver, or give the right path by write=",
            )
        if any(mark in said for mark in _PARTIAL):
            return "partly_refused"
        if answer.status == 413:
            return "too_large"
        return next((reason for mark, reason in _REASONS if mark in said), f"status_{answer.status}")
