"""A remote store behind a spool: what is written is on this machine's disk at once, and sent in order when the store takes it.

Decides nothing about metrics and speaks to no server itself.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from adumbra.schema.errors import StoreError, StoreUnavailableError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.prepared import dump, load
from adumbra.store.protocol import Abilities, RemoteStore
from adumbra.store.spool import Record, Spool

_BATCH, _DELETION = b"B", b"D"
_CLOSE_S = 5.0
_SAY_EVERY_S = 60.0
_LOOK_S = 0.05

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: after the first failure, at most after many, and for others' lanes while nothing is to be done.

    settle_s: how long an act that must not be overtaken by what is queued waits for it.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    idle_s: float = 5.0
    settle_s: float = 30.0


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What became of what was written. The losses are those that the spool remembers; `sent` and `failures` are this process'.

    trouble: why nothing can be sent now, "" where that isn't so.
    """

    waiting: int
    waiting_bytes: int
    sent: int
    failures: int
    refused: int
    dropped: int
    damaged: int
    trouble: str


class Outbox:
    """A MetricStore that never waits for its server to write. Opened by `with`; threads may share it.

    `write` returns once the batch is on the disk: 0, as what it replaces isn't known yet. Batches are sent in the order of
    writing, again and again with growing pauses while the store is unavailable; what the store refuses for good is counted,
    said and passed over. Deletions queue behind the rows that were written before them; `amend` waits for these.
    """

    def __init__(
        self, name: str, inner: RemoteStore, spool: Spool, *, patience: Patience | None = None, say: Say | None = None
    ) -> None:
        self.name = name
        self.inner = inner
        self.spool = spool
        self._patience = patience or Patience()
        self._say = say or structlog.get_logger(__name__).warning
        self._said_s: dict[str, float] = {}
        self._preparing = threading.Lock()
        self._stopping = threading.Event()
        self._nudge = threading.Event()
        self._thread: threading.Thread | None = None
        self._whole: set[tuple[str, Origin]] = set()  # networks of which all arrived that this process sent
        self._deleted: dict[str, int] = {}
        self._sent = self._failures = self._dropped = 0
        self._trouble = ""

    @property
    def abilities(self) -> Abilities:
        """Those of the store, as it knows them now."""
        return self.inner.abilities

    def __enter__(self) -> Self:
        """Opens the spool, takes on what others left in it, and begins to send. Raises StoreError for the spool only."""
        self.spool.__enter__()
        try:
            self.inner.__enter__()
        except BaseException:
            self.spool.__exit__()
            raise
        self._dropped = self.spool.counts().dropped
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"outbox {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends sending: what is under way may end, shortly; what waits waits for the next process."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        self._nudge.set()
        self.spool.wake()
        thread.join(_CLOSE_S)
        try:
            self.inner.__exit__(*exc)  # ends what hangs
        finally:
            thread.join(_CLOSE_S)
            self.spool.__exit__()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write; always 0. Raises ValueError for a batch that is none, StoreError where the disk refuses it."""
        with self._preparing:  # counters go on from batch to batch, so they must be queued in the order they were made ready in
            prepared = self.inner.prepare(batch)
            if len(prepared.batch) or prepared.gone:
                self.spool.append(_BATCH + dump(prepared))
        self._note_dropped()
        return 0

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend. Waits for what is queued. Raises StoreUnavailableError where that can't be sent."""
        if not self.abilities.replaces:
            return 0
        self._settle(f"amend what {self.name} has of {batch.network}")
        return self.inner.amend(batch)

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read: what has arrived."""
        return self.inner.read(query)

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms: of what has arrived."""
        return self.inner.vms(network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span: of what has arrived."""
        return self.inner.span(network, origin)

    def delete_network(self, network: str) -> int:
        """Queues the deletion. Returns how many rows there were where the store does it soon, 0 where it does it later."""
        token = f"{random.getrandbits(64):016x}"
        asked = json.dumps({"network": network, "token": token}).encode()
        with self._preparing:
            self.spool.append(_DELETION + asked)
        self._until(lambda: token in self._deleted, self._patience.settle_s)
        return self._deleted.pop(token, 0)

    def flush(self, timeout_s: float, progress: Callable[[int], None] = lambda _: None) -> int:
        """Tries at once, and waits until nothing waits, or so long. Returns how many records waited when last looked.

        progress: is told now and then how many do.
        """
        waiting = 0

        def done() -> bool:
            nonlocal waiting
            waiting = self.spool.waiting().records
            progress(waiting)
            return not waiting

        self._until(done, timeout_s, patient=True)
        return waiting

    def status(self) -> OutboxStatus:
        waiting, counts = self.spool.waiting(), self.spool.counts()
        return OutboxStatus(
            waiting.records, waiting.size_bytes, self._sent, self._failures, counts.refused, counts.dropped, counts.damaged,
            self._trouble,
        )  # fmt: skip

    def sentences(self) -> tuple[str, ...]:
        """What is to be known, in words: what still waits, and what the store refused while this process sent."""
        told, status = [], self.status()
        if status.waiting:
            why = f" ({status.trouble})" if status.trouble else ""
            told.append(
                f"{status.waiting:,} batches wait to be sent to {self.name}{why}: the next `adumbra observe`, or "
                "`adumbra store flush`, goes on with that"
            )
        refused = self._counted()
        if refused:
            by_reason = ", ".join(f"{reason.replace('_', ' ')}: {count:,}" for reason, count in refused.items())
            first = "; it keeps what was written first" if refused.get("duplicate") and not self.abilities.replaces else ""
            told.append(f"{self.name} refused {sum(refused.values()):,} samples, which are lost ({by_reason}{first})")
        return tuple(told)

    def _counted(self) -> Mapping[str, int]:
        """What the store itself counted as refused, by reason."""
        counters = getattr(self.inner, "counters", None)
        return {} if counters is None else dict(counters().dropped)

    def _settle(self, doing: str) -> None:
        if self.spool.waiting().records:
            self._until(lambda: not self.spool.waiting().records, self._patience.settle_s)
        if left := self.spool.waiting().records:
            why = f" ({self._trouble})" if self._trouble else ""
            raise StoreUnavailableError(
                f"could not {doing}: {left:,} batches still wait to be sent to it{why}", "run the same again once it answers"
            )

    def _until(self, done: Callable[[], bool], timeout_s: float, *, patient: bool = False) -> None:
        """Waits for something, while the sender tries; unless patient, not for a store that turned out to be unavailable."""
        failures, until = self._failures, time.monotonic() + timeout_s
        self._nudge.set()
        while not done() and time.monotonic() < until and not self._stopping.is_set():
            if not patient and self._failures > failures:
                break
            time.sleep(_LOOK_S)

    def _run(self) -> None:
        """The sender: one record after the other, as long as the outbox is open."""
        tries = 0
        while not self._stopping.is_set():
            record = self.spool.peek()
            if record is None:
                if not self.spool.wait(self._patience.idle_s) and not self._stopping.is_set():
                    self._adopt()
                continue
            pause_s = self._try(record, tries)
            tries = 0 if pause_s is None else tries + 1
            if pause_s is not None:
                self._nudge.clear()
                if not self._stopping.is_set():
                    self._nudge.wait(pause_s)

    def _adopt(self) -> None:
        try:
            self.spool.adopt()
        except OSError as error:
            self._tell("adopt", f"the spool of {self.name} can't be looked at ({error.strerror or error})")

    def _try(self, record: Record, tries: int) -> float | None:
        """Sends a record, or passes over it. Gives how long to wait before it is tried again; None: it is done with."""
        if record.after_gap:
            self._whole.clear()
        try:
            self._deliver(record.payload)
        except StoreUnavailableError as error:
            return self._failed(str(error), error, tries)
        except (ValueError, StoreError) as error:
            self.spool.acknowledge(refused=True)
            self._whole.clear()
            self._tell("refused", f"{self.name} refused a batch for good, and it is lost: {error}")
        except Exception as error:  # noqa: BLE001 - a fault of the program's own: what waits is kept for a mended one
            return self._failed(f"{type(error).__name__}: {error}", error, tries)
        else:
            self.spool.acknowledge()
            self._sent += 1
        if self._trouble:
            self._trouble = ""
            self._tell("back", f"{self.name} answers again; {self.spool.waiting().records:,} batches wait")
        return None

    def _deliver(self, raw: bytes) -> None:
        """Does what a record asks for. Raises what the store does, and ValueError for bytes that can't be read."""
        kind, told = raw[:1], raw[1:]
        if kind == _DELETION:
            asked = json.loads(told)
            network, token = str(asked["network"]), str(asked["token"])
            self._deleted[token] = self.inner.delete_network(network)
            self._whole -= {key for key in self._whole if key[0] == network}
            while len(self._deleted) > 100:  # those of earlier processes, for which nobody waits
                self._deleted.pop(next(iter(self._deleted)))
        elif kind == _BATCH:
            prepared = load(told)
            key = prepared.batch.network, prepared.batch.origin
            self.inner.send(prepared if key in self._whole else prepared.after_gap())
            self._whole.add(key)
        else:
            raise ValueError("its record is of a kind that this version doesn't know")

    def _failed(self, what: str, error: Exception, tries: int) -> float:
        """Notes a failure. Gives the pause: longer each time, never quite the same, and as long as the store asks for."""
        self._failures += 1
        self._trouble = what
        self._tell("failed", f"{what}; what is written waits in {self.spool.folder}")
        asked_s = float(getattr(error, "after_s", None) or 0.0)
        patience = self._patience
        longest_s = min(patience.longest_s, patience.first_s * 2.0 ** min(tries, 30))
        return max(asked_s, longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - it only spreads the tries

    def _note_dropped(self) -> None:
        dropped = self.spool.counts().dropped
        if dropped > self._dropped:
            lost = dropped - self._dropped
            self._dropped = dropped
            full = f"the spool of {self.name} is full ({self.spool.bound_bytes / 1e9:.3g} GB)"
            self._tell("dropped", f"{full}: {lost:,} of the oldest batches were dropped")

    def _tell(self, about: str, text: str) -> None:
        """Says something, at most once a minute of each kind."""
        now_s = time.monotonic()
        if now_s - self._said_s.get(about, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said_s[about] = now_s
            self._say(text)
