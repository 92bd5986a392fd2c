"""The front of a shadow: a source's raw bytes in, closed intervals out, in this process. Emulates and stores nothing.

For what a network's packets go through from top to bottom read PacketMetering._add, then shadow.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

import numpy as np

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.decode.flow_logs import LogDecoder
from adumbra.decode.packets import Decoder
from adumbra.decode.share import OwnFrames, Share
from adumbra.meter.attribute import Attribution
from adumbra.meter.flow_records import FlowMeter, FlowMeterSettings
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.meter.tally import Tally
from adumbra.schema.records import Accounts, Datagrams, Frames, Intervals, LogLines, Losses
from adumbra.schema.sources import Layer
from adumbra.schema.spec import NetworkSpec, Vm
from adumbra.tap.live import LiveTap
from adumbra.tap.protocol import Source


class Metering(Protocol):
    """What a shadow follows: closed intervals, in order, until its source ends."""

    @property
    def name(self) -> str:
        """What was observed, such as "pcap:shop.pcap"."""
        ...

    def __iter__(self) -> Iterator[Intervals]: ...

    def accounts(self) -> Accounts:
        """Where everything that the source gave went, so far."""
        ...

    def progress(self) -> float | None:
        """How much of the source has been read, 0 to 1; None where that is not known."""
        ...

    def notes(self) -> tuple[str, ...]:
        """In words, what else is to be known of the source."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """What to look for: a network's VMs, in which layer of tunnelled traffic, within which bounds.

    `hash_seed` keys the meter's tables: one that senders of traffic can't know keeps them from crafting collisions. It
    changes no result.
    """

    spec: NetworkSpec
    vms: tuple[Vm, ...]
    layer: Layer = Layer.AUTO
    settings: MeterSettings = field(default_factory=MeterSettings)
    hash_seed: int = 0


class PacketMetering:
    """Meters a source of frames. With a share, only that part of them: the others are another worker's."""

    def __init__(self, watch: Watch, source: Source, share: Share | None = None) -> None:
        self.source = source
        self.meter = Meter(len(watch.vms), watch.spec.interval_ns, watch.settings, watch.hash_seed, ports_of(watch.vms))
        self._summary = Summary(len(watch.vms))
        self._attribution = Attribution(watch.spec, watch.vms)
        self._decoder = Decoder(share)
        self._own = OwnFrames(share, watch.spec.interval_ns) if share else None
        self._layer = watch.layer
        self._dropped = 0
        self._complete_to_ns = 0

    @property
    def name(self) -> str:
        return self.source.name

    def __iter__(self) -> Iterator[Intervals]:
        for tally in chain.from_iterable(self.batches()):
            yield self._summary.intervals(tally)

    def batches(self) -> Iterator[tuple[Tally, ...]]:
        """For each batch of the source, what was counted in the intervals that it closes; at the source's end, in all."""
        for frames in self.source:
            assert isinstance(frames, Frames), "a source of frames gives frames only"
            yield tuple(self._add(frames))
            self._note_drops(self.source.losses())
        self._note_drops(self.source.losses())  # a capture may tell of drops behind its last packet
        yield tuple(self.meter.finish())

    def _add(self, frames: Frames) -> Iterator[Tally]:
        frames = self._own.take(frames) if self._own else frames
        packets = self._attribution.assign(self._decoder.decode(frames))
        while self._decoder.unwrap(frames, packets, self._layer):
            self._attribution.assign(packets)
        yield from self.meter.add(packets)
        if frames.complete_to_ns:
            self._complete_to_ns = frames.complete_to_ns
            yield from self.meter.advance(frames.complete_to_ns)
            yield from self.meter.complete(frames.complete_to_ns)

    def accounts(self) -> Accounts:
        return self.meter.accounts(self.source.losses())

    @property
    def closed_to_ns(self) -> int:
        """No interval that begins before this time will follow."""
        closed_ns = self.meter.closed_to_ns
        interval_ns = self.meter.interval_ns
        return self._complete_to_ns // interval_ns * interval_ns if closed_ns is None else closed_ns

    def warm_up(self) -> None:
        """Loads all compiled code, which a process without privileges might not be allowed to read."""
        none = np.zeros(0, np.int64)
        frames = Frames(np.zeros(1, np.uint8), none, none, none, none, none)
        self._decoder.warm_up(frames)
        for _ in self._add(frames):
            pass

    def progress(self) -> float | None:
        return self.source.progress()

    def notes(self) -> tuple[str, ...]:
        return self.source.notes if isinstance(self.source, LiveTap) else ()

    def _note_drops(self, losses: Losses) -> None:
        self.meter.miss(losses.dropped - self._dropped)
        self._dropped = losses.dropped


class ExportMetering:
    """Meters a source of flow exporters' datagrams: NetFlow, IPFIX, sFlow."""

    def __init__(self, watch: Watch, source: Source, settings: FlowMeterSettings | None = None) -> None:
        self.source = source
        self.meter = _flow_meter(watch, settings)
        self._attribution = Attribution(watch.spec, watch.vms)
        self._decoder = FlowDecoder()
        self._missed = 0

    @property
    def name(self) -> str:
        return self.source.name

    def __iter__(self) -> Iterator[Intervals]:
        for datagrams in self.source:
            assert isinstance(datagrams, Datagrams), "a source of flow exports gives datagrams only"
            yield from self.meter.add(self._attribution.assign_flows(self._decoder.decode(datagrams)))
            self._note_missed()
        self._note_missed()
        yield from self.meter.finish()

    def accounts(self) -> Accounts:
        told = {name: count for name, count in self._decoder.accounts().items() if count}
        return replace(self.meter.accounts(self.source.losses()), exports=told)

    def progress(self) -> float | None:
        return self.source.progress()

    def notes(self) -> tuple[str, ...]:
        told = self._decoder.accounts()
        if told["sets_waiting"]:
            return (f"{told['sets_waiting']:,} sets of records still wait for their template, which the exporter sends seldom",)
        return ()

    def _note_missed(self) -> None:
        """Exports that were lost on the way are at least a packet each. Gaps in their numbers also show what we dropped."""
        told = self._decoder.accounts()
        missed = max(told["datagrams_lost"] + told["records_lost"], self.source.losses().dropped)
        self.meter.miss(missed - self._missed)
        self._missed = missed


class LogMetering:
    """Meters a flow log's lines."""

    def __init__(self, watch: Watch, source: Source, settings: FlowMeterSettings | None = None) -> None:
        self.source = source
        self.meter = _flow_meter(watch, settings or FlowMeterSettings(lateness_s=None))
        self._attribution = Attribution(watch.spec, watch.vms)
        self._decoder = LogDecoder()

    @property
    def name(self) -> str:
        return self.source.name

    def __iter__(self) -> Iterator[Intervals]:
        for lines in self.source:
            assert isinstance(lines, LogLines), "a source of a flow log gives lines only"
            yield from self.meter.add(self._attribution.assign_flows(self._decoder.decode(lines)))
        yield from self.meter.add(self._attribution.assign_flows(self._decoder.finish()))
        yield from self.meter.finish()

    def accounts(self) -> Accounts:
        return self.meter.accounts(self.source.losses(), self._decoder.accounts())

    def progress(self) -> float | None:
        return self.source.progress()

    def notes(self) -> tuple[str, ...]:
        missed = self._decoder.missed_bytes
        told = (f"Zeek missed {missed:,} bytes in the middle of connections",) if missed else ()
        return (*told, *self._decoder.problems)


def _flow_meter(watch: Watch, settings: FlowMeterSettings | None) -> FlowMeter:
    return FlowMeter(len(watch.vms), watch.spec.interval_ns, settings, watch.hash_seed, ports_of(watch.vms))


def ports_of(vms: tuple[Vm, ...]) -> tuple[tuple[int, ...], ...]:
    """The ports that each VM declares; none: every port may be meant."""
    return tuple(tuple(vm.ports) for vm in vms)
