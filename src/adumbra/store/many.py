"""Several metric stores as one: writes go to all of them, reads to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.protocol import Abilities, MetricStore


class ManyStores:
    """A MetricStore that writes to all of its stores and reads from the one at `read`. Opened by `with`, it opens them.

    What it returns is what that one returns. Where a store fails the others are written to all the same, and then its error is
    raised.
    """

    def __init__(self, stores: Sequence[MetricStore], read: int = 0) -> None:
        self._stores = tuple(stores)
        self._read = self._stores[read]
        self._opened = ExitStack()

    @property
    def abilities(self) -> Abilities:
        return self._read.abilities

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            for store in self._stores:
                opening.enter_context(store)
            self._opened = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write; the stores that could be written to have the batch also where another's error is raised."""
        return self._all(lambda store: store.write(batch))

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend."""
        return self._all(lambda store: store.amend(batch))

    def read(self, query: SeriesQuery) -> Series:
        return self._read.read(query)

    def vms(self, network: str) -> tuple[str, ...]:
        return self._read.vms(network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        return self._read.span(network, origin)

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network."""
        return self._all(lambda store: store.delete_network(network))

    def _all(self, act: Callable[[MetricStore], int]) -> int:
        """Does it in each store. Raises the first error once it was tried in all."""
        told, failed = 0, None
        for store in self._stores:
            try:
                done = act(store)
            except (AdumbraError, ValueError, OSError) as error:
                failed = failed or error
            else:
                told = done if store is self._read else told
        if failed is not None:
            raise failed
        return told
