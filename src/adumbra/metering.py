"""The front of a shadow: a source's raw bytes in, closed intervals out, in this process. Emulates and stores nothing.

For what a network's packets go through from top to bottom read PacketMetering._add, then shadow.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
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
from adumbra.schema.records import Accounts, Datagrams, FlowRecords, Frames, Intervals, LogLines, Losses
from adumbra.schema.sources import Layer
from adumbra.schema.spec import NetworkSpec, Vm
from adumbra.tap.flows import FlowCollector
from adumbra.tap.live import LiveTap
from adumbra.tap.protocol import Batch, Source

_MOST_QUEUED, _QUEUED_S = 1024, 0.01
"""How many batches of exports may wait for one that meters them too, and how long the others then wait before they look."""


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
            yield self.take(frames)
        yield self.finish()

    def joins(self) -> None:
        """It begins while its source goes on: what that lost before isn't missed here."""
        self._dropped = self.source.losses().dropped

    def take(self, frames: Frames) -> tuple[Tally, ...]:
        """What was counted in the intervals that a batch of the source closes."""
        closed = tuple(self._add(frames))
        self._note_drops(self.source.losses())
        return closed

    def finish(self) -> tuple[Tally, ...]:
        """What was counted in all that is open; nothing follows."""
        self._note_drops(self.source.losses())  # a capture may tell of drops behind its last packet
        return tuple(self.meter.finish())

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


class ExportFeed:
    """What flow exporters tell, NetFlow, IPFIX or sFlow, decoded once for all that meter it: each has all from when it joined.

    Threads may share it: whoever wants the next reads on, for the others too.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._decoder = FlowDecoder()
        self._turn = threading.Lock()
        self._batches: Iterator[Batch] | None = None
        self._queues: dict[int, deque[FlowRecords]] = {}

    def join(self, reader: int) -> None:
        """From now on there is that reader."""
        with self._turn:
            self._queues[reader] = deque()

    def leave(self, reader: int) -> None:
        """It reads no more."""
        with self._turn:
            self._queues.pop(reader, None)

    def next(self, reader: int, *, stopping: bool) -> FlowRecords | None:
        """The next records for that reader; None at the end of the source, or once it is stopping while others go on. The last
        one that stops has the source stopped, and is given all that had come until then.
        """
        while True:
            with self._turn:
                if queue := self._queues[reader]:
                    return queue.popleft()
                if stopping:
                    if len(self._queues) > 1:
                        return None
                    self._stop()
                if all(len(each) < _MOST_QUEUED for each in self._queues.values()):
                    return self._read(reader)
            time.sleep(_QUEUED_S)  # another is behind; the socket keeps what comes, and counts what it can't

    @property
    def is_read(self) -> bool:
        """Whether any of it was read: whoever joins now has missed what was before."""
        return self._batches is not None

    def accounts(self) -> dict[str, int]:
        """Where every datagram, set and record went."""
        return dict(self._decoder.accounts())

    def _read(self, reader: int) -> FlowRecords | None:
        self._batches = self._batches or iter(self.source)
        batch = next(self._batches, None)
        if batch is None:
            return None
        assert isinstance(batch, Datagrams), "a source of flow exports gives datagrams only"
        records = self._decoder.decode(batch)
        for other, queue in self._queues.items():
            if other != reader:  # each notes in them which VMs they are of
                queue.append(replace(records, src_vm=records.src_vm.copy(), dst_vm=records.dst_vm.copy()))
        return records

    def _stop(self) -> None:
        if isinstance(self.source, FlowCollector):
            self.source.stop()


class ExportMetering:
    """Meters what flow exporters tell."""

    def __init__(
        self, watch: Watch, feed: ExportFeed, settings: FlowMeterSettings | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._feed, self._should_stop = feed, should_stop
        self.meter = _flow_meter(watch, settings)
        self._attribution = Attribution(watch.spec, watch.vms)
        self._missed = self._missed_so_far() if feed.is_read else 0
        feed.join(id(self))

    @property
    def name(self) -> str:
        return self._feed.source.name

    def __iter__(self) -> Iterator[Intervals]:
        try:
            while (records := self._feed.next(id(self), stopping=self._should_stop())) is not None:
                yield from self.meter.add(self._attribution.assign_flows(records))
                self._note_missed()
        finally:
            self._feed.leave(id(self))
        self._note_missed()
        yield from self.meter.finish()

    def beside(self, watch: Watch, should_stop: Callable[[], bool]) -> ExportMetering:
        """The same exporters by another watch, from now on: as long as both are iterated, both are given all."""
        return ExportMetering(watch, self._feed, should_stop=should_stop)

    def accounts(self) -> Accounts:
        told = {name: count for name, count in self._feed.accounts().items() if count}
        return replace(self.meter.accounts(self._feed.source.losses()), exports=told)

    def progress(self) -> float | None:
        return self._feed.source.progress()

    def notes(self) -> tuple[str, ...]:
        told = self._feed.accounts()
        if told["sets_waiting"]:
            return (f"{told['sets_waiting']:,} sets of records still wait for their template, which the exporter sends seldom",)
        return ()

    def _note_missed(self) -> None:
        """Exports that were lost on the way are at least a packet each. Gaps in their numbers also show what we dropped."""
        missed = self._missed_so_far()
        self.meter.miss(missed - self._missed)
        self._missed = missed

    def _missed_so_far(self) -> int:
        told = self._feed.accounts()
        return max(told["datagrams_lost"] + told["records_lost"], self._feed.source.losses().dropped)


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
