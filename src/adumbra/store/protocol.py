"""What a metric store is: the promise that every driver keeps, and that one suite of tests holds them all to.

Types only. Knows no database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a store can do beyond keeping what is new.

    replaces: what is written last stands in place of whatever was stored for its time, and `amend` works. Without it, as in
    time-series databases that only append, what differs from what is there for its time may be refused, or stand beside it.
    deletes: `delete_network` takes away what was stored.
    """

    replaces: bool = True
    deletes: bool = True


class Readable(Protocol):
    """What metrics are read from: a metric store, or a client of a server that has one. See MetricStore."""

    def read(self, query: SeriesQuery) -> Series: ...

    def vms(self, network: str) -> tuple[str, ...]: ...

    def span(self, network: str) -> tuple[int, int] | None: ...


@runtime_checkable
class MetricStore(Protocol):
    """Keeps the metrics of VMs by interval. Opened by `with`; every method raises StoreError when the store fails.

    The invariant: at most one row speaks of any moment of a (network, origin, vm). Writing the same rows again changes nothing.
    """

    @property
    def abilities(self) -> Abilities: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def write(self, batch: MetricBatch) -> int:
        """Stores all rows of the batch or none, in place of whatever was stored for the time that they cover.

        Returns how many of the batch's (vm, interval) rows replaced something, so that 0 means all was new (always, of stores
        that replace nothing). Raises
        ValueError for a batch whose shapes don't fit each other or that names a column unknown to the catalogue.
        """
        ...

    def amend(self, batch: MetricBatch) -> int:
        """Puts the batch's columns in place of those of rows that are stored for just these intervals, all or none.

        Everything else of them stays, their source and other columns; rows that aren't there are not made. Returns how many
        were: 0 of stores that replace nothing. Raises ValueError as `write` does.
        """
        ...

    def read(self, query: SeriesQuery) -> Series:
        """Columns of VMs on a regular grid, gaps NaN; T is 0 where nothing is stored.

        Raises InputError for a column or VM that isn't there, a step that is no multiple of the stored interval, and a
        grid too large to hold.
        """
        ...

    def vms(self, network: str) -> tuple[str, ...]:
        """The VMs that have rows, of either origin, in natural order (web-2 before web-10)."""
        ...

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """From the beginning of the first interval to the end of the last, in ns since the epoch; None: nothing."""
        ...

    def delete_network(self, network: str) -> int:
        """Removes every row of the network. Returns how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What came of upkeep: cells rolled up, rows forgotten, and by how many bytes the file shrank where it was rewritten."""

    rolled_up: int = 0
    forgotten: int = 0
    freed_bytes: int | None = None


@runtime_checkable
class KeptStore(Protocol):
    """A metric store that is to be looked after now and then. Raises StoreError; what was done until then stays done."""

    def maintain(self, now_ns: int) -> Upkeep: ...


@runtime_checkable
class RemoteStore(MetricStore, Protocol):
    """A metric store behind a network: what it is to send is made ready once, and may then be sent as often as it takes.

    `write` is `send(prepare(batch))`. Raises StoreUnavailableError where trying again later may help.
    """

    def prepare(self, batch: MetricBatch) -> Prepared:
        """The batch as it is to be sent; each batch once, in the order of writing, as counters go on from one to the next."""
        ...

    def send(self, prepared: Prepared) -> int:
        """Stores what was prepared, by this process or an earlier one; again is harmless. Returns what `write` does."""
        ...
