"""From the source that a user names to what meters it, in this process or in workers. Decides how; meters nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from adumbra.decode.share import Share
from adumbra.meter.flow_records import FlowMeterSettings
from adumbra.metering import ExportMetering, LogMetering, Metering, PacketMetering, Watch
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
from adumbra.tap.flow_log import FlowLogFile
from adumbra.tap.flows import ExportReplay, FlowCollector
from adumbra.tap.live import LiveTap
from adumbra.tap.packet_socket import PacketSocket, open_packet_sockets
from adumbra.tap.protocol import Source
from adumbra.tap.replay import PcapReplay
from adumbra.tap.tunnel import TunnelTap
from adumbra.workers import Job, Running, Workers

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
    """A tunnel's endpoint, opened by its worker before it gives up its privileges."""

    source: UdpTunnelSource | RawTunnelSource

    @property
    def name(self) -> str:
        return str(self.source)

    def open(self, running: Running) -> Source:
        return TunnelTap(self.source, running.now, running.should_stop)


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
def metered(watch: Watch, source: SourceSpec, running: Running, workers: int = 1) -> Iterator[Metering]:
    """What meters a source, opened. Raises InputError for workers that it can't have, SourceError where it can't be read."""
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
                yield stack.enter_context(Workers([Job(InterfaceTap(source, one), watch) for one in sockets], running))
            case UdpTunnelSource() | RawTunnelSource():
                yield stack.enter_context(Workers([Job(EndpointTap(source), watch)], running))
            case CollectorSource():
                collector = stack.enter_context(FlowCollector(source, running.now, running.should_stop))
                running.ready()
                yield ExportMetering(watch, collector)
            case ExportFileSource():
                files = FlowMeterSettings(lateness_s=None)
                yield ExportMetering(watch, stack.enter_context(ExportReplay(source)), files)
            case FlowLogSource():
                yield LogMetering(watch, stack.enter_context(FlowLogFile(source.path)))


def prefixes_of(spec: NetworkSpec) -> tuple[Prefix, ...]:
    """All that a network's traffic is to or from: its CIDRs, and its donors' old addresses."""
    return (*spec.cidrs, *(donor.from_ for donor in spec.donors))
