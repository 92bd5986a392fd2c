"""From the source that a user names to what meters it, in this process or in workers. Decides how; meters nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from adumbra.decode.share import Share
from adumbra.meter.flow_records import FlowMeterSettings
from adumbra.metering import ExportFeed, ExportMetering, LogMetering, Metering, PacketMetering, Watch
from adumbra.schema.addresses import Prefix
from adumbra.schema.errors import InputError
from adumbra.schema.sources import (
    CaptureSource,
    CollectorSource,
    ExportFileSource,
    FlowLogSource,
    LiveSource,
    RawTunnelSource,
    SourceSpec,
    UdpTunnelSource,
)
from adumbra.schema.spec import NetworkSpec
from adumbra.tap.bpf import Program
from adumbra.tap.flow_log import FlowLogFile
from adumbra.tap.flows import ExportReplay, FlowCollector
from adumbra.tap.live import LiveTap
from adumbra.tap.packet_socket import PacketSocket, open_packet_sockets, refitted
from adumbra.tap.protocol import Source
from adumbra.tap.replay import PcapReplay
from adumbra.tap.tunnel import TunnelTap, open_endpoint
from adumbra.workers import Gathered, Hands, Job, Running, Workers

MAX_WORKERS = 64
FILES = (CaptureSource, ExportFileSource, FlowLogSource)
"""The sources that end by themselves."""


@dataclass(frozen=True, slots=True)
class CaptureTap:
    """A capture file, read by each worker that shares it."""

    source: CaptureSource

    @property
    def name(self) -> str:
        return str(self.source)

    def open(self, running: Running) -> Source:
        del running
        return PcapReplay(self.source.path)


@dataclass(frozen=True, slots=True)
class EndpointTap:
    """A tunnel's endpoint, by a socket that was opened before."""

    source: UdpTunnelSource | RawTunnelSource
    socket: socket.socket

    @property
    def name(self) -> str:
        return str(self.source)

    def open(self, running: Running) -> Source:
        return TunnelTap(self.source, running.now, running.should_stop, opened=self.socket)


@dataclass(frozen=True, slots=True)
class InterfaceTap:
    """A live interface, by a socket that was opened before."""

    source: LiveSource
    socket: PacketSocket

    @property
    def name(self) -> str:
        return str(self.source)

    def open(self, running: Running) -> Source:
        return LiveTap(self.socket, running.now, running.should_stop)


@contextmanager
def metered(
    watch: Watch, source: SourceSpec, running: Running, workers: int = 1, hands: Hands | None = None
) -> Iterator[Metering]:
    """What meters a source, opened. hands: processes that were begun before, for a source that `takes_hands`, which has them
    ended with it. Raises InputError for workers that it can't have, SourceError where it can't be read."""
    if not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"{workers} workers can't share a source", f"give --workers 1 to {MAX_WORKERS}")
    if workers > 1 and not isinstance(source, CaptureSource | LiveSource):
        raise InputError(f"{source} can't be shared by several workers", "leave --workers out; pcap: and live: can be shared")
    with ExitStack() as stack:
        match source:
            case CaptureSource() if workers == 1:
                yield PacketMetering(watch, stack.enter_context(PcapReplay(source.path)))
            case CaptureSource():
                stack.enter_context(PcapReplay(source.path)).losses()  # what can't be read is said before any work begins
                shares = [Share(worker, workers, prefixes_of(watch.spec)) for worker in range(workers)]
                yield stack.enter_context(Workers([Job(CaptureTap(source), watch, share) for share in shares], running))
            case LiveSource():
                sockets = open_packet_sockets(source.interface, prefixes_of(watch.spec), workers=workers)
                for one in sockets:
                    stack.callback(one.close)
                jobs = [Job(InterfaceTap(source, one), watch) for one in sockets]
                yield stack.enter_context(Workers(jobs, running, hands, partial(_filters, sockets)))
            case UdpTunnelSource() | RawTunnelSource():
                opened = stack.enter_context(open_endpoint(source))
                yield stack.enter_context(Workers([Job(EndpointTap(source, opened), watch)], running, hands))
            case CollectorSource():
                collector = stack.enter_context(FlowCollector(source, running.now))
                running.ready()
                yield ExportMetering(watch, ExportFeed(collector), should_stop=running.should_stop)
            case ExportFileSource():
                files = FlowMeterSettings(lateness_s=None)
                yield ExportMetering(watch, ExportFeed(stack.enter_context(ExportReplay(source))), files)
            case FlowLogSource():
                yield LogMetering(watch, stack.enter_context(FlowLogFile(source.path)))


def takes_hands(source: SourceSpec) -> bool:
    """Whether a source is metered by processes that may have been begun before it is opened."""
    return isinstance(source, LiveSource | UdpTunnelSource | RawTunnelSource)


def metered_beside(metering: Metering, watch: Watch, running: Running) -> Metering:
    """The same source, which goes on, by another watch from now on. Raises SourceError where it can't be had for that."""
    if isinstance(metering, ExportMetering):
        other = metering.beside(watch, running.should_stop)
        running.ready()
        return other
    assert isinstance(metering, Workers | Gathered), f"{metering.name} ends by itself"
    return metering.beside(watch, running)


def _filters(sockets: Sequence[PacketSocket], watches: Sequence[Watch]) -> list[Program | None]:
    """What the sockets of an interface are to take for all of these watches."""
    return [*refitted(sockets, tuple(dict.fromkeys(each for watch in watches for each in prefixes_of(watch.spec))))]


def prefixes_of(spec: NetworkSpec) -> tuple[Prefix, ...]:
    """All that a network's traffic is to or from: its CIDRs, and its donors' old addresses."""
    return (*spec.cidrs, *(donor.from_ for donor in spec.donors))
