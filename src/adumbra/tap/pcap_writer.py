"""Writes a capture to a file, plain or zstd by its name's ending, or to a stream. A file is there whole or not at all.

Takes bytes as they are to stand there; knows nothing of packets.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import zstandard

from adumbra.schema.errors import InputError

_LEVEL = 3


class CaptureWriter:
    """Opened by `with`. A regular file is written beside its place under another name, and takes it at the end; where
    something fails, it goes. `written`: bytes taken, before compression.

    Raises InputError where the place can't be written to.
    """

    def __init__(self, target: Path | IO[bytes]) -> None:
        self._target = target
        self._stack = ExitStack()
        self._part: Path | None = None
        self._sink: Any = None
        self.written = 0

    def __enter__(self) -> Self:
        if not isinstance(self._target, Path):
            self._sink = self._target
            return self
        place = self._target
        special = place.exists() and not place.is_file()
        try:
            if place.is_dir():
                raise InputError(f"{place} is a folder", "give the name of a file, such as traffic.pcap")
            self._part = None if special else place.with_name(f".{place.name}.{os.getpid()}.part")
            file = self._stack.enter_context((self._part or place).open("wb", buffering=0))
        except OSError as error:
            raise InputError(f"{place} can't be written: {error.strerror}", "give a place where you may write") from None
        packed = place.suffix == ".zst"
        self._sink = self._stack.enter_context(zstandard.ZstdCompressor(_LEVEL).stream_writer(file)) if packed else file
        return self

    def write(self, block: bytes | memoryview) -> None:
        """Takes a block, whole. Raises OSError where it can't be written."""
        view = memoryview(block)
        self.written += len(view)
        while view:
            view = view[self._sink.write(view) :]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
            if kind is None and self._part is not None and isinstance(self._target, Path):
                self._part.replace(self._target)
        finally:
            if self._part is not None:
                self._part.unlink(missing_ok=True)
