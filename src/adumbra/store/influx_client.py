"""Speaks with an InfluxDB server: posts lines to its v1 or v2 write path, asks it by InfluxQL. Knows no metric."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlencode

from adumbra.http_asking import TELLING_BYTES, Answer, HttpAccess
from adumbra.schema.addresses import is_loopback
from adumbra.schema.errors import InputError, StoreError, StoreUnavailableError
from adumbra.store.http_access import StoreAsker
from adumbra.store.influxql import Table, identifier, read_answer
from adumbra.store.tally import Refusals, SendCounters, Tally

MOST_ANSWER_BYTES = 1 << 28
"""The longest answer that is read. Whoever asks cuts the question so that the answer stays far below it."""
_GZIP_LEVEL = 1
_DROPPED = re.compile(r"dropped=([0-9]+)")
_REASONS: tuple[tuple[str, str], ...] = (  # what servers say, and what it is counted as
    ("type conflict", "type_conflict"),
    ("retention policy", "too_old"),
    ("limit", "limit"),
    ("unable to parse", "unreadable"),
)


@dataclass(frozen=True, slots=True)
class InfluxConfig:
    """A server that takes line protocol. With a bucket (and its org) the v2 write path is taken, else v1's.

    database: which is written to by v1, and read from by InfluxQL; "": the bucket's name, or adumbra. write, read: other paths
    below the server's address, or whole addresses. shards: how many requests are under way at once. gzip: whether bodies are
    compressed; None: where the server is on another host.
    """

    access: HttpAccess
    database: str = ""
    org: str = ""
    bucket: str = ""
    write: str = ""
    read: str = "/query"
    shards: int = 2
    gzip: bool | None = None

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise InputError("shards of a store are at least 1")
        if self.org and not self.bucket:
            raise InputError("an org is given, but no bucket", "give both, or a database")

    @property
    def reads_from(self) -> str:
        return self.database or self.bucket or "adumbra"

    @property
    def write_url(self) -> str:
        path, to = "/write", {"db": self.reads_from}
        if self.bucket:
            path, to = "/api/v2/write", {"org": self.org, "bucket": self.bucket}
        url = self.access.joined(self.write or path)
        return f"{url}{'&' if '?' in url else '?'}{urlencode({**to, 'precision': 'ns'})}"

    @property
    def compresses(self) -> bool:
        return not is_loopback(self.access.parts.hostname or "") if self.gzip is None else self.gzip


class InfluxClient:
    """Opened by `with`; threads may share it."""

    def __init__(self, config: InfluxConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._tally = Tally()
        self._refusals = Refusals(self._tally, config.access.url, clock)
        self._client = StoreAsker(replace(config.access, auth_scheme="Token"), lambda: self._tally.count(retries=1))
        self._read_url = config.access.joined(config.read)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.__exit__(*exc)

    def counters(self) -> SendCounters:
        """What was sent since this object was made; a sample is a line."""
        return self._tally.told()

    def post(self, body: bytes) -> None:
        """Sends lines. Those that the server refuses are dropped and counted; makes the database where it isn't there.

        Raises StoreUnavailableError where the server can't take any now, so that all is to be sent again later.
        """
        answer = self._post(body)
        if answer.status == 404 and "database not found" in self._client.told(answer):
            self._make_database()
            answer = self._post(body)
        if answer.status in {404, 405, 501}:
            raise StoreUnavailableError(
                f"{self.config.access.url} takes no lines ({answer.status} {self._client.told(answer)})",
                "make the bucket or database, or give the right path by write=",
            )
        whole = body.count(b"\n")
        dropped = 0 if answer.good else _dropped(answer, whole)
        if answer.status == 413 and whole > 1:
            middle = body.index(b"\n", len(body) // 2 - 1) + 1
            for half in (body[:middle], body[middle:]) if middle < len(body) else _ends(body):
                self.post(half)
            return
        self._tally.count(samples=whole - dropped)
        if dropped:
            self._refusals.drop(_reason(answer), dropped, answer.status, self._client.told(answer))

    def _post(self, body: bytes) -> Answer:
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self.config.compresses:
            body, headers["Content-Encoding"] = gzip.compress(body, _GZIP_LEVEL), "gzip"
        answer = self._client.ask("POST", self.config.write_url, content=body, headers=headers)
        self._tally.count(requests=1, body_bytes=len(body))
        return answer

    def _make_database(self) -> None:
        database = self.config.reads_from
        try:
            self.ask([f"CREATE DATABASE {identifier(database)}"])
        except StoreError as error:
            raise StoreUnavailableError(
                f"the database {database} isn't there and can't be made ({error.what})",
                "make it, or give this user the right to",
            ) from error

    def ask(self, statements: Sequence[str]) -> list[list[Table]]:
        """The tables that each of the statements gives; none where the database isn't there.

        Raises StoreUnavailableError as `post` does, and StoreError for what the server finds wrong and for a garbled answer.
        """
        form = {"db": self.config.reads_from, "epoch": "ns", "chunked": "true", "q": ";".join(statements)}
        answer = self._client.ask("POST", self._read_url, form=form, most_bytes=MOST_ANSWER_BYTES)
        if not answer.good:
            raise StoreError(
                f"{self._read_url} takes no InfluxQL ({answer.status} {self._client.told(answer)})",
                "give the right path by read=, or read from another store",
            )
        return read_answer(answer.body, len(statements), self._client.hidden)


def _ends(body: bytes) -> tuple[bytes, bytes]:
    """All lines but the last, and that one, where it is longer than all others together."""
    last = body.rindex(b"\n", 0, -1) + 1
    return body[:last], body[last:]


def _dropped(answer: Answer, whole: int) -> int:
    """How many lines of a request the server did not take: of those that it took in part it says so."""
    said = answer.body[:TELLING_BYTES].decode("utf-8", "replace")
    if "partial write" not in said:
        return whole
    told = _DROPPED.search(said)
    unread = said.count("unable to parse") + said.count('"error_message"')
    return min(whole, max(int(told[1]) if told else 0, unread, 1))


def _reason(answer: Answer) -> str:
    said = answer.body[:TELLING_BYTES].decode("utf-8", "replace")
    if answer.status == 413:
        return "too_large"
    return next((reason for mark, reason in _REASONS if mark in said), f"status_{answer.status}")
