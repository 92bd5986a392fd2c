"""Records in the segment files of a spool: how they are written, and found again where some are damaged. Knows no folder.

A segment is a header and records behind each other. Each record says its number and carries two checksums, one of its payload
and one of its own header and of where that stands: so a length can be trusted before it is followed, and a copy of a record
within a payload is not taken for one.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

FORMAT = 1
_MAGIC, _MARK = b"ADSP", b"\xadREC"
_SEGMENT = struct.Struct("<4sIQI")  # magic, format, number of the first record, CRC-32 of these
_RECORD = struct.Struct("<4sIQII")  # mark, length, number, CRC-32 of the payload, CRC-32 of these and of where they stand
_PLACE = struct.Struct("<QQ")
_AT_ONCE = 1 << 20

SEGMENT_BYTES, RECORD_BYTES = _SEGMENT.size, _RECORD.size
"""What a segment, and each record in it, take beside the payloads."""
MAX_PAYLOAD_BYTES = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record: its number, its bytes, and where in its segment it begins and ends."""

    number: int
    payload: bytes
    begin: int
    end: int


def segment_header(first: int) -> bytes:
    """What a segment begins with whose first record has the number `first`."""
    told = _SEGMENT.pack(_MAGIC, FORMAT, first, 0)[:-4]
    return told + zlib.crc32(told).to_bytes(4, "little")


def is_of_newer_format(raw: bytes) -> bool:
    """Whether a segment's first bytes say, undamaged, that a newer Adumbra wrote it. Damaged ones say nothing."""
    if len(raw) < SEGMENT_BYTES:
        return False
    magic, version, _, checksum = _SEGMENT.unpack(raw[:SEGMENT_BYTES])
    return bool(magic == _MAGIC and version > FORMAT and checksum == zlib.crc32(raw[: SEGMENT_BYTES - 4]))


def record(payload: bytes, number: int, first: int, begin: int) -> bytes:
    """A record as it stands at `begin` in the segment whose first record is number `first`."""
    told = _RECORD.pack(_MARK, len(payload), number, zlib.crc32(payload), 0)[:-4]
    return told + _checksum(told, first, begin).to_bytes(4, "little") + payload


def find(file: int, first: int, begin: int, end: int) -> Found | None:
    """The first whole record at or after `begin` in a segment, of which so many bytes are looked at; None: there is none."""
    at = begin
    while at + RECORD_BYTES <= end:
        told = _read(file, at, RECORD_BYTES)
        mark, length, number, payload_checksum, checksum = _RECORD.unpack(told)
        if mark != _MARK or checksum != _checksum(told[:-4], first, at):
            at = _next_mark(file, at + 1, end)
            continue
        stop = at + RECORD_BYTES + length
        if stop > end:
            return None
        payload = _read(file, at + RECORD_BYTES, length)
        if zlib.crc32(payload) == payload_checksum:
            return Found(number, payload, at, stop)
        at = stop
    return None


def _checksum(told: bytes, first: int, begin: int) -> int:
    return zlib.crc32(told, zlib.crc32(_PLACE.pack(first, begin)))


def _next_mark(file: int, begin: int, end: int) -> int:
    """Where the next record may begin; `end` where nothing looks like one."""
    for at in range(begin, end, _AT_ONCE):
        place = _read(file, at, min(_AT_ONCE + len(_MARK) - 1, end - at)).find(_MARK)
        if place >= 0:
            return at + place
    return end


def _read(file: int, begin: int, length: int) -> bytes:
    """So many bytes; zeros in place of what isn't there, which no checksum takes for a record."""
    parts, left = [], length
    while left:
        part = os.pread(file, left, begin + length - left)
        if not part:
            parts.append(bytes(left))
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
