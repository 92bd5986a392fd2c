"""One network's shadow: its stages wired in order, from raw frames to metric batches. Stores nothing, reads no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adumbra.decode.packets import Decoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, Accounts, Intervals, Losses, MetricBatch
from adumbra.schema.spec import NetworkSpec, Vm
from adumbra.tap.protocol import Source


class Emulator(Protocol):
    """The emulated VMs of a network: simulated columns [k, V] for closed intervals, in order."""

    def emulate(self, intervals: Intervals) -> dict[str, NDArray[np.float64]]: ...


class Shadow:
    """A network's stages, ready to follow one source at a time.

    `hash_seed` keys the meter's tables: one that senders of traffic can't know keeps them from crafting collisions. It
    changes no result.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        vms: Sequence[Vm],
        emulator: Emulator,
        settings: MeterSettings | None = None,
        hash_seed: int = 0,
    ) -> None:
        self.spec = spec
        self.vms = tuple(vm.name for vm in vms)
        self.attribution = Attribution(spec, vms)
        self.meter = Meter(len(vms), spec.interval_ns, settings, hash_seed)
        self.emulator = emulator
        self._dropped = 0

    def run(self, source: Source) -> Iterator[MetricBatch]:
        """Follows a source until it ends; gives the metrics of intervals once they are closed."""
        decoder = Decoder()
        self._dropped = 0
        for frames in source:
            packets = self.attribution.assign(decoder.decode(frames))
            for intervals in self.meter.add(packets):
                yield self._emulate(intervals, source.name)
            self._note_drops(source.losses())
        self._note_drops(source.losses())  # a capture may tell of drops behind its last packet
        for intervals in self.meter.finish():
            yield self._emulate(intervals, source.name)

    def accounts(self, source: Source) -> Accounts:
        """Where each of the source's frames went, so far."""
        return self.meter.accounts(source.losses())

    def _note_drops(self, losses: Losses) -> None:
        self.meter.miss(losses.dropped - self._dropped)
        self._dropped = losses.dropped

    def _emulate(self, intervals: Intervals, source: str) -> MetricBatch:
        simulated = self.emulator.emulate(intervals)
        columns = {**intervals.columns}
        for name, values in simulated.items():
            # Round trips are simulated only where one side was seen; elsewhere what was observed stands.
            columns[name] = np.where(intervals.one_sided, values, columns[name]) if name in columns else values
        return MetricBatch(
            network=self.spec.name,
            interval_s=intervals.interval_ns / NANOSECONDS,
            vms=self.vms,
            start_ns=intervals.start_ns,
            columns={name: columns[name] for name in BY_NAME},
            one_sided=intervals.one_sided,
            source=source,
        )
