"""The stores themselves: what each of them can do, and what waits to be sent to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adumbra.schema.errors import AdumbraError, StoreError
from adumbra.service.workspace import STORE_FILE, Workspace
from adumbra.store.probing import Probe, Verdict, probe
from adumbra.store.protocol import MetricStore
from adumbra.store.spool import Spool, survey
from adumbra.store.urls import StoreAddress, open_remote

_SPOOL_TRIAL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out of a store. `read`: whether it is the one that is read from."""

    store: str
    read: bool
    probes: tuple[Probe, ...]

    @property
    def works(self) -> bool:
        return all(each.verdict is not Verdict.FAILED for each in self.probes)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "works": self.works}


@dataclass(frozen=True, slots=True)
class Waits:
    """A remote store's spool: batches that wait and their bytes, how many of them a running process has, and what was lost.

    configured: whether the settings name that store now; where not, nothing is sent.
    """

    store: str
    configured: bool
    waiting: int
    waiting_bytes: int
    held: int
    dropped: int
    damaged: int
    refused: int
    bound_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(workspace: Workspace, now_ns: int, progress: Callable[[float | None, str], None]) -> Iterator[Checked]:
    """Tries each of the stores in turn, past its spool; and the spools."""
    choice = workspace.storage.stores
    for number, address in enumerate(choice.addresses):
        found: list[Probe] = []
        if address.is_remote:
            progress(None, f"{address.name}: spool")
            found.append(_spool(workspace.spool_folder(address)))
        try:
            with _opened(workspace, address) as store:
                for each in probe(address, store, now_ns):
                    progress(None, f"{address.name}: {each.what}")
                    found.append(each)
        except AdumbraError as error:
            found.append(Probe("reach", Verdict.FAILED, error.what, error.mend))
        yield Checked(_shown(workspace, address), number == choice.read, tuple(found))


def _shown(workspace: Workspace, address: StoreAddress) -> str:
    return address.name if address.is_remote else f"duckdb://{workspace.embedded_file(address)}"


def _opened(workspace: Workspace, address: StoreAddress) -> MetricStore:
    if address.is_remote:
        return open_remote(address)
    from adumbra.store.embedded import EmbeddedStore

    return EmbeddedStore(workspace.embedded_file(address))


def _spool(folder: Path) -> Probe:
    """Whether what is to be sent can wait there, and how long the disk takes for a megabyte of it."""
    trial = folder.parent / f"check-{os.getpid()}"
    began = time.monotonic()
    try:
        with Spool(trial, 4 * _SPOOL_TRIAL_BYTES) as spool:
            spool.append(os.urandom(_SPOOL_TRIAL_BYTES))
            found = spool.peek()
            spool.acknowledge()
        trial.rmdir()
    except (StoreError, OSError) as error:
        return Probe("spool", Verdict.FAILED, str(error), "what is written could not wait for the store")
    if found is None:
        return Probe("spool", Verdict.FAILED, "what was written could not be read back", "check the disk")
    took_s = time.monotonic() - began
    waiting = survey(folder)[0].records
    return Probe("spool", Verdict.OK, f"keeps what waits; {waiting:,} batches wait now", "", took_s)


def flush(workspace: Workspace, for_s: float, progress: Callable[[float | None, str], None]) -> tuple[str, ...]:
    """Sends what waits, for no longer than that. Sentences on what waits even so, or was lost."""
    assert workspace.metrics is not None  # opening it begins the sending
    return workspace.drain(progress, for_s)


def status(workspace: Workspace) -> tuple[Waits, ...]:
    """What waits for each remote store, those too that the settings don't name any more. Changes nothing."""
    configured = {address.folder: address for address in workspace.storage.stores.addresses if address.is_remote}
    home = workspace.home / "spool"
    there = {each.name: each for each in sorted(home.iterdir()) if each.is_dir()} if home.is_dir() else {}
    told = []
    for name in dict.fromkeys((*configured, *there)):
        folder, address = home / name, configured.get(name)
        waiting, counts = survey(folder)
        if address is None and not waiting.records:
            continue
        told.append(
            Waits(
                address.name if address else _named(folder), address is not None, waiting.records, waiting.size_bytes,
                waiting.held, counts.dropped, counts.damaged, counts.refused, workspace.spool_bytes(address) if address else 0,
            )
        )  # fmt: skip
    return tuple(told)


def _named(folder: Path) -> str:
    try:
        return (folder / STORE_FILE).read_text().strip()[:200] or folder.name
    except (OSError, UnicodeDecodeError):
        return folder.name
