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

BATCH_FRAMES = 32_768
_BUFFER_BYTES = 1 << 22
_MAX_INTERFACES = 65_536
_MAX_DROPPED = 1 << 40  # more in one section is a broken counter

_PCAP_MAGICS = {  # magic as a big-endian file has it: (bytes of a record's header, nanoseconds of the fraction's unit)
    0xA1B2C3D4: (16, 1000),
    0xA1B23C4D: (16, 1),
    0xA1B2CD34: (24, 1000),
}
_SHB_MAGIC = 0x0A0D0D0A
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_FILE_HEADER_BYTES = 24
_IF_TSRESOL, _IF_TSOFFSET, _ISB_IFDROP, _ISB_OSDROP = 9, 14, 5, 7
_CUT = "the capture is cut off in the middle of a packet"
_IMPOSSIBLE = "a record of impossible length, so that nothing after it can be read"


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
        self._section = _Section(big=False)
        self._dropped_before = 0  # in the sections that have ended

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
            known = self._buffer.size >= 4 and (self._pcap_format() or self._u32(0, big=True) == _SHB_MAGIC)
            if not known:
                raise SourceError(f"{self.path} is no capture: it is neither pcap nor pcapng", "give a capture file")
            if self._buffer.size < _FILE_HEADER_BYTES:
                raise SourceError(f"{self.path} holds no packets: it is cut off in its header", "give a whole capture")
            self._check_version()
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
        return Losses(dropped=self._dropped_before + self._section.dropped, unread_bytes=self._unread_bytes, ended=ended)

    def progress(self) -> float | None:
        size = self._stream.size_bytes
        return min(1.0, self._stream.read_bytes / size) if size else None

    def _u32(self, at: int, *, big: bool) -> int:
        return int.from_bytes(self._buffer.data[at : at + 4].tobytes(), "big" if big else "little")

    def _pcap_format(self) -> tuple[bool, int, int] | None:
        """Whether the file is big-endian, its records' header size, and its time unit; None where it is no pcap."""
        for big in (True, False):
            if (known := _PCAP_MAGICS.get(self._u32(0, big=big))) is not None:
                return big, *known
        return None

    def _check_version(self) -> None:
        known = self._pcap_format()
        if known is not None and (version := self._version(big=known[0]))[0] != 2:
            raise SourceError(f"{self.path} is a pcap of version {version[0]}.{version[1]}", "convert it to version 2.4")

    def _version(self, *, big: bool) -> tuple[int, int]:
        major, minor = (self._buffer.data[at : at + 2].tobytes() for at in (4, 6))
        order: Order = "big" if big else "little"
        return int.from_bytes(major, order), int.from_bytes(minor, order)

    def _pcap(self) -> Iterator[Frames]:
        known = self._pcap_format()
        assert known is not None
        big, header, scale = known
        link_type, old = self._u32(20, big=big) & 0xFFFF, self._version(big=big) < (2, 4)
        columns = [np.empty(BATCH_FRAMES, np.int64) for _ in range(4)]
        link = np.full(BATCH_FRAMES, link_type, np.int64)
        self._buffer.start = _FILE_HEADER_BYTES
        while True:
            buffer = self._buffer
            found, buffer.start, state = kernels.walk_pcap(
                buffer.data, buffer.start, buffer.end, big, header, scale, old, *columns
            )
            if found:
                offset, captured, length, time_ns = (column[:found] for column in columns)
                yield Frames(buffer.data, offset, captured, length, time_ns, link[:found])
            if not self._go_on(state):
                return

    def _pcapng(self) -> Iterator[Frames]:
        columns = [np.empty(BATCH_FRAMES, np.int64) for _ in range(5)]
        last_ns = 0
        while True:
            buffer, section = self._buffer, self._section
            found, buffer.start, state, last_ns, dropped = kernels.walk_pcapng(
                buffer.data, buffer.start, buffer.end, section.big, section.interfaces, last_ns, *columns
            )
            section.dropped_between += dropped
            if found:
                offset, captured, length, time_ns, link = (column[:found] for column in columns)
                yield Frames(buffer.data, offset, captured, length, time_ns, link)
            if not (self._read_block() if state == kernels.BLOCK else self._go_on(state)):
                return

    def _go_on(self, state: int) -> bool:
        """Prepares the next look at the bytes; False at the end, whose reason is kept."""
        if state == kernels.CORRUPT:
            self._end()
            return False
        if state == kernels.MORE and not self._buffer.fill():
            self._cut_off()
            return False
        return True

    def _cut_off(self) -> None:
        if self._buffer.size and not self._stream.ended:
            self._ended = _CUT
        self._unread_bytes = self._buffer.size

    def _end(self) -> None:
        self._unread_bytes = self._buffer.size + max(0, self._stream.size_bytes - self._stream.read_bytes)
        self._ended = _IMPOSSIBLE

    def _read_block(self) -> bool:
        """Takes the block at the buffer's start, which is no packet, and learns from it; False where it can't be read."""
        at, big = self._buffer.start, self._section.big
        kind = self._u32(at, big=big)
        if kind == _SHB_MAGIC:
            order = self._u32(at + 8, big=True)
            big = order == _BYTE_ORDER_MAGIC
            if not big and order != int.from_bytes(_BYTE_ORDER_MAGIC.to_bytes(4, "little"), "big"):
                self._end()
                return False
        total = self._u32(at + 4, big=big)
        if total < 12 or total % 4 or total > kernels.MAX_BLOCK_BYTES:
            self._end()
            return False
        while self._buffer.size < total:
            if not self._buffer.fill():
                self._cut_off()
                return False
        at = self._buffer.start
        body = self._buffer.data[at + 8 : at + total - 4].tobytes()
        self._buffer.start += total
        if kind == _SHB_MAGIC:
            self._dropped_before += self._section.dropped
            self._section = _Section(big=big)
        elif kind == kernels.IDB:
            self._section.add_interface(body)
        else:
            self._section.note_statistics(body)
        return True


class _Section:
    """What a pcapng section has told: its byte order, its interfaces, and the frames that were dropped while it was made."""

    def __init__(self, *, big: bool) -> None:
        self.big = big
        self.dropped_between = 0  # as the packets' own blocks report it
        self._dropped_of: dict[int, int] = {}  # as the last statistics of each interface report it, since the beginning
        self._rows: Ints = np.zeros((8, 4), np.int64)
        self._known = 0

    @property
    def interfaces(self) -> Ints:
        """int64[m, 4]: link type, if_tsresol, if_tsoffset (s), snap length."""
        return self._rows[: self._known]

    @property
    def dropped(self) -> int:
        """Frames dropped. Packets and statistics tell of the same drops: the larger sum of the two is believed."""
        return max(self.dropped_between, sum(self._dropped_of.values()))

    def add_interface(self, body: bytes) -> None:
        if len(body) < 8 or self._known == _MAX_INTERFACES:
            return
        if self._known == len(self._rows):
            self._rows = np.vstack([self._rows, np.zeros_like(self._rows)])
        options = _options(body[8:], big=self.big)
        resolution = (options.get(_IF_TSRESOL) or b"\x06")[0]
        shift = int.from_bytes(options.get(_IF_TSOFFSET, b"")[:8], self._order, signed=True)
        link_type, snap = int.from_bytes(body[:2], self._order), int.from_bytes(body[4:8], self._order)
        self._rows[self._known] = link_type, resolution, max(-(2**40), min(shift, 2**40)), snap
        self._known += 1

    def note_statistics(self, body: bytes) -> None:
        face = int.from_bytes(body[:4], self._order)
        if len(body) < 12 or face >= self._known:
            return
        options = _options(body[12:], big=self.big)
        told = [options[code] for code in (_ISB_IFDROP, _ISB_OSDROP) if len(options.get(code, b"")) == 8]
        counts = [int.from_bytes(count, self._order) for count in told]
        if counts and sum(counts) < _MAX_DROPPED:
            self._dropped_of[face] = max(sum(counts), self._dropped_of.get(face, 0))

    @property
    def _order(self) -> Order:
        return "big" if self.big else "little"


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

    @property
    def size(self) -> int:
        return self.end - self.start

    def fill(self) -> bool:
        """Moves what is unread to the front and reads on until the buffer is about full; False at the stream's end."""
        self.data[: self.size] = self.data[self.start : self.end].copy()
        self.start, self.end = 0, self.size
        if self.end == len(self.data):
            larger = np.empty(2 * len(self.data), np.uint8)
            larger[: self.end] = self.data
            self.data = larger
        grown = False
        while not grown or self.end < len(self.data) // 2:
            count = self._stream.read_into(self.data.data[self.end :])
            if not count:
                break
            self.end += count
            grown = True
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
