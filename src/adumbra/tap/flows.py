"""Flow exports as datagrams: from a UDP socket, from captures of them, and as bare messages in a file. Reads no records."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.errors import SourceError
from adumbra.schema.records import NANOSECONDS, Bytes, Datagrams, Frames, Ints, Losses
from adumbra.schema.sources import CollectorSource, Export, ExportFileSource
from adumbra.tap import export_kernels
from adumbra.tap.bytestream import ByteStream
from adumbra.tap.datagrams import Clock, Received, Receiver, Room, open_udp
from adumbra.tap.replay import PcapReplay

WHOLE_ROOM = Room(datagrams=256, each_bytes=65_535)
"""Any datagram whole: a cut export would lose records. Memory that none fills is never touched."""

MAX_EXPORTERS = 65_536

_KERNEL_KINDS = {Export.NETFLOW: export_kernels.NETFLOW, Export.SFLOW: export_kernels.SFLOW}
_IPFIX = 10
_LONGEST = 65_535
_BATCH_MESSAGES = 4096


class ExporterNames:
    """Names of exporters, each made once: by address, for IPFIX by address and port, as its sessions are (RFC 7011, 2).

    NetFlow v9 tells exporters apart by address and the source ID within (RFC 3954, 5.1), sFlow by the agent within.
    Bounded: when MAX_EXPORTERS are known, all are forgotten and made anew.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], str] = {}

    def __len__(self) -> int:
        return len(self._known)

    def name(self, address: bytes, port: int, *, ipfix: bool) -> str:
        """The name of the sender at an address of 4 or 16 bytes, IPv4 also where it is mapped into IPv6."""
        key = (address, port if ipfix else 0)
        name = self._known.get(key)
        if name is None:
            if len(self._known) >= MAX_EXPORTERS:
                self._known.clear()
            name = self._known[key] = _exporter(*key)
        return name


def _exporter(address: bytes, port: int) -> str:
    if len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff"):
        address = address[12:]
    if len(address) == 4:
        text = socket.inet_ntop(socket.AF_INET, address)
        return f"{text}:{port}" if port else text
    text = socket.inet_ntop(socket.AF_INET6, address)
    return f"[{text}]:{port}" if port else text


class FlowCollector:
    """A UDP port that exporters send to, as a source. Batches share one buffer: use a batch before asking for the next.

    `now` is the wall clock in nanoseconds; `should_stop` is asked at each batch. An empty batch comes at least every quarter of
    a second. Raises SourceError on entering where the port is taken or may not be had.
    """

    def __init__(
        self, spec: CollectorSource, now: Clock, should_stop: Callable[[], bool] | None = None, room: Room = WHOLE_ROOM
    ) -> None:
        self.spec = spec
        self._room, self._now, self._should_stop = room, now, should_stop or (lambda: False)
        self._stopped = False
        self._receiver: Receiver | None = None
        self._names = ExporterNames()

    @property
    def name(self) -> str:
        return str(self.spec)

    def __enter__(self) -> Self:
        opened = open_udp(self.spec.address, self.spec.port, self.name)
        self._receiver = Receiver(opened, self._room, self._now, lambda: self._stopped or self._should_stop())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._receiver is not None:
            self._receiver.close()

    def stop(self) -> None:
        """Has the iteration end once what was received until then is given. May be called from a signal's handler."""
        self._stopped = True

    def __iter__(self) -> Iterator[Datagrams]:
        assert self._receiver is not None, "a source is read within `with`"
        for batch in self._receiver.batches():
            yield Datagrams(
                batch.data, batch.offset, batch.captured, batch.time_ns, self._exporters(batch), batch.complete_to_ns
            )

    def losses(self) -> Losses:
        return Losses(dropped=self._receiver.dropped() if self._receiver is not None else 0)

    def progress(self) -> float | None:
        return None

    def _exporters(self, batch: Received) -> tuple[str, ...]:
        ipfix = _are_ipfix(self.spec.export, batch.data, batch.offset, batch.captured)
        senders = (sender.tobytes() for sender in batch.sender)
        rows = zip(senders, ipfix, strict=True)
        return tuple(self._names.name(*_address_of(sender), ipfix=is_ipfix) for sender, is_ipfix in rows)


def _address_of(sockaddr: bytes) -> tuple[bytes, int]:
    """The address and port of a sockaddr_in or sockaddr_in6."""
    ipv4 = int.from_bytes(sockaddr[:2], sys.byteorder) == socket.AF_INET
    return sockaddr[4:8] if ipv4 else sockaddr[8:24], int.from_bytes(sockaddr[2:4], "big")


def _are_ipfix(export: Export, data: Bytes, offset: Ints, size: Ints) -> list[bool]:
    """Which payloads are IPFIX. None may begin in the last byte of `data`."""
    if export is not Export.NETFLOW:
        return [False] * len(offset)
    begins: NDArray[np.bool_] = (size >= 2) & (data[offset] == 0) & (data[offset + 1] == _IPFIX)
    told: list[bool] = begins.tolist()
    return told


class ExportReplay:
    """A file of exports as a source: a capture (pcap, pcapng) that holds them, or bare messages; plain, gzip or zstd.

    Of a capture, UDP payloads that begin as such exports do are given, by Ethernet with VLANs, SLL or RAW links; other frames
    are counted as `filtered`, and exports that were sent in fragments as `dropped`: they are not put together.
    Of bare messages, several may follow each other where they tell their lengths (IPFIX, as in RFC 5655, and NetFlow v5).
    They are given with the export time that they state, or (sFlow) the file's, and the file's name for the exporter.
    Raises SourceError on entering where the file can't be read or is neither.
    """

    def __init__(self, spec: ExportFileSource) -> None:
        self.spec, self.path = spec, spec.path
        self._source: PcapReplay | BareMessages | None = None
        self._names = ExporterNames()
        self._fragmented, self._filtered = 0, 0

    @property
    def name(self) -> str:
        return str(self.spec)

    def __enter__(self) -> Self:
        with ByteStream(self.path) as stream:
            start = bytes(next(iter(stream), b"")[:4])
        speaks = _speaks(start)
        if speaks is None:
            source: PcapReplay | BareMessages = PcapReplay(self.path)
        elif speaks is self.spec.export:
            source = BareMessages(self.path)
        else:
            raise SourceError(f"{self.path} begins as {speaks} does", f"write {speaks}:{self.path}")
        self._source = source.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._source is not None:
            self._source.__exit__(*exc)

    def __iter__(self) -> Iterator[Datagrams]:
        assert self._source is not None, "a source is read within `with`"
        if isinstance(self._source, BareMessages):
            yield from self._source
            return
        for frames in self._source:
            datagrams = self._of_frames(frames)
            if len(datagrams):
                yield datagrams

    def losses(self) -> Losses:
        if self._source is None:
            return Losses()
        below = self._source.losses()
        return replace(below, dropped=below.dropped + self._fragmented, filtered=self._filtered)

    def progress(self) -> float | None:
        return self._source.progress() if self._source is not None else None

    def _of_frames(self, frames: Frames) -> Datagrams:
        n = len(frames)
        verdict, version = np.empty(n, np.uint8), np.empty(n, np.uint8)
        at, size, port = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
        address = np.empty((n, 16), np.uint8)
        export_kernels.find_exports(
            frames.data, frames.offset, frames.captured, frames.link, _KERNEL_KINDS[self.spec.export],
            verdict, at, size, version, address, port,
        )  # fmt: skip
        chosen = np.flatnonzero(verdict == export_kernels.EXPORT)
        fragmented = int(np.count_nonzero(verdict == export_kernels.FRAGMENT))
        self._fragmented += fragmented
        self._filtered += n - len(chosen) - fragmented
        at, size = at[chosen], size[chosen]
        ipfix = _are_ipfix(self.spec.export, frames.data, at, size)
        senders = (bytes(row[:4] if v == 4 else row) for row, v in zip(address[chosen], version[chosen], strict=True))
        rows = zip(senders, port[chosen].tolist(), ipfix, strict=True)
        names = tuple(self._names.name(sender, number, ipfix=is_ipfix) for sender, number, is_ipfix in rows)
        return Datagrams(frames.data, at, size, frames.time_ns[chosen], names)


def _speaks(start: bytes) -> Export | None:
    """What a file of bare messages speaks, by its first four bytes; None where it is none."""
    if start == b"\0\0\0\5":
        return Export.SFLOW
    return Export.NETFLOW if start[:2] in {b"\0\5", b"\0\x09", b"\0\x0a"} else None


class BareMessages:
    """Export messages that follow each other in a file, without packets around them. At most 64 MiB and a message in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = ByteStream(path)
        self._time_ns = 0
        self._unread_bytes, self._ended = 0, ""

    def __enter__(self) -> Self:
        self._stream.__enter__()
        self._time_ns = self.path.stat().st_mtime_ns
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(*exc)

    def __iter__(self) -> Iterator[Datagrams]:
        pending = b""
        for piece in self._stream:
            pending += piece
            found, used = split_messages(pending, ended=False)
            yield from self._batches(pending, found)
            pending = pending[used:]
            if len(pending) > _LONGEST:
                break
        found, used = split_messages(pending, ended=True)
        yield from self._batches(pending, found)
        if used < len(pending):
            self._ended = "what follows is no whole message"
            self._unread_bytes = len(pending) - used + max(0, self._stream.size_bytes - self._stream.read_bytes)

    def losses(self) -> Losses:
        return Losses(unread_bytes=self._unread_bytes, ended=self._ended or self._stream.ended)

    def progress(self) -> float | None:
        size = self._stream.size_bytes
        return min(1.0, self._stream.read_bytes / size) if size else None

    def _batches(self, content: bytes, found: list[tuple[int, int]]) -> Iterator[Datagrams]:
        data = np.frombuffer(content, np.uint8).copy()  # a column that may be written to, as those of other sources are
        for first in range(0, len(found), _BATCH_MESSAGES):
            some = found[first : first + _BATCH_MESSAGES]
            offset, size = np.array(some, np.int64).T.copy()
            times = [_export_time_ns(content[at : at + 16]) or self._time_ns for at, _ in some]
            yield Datagrams(data, offset, size, np.array(times, np.int64), (self.path.name,) * len(some))


def split_messages(content: bytes, *, ended: bool) -> tuple[list[tuple[int, int]], int]:
    """Where the messages in `content` lie, (offset, size), and the bytes that they take.

    A message without a length that fits, such as any of NetFlow v9, lasts until the end, known once the file has `ended`.
    """
    found: list[tuple[int, int]] = []
    at = 0
    while len(content) - at >= 4:
        version, told = int.from_bytes(content[at : at + 2], "big"), int.from_bytes(content[at + 2 : at + 4], "big")
        rest = len(content) - at
        size = told if version == _IPFIX else 24 + 48 * told if version == 5 and 1 <= told <= 30 else 0
        if not 16 <= size <= rest:  # there is more to come, or the length is not to be believed
            if not ended or rest > _LONGEST:
                break
            size = rest
        found.append((at, size))
        at += size
    return found, at


def _export_time_ns(header: bytes) -> int:
    """The export time that a message states, 0 where it states none."""
    version = int.from_bytes(header[:2], "big")
    if version == 0 or len(header) < 16:
        return 0
    seconds = int.from_bytes(header[4:8] if version == _IPFIX else header[8:12], "big")
    fraction_ns = int.from_bytes(header[12:16], "big") if version == 5 else 0
    return seconds * NANOSECONDS + min(fraction_ns, NANOSECONDS - 1)
