"""The metric store that another Adumbra keeps, through its API: what taps ship to, and what work on another host learns from.

Sends columns and nothing else: no packet, no payload, no address. Opens no file.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import ConflictError, InputError, NotFoundError, StoreError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.accumulate import Accumulator, part_of
from adumbra.store.batch_bytes import MEDIA_TYPE, MOST_BYTES, pack_batch, unpack_series
from adumbra.store.batches import check_batch
from adumbra.store.prepared import Prepared
from adumbra.store.protocol import Abilities
from adumbra.store.served_access import Servers, Wanted
from adumbra.store.tally import SendCounters, Tally

_REQUEST_BYTES = 2**25
_ANSWER_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class ServedConfig:
    """Servers over one state, any of which may be asked. source, instance: of the tap that ships, None and "" for none."""

    accesses: tuple[HttpAccess, ...]
    source: int | None = None
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a server said of a batch. duplicates: rows that another tap had told of, with traffic in both, and that stay its.

    trouble: that in words.
    """

    replaced: int = 0
    duplicates: int = 0
    trouble: str = ""


class ServedStore:
    """A RemoteStore. Threads may share an open one.

    duplicates, trouble: of all that was sent, and of what was sent last, as in Shipped. Of a network that the server hasn't,
    nothing is stored.
    """

    def __init__(self, config: ServedConfig) -> None:
        self.config = config
        self.abilities = Abilities()
        """As was last seen: on opening, and whenever something is asked about a network."""
        self.duplicates = 0
        self.trouble = ""
        self._tally = Tally()
        self._totals, self._turn = Accumulator(), threading.Lock()
        self.servers = Servers(config.accesses, lambda: self._tally.count(retries=1))

    def __enter__(self) -> Self:
        """Opens no more than it must: a server that is down is met by what is done first, not here."""
        self.servers.__enter__()
        with contextlib.suppress(StoreError, InputError):  # what is done first will say so
            self._see(self.servers.told(Wanted("GET", ("store",), give_up_s=0.0)))
        return self

    def __exit__(self, *exc: object) -> None:
        self.servers.__exit__(*exc)

    def version(self) -> str:
        """What the server calls itself. Raises StoreError where it can't be reached."""
        told = self.servers.told(Wanted("GET", ("store",)))
        self._see(told)
        return f"Adumbra {str(told.get('version', ''))[:40]}"

    def counters(self) -> SendCounters:
        """What was sent since this object was made; a sample is a row of a VM and interval."""
        return self._tally.told()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write. A batch that is too large for one request is stored in parts."""
        return self.send(self.prepare(batch))

    def prepare(self, batch: MetricBatch) -> Prepared:
        """See RemoteStore.prepare: a batch is sent as it is, with what was counted before it, which no server need remember."""
        check_batch(batch)
        with self._turn:
            return Prepared(batch, before=self._totals.telling(batch).before)

    def send(self, prepared: Prepared) -> int:
        """See RemoteStore.send. Raises StoreError for what the server refuses for good, NotFoundError where its network or
        source isn't there, ConflictError where that source isn't to be observed any more.
        """
        replaced = 0
        for part in parts_of(replace(prepared.batch, before=prepared.before)):
            replaced += self._sent("POST", part).replaced
        return replaced

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend."""
        check_batch(batch)
        if not batch.columns:
            return 0
        return sum(self._sent("PATCH", part).replaced for part in parts_of(batch))

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read."""
        asked = {
            "columns": query.columns, "vms": query.vms, "start_ns": query.start_ns, "end_ns": query.end_ns,
            "step_s": query.step_s, "origin": query.origin.value,
        }  # fmt: skip
        wanted = Wanted(
            "POST", ("networks", query.network, "series"), content=json.dumps(asked).encode(), most_bytes=MOST_BYTES
        )
        try:
            series = unpack_series(self.servers.judged(self.servers.ask(wanted), wanted).answer.body)
        except NotFoundError:
            return _nothing(query)
        return replace(series, values={name: series.values[name] for name in dict.fromkeys(query.columns)})

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        return tuple(map(str, self._stored(network, Origin.SHADOW).get("vms", ())))

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        told = self._stored(network, origin)
        start_ns, end_ns = told.get("start_ns"), told.get("end_ns")
        return None if start_ns is None or end_ns is None else (int(start_ns), int(end_ns))

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network: what was measured goes; the network itself stays."""
        try:
            return int(self.servers.told(Wanted("DELETE", ("networks", network, "batches")))["deleted"])
        except NotFoundError:
            return 0

    def _stored(self, network: str, origin: Origin) -> dict[str, Any]:
        wanted = Wanted("GET", ("networks", network, "series"), {"origin": origin.value}, most_bytes=_ANSWER_BYTES)
        try:
            told = self.servers.told(wanted)
        except NotFoundError:
            return {}
        return dict(told)

    def _sent(self, method: str, batch: MetricBatch) -> Shipped:
        query = {"instance": self.config.instance} if self.config.instance else {}
        if self.config.source is not None:
            query["source"] = str(self.config.source)
        content = pack_batch(batch)
        wanted = Wanted(method, ("networks", batch.network, "batches"), query, content, MEDIA_TYPE)
        try:
            told = self.servers.told(wanted)
        except (NotFoundError, ConflictError) as error:
            raise GoneError(error.what, error.mend) from None
        except InputError as error:
            raise StoreError(f"the server refuses a batch of {batch.network}: {error.what}", error.mend) from None
        self._tally.count(requests=1, samples=len(batch) * len(batch.vms), body_bytes=len(content))
        shipped = Shipped(int(told["replaced"]), int(told.get("duplicates", 0)), str(told.get("trouble", ""))[:500])
        self.duplicates += shipped.duplicates
        self.trouble = shipped.trouble
        return shipped

    def _see(self, told: Any) -> None:
        if isinstance(told, dict):
            self.abilities = Abilities(bool(told.get("replaces", True)), bool(told.get("deletes", True)))


class GoneError(StoreError):
    """The network isn't there (any more), or its source isn't to be observed any more: no batch of it will be taken."""


def parts_of(batch: MetricBatch) -> Iterator[MetricBatch]:
    """The batch in parts that a request takes: some of its intervals, or, of very many VMs, some of one interval's."""
    if not len(batch) or not batch.vms:
        return
    row_bytes = 8 * (len(batch.columns) + 1)
    vms = max(1, min(len(batch.vms), _REQUEST_BYTES // row_bytes))
    rows = max(1, _REQUEST_BYTES // (row_bytes * vms))
    for row in range(0, len(batch), rows):
        for vm in range(0, len(batch.vms), vms):
            yield part_of(batch, slice(row, row + rows), slice(vm, vm + vms))


def _nothing(query: SeriesQuery) -> Series:
    vms, empty = tuple(dict.fromkeys(query.vms)), np.zeros((len(set(query.vms)), 0))
    return Series(
        query.network, vms, query.start_ns or 0, query.step_s or 1.0, dict.fromkeys(query.columns, empty), empty
    )  # fmt: skip
