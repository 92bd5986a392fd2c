"""Reads a flow log's file, plain, gzip or zstd, into batches of whole lines, in bounded memory. Decodes none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from adumbra.schema.errors import SourceError
from adumbra.schema.records import LogLines, Losses
from adumbra.tap.bytestream import ByteStream

MAX_LINE_BYTES = 1 << 28
"""Longer lines are passed over and counted: a document in JSON may stand in one line."""
BATCH_LINES = 4096
_BATCH_BYTES = 1 << 22
_STARTS = {
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\xd4\xc3\xb2\xa1": "a capture",
    b"\xa1\xb2\xc3\xd4": "a capture",
    b"\x0a\x0d\x0d\x0a": "a capture",
    b"PK\x03\x04": "a zip archive",
}


class FlowLogFile:
    """A flow log's file as a source of lines.

    Raises SourceError on entering where the file can't be read, is empty, or is of a kind that holds no lines. Of a
    compressed file that is cut off, the line that it is cut in is counted as unread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = ByteStream(path)
        self._pieces: Iterator[bytes | memoryview] = iter(())
        self._first = b""
        self._dropped = 0
        self._unread_bytes = 0

    @property
    def name(self) -> str:
        return f"flowlog:{self.path}"

    def __enter__(self) -> Self:
        self._stream.__enter__()
        try:
            self._pieces = iter(self._stream)
            self._first = bytes(next(self._pieces, b""))
            if not self._first:
                why = self._stream.ended or "the file is empty"
                raise SourceError(f"{self.path} holds no flows: {why}", "give a flow log in text or JSON")
            for start, kind in _STARTS.items():
                if self._first.startswith(start):
                    raise SourceError(
                        f"{self.path} is {kind}, not a flow log in text", "give it as text or JSON, or use pcap:FILE"
                    )
        except BaseException:
            self._stream.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(*exc)

    def __iter__(self) -> Iterator[LogLines]:
        lines: list[bytes] = []
        size, number = 0, 1
        for line in self._lines():
            lines.append(line)
            size += len(line)
            if len(lines) == BATCH_LINES or size >= _BATCH_BYTES:
                yield LogLines(tuple(lines), number)
                number += len(lines)
                lines, size = [], 0
        if lines:
            yield LogLines(tuple(lines), number)

    def losses(self) -> Losses:
        told = f"; {self._dropped} lines longer than {MAX_LINE_BYTES >> 20} MiB were passed over" if self._dropped else ""
        ended = (self._stream.ended + told).removeprefix("; ")
        return Losses(dropped=self._dropped, unread_bytes=self._unread_bytes, ended=ended)

    def progress(self) -> float | None:
        size = self._stream.size_bytes
        return min(1.0, self._stream.read_bytes / size) if size else None

    def _lines(self) -> Iterator[bytes]:
        """Lines without their ends. One that is too long is given empty, so that those behind it keep their numbers."""
        held: list[bytes] = []
        size = 0
        piece: bytes | memoryview | None = self._first
        self._first = b""
        while piece is not None:
            head, *rest = bytes(piece).split(b"\n")
            for part in rest:
                yield self._whole(held, head, size + len(head))
                held, size, head = [], 0, part
            size += len(head)
            if size <= MAX_LINE_BYTES:
                held.append(head)
            else:
                held = []
            piece = next(self._pieces, None)
        if size and self._stream.ended:
            self._unread_bytes += size
        elif size:
            yield self._whole(held, b"", size)

    def _whole(self, held: list[bytes], last: bytes, size: int) -> bytes:
        if size > MAX_LINE_BYTES:
            self._dropped += 1
            self._unread_bytes += size
            return b""
        line = b"".join((*held, last)) if held else last
        return line.removesuffix(b"\r")
