"""A metric store in Prometheus, VictoriaMetrics or Mimir: written by remote write 1.0, read by PromQL.

Nothing is replaced: these databases only append. Keeps totals of counts; never decides what a metric means.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import structlog

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import InputError, StoreError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.accumulate import Accumulator
from adumbra.store.batches import check_batch
from adumbra.store.http_access import StoreAsker
from adumbra.store.posting import Poster
from adumbra.store.prepared import Prepared
from adumbra.store.promql import Api
from adumbra.store.promql_reading import Reader
from adumbra.store.protocol import Abilities
from adumbra.store.remote_write import Request, plan, tables_of
from adumbra.store.tally import SendCounters, Tally

_SHORTEST_MS = 10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PrometheusConfig:
    """A server of the family. write, read: paths below its address (of the API without /api/v1), or whole addresses.

    shards: how many requests are under way at once; samples: about how many go into one.
    Prometheus and VictoriaMetrics need no more than the address; Mimir write="/api/v1/push", read="/prometheus" and in
    access.headers X-Scope-OrgID, its tenant.
    """

    access: HttpAccess
    write: str = "/api/v1/write"
    read: str = ""
    shards: int = 4
    samples: int = 10_000

    def __post_init__(self) -> None:
        if self.shards < 1 or self.samples < 1:
            raise InputError("shards and samples of a store are at least 1")


class PrometheusStore:
    """A RemoteStore. Threads may share an open one."""

    def __init__(self, config: PrometheusConfig) -> None:
        self.config = config
        self.abilities = Abilities(replaces=False, deletes=False)
        """`deletes` as was last seen: on opening, and whenever a network is deleted."""
        self._tally = Tally()
        self._client = StoreAsker(config.access, lambda: self._tally.count(retries=1))
        self._poster = Poster(self._client, config.access.joined(config.write), self._tally)
        self._reader = Reader(Api(self._client, config.access.joined(config.read)))
        self._totals = Accumulator()
        self._turn = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Opens no more than it must: a server that is down is met by what is done first, not here."""
        with ExitStack() as opened:
            opened.enter_context(self._client)
            self._pool = opened.enter_context(ThreadPoolExecutor(self.config.shards, "remote-write"))
            try:
                self._see_deletes(self._reader.can_delete())
            except StoreError:  # unreachable or closed to us; what is done first will say so
                self._see_deletes(False)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()
        self._pool = None

    def counters(self) -> SendCounters:
        """What was sent since this object was made."""
        return self._tally.told()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write. All or none is more than these servers promise: after an error, a part may be there."""
        return self.send(self.prepare(batch))

    def prepare(self, batch: MetricBatch) -> Prepared:
        """See RemoteStore.prepare."""
        interval_ns = check_batch(batch)
        if interval_ns < _SHORTEST_MS * 1_000_000 or interval_ns % 1_000_000:
            raise ValueError(f"a batch of {batch.network} has intervals of {batch.interval_s} s, not of whole ms")
        with self._turn:
            return self._totals.add(batch)

    def send(self, prepared: Prepared) -> int:
        """See RemoteStore.send. What the server refuses is dropped and counted (see counters)."""
        for step in plan(tables_of(prepared), self.config.samples):
            self._post_all(step)
        return 0

    def _post_all(self, requests: list[Request]) -> None:
        """Posts several at a time; none is begun any more once one has failed."""
        if len(requests) == 1:
            self._poster.post(requests[0])
            return
        if self._pool is None:
            raise RuntimeError("the store isn't open: use it in a `with` block")
        failed = threading.Event()

        def post(request: Request) -> None:
            try:
                if not failed.is_set():
                    self._poster.post(request)
            except BaseException:
                failed.set()
                raise

        under_way = [self._pool.submit(post, request) for request in requests]
        wait(under_way)
        for each in under_way:
            each.result()

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend: nothing can be amended here."""
        check_batch(batch)
        return 0

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read, and promql.Reader."""
        return self._reader.read(query)

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        return self._reader.vms(network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        return self._reader.span(network, origin)

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network. Where the server lets nobody delete, the series are told to have ended, and stay.

        Returns how many rows are no longer there.
        """
        before = self._reader.rows(network)
        with self._turn:
            ended = self._totals.forget(network)
        self._see_deletes(self._reader.delete(network))
        if not self.abilities.deletes:
            for each in ended:
                self.send(each)
            _log.warning("the store lets nobody delete", store=self.config.access.url, network=network)
            return 0
        left = self._reader.rows(network)
        if left:
            _log.warning(
                "the store keeps rows that came out of order", store=self.config.access.url, network=network, rows=left
            )
        return before - left

    def _see_deletes(self, deletes: bool) -> None:
        self.abilities = Abilities(replaces=False, deletes=deletes)
