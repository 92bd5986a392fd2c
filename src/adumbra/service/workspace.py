"""The folder in which a user's networks live: its state store, its metric store, and files that providers write."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adumbra.schema.errors import StoreBusyError, StoreError
from adumbra.schema.sizing import Machine

if TYPE_CHECKING:
    from adumbra.schema.spec import Vm
    from adumbra.store.duckdb import DuckDBStore
    from adumbra.store.state import StateStore

FALLBACK_MACHINE = Machine(cpu_cores=2, memory_gb=8, bandwidth_mbps=1000, storage_gb=20)
"""The size that a VM is emulated with where its spec declares none."""

_BUSY_TRIES, _BUSY_PAUSE_S = 30, 0.1  # a process that observes a live source has the store for moments only


class Workspace:
    """Opens the stores under one folder when they are first needed, and closes them with itself. Use it by `with`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._stack = ExitStack()
        self._state: StateStore | None = None
        self._metrics: DuckDBStore | None = None

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self.home} can't be made ({error.strerror})", "set ADUMBRA_HOME to a folder you can write"
            ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.release_metrics()
        finally:
            self._stack.close()

    @property
    def state(self) -> StateStore:
        """Networks, observations, trainings, profiles, plans, events."""
        if self._state is None:
            from adumbra.store.state import StateStore

            self._state = self._stack.enter_context(StateStore(self.home / "state.db"))
        return self._state

    @property
    def metrics(self) -> DuckDBStore:
        """The metrics of all networks. One process at a time holds it: it is waited for, but not for long."""
        for left in reversed(range(_BUSY_TRIES)):
            if self._metrics is not None:
                break
            self._metrics = self._open_metrics(last=not left)
        assert self._metrics is not None
        return self._metrics

    def _open_metrics(self, *, last: bool) -> DuckDBStore | None:
        """The store, opened; None, after a pause, where another process has it and this is not the last try."""
        from adumbra.store.duckdb import DuckDBStore

        try:
            return DuckDBStore(self.home / "metrics.duckdb").__enter__()
        except StoreBusyError:
            if last:
                raise
            time.sleep(_BUSY_PAUSE_S)
            return None

    def release_metrics(self) -> None:
        """Lets other processes have the metric store, until it is needed here again."""
        store, self._metrics = self._metrics, None
        if store is not None:
            store.__exit__()

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
