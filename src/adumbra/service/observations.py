"""Observations: letting a source's traffic pass a network's shadow, and keeping its metrics. Safe to kill, and to run again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.parameters import PARAMETER_SETS
from adumbra.emulate.paths import paths_of
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
from adumbra.metering import Metering, Watch
from adumbra.schema.errors import AdumbraError
from adumbra.schema.metrics import TOLD
from adumbra.schema.records import NANOSECONDS, Accounts, Floats, MetricBatch, Series, SeriesQuery
from adumbra.schema.sources import CollectorSource, Layer, SourceSpec, parse_source
from adumbra.schema.state import ObservationState
from adumbra.service import networks, replays, upkeep
from adumbra.service.networks import Network
from adumbra.service.sources import FILES, metered
from adumbra.service.workspace import Workspace, core_speed_of, machine_of
from adumbra.shadow import Shadow
from adumbra.tap.replay import fingerprint
from adumbra.workers import Running

Progress = Callable[[float | None, str], None]
"""Told now and then how far the work is, 0 to 1 or None where that is not known, and what is being done."""

EMULATION_SEED = 1
MANY_VMS, FEW_SETS = 5_000, 8
"""Beyond so many VMs, so many sets of parameters make the intervals: 64 would take more than a core (benchmarks/shadow.py)."""
IDLE_S, FIRST_S = 5.0, 60.0
"""How long nothing must come from a source that goes on for it to be idle, once something came; and before that."""
_ROWS_A_WRITE = 20_000
_WRITE_EVERY_S = 2.0  # of a source that goes on: what closed is kept soon
_LOOK_AFTER_EVERY_S = 300.0  # of a source that goes on: what is kept is rolled up


@dataclass(frozen=True, slots=True)
class ObserveOptions:
    """How a source is observed.

    layer: which of the packets that are wrapped in each other counts; workers: processes that share the source; for_s: the
    longest, none without end; until_idle: to stop once nothing came for IDLE_S; stop: asked now and then, to end early; ready:
    told once, as soon as nothing more of a source that goes on will be missed. Files end by themselves.
    """

    layer: Layer = Layer.AUTO
    workers: int = 1
    for_s: float | None = None
    until_idle: bool = False
    stop: Callable[[], bool] = field(default=lambda: False)
    ready: Callable[[], None] = field(default=lambda: None)


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


def emulated_vms(network: Network) -> tuple[EmulatedVm, ...]:
    """The emulated VMs of a network: each with its role's prior, its declared size and core speed, its path to the outside, and
    what measured use said of it, if it did.
    """
    paths, priors, known = paths_of(network.spec), bundled_priors(), network.calibration
    return tuple(
        EmulatedVm(
            vm.name, priors.prior(vm.role), machine_of(vm), paths[vm.subnet], core_speed_of(vm),
            calibration=known.of(vm.name) if known else None,
        )
        for vm in network.vms
    )  # fmt: skip


BOUNDED: tuple[str, ...] = ("cpu_cores", "memory_gb", "bandwidth_mbps")
"""The resources whose use a machine's size bounds. A disk's size says nothing of how far it will fill."""


def capacities(vms: Sequence[EmulatedVm]) -> dict[str, Floats]:
    """What the machines have that VMs are emulated on, of each of BOUNDED, float64[V] in the resource's unit; NaN for none."""
    told = {name: np.array([float(getattr(vm.machine, name)) for vm in vms]) for name in BOUNDED}
    return {name: np.where(has > 0, has, np.nan) for name, has in told.items()}


def emulator(vms: Sequence[EmulatedVm]) -> EmulatedNetwork:
    """The emulated VMs, ready, with as many sets of parameters as so many can carry in real time."""
    sets = PARAMETER_SETS if len(vms) <= MANY_VMS else FEW_SETS
    return EmulatedNetwork(vms, EMULATION_SEED, sets)


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
    network = networks.get(workspace, name)
    source = parse_source(source_text)
    watch = Watch(network.spec, network.vms, options.layer, hash_seed=secrets.randbits(62))
    vms = emulated_vms(network)
    if isinstance(source, CollectorSource):  # tells counts only; of files the same must come out each time
        vms = replays.with_arrivals(workspace, name, vms)
    shadow = Shadow(network.spec, network.vms, emulator(vms))
    vigil = _Vigil(options, now, goes_on=not isinstance(source, FILES))
    with metered(watch, source, Running(now, vigil.is_over, options.ready), options.workers) as metering:
        mark = _mark(source, now())
        again = _of_again(workspace, name, mark)
        ledger = workspace.state.begin_observation(name, source_text, mark, now())
        try:
            written = _follow(workspace, shadow, metering, vigil, progress)
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


class _Vigil:
    """When an observation of a source that goes on writes, and whether it is over: asked to end, long enough, or idle."""

    def __init__(self, options: ObserveOptions, now: Callable[[], int], *, goes_on: bool) -> None:
        self._options, self._now = options, now
        self.goes_on = goes_on
        self._began_ns: int | None = None
        self._moved_ns = 0
        self._offered = 0
        self._written_ns = self._kept_ns = now()
        self.metering: Metering | None = None

    def writes_now(self, rows: int) -> bool:
        """Whether so many rows are to be written: they are many, or have waited long enough."""
        now_ns = self._now()
        due = rows >= _ROWS_A_WRITE or (self.goes_on and now_ns - self._written_ns >= _WRITE_EVERY_S * NANOSECONDS)
        if due:
            self._written_ns = now_ns
        return due

    def look_after(self, workspace: Workspace, *, last: bool = False) -> None:
        """Has what is stored looked after, now and then, and at the end."""
        now_ns = self._now()
        if last or now_ns - self._kept_ns >= _LOOK_AFTER_EVERY_S * NANOSECONDS:
            self._kept_ns = now_ns
            upkeep.maintain(workspace, now_ns)

    def is_over(self) -> bool:
        """Asked by the source a few times a second."""
        options, now_ns = self._options, self._now()
        if self._began_ns is None:
            self._began_ns = self._moved_ns = now_ns
        if options.stop() or (options.for_s is not None and now_ns - self._began_ns >= options.for_s * NANOSECONDS):
            return True
        if not options.until_idle or self.metering is None:
            return False
        offered = self.metering.accounts().offered
        if offered != self._offered:
            self._offered, self._moved_ns = offered, now_ns
        return now_ns - self._moved_ns >= (IDLE_S if offered else FIRST_S) * NANOSECONDS


def _mark(source: SourceSpec, now_ns: int) -> str:
    """What tells the same source again: a file's content; what goes on is never the same."""
    return fingerprint(source.path) if isinstance(source, FILES) else f"{source}@{now_ns}"


def _follow(workspace: Workspace, shadow: Shadow, metering: Metering, vigil: _Vigil, progress: Progress) -> Mapping[str, Any]:
    """Writes a source's metrics, a few thousand rows at a time. Gives the counts of an Observation."""
    vigil.metering = metering
    pending: list[MetricBatch] = []
    replaced = 0
    seen = _Seen(len(shadow.vms))
    for batch in shadow.run(metering):
        pending.append(batch)
        seen.add(batch)
        if vigil.writes_now(sum(len(each) for each in pending) * len(shadow.vms)):
            replaced += _write(workspace, pending)
            if vigil.goes_on:
                vigil.look_after(workspace)
                workspace.release_metrics()  # others want to read meanwhile
        progress(metering.progress(), f"{seen.intervals:,} intervals of {len(shadow.vms)} VMs")
    replaced += _write(workspace, pending)
    vigil.look_after(workspace, last=True)
    progress(1.0, f"{seen.intervals:,} intervals of {len(shadow.vms)} VMs")
    one_sided = tuple(name for name, only in zip(shadow.vms, seen.one_sided(), strict=True) if only)
    return {
        "intervals": seen.intervals, "replaced": replaced, "start_ns": seen.start_ns, "end_ns": seen.end_ns,
        "one_sided": one_sided,
    }  # fmt: skip


class _Seen:
    """What time batches cover, and in which directions each VM's traffic was seen."""

    def __init__(self, vms: int) -> None:
        self.intervals = 0
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        self._ways = np.zeros((2, vms), np.bool_)

    def add(self, batch: MetricBatch) -> None:
        if not len(batch):
            return
        self.intervals += len(batch)
        self.start_ns = int(batch.start_ns[0]) if self.start_ns is None else self.start_ns
        self.end_ns = int(batch.start_ns[-1]) + round(batch.interval_s * NANOSECONDS)
        for row, name in enumerate(("rx_packets", "tx_packets")):
            self._ways[row] |= (np.nan_to_num(batch.columns[name].astype(np.float64)) > 0).any(axis=0)

    def one_sided(self) -> NDArray[np.bool_]:
        return np.asarray(self._ways[0] != self._ways[1])


def _write(workspace: Workspace, pending: list[MetricBatch]) -> int:
    replaced = workspace.metrics.write(MetricBatch.joined(pending)) if pending else 0
    pending.clear()
    return replaced


def metrics(workspace: Workspace, name: str, query: Mapping[str, Any]) -> Series:
    """Stored metrics of a network: every column that people read, for what `query` has of a SeriesQuery.

    Raises NotFoundError, InputError.
    """
    network = networks.get(workspace, name)
    return workspace.metrics.read(SeriesQuery(network=network.name, columns=TOLD, **query))
