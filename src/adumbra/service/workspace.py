"""Where a user's networks live: a folder, the state store, the metric stores, and files that providers write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adumbra.schema.errors import StoreError
from adumbra.schema.sizing import Machine
from adumbra.store.urls import StoreAddress, StoreChoice

if TYPE_CHECKING:
    from adumbra.schema.spec import Vm
    from adumbra.store.embedded import EmbeddedStore
    from adumbra.store.levels import Retention
    from adumbra.store.outbox import Outbox
    from adumbra.store.protocol import MetricStore
    from adumbra.store.state import StateStore

FALLBACK_MACHINE = Machine(cpu_cores=2, memory_gb=8, bandwidth_mbps=1000, storage_gb=20)
"""The size that a VM is emulated with where its spec declares none."""

SPOOL_BYTES, DRAIN_S = 10**9, 30.0
STORE_FILE = "store"
"""The file of a spool's folder that says for which store it is."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What a workspace keeps where. state: an SQLite file or a PostgreSQL URL, "" for a file in its folder.

    spool_bytes: what waits on disk at most for each remote store that doesn't say otherwise. drain_s: how long `drain` waits.
    retention: how long the embedded store keeps each level, None as it does by itself. direct: remote stores are sent to at
    once, without a spool, so that what can't be sent fails.
    """

    stores: StoreChoice = field(default_factory=StoreChoice)
    state: str = field(default="", repr=False)
    spool_bytes: int = SPOOL_BYTES
    drain_s: float = DRAIN_S
    retention: Retention | None = None
    direct: bool = False


class Workspace:
    """Opens the stores when they are first needed, and closes them with itself. Use it by `with`.

    say: is told, in a sentence, what happens to a store meanwhile; without it, it is logged.
    """

    def __init__(self, home: Path, storage: Storage | None = None, say: Callable[[str], None] | None = None) -> None:
        self.home = home
        self.storage = storage or Storage()
        self._say = say
        self._stack = ExitStack()
        self._state: StateStore | None = None
        self._metrics: MetricStore | None = None
        self._embedded: list[EmbeddedStore] = []
        self._outboxes: list[Outbox] = []
        self._direct: list[tuple[str, MetricStore]] = []

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self.home} can't be made ({error.strerror})", "set ADUMBRA_HOME to a folder you can write"
            ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def state(self) -> StateStore:
        """Networks, observations, trainings, profiles, plans, events."""
        if self._state is None:
            from adumbra.store.state import StateStore

            self._state = self._stack.enter_context(StateStore(self.storage.state or self.home / "state.db"))
        return self._state

    @property
    def metrics(self) -> MetricStore:
        """The metrics of all networks: written to all stores, read from one. What waits for remote ones is sent meanwhile."""
        if self._metrics is None:
            choice = self.storage.stores
            with ExitStack() as opening:
                stores = [opening.enter_context(self._store(address)) for address in choice.addresses]
                self._stack.push(opening.pop_all())
            if len(stores) == 1:
                self._metrics = stores[0]
            else:
                from adumbra.store.many import ManyStores

                self._metrics = ManyStores(stores, choice.read)
        return self._metrics

    def _store(self, address: StoreAddress) -> MetricStore:
        if not address.is_remote:
            from adumbra.store.embedded import EmbeddedStore

            embedded = EmbeddedStore(self.embedded_file(address), self.storage.retention)
            self._embedded.append(embedded)
            return embedded
        from adumbra.store.outbox import Outbox
        from adumbra.store.spool import Spool
        from adumbra.store.urls import open_remote

        if self.storage.direct:
            remote = open_remote(address)
            self._direct.append((address.name, remote))
            return remote
        folder = self.spool_folder(address)
        with suppress(OSError):  # the spool says it better
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STORE_FILE).write_text(f"{address.name}\n")
        spool = Spool(folder, self.spool_bytes(address), save_every=16)
        outbox = Outbox(address.name, open_remote(address), spool, say=self._say)
        self._outboxes.append(outbox)
        return outbox

    def embedded_file(self, address: StoreAddress) -> Path:
        """The file of the embedded store."""
        return address.path or self.home / "metrics.duckdb"

    def spool_folder(self, address: StoreAddress) -> Path:
        """Where waits what is to be sent to a remote store."""
        return self.home / "spool" / address.folder

    def spool_bytes(self, address: StoreAddress) -> int:
        """How much of it waits there at most."""
        return round(address.number("spool_gb", self.storage.spool_bytes / 1e9) * 1e9)

    def release_metrics(self) -> None:
        """Lets other processes have the embedded store, until it is needed here again. Nothing else is held from others."""
        for embedded in self._embedded:
            embedded.release()

    def drain(
        self, progress: Callable[[float | None, str], None] = lambda *_: None, for_s: float | None = None
    ) -> tuple[str, ...]:
        """Waits for what was written to be sent to the remote stores, for no longer than that, or `storage.drain_s`, in all.

        Gives sentences on what waits even so, or was lost. ^C ends the waiting and nothing else.
        """
        until = time.monotonic() + (self.storage.drain_s if for_s is None else for_s)
        with suppress(KeyboardInterrupt):
            for outbox in self._outboxes:

                def tell(waiting: int, name: str = outbox.name) -> None:
                    progress(None, f"{waiting:,} batches wait to be sent to {name}")

                outbox.flush(max(0.0, until - time.monotonic()), tell)
        return tuple(sentence for outbox in self._outboxes for sentence in outbox.sentences())

    @property
    def embedded(self) -> tuple[EmbeddedStore, ...]:
        """The embedded stores, which want upkeep."""
        self._opened()
        return tuple(self._embedded)

    @property
    def outboxes(self) -> tuple[Outbox, ...]:
        """What sends to the remote stores, of those that are open."""
        return tuple(self._outboxes)

    @property
    def keeping(self) -> tuple[str, ...]:
        """The stores that keep what was written first, so that nothing can be amended in them."""
        stores = self._opened()
        return tuple(name for name, store in stores if not store.abilities.replaces)

    @property
    def can_amend(self) -> bool:
        """Whether any of the stores takes what is written again in place of what was there."""
        return any(store.abilities.replaces for _, store in self._opened())

    def left_by_deletion(self, network: str) -> tuple[str, ...]:
        """Sentences on what is still there of a network that was deleted."""
        told = []
        for outbox in self._outboxes:
            if outbox.spool.waiting().records:
                told.append(f"the deletion of {network} in {outbox.name} waits for that store to answer")
            elif not outbox.abilities.deletes:
                told.append(f"{outbox.name} lets nobody delete: its samples of {network} stay there, marked as ended")
        return tuple(told)

    def _opened(self) -> list[tuple[str, MetricStore]]:
        """Each store, and what it is called."""
        assert self.metrics is not None  # this opens them
        embedded = [(str(each.path), each) for each in self._embedded]
        return [*embedded, *((each.name, each) for each in self._outboxes), *self._direct]

    def provider_folder(self, provider: str, network: str) -> Path:
        """Where a provider that writes files keeps those of a network."""
        return self.home / provider / network


def machine_of(vm: Vm) -> Machine:
    """The size that a VM's spec declares: its resources, else its type's, else FALLBACK_MACHINE.

    Raises InputError for a type that the catalogue doesn't have.
    """
    from dataclasses import replace

    from adumbra.profile.catalog import load_catalog

    machine = load_catalog().machine(vm.type) if vm.type else FALLBACK_MACHINE
    if vm.resources is not None:
        declared = vm.resources.model_dump(exclude_none=True)
        machine = replace(machine, **declared)
    return machine


def core_speed_of(vm: Vm) -> float:
    """How fast a core of the VM's declared type is, in reference cores; 1 where it has no type, or that isn't known.

    Raises InputError for a type that the catalogue doesn't have.
    """
    from adumbra.profile.catalog import load_catalog

    return (load_catalog().type(vm.type).core_speed if vm.type else None) or 1.0
