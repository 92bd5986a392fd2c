"""Following a source: its traffic passes a network's shadow, and what comes of it goes where it is to be kept. One way for
observations of this host and for taps that ship elsewhere. Keeps nothing itself, and knows no store.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.parameters import PARAMETER_SETS
from adumbra.emulate.paths import paths_of
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
from adumbra.metering import Metering, Watch
from adumbra.schema.records import NANOSECONDS, Intervals, MetricBatch
from adumbra.schema.sources import CollectorSource, Layer, SourceSpec
from adumbra.service import replays
from adumbra.service.networks import Network
from adumbra.service.source_metering import FILES
from adumbra.service.workspace import core_speed_of, machine_of
from adumbra.shadow import Shadow

Progress = Callable[[float | None, str], None]
"""Told now and then how far the work is, 0 to 1 or None where that is not known, and what is being done."""

EMULATION_SEED = 1
MANY_VMS, FEW_SETS = 5_000, 8
"""Beyond so many VMs, so many sets of parameters make the intervals: 64 would take more than a core (benchmarks/shadow.py)."""
IDLE_S, FIRST_S = 5.0, 60.0
"""How long nothing must come from a source that goes on for it to be idle, once something came; and before that."""
WRITE_EVERY_S = 2.0
"""Of a source that goes on: what closed is kept soon."""
_ROWS_A_WRITE = 20_000
_LOOK_AFTER_EVERY_S = 300.0  # of a source that goes on: what is kept is rolled up


@dataclass(frozen=True, slots=True)
class ObserveOptions:
    """How a source is observed.

    layer: which of the packets that are wrapped in each other counts; workers: processes that share the source; for_s: the
    longest, none without end; until_idle: to stop once nothing came for IDLE_S; stop: asked now and then, to end early; ready:
    told once, as soon as nothing more of a source that goes on will be missed; write_every_s: how soon closed intervals of
    such a source are written. Files end by themselves.
    """

    layer: Layer = Layer.AUTO
    workers: int = 1
    for_s: float | None = None
    until_idle: bool = False
    stop: Callable[[], bool] = field(default=lambda: False)
    ready: Callable[[], None] = field(default=lambda: None)
    write_every_s: float = WRITE_EVERY_S


class Keeper(Protocol):
    """Where a source's metrics go."""

    def write(self, batch: MetricBatch) -> int:
        """Keeps closed intervals. Gives how many rows replaced what was there."""
        ...

    def look_after(self) -> None:
        """Asked now and then, and at the end: whatever keeping them takes."""
        ...

    def release(self) -> None:
        """Asked after each write of a source that goes on: others want to read meanwhile."""
        ...


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


def emulator(vms: Sequence[EmulatedVm]) -> EmulatedNetwork:
    """The emulated VMs, ready, with as many sets of parameters as so many can carry in real time."""
    sets = PARAMETER_SETS if len(vms) <= MANY_VMS else FEW_SETS
    return EmulatedNetwork(vms, EMULATION_SEED, sets)


def watch_of(network: Network, layer: Layer) -> Watch:
    """What to look for in a source's traffic."""
    return Watch(network.spec, network.vms, layer, hash_seed=secrets.randbits(62))


def shadow_of(network: Network, source: SourceSpec, stored: replays.Stored | None) -> Shadow:
    """A network's shadow, ready to follow a source. stored: what was measured of the network before; None: nothing is known."""
    vms = emulated_vms(network)
    if stored is not None and isinstance(
        source, CollectorSource
    ):  # tells counts only; of files the same must come out each time
        vms = replays.with_arrivals(stored, network.name, vms)
    return Shadow(network.spec, network.vms, emulator(vms))


def warm_up(network: Network) -> None:
    """Loads all compiled code of the emulation, by emulated VMs that are thrown away: a first interval need not wait for it."""
    quiet = np.zeros((1, len(network.vms)))
    columns = dict.fromkeys(replays.COLUMNS, quiet)
    none = np.zeros(quiet.shape, np.bool_)
    intervals = Intervals(network.spec.interval_ns, np.zeros(1, np.int64), columns, none, replays.NO_REQUESTS)
    emulator(emulated_vms(network)).emulate(intervals)


class Vigil:
    """When an observation of a source that goes on writes, and whether it is over: asked to end, long enough, or idle."""

    def __init__(self, options: ObserveOptions, now: Callable[[], int], *, goes_on: bool) -> None:
        self._options, self._now = options, now
        self.goes_on = goes_on
        self._began_ns: int | None = None
        self._moved_ns = 0
        self._offered = 0
        self._written_ns = self._kept_ns = now()
        self.metering: Metering | None = None

    @classmethod
    def over(cls, source: SourceSpec, options: ObserveOptions, now: Callable[[], int]) -> Vigil:
        """The vigil over a source."""
        return cls(options, now, goes_on=not isinstance(source, FILES))

    def writes_now(self, rows: int) -> bool:
        """Whether so many rows are to be written: they are many, or have waited long enough."""
        now_ns, every_ns = self._now(), self._options.write_every_s * NANOSECONDS
        due = rows >= _ROWS_A_WRITE or (self.goes_on and now_ns - self._written_ns >= every_ns)
        if due:
            self._written_ns = now_ns
        return due

    def look_after(self, keeper: Keeper, *, last: bool = False) -> None:
        """Has what is kept looked after, now and then, and at the end."""
        now_ns = self._now()
        if last or now_ns - self._kept_ns >= _LOOK_AFTER_EVERY_S * NANOSECONDS:
            self._kept_ns = now_ns
            keeper.look_after()

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


def follow(shadow: Shadow, metering: Metering, vigil: Vigil, keeper: Keeper, progress: Progress) -> Mapping[str, Any]:
    """Has a source's metrics kept, a few thousand rows at a time. Gives the counts of an Observation."""
    vigil.metering = metering
    pending: list[MetricBatch] = []
    replaced = 0
    seen = _Seen(len(shadow.vms))
    for batch in shadow.run(metering):
        pending.append(batch)
        seen.add(batch)
        if vigil.writes_now(sum(len(each) for each in pending) * len(shadow.vms)):
            replaced += _write(keeper, pending)
            if vigil.goes_on:
                vigil.look_after(keeper)
                keeper.release()
        progress(metering.progress(), f"{seen.intervals:,} intervals of {len(shadow.vms)} VMs")
    replaced += _write(keeper, pending)
    vigil.look_after(keeper, last=True)
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


def _write(keeper: Keeper, pending: list[MetricBatch]) -> int:
    replaced = keeper.write(MetricBatch.joined(pending)) if pending else 0
    pending.clear()
    return replaced
