"""Observations: letting a source's traffic pass a network's shadow, and keeping its metrics. Safe to kill, and to run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.errors import AdumbraError
from adumbra.schema.metrics import TOLD
from adumbra.schema.records import Accounts, Floats, MetricBatch, Series, SeriesQuery
from adumbra.schema.sources import SourceSpec, parse_source
from adumbra.schema.state import ObservationState
from adumbra.service import networks, upkeep
from adumbra.service.following import (
    EMULATION_SEED,
    ObserveOptions,
    Progress,
    Vigil,
    emulated_vms,
    emulator,
    follow,
    shadow_of,
    watch_of,
)
from adumbra.service.source_metering import FILES, metered
from adumbra.service.workspace import Workspace
from adumbra.tap.replay import fingerprint
from adumbra.workers import Running

__all__ = ["EMULATION_SEED", "ObserveOptions", "Progress", "emulated_vms", "emulator"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What an observation came to. `replaced`: (VM, interval) rows that had been observed before and are replaced.

    `one_sided`: the VMs of whose traffic only one direction was ever seen; `notes`: in words, what else is to be known.
    """

    network: str
    source: str
    accounts: Accounts
    intervals: int
    replaced: int
    start_ns: int | None
    end_ns: int | None
    one_sided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def goes_on(source_text: str) -> bool:
    """Whether a source, as its user names it, goes on until it is stopped. Raises InputError for one that isn't known."""
    return not isinstance(parse_source(source_text), FILES)


BOUNDED: tuple[str, ...] = ("cpu_cores", "memory_gb", "bandwidth_mbps")
"""The resources whose use a machine's size bounds. A disk's size says nothing of how far it will fill."""


def capacities(vms: Sequence[EmulatedVm]) -> dict[str, Floats]:
    """What the machines have that VMs are emulated on, of each of BOUNDED, float64[V] in the resource's unit; NaN for none."""
    told = {name: np.array([float(getattr(vm.machine, name)) for vm in vms]) for name in BOUNDED}
    return {name: np.where(has > 0, has, np.nan) for name, has in told.items()}


class StoreKeeper:
    """Keeps metrics in a workspace's stores; each write is one transaction."""

    def __init__(self, workspace: Workspace, now: Callable[[], int]) -> None:
        self._workspace, self._now = workspace, now

    def write(self, batch: MetricBatch) -> int:
        return self._workspace.metrics.write(batch)

    def look_after(self) -> None:
        upkeep.maintain(self._workspace, self._now())

    def release(self) -> None:
        self._workspace.release_metrics()


def observe(
    workspace: Workspace,
    name: str,
    source_text: str,
    now: Callable[[], int],
    progress: Progress = lambda *_: None,
    *,
    options: ObserveOptions | None = None,
) -> Observation:
    """Follows a source to its end; each write of closed intervals is one transaction. Then waits a while for remote stores.

    Running the same file again replaces its rows by the same rows. `now` must be a function that other processes can import.
    Raises InputError, SourceError, StoreError.
    """
    options = options or ObserveOptions()
    network, source = networks.get(workspace, name), parse_source(source_text)
    shadow = shadow_of(network, source, workspace)
    vigil = Vigil.over(source, options, now)
    running = Running(now, vigil.is_over, options.ready)
    with metered(watch_of(network, options.layer), source, running, options.workers) as metering:
        mark = mark_of(source, now())
        again = _of_again(workspace, name, mark)
        ledger = workspace.state.begin_observation(name, source_text, mark, now())
        try:
            written = follow(shadow, metering, vigil, StoreKeeper(workspace, now), progress)
        except (AdumbraError, KeyboardInterrupt) as error:
            told = str(error) or "it was stopped"
            workspace.state.finish_observation(ledger.id, ObservationState.FAILED, {"error": told}, now())
            raise
        observation = Observation(name, source_text, metering.accounts(), notes=metering.notes(), **written)
        workspace.state.finish_observation(ledger.id, ObservationState.DONE, observation.to_dict(), now())
    return replace(observation, notes=(*observation.notes, *again, *workspace.drain(progress)))


def _of_again(workspace: Workspace, name: str, mark: str) -> tuple[str, ...]:
    """What is to be said where the same was observed before, and some stores keep what they had of it."""
    keeping = workspace.keeping
    if not keeping or not any(each.fingerprint == mark for each in workspace.state.observations(name)):
        return ()
    return tuple(f"this was observed before, and {store} keeps what was written first" for store in keeping)


def mark_of(source: SourceSpec, now_ns: int) -> str:
    """What tells the same source again: a file's content; what goes on is never the same."""
    return fingerprint(source.path) if isinstance(source, FILES) else f"{source}@{now_ns}"


def metrics(workspace: Workspace, name: str, query: Mapping[str, Any]) -> Series:
    """Stored metrics of a network: every column that people read, for what `query` has of a SeriesQuery.

    Raises NotFoundError, InputError.
    """
    network = networks.get(workspace, name)
    return workspace.metrics.read(SeriesQuery(network=network.name, columns=TOLD, **query))
