"""The metric store in InfluxDB: lines over its v1 or v2 write path, read back by InfluxQL.

A send may be repeated at will: what it finds in the time of its rows goes first. InfluxDB has no transactions: what was cut off
half-way is whole once it is sent again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, Series, SeriesQuery
from adumbra.store import influx_amend, influxql, lines
from adumbra.store.batches import check_batch
from adumbra.store.influx_client import InfluxClient, InfluxConfig
from adumbra.store.influx_rows import VMS_NAMED, find_overlap, named, stored_rows, time_parts
from adumbra.store.influx_series import Reader, rows_of
from adumbra.store.influxql import Table, is_tagged
from adumbra.store.prepared import Prepared
from adumbra.store.protocol import Abilities
from adumbra.store.tally import SendCounters

_STATEMENTS_AT_ONCE = 20


class InfluxStore:
    """A RemoteStore. Threads may share an open one: they take turns in writing.

    One process at a time writes a network, as everywhere: how far it reaches is asked once, and kept.
    """

    abilities = Abilities()

    def __init__(self, config: InfluxConfig) -> None:
        self.config = config
        self._client = InfluxClient(config)
        self._reader = Reader(self._client)
        self._turn = threading.RLock()
        self._reach: dict[tuple[str, Origin], tuple[int, int]] = {}
        """By network and origin, where its last row ends, and the longest row's length, in ns."""
        self._pool: ThreadPoolExecutor | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Asks nothing: a server that is down is met by what is done first, not here."""
        with ExitStack() as opened:
            opened.enter_context(self._client)
            self._pool = opened.enter_context(ThreadPoolExecutor(self.config.shards, "influxdb"))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()
        self._pool = None
        self._reach.clear()

    def counters(self) -> SendCounters:
        """What was sent since this object was made; a sample is a line."""
        return self._client.counters()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write. All or none is more than InfluxDB promises: after an error, a part may be there."""
        return self.send(self.prepare(batch))

    def prepare(self, batch: MetricBatch) -> Prepared:
        """See RemoteStore.prepare: a batch is sent as it is."""
        check_batch(batch)
        return Prepared(batch)

    def send(self, prepared: Prepared) -> int:
        """See RemoteStore.send. What the server refuses is dropped and counted (see counters)."""
        batch = prepared.batch
        if len(batch) == 0 or not batch.vms:
            return 0
        key, length_ns = (batch.network, batch.origin), round(batch.interval_s * NANOSECONDS)
        with self._turn:
            end_ns, longest_ns = self._reach.pop(key) if key in self._reach else self._asked_reach(batch)
            replaced = 0
            if int(batch.start_ns[0]) < end_ns:  # seldom: time goes on, and nothing can lie there yet
                replaced = self._clear(batch, length_ns, longest_ns)
            self._post_all(lines.blocks(batch))
            self._reach[key] = max(end_ns, int(batch.start_ns[-1]) + length_ns), max(longest_ns, length_ns)
        return replaced

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend. Where a value is to go, its line is written anew without it."""
        check_batch(batch)
        if len(batch) == 0 or not batch.vms or not batch.columns:
            return 0
        with self._turn:
            return influx_amend.amend(batch, self._client.ask, self._delete, self._post_all)

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read."""
        return self._reader.read(query)

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        return self._reader.vms(network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        stored = self._reader.stored(network, origin)
        if not stored:
            return None
        return min(rows.first_ns for rows in stored), max(rows.last_ns + rows.interval_ns for rows in stored)

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network."""
        with self._turn:
            for origin in Origin:
                self._reach.pop((network, origin), None)
            count = self._reader.count(network)
            tags = is_tagged(network=network)
            for vms in influxql.in_groups(self._reader.vms(network), VMS_NAMED):  # a ms a series is more than one answer's time
                self._delete([[*tags, influxql.any_of("vm", vms)]])
            self._delete([tags])
        return count

    def _asked_reach(self, batch: MetricBatch) -> tuple[int, int]:
        stored = self._reader.stored(batch.network, batch.origin)
        end_ns = max((rows.last_ns + rows.interval_ns for rows in stored), default=influxql.FIRST_NS)
        return end_ns, max((rows.interval_ns for rows in stored), default=0)

    def _clear(self, batch: MetricBatch, length_ns: int, longest_ns: int) -> int:
        """Removes the stored rows that lie in the time of the batch's. Returns how many of the batch's rows meet one."""
        where = [*rows_of(batch.network, batch.origin), *named(batch.vms)]
        found = list[Table]()
        for start_ns, end_ns in time_parts(batch, longest_ns, length_ns):
            statement = influxql.select([lines.PRESENT], [*where, *influxql.within(start_ns, end_ns)], ['"vm"', '"interval"'])
            found += self._client.ask([statement])[0]
        overlap = find_overlap(batch, stored_rows(found, batch.vms), length_ns)
        tags = is_tagged(network=batch.network, origin=batch.origin.value)
        self._delete([[*tags, *condition] for condition in overlap.conditions])
        return overlap.met

    def _delete(self, conditions: Iterable[Sequence[str]]) -> None:
        statements = [influxql.delete(where) for where in conditions]
        for some in influxql.in_groups(statements, _STATEMENTS_AT_ONCE):
            self._client.ask(some)

    def _post_all(self, blocks: Iterator[bytes] | Iterable[bytes]) -> None:
        """Posts blocks, a few at a time, while the next ones are made. After an error no more are begun."""
        if self._pool is None:
            raise RuntimeError("the store isn't open: use it in a `with` block")
        under_way = deque[Future[None]]()
        try:
            for block in blocks:
                if len(under_way) > self.config.shards:
                    under_way.popleft().result()
                under_way.append(self._pool.submit(self._client.post, block))
            while under_way:
                under_way.popleft().result()
        finally:
            for each in under_way:
                each.cancel()
                each.exception() if not each.cancelled() else None
