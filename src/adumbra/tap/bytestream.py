"""A file's bytes, plain, gzip or zstd, in bounded pieces, and whether they end early. Knows nothing of captures."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from adumbra.schema.errors import SourceError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)

_PLAIN_PIECE_BYTES = 1 << 18
# Compressed input is fed in small pieces: a hostile frame expands a byte to at most about 32 KiB (RLE blocks), so that one
# piece never becomes more than 64 MiB of memory.
_PACKED_PIECE_BYTES = 2048
_MAX_WINDOW_BYTES = 1 << 27
_INFLATE_STEP_BYTES = 1 << 20


class ByteStream:
    """Reads a file piece by piece. `ended` says in words why it ended early, "" for a clean end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = ""
        self.size_bytes = 0
        self.read_bytes = 0
        self._file: io.BufferedReader | None = None
        self._pieces: Iterator[bytes] | None = None
        self._left = memoryview(b"")  # of the last piece, what had no room

    def __enter__(self) -> ByteStream:
        try:
            if not self.path.is_file():
                kind = "a folder" if self.path.is_dir() else "not there" if not self.path.exists() else "not a regular file"
                raise SourceError(f"{self.path} is {kind}", "give the path of a capture file")
            self.size_bytes = self.path.stat().st_size
            self._file = self.path.open("rb")
            start = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            self.__exit__()
            raise SourceError(f"{self.path} can't be read: {error.strerror}", "check the path and its permissions") from None
        self._pieces = self._unpack(start)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[memoryview]:
        """Pieces, each valid until the next is asked for, in memory that is used again: fresh memory costs more."""
        room = memoryview(bytearray(_PLAIN_PIECE_BYTES))
        while count := self.read_into(room):
            yield room[:count]

    def read_into(self, room: memoryview) -> int:
        """Fills some of `room` (at least a byte long) with what comes next; gives how many bytes, 0 at the end."""
        if self._pieces is None:
            return self._read_plain(room)
        while not len(self._left):
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(room), len(self._left))
        room[:count], self._left = self._left[:count], self._left[count:]
        return count

    def _read_plain(self, room: memoryview) -> int:
        assert self._file is not None
        try:
            count = self._file.readinto(room)
        except OSError as error:
            self.ended = f"the disk could not be read further ({error.strerror})"
            return 0
        self.read_bytes += count
        return count

    def _unpack(self, start: bytes) -> Iterator[bytes] | None:
        """What unpacks the file, by its first bytes; None for one that is plain."""
        if start.startswith(GZIP_MAGIC):
            return self._inflate()
        if start == ZSTD_MAGIC or int.from_bytes(start, "little") in ZSTD_SKIPPABLE:
            return self._unzstd()
        return None

    def _raw(self, piece_bytes: int) -> Iterator[bytes]:
        assert self._file is not None
        while True:
            try:
                piece = self._file.read(piece_bytes)
            except OSError as error:
                self.ended = f"the disk could not be read further ({error.strerror})"
                return
            if not piece:
                return
            self.read_bytes += len(piece)
            yield piece

    def _inflate(self) -> Iterator[bytes]:
        member, begun, between = zlib.decompressobj(wbits=31), False, False
        for packed in self._raw(1 << 16):
            while packed:
                if between and not (packed := packed.lstrip(b"\0")):
                    break  # zero padding between members or after the last (gzip(1))
                try:
                    piece = member.decompress(packed, _INFLATE_STEP_BYTES)
                except zlib.error:
                    self.ended = "the gzip data is damaged"
                    return
                begun, between, packed = not member.eof, member.eof, member.unconsumed_tail
                if member.eof:  # another member may follow (RFC 1952)
                    packed, member = member.unused_data, zlib.decompressobj(wbits=31)
                if piece:
                    yield piece
        if begun:
            self.ended = "the gzip data is cut off"

    def _unzstd(self) -> Iterator[bytes]:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        frame, begun = unpacker.decompressobj(), False
        for packed in self._raw(_PACKED_PIECE_BYTES):
            while packed:
                try:
                    piece = frame.decompress(packed)
                except zstandard.ZstdError:
                    self.ended = "the zstd data is damaged, or needs a window above 128 MiB"
                    return
                begun, packed = not frame.eof, b""
                if frame.eof:
                    packed, frame = frame.unused_data, unpacker.decompressobj()
                if piece:
                    yield piece
        if begun:
            self.ended = "the zstd data is cut off"
