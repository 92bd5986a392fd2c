"""CSV files of measured use: how one is packed and laid out, and which of its lines is wrong. Keeps no values."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from adumbra.schema.errors import InputError

MAX_LINE = 65_536  # characters
MAX_COLUMNS = 1_000
HOW = "write one row a VM and time, under a first line such as: vm,time,cpu_cores,memory_bytes"
_ANOTHER = "give a CSV or Parquet file of measured use"
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Layout:
    """A CSV file's columns as they are named, what stands between values, and how it is packed (none, gzip, zstd)."""

    path: Path
    names: tuple[str, ...]
    delimiter: str
    packing: str


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being read is told as InputError."""
    try:
        yield
    except (OSError, EOFError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path} can't be read ({told})", _ANOTHER) from None


def layout_of(path: Path) -> Layout:
    """What a file's first bytes and line tell. Raises InputError where that is no CSV, OSError where it can't be read."""
    with path.open("rb") as file:
        begins = file.read(4)
    packing = "gzip" if begins.startswith(_GZIP) else "zstd" if begins == _ZSTD else "none"
    with opened(path, packing) as text:
        first_line = next(_lines(text, path), None)
    if first_line is None:
        raise InputError(f"{path} is empty", HOW)
    delimiter = max(_DELIMITERS, key=first_line.count)
    with opened(path, packing) as text:
        first = next(_rows(text, path, delimiter), None)
    if first is None:
        raise InputError(f"{path} has nothing but empty lines", HOW)
    names = first[1]
    if len(names) > MAX_COLUMNS:
        raise InputError(f"{path}:1: {len(names):,} columns", f"give no more than {MAX_COLUMNS:,}")
    return Layout(path, tuple(names), delimiter, packing)


@contextmanager
def opened(path: Path, packing: str) -> Iterator[io.TextIOBase]:
    """A file's text. Raises InputError where it can't be unpacked, or is no text in UTF-8."""
    import zstandard

    with path.open("rb") as file:
        raw: BinaryIO = file
        if packing == "gzip":
            raw = cast("BinaryIO", gzip.GzipFile(fileobj=file))
        elif packing == "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file, read_across_frames=True)
            raw = cast("BinaryIO", reader)
        try:
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        except (zstandard.ZstdError, gzip.BadGzipFile) as error:
            raise InputError(f"{path} can't be decompressed ({error})", "compress it again, or give it plain") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not text in UTF-8", _ANOTHER) from None
        except (EOFError, zlib.error) as error:
            raise InputError(f"{path} can't be read ({error})", _ANOTHER) from None


def rows_of(layout: Layout) -> Iterator[tuple[int, Sequence[str]]]:
    """Each row below the first line, with the number of the line that it ends in; empty lines are none.

    Slow, and sure of its lines: for what a faster reader could not make sense of. Raises InputError with file and line.
    """
    with opened(layout.path, layout.packing) as text:
        rows = _rows(text, layout.path, layout.delimiter)
        next(rows, None)
        for line, row in rows:
            if len(row) != len(layout.names):
                raise InputError(
                    f"{layout.path}:{line}: {len(row)} values under {len(layout.names)} columns",
                    "give each row as many as the first line",
                )
            yield line, row


def _rows(text: io.TextIOBase, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(text, path), delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: this is not CSV ({error})", HOW) from None


def _lines(text: io.TextIOBase, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE or "\0" in line:
            what = f"a line longer than {MAX_LINE:,} characters" if len(line) > MAX_LINE else "a zero byte"
            raise InputError(f"{path}:{number}: {what}", _ANOTHER)
        yield line
