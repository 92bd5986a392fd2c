"""Replays capture files: pcap and pcapng, plain, gzip or zstd, in bounded memory. Finds frames; decodes none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np

from adumbra.schema.errors import SourceError
from adumbra.schema.records import Bytes, Frames, Ints, Losses
from adumbra.tap import kernels
from adumbra.tap.bytestream import ByteStream

Order = Literal["big", "little"]

BATCH_FRAMES = 8_192
_BUFFER_BYTES = 4 << 20
_MAX_INTERFACES = 65_536

_PCAP_MAGICS = {  # magic as a big-endian file has it: (bytes of a record's header, nanoseconds of the fraction's unit)
    0xA1B2C3D4: (16, 1000),
    0xA1B23C4D: (16, 1),
    0xA1B2CD34: (24, 1000),
}
_SHB_MAGIC = 0x0A0D0D0A
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_IF_TSRESOL, _IF_TSOFFSET, _ISB_IFDROP = 9, 14, 5


class PcapReplay:
    """A capture file as a source. Batches share one buffer: use a batch before asking for the next.

    Raises SourceError on entering where the file can't be read, is empty, or is no capture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = ByteStream(path)
        self._buffer = _Buffer(self._stream)
        self._ended = ""
        self._unread_bytes = 0
        self._dropped = 0

    @property
    def name(self) -> str:
        return f"pcap:{self.path}"

    def __enter__(self) -> Self:
        self._stream.__enter__()
        try:
            self._buffer.fill()
            if self._buffer.size == 0:
                why = self._stream.ended or "the file is empty"
                raise SourceError(f"{self.path} holds no packets: {why}", "give a pcap or pcapng capture")
            if self._buffer.size < 24 or (self._pcap_format() is None and self._u32(0, big=True) != _SHB_MAGIC):
                raise SourceError(f"{self.path} is no capture: it is neither pcap nor pcapng", "give a capture file")
        except BaseException:
            self._stream.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(*exc)

    def __iter__(self) -> Iterator[Frames]:
        yield from self._pcapng() if self._pcap_format() is None else self._pcap()

    def losses(self) -> Losses:
        ended = self._ended or self._stream.ended
        return Losses(dropped=self._dropped, unread_bytes=self._unread_bytes, ended=ended)

    def progress(self) -> float | None:
        return self._stream.read_bytes / self._stream.size_bytes if self._stream.size_bytes else None

    def _u32(self, at: int, *, big: bool) -> int:
        return int.from_bytes(self._buffer.data[at : at + 4].tobytes(), "big" if big else "little")

    def _pcap_format(self) -> tuple[bool, int, int] | None:
        """Whether the file is big-endian, its records' header size, and its time unit; None where it is no pcap."""
        for big in (True, False):
            if (known := _PCAP_MAGICS.get(self._u32(0, big=big))) is not None:
                return big, *known
        return None

    def _pcap(self) -> Iterator[Frames]:
        known = self._pcap_format()
        assert known is not None
        big, header, scale = known
        version = int.from_bytes(self._buffer.data[4:6].tobytes(), "big" if big else "little")
        minor = int.from_bytes(self._buffer.data[6:8].tobytes(), "big" if big else "little")
        if version != 2:
            raise SourceError(f"{self.path} is a pcap of version {version}.{minor}", "convert it to version 2.4")
        link_type = self._u32(20, big=big) & 0xFFFF
        columns = [np.empty(BATCH_FRAMES, np.int64) for _ in range(4)]
        link = np.full(BATCH_FRAMES, link_type, np.int64)
        self._buffer.start = 24
        while True:
            buffer = self._buffer
            found, buffer.start, state = kernels.walk_pcap(
                buffer.data, buffer.start, buffer.end, big, header, scale, minor < 4, *columns
            )
            if found:
                offset, captured, length, time_ns = (column[:found] for column in columns)
                yield Frames(buffer.data, offset, captured, length, time_ns, link[:found])
            if not self._go_on(state):
                return

    def _pcapng(self) -> Iterator[Frames]:
        columns = [np.empty(BATCH_FRAMES, np.int64) for _ in range(5)]
        interfaces, big, last_ns = np.empty((0, 4), np.int64), False, 0
        while True:
            buffer = self._buffer
            found, buffer.start, state, last_ns, dropped = kernels.walk_pcapng(
                buffer.data, buffer.start, buffer.end, big, interfaces, last_ns, *columns
            )
            self._dropped += dropped
            if found:
                offset, captured, length, time_ns, link = (column[:found] for column in columns)
                yield Frames(buffer.data, offset, captured, length, time_ns, link)
            if state == kernels.BLOCK:
                block = self._block(big)
                if block is None:
                    self._end("a block of impossible length")
                    return
                kind, big, body = block
                interfaces = self._learn(kind, body, interfaces, big=big)
            elif not self._go_on(state):
                return

    def _go_on(self, state: int) -> bool:
        """Prepares the next look at the bytes; False at the end, whose reason is kept."""
        if state == kernels.CORRUPT:
            self._end("a record of impossible length")
            return False
        if state == kernels.MORE and not self._buffer.fill():
            if self._buffer.size and not self._stream.ended:
                self._ended = "the capture is cut off in the middle of a packet"
            self._unread_bytes = self._buffer.size
            return False
        return True

    def _end(self, why: str) -> None:
        self._unread_bytes = self._buffer.size + max(0, self._stream.size_bytes - self._stream.read_bytes)
        self._ended = f"{why}, so that nothing after it can be read"

    def _block(self, big: bool) -> tuple[int, bool, bytes] | None:
        """The block at the buffer's start, taken out of it: type, byte order from there on, body; None if impossible."""
        kind, at = self._u32(self._buffer.start, big=big), self._buffer.start
        if kind == _SHB_MAGIC:
            while self._buffer.size < 12 and self._buffer.fill():
                at = self._buffer.start
            order = self._u32(at + 8, big=True)
            if order not in {_BYTE_ORDER_MAGIC, 0x4D3C2B1A}:
                return None
            big = order == _BYTE_ORDER_MAGIC
        total = self._u32(at + 4, big=big)
        if total < 12 or total % 4 or total > kernels.MAX_RECORD_BYTES:
            return None
        while self._buffer.size < total:
            if not self._buffer.fill():
                return None
        at = self._buffer.start
        body = self._buffer.data[at + 8 : at + total - 4].tobytes()
        self._buffer.start += total
        return kind, big, body

    def _learn(self, kind: int, body: bytes, interfaces: Ints, *, big: bool) -> Ints:
        """The interfaces known after a block that is no packet: a section begins with none."""
        order: Order = "big" if big else "little"
        if kind == _SHB_MAGIC:
            return np.empty((0, 4), np.int64)
        if kind == kernels.ISB and len(body) >= 12:
            drops = _options(body[12:], big=big).get(_ISB_IFDROP, b"")
            self._dropped += int.from_bytes(drops, order) if len(drops) == 8 and int.from_bytes(drops, order) < 1 << 62 else 0
        if kind == kernels.IDB and len(body) >= 8 and len(interfaces) < _MAX_INTERFACES:
            options = _options(body[8:], big=big)
            resolution = (options.get(_IF_TSRESOL) or b"\x06")[0]
            shift = int.from_bytes(options.get(_IF_TSOFFSET, b"")[:8], order, signed=True)
            row = [
                int.from_bytes(body[:2], order),
                resolution,
                max(-(2**40), min(shift, 2**40)),
                int.from_bytes(body[4:8], order),
            ]
            return np.vstack([interfaces, np.array([row], np.int64)])
        return interfaces


def _options(body: bytes, *, big: bool) -> dict[int, bytes]:
    order: Order = "big" if big else "little"
    found, at = {}, 0
    while len(body) - at >= 4:
        code, size = int.from_bytes(body[at : at + 2], order), int.from_bytes(body[at + 2 : at + 4], order)
        if code == 0:
            break
        found[code] = body[at + 4 : at + 4 + size]
        at += 4 + (size + 3) // 4 * 4
    return found


class _Buffer:
    """A window on a byte stream: data[start:end] is unread. Grows only for a record larger than itself."""

    def __init__(self, stream: ByteStream) -> None:
        self.data: Bytes = np.empty(_BUFFER_BYTES, np.uint8)
        self.start = 0
        self.end = 0
        self._stream = stream
        self._pieces: Iterator[bytes] | None = None

    @property
    def size(self) -> int:
        return self.end - self.start

    def fill(self) -> bool:
        """Moves what is unread to the front and reads on until the buffer is about full; False at the stream's end."""
        if self._pieces is None:
            self._pieces = iter(self._stream)
        self.data[: self.size] = self.data[self.start : self.end].copy()
        self.start, self.end = 0, self.size
        grown = False
        while self.end < _BUFFER_BYTES // 2 or not grown:
            piece = next(self._pieces, None)
            if piece is None:
                break
            grown = True
            if self.end + len(piece) > len(self.data):
                larger = np.empty(max(2 * len(self.data), self.end + len(piece)), np.uint8)
                larger[: self.end] = self.data[: self.end]
                self.data = larger
            self.data[self.end : self.end + len(piece)] = np.frombuffer(piece, np.uint8)
            self.end += len(piece)
        return grown


def fingerprint(path: Path) -> str:
    """A name for a file's content: SHA-256 of its size, its first and its last MiB. Raises SourceError if unreadable."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.sha256(str(size).encode())
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read(1 << 20))
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}", "check the path and its permissions") from None
    return digest.hexdigest()
