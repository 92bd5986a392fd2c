"""Observations: letting a source's traffic pass a network's shadow, and keeping its metrics. Safe to kill, and to run again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adumbra.emulate.paths import paths_of
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
from adumbra.schema.errors import AdumbraError, InputError
from adumbra.schema.metrics import NAMES
from adumbra.schema.records import NANOSECONDS, Accounts, MetricBatch, Series, SeriesQuery
from adumbra.schema.state import ObservationState
from adumbra.service import networks
from adumbra.service.networks import Network
from adumbra.service.workspace import Workspace, machine_of
from adumbra.shadow import Shadow
from adumbra.tap.protocol import Source
from adumbra.tap.replay import PcapReplay, fingerprint

Progress = Callable[[float | None, str], None]
"""Told now and then how far the work is, 0 to 1 or None where that is not known, and what is being done."""

EMULATION_SEED = 1
_ROWS_A_WRITE = 20_000


@dataclass(frozen=True, slots=True)
class Observation:
    """What an observation came to. `replaced`: (VM, interval) rows that had been observed before and are replaced."""

    network: str
    source: str
    accounts: Accounts
    intervals: int
    replaced: int
    start_ns: int | None
    end_ns: int | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def open_source(text: str) -> PcapReplay:
    """The source that a user names, such as "pcap:FILE", not yet opened. Raises InputError for one that isn't known."""
    kind, colon, rest = text.partition(":")
    if not colon or kind != "pcap" or not rest:
        raise InputError(f"{text!r} is no source that can be observed", "write pcap:FILE with a pcap or pcapng capture")
    return PcapReplay(Path(rest))


def emulated_vms(network: Network) -> tuple[EmulatedVm, ...]:
    """The emulated VMs of a network: each with its role's prior, its declared size, and its path to the outside."""
    paths, priors = paths_of(network.spec), bundled_priors()
    return tuple(EmulatedVm(vm.name, priors.prior(vm.role), machine_of(vm), paths[vm.subnet]) for vm in network.vms)


def observe(
    workspace: Workspace, name: str, source_text: str, now: Callable[[], int], progress: Progress = lambda *_: None
) -> Observation:
    """Follows a source to its end; each write of closed intervals is one transaction.

    Running the same source again replaces its rows by the same rows. Raises InputError, SourceError, StoreError.
    """
    network = networks.get(workspace, name)
    with open_source(source_text) as source:
        mark = fingerprint(source.path)
        emulator = EmulatedNetwork(emulated_vms(network), EMULATION_SEED)
        shadow = Shadow(network.spec, network.vms, emulator, hash_seed=secrets.randbits(62))
        ledger = workspace.state.begin_observation(name, source_text, mark, now())
        try:
            written = _follow(workspace, shadow, source, progress)
            accounts = shadow.accounts(source)
        except (AdumbraError, KeyboardInterrupt) as error:
            told = str(error) or "it was stopped"
            workspace.state.finish_observation(ledger.id, ObservationState.FAILED, {"error": told}, now())
            raise
        observation = Observation(name, source_text, accounts, **written)
        workspace.state.finish_observation(ledger.id, ObservationState.DONE, observation.to_dict(), now())
    return observation


def _follow(workspace: Workspace, shadow: Shadow, source: Source, progress: Progress) -> Mapping[str, Any]:
    """Writes a source's metrics, a few thousand rows at a time. Gives the counts of an Observation."""
    pending: list[MetricBatch] = []
    intervals, replaced = 0, 0
    start_ns: int | None = None
    end_ns: int | None = None
    for batch in shadow.run(source):
        pending.append(batch)
        if sum(len(each) for each in pending) * len(shadow.vms) >= _ROWS_A_WRITE:
            replaced += _write(workspace, pending)
        if len(batch):
            intervals += len(batch)
            start_ns = int(batch.start_ns[0]) if start_ns is None else start_ns
            end_ns = int(batch.start_ns[-1]) + round(batch.interval_s * NANOSECONDS)
        progress(source.progress(), f"{intervals} intervals of {len(shadow.vms)} VMs")
    replaced += _write(workspace, pending)
    progress(1.0, f"{intervals} intervals of {len(shadow.vms)} VMs")
    return {"intervals": intervals, "replaced": replaced, "start_ns": start_ns, "end_ns": end_ns}


def _write(workspace: Workspace, pending: list[MetricBatch]) -> int:
    replaced = workspace.metrics.write(MetricBatch.joined(pending)) if pending else 0
    pending.clear()
    return replaced


def metrics(workspace: Workspace, name: str, query: Mapping[str, Any]) -> Series:
    """Stored metrics of a network: every column, for the VMs, time and step that `query` has (see SeriesQuery).

    Raises NotFoundError, InputError.
    """
    network = networks.get(workspace, name)
    return workspace.metrics.read(SeriesQuery(network=network.name, columns=NAMES, **query))
