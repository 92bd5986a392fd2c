"""One lane of a spool: a folder of segment files that one process holds, written at its end and read from its beginning.

Not safe for threads: store/spool.py sees to that. Knows nothing of what its records say.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from adumbra.store.files import replace_file, sync_folder, write_all
from adumbra.store.spool_records import (
    RECORD_BYTES,
    SEGMENT_BYTES,
    Found,
    find,
    is_of_newer_format,
    record,
    segment_header,
)

LANE = re.compile(r"lane-(\d{8,})-[0-9a-f]{8}")
_SEGMENT = re.compile(r"(\d{20})\.segment")
_LOCK, _CURSOR = "lock", "cursor"
_CREATING, _REMOVED = "new-", "old-"
_TRIES = 20


@dataclass(slots=True)
class Counts:
    """What a spool lost, in records and bytes.

    dropped: gave way when the spool was full; damaged: unreadable by their checksums; torn: ends of lanes that were cut, each a
    record that was being written when its process ended, and so had not been acknowledged; refused: taken out by
    whoever read them, because they could not be used.
    """

    dropped: int = 0
    dropped_bytes: int = 0
    damaged: int = 0
    damaged_bytes: int = 0
    torn: int = 0
    refused: int = 0

    def add(self, other: Counts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def any(self) -> bool:
        return any(asdict(self).values())


@dataclass(slots=True)
class _Segment:
    first: int
    size: int


@dataclass(slots=True)
class _Cursor:
    """What was acknowledged: every record before `number`, which stands at `offset` of the segment `segment`."""

    number: int = 0
    segment: int = -1
    offset: int = SEGMENT_BYTES
    counts: Counts = field(default_factory=Counts)


class Lane:
    """A lane that this process holds. `create` makes one to write to, `adopt` takes one whose process has ended."""

    def __init__(self, folder: Path, lock: int, segments: list[_Segment], cursor: _Cursor) -> None:
        self.folder = folder
        self._lock = lock
        self._segments = segments
        self._cursor = cursor
        self._end = max(cursor.number, segments[-1].first if segments else 0)
        self._writing: int | None = None
        self._reading: tuple[int, int] | None = None
        self._peeked: Found | None = None

    @classmethod
    def create(cls, spool: Path) -> Self:
        """An empty lane, younger than all that there are. It appears under its name once it is held."""
        for _ in range(_TRIES):
            token = secrets.token_hex(4)
            unfinished = spool / f"{_CREATING}{token}"
            with contextlib.suppress(FileNotFoundError):  # another process took it for a leftover
                unfinished.mkdir()
                lock = _locked(unfinished)
                if lock is None:
                    continue
                folder = spool / f"lane-{_newest(spool) + 1:08d}-{token}"
                unfinished.rename(folder)
                sync_folder(spool)
                return cls(folder, lock, [], _Cursor())
        raise OSError(f"no lane could be made in {spool}")

    @classmethod
    def adopt(cls, folder: Path) -> Self | None:
        """The lane in a folder; None where its process lives, or it is of a newer format. A torn tail is cut, and counted."""
        lock = _locked(folder, create=False)
        if lock is None:
            return None
        segments = _segments(folder)
        if any(is_of_newer_format(_beginning(_path(folder, each.first))) for each in segments):
            os.close(lock)
            return None
        lane = cls(folder, lock, segments, _load_cursor(folder / _CURSOR))
        lane._recover()
        return lane

    @property
    def waiting(self) -> int:
        """Records that were not acknowledged; damaged ones count until they are come upon."""
        return self._end - self._cursor.number

    @property
    def waiting_bytes(self) -> int:
        return max(0, self.size_bytes - self._cursor.offset) if self.waiting else 0

    @property
    def size_bytes(self) -> int:
        return sum(each.size for each in self._segments)

    @property
    def counts(self) -> Counts:
        return self._cursor.counts

    @property
    def acknowledged(self) -> int:
        """The number after the last record that was acknowledged, or passed over."""
        return self._cursor.number

    def make_ready(self, segment_bytes: int) -> None:
        """Sees to it that there is a segment to write to, of no more than so many bytes. Raises OSError."""
        if self._writing is None or self._segments[-1].size >= segment_bytes:
            self._begin_segment()

    def write(self, payloads: Sequence[bytes]) -> tuple[int, int]:
        """Forces records to the disk, behind those that are there. Gives what `publish` takes; others may read meanwhile.

        Raises OSError where they could not all be written: then none is there.
        """
        assert self._writing is not None
        segment = self._segments[-1]
        parts, at = [], segment.size
        for number, payload in enumerate(payloads, self._end):
            parts.append(record(payload, number, segment.first, at))
            at += RECORD_BYTES + len(payload)
        try:
            write_all(self._writing, b"".join(parts))
            os.fdatasync(self._writing)
        except OSError:
            self._undo(segment)
            raise
        return len(payloads), at

    def publish(self, records: int, size: int) -> None:
        """What `write` gave: from now on these records wait."""
        self._segments[-1].size = size
        self._end += records

    def peek(self) -> Found | None:
        """The oldest record that was not acknowledged; None: none waits. What is damaged is passed over, and counted."""
        if self._peeked is not None:
            return self._peeked
        cursor = self._cursor
        while cursor.number < self._end:
            segment, last = self._segments[0], len(self._segments) == 1
            try:
                found = find(self._open(segment.first), segment.first, cursor.offset, segment.size)
            except OSError:  # the disk can't read it
                found = None
            if found is not None and not last and found.number >= self._segments[1].first:
                found = None  # written, refused by the disk, and written again there
            if found is None:
                self._damaged((self._end if last else self._segments[1].first) - cursor.number, segment.size - cursor.offset)
                if last:
                    cursor.number, cursor.offset = self._end, segment.size
                else:
                    self._leave_segment()
            elif found.number < cursor.number:
                cursor.offset = found.end
            else:
                self._damaged(found.number - cursor.number, found.begin - cursor.offset)
                cursor.number, cursor.offset = found.number, found.begin
                self._peeked = found
                return found
        return None

    def acknowledge(self, *, save: bool) -> None:
        """What `peek` gave is done with; `save`: on the disk, too. Segments that hold nothing more are removed."""
        found = self.peek()
        assert found is not None
        self._peeked = None
        self._cursor.number, self._cursor.offset = found.number + 1, found.end
        done = len(self._segments) > 1 and self._segments[1].first <= self._cursor.number
        if done:
            self._leave_segment()
        elif save:
            self.save()

    def drop_oldest(self) -> bool:
        """Gives up the oldest segment, and counts what waited in it. False where there is none."""
        if not self._segments:
            return False
        if len(self._segments) == 1:
            self._seal()
        upto = self._segments[1].first if len(self._segments) > 1 else self._end
        self._cursor.counts.dropped += upto - self._cursor.number
        self._cursor.counts.dropped_bytes += max(self._segments[0].size - self._cursor.offset, 0)
        self._peeked = None
        self._cursor.number = upto
        self._leave_segment()
        return True

    def save(self) -> None:
        """Puts what was acknowledged and counted on the disk. Raises OSError."""
        told = json.dumps(asdict(self._cursor)).encode()
        replace_file(self.folder / _CURSOR, f"{zlib.crc32(told):08x} ".encode() + told)

    def close(self) -> None:
        """Lets the lane go: where anything waits, for another process to adopt."""
        self._seal()
        self._close_reading()
        with contextlib.suppress(OSError):  # an older cursor makes records come again, which is harmless
            self.save()
        os.close(self._lock)

    def remove(self) -> None:
        """Removes the lane and lets it go; it disappears at once."""
        self._seal()
        self._close_reading()
        gone = self.folder.with_name(f"{_REMOVED}{self.folder.name}")
        with contextlib.suppress(OSError):
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        os.close(self._lock)

    def _begin_segment(self) -> None:
        self._seal()
        path = _path(self.folder, self._end)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_all(file, segment_header(self._end))
            os.fsync(file)
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        if self._segments and self._segments[-1].first == self._end:  # nothing came to be in it
            self._segments.pop()
        self._segments.append(_Segment(self._end, SEGMENT_BYTES))
        self._writing = file
        if len(self._segments) == 1:
            self._cursor.segment, self._cursor.offset = self._end, SEGMENT_BYTES

    def _undo(self, segment: _Segment) -> None:
        """Takes away what was half written. After a refusal nobody knows what is on the disk: no more goes into this file."""
        assert self._writing is not None
        with contextlib.suppress(OSError):
            os.ftruncate(self._writing, segment.size)
        self._seal()

    def _seal(self) -> None:
        file, self._writing = self._writing, None
        if file is not None:
            os.close(file)

    def _open(self, first: int) -> int:
        if self._reading is None or self._reading[0] != first:
            self._close_reading()
            self._reading = first, os.open(_path(self.folder, first), os.O_RDONLY | os.O_CLOEXEC)
        return self._reading[1]

    def _close_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            os.close(reading[1])

    def _leave_segment(self) -> None:
        """Goes on to the next segment. The cursor is on the disk before the old one goes, so that nothing is counted twice."""
        old = self._segments.pop(0)
        self._close_reading()
        if self._segments:
            self._cursor.number = max(self._cursor.number, self._segments[0].first)
        self._cursor.segment = self._segments[0].first if self._segments else -1
        self._cursor.offset = SEGMENT_BYTES
        path = _path(self.folder, old.first)
        try:
            self.save()
        except OSError:  # the disk is full: what is removed makes room
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.save()
        path.unlink(missing_ok=True)

    def _damaged(self, records: int, size: int) -> None:
        if records > 0:
            self._cursor.counts.damaged += records
            self._cursor.counts.damaged_bytes += max(size, 0)

    def _recover(self) -> None:
        """Finds where an adopted lane ends, cuts what is torn there, and finds where it was acknowledged to."""
        cursor, segments = self._cursor, self._segments
        if segments:
            last = segments[-1]
            number, whole = _whole(_path(self.folder, last.first), last)
            self._end = max(number, cursor.number)
            if whole < last.size:
                cursor.counts.torn += 1
                with contextlib.suppress(OSError):
                    self.save()
                    os.truncate(_path(self.folder, last.first), whole)
                last.size = whole
        while len(segments) > 1 and segments[1].first <= cursor.number:
            _path(self.folder, segments.pop(0).first).unlink(missing_ok=True)
        if segments and segments[0].first != cursor.segment:
            if cursor.number:
                self._damaged(segments[0].first - cursor.number, 0)
            cursor.number = max(cursor.number, segments[0].first)
            cursor.segment, cursor.offset = segments[0].first, SEGMENT_BYTES


def lanes(spool: Path) -> list[Path]:
    """The folders of a spool's lanes, oldest first."""
    found = [each for each in spool.iterdir() if LANE.fullmatch(each.name)]
    return sorted(found, key=_age)


def clear_leftovers(spool: Path) -> None:
    """Removes what processes left that were killed while they made or removed a lane."""
    for each in spool.iterdir():
        if each.name.startswith(_REMOVED):
            shutil.rmtree(each, ignore_errors=True)
        elif each.name.startswith(_CREATING):
            lock = _locked(each, create=False)
            if lock is not None:
                shutil.rmtree(each, ignore_errors=True)
                os.close(lock)
            else:
                with contextlib.suppress(OSError):
                    each.rmdir()


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane as seen from outside: whether a process holds it, what waits in it, and what it lost."""

    name: str
    held: bool
    waiting: int
    waiting_bytes: int
    counts: Counts


def look_at(folder: Path) -> LaneStatus:
    """A lane's state, without taking or changing it. Its process may be writing meanwhile."""
    lock = _locked(folder, create=False)
    if lock is not None:
        os.close(lock)
    cursor, segments = _load_cursor(folder / _CURSOR), _segments(folder)
    number = waiting_bytes = 0
    with contextlib.suppress(FileNotFoundError):
        if segments:
            number, whole = _whole(_path(folder, segments[-1].first), segments[-1])
            before = sum(each.size for each in segments[:-1] if each.first > cursor.segment)
            own = next((each.size for each in segments[:-1] if each.first == cursor.segment), 0)
            last = whole - (cursor.offset if segments[-1].first == cursor.segment else 0)
            waiting_bytes = before + max(own - cursor.offset, 0) + max(last, 0)
    return LaneStatus(folder.name, lock is None, max(number - cursor.number, 0), waiting_bytes, cursor.counts)


def _locked(folder: Path, *, create: bool = True) -> int | None:
    """The folder's lock, held until it is closed; None where another process has it, or where it isn't."""
    path = folder / _LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):  # else it was removed meanwhile
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _newest(spool: Path) -> int:
    return max((_age(each)[0] for each in lanes(spool)), default=0)


def _age(folder: Path) -> tuple[int, str]:
    match = LANE.fullmatch(folder.name)
    assert match is not None
    return int(match[1]), folder.name


def _path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}.segment"


def _segments(folder: Path) -> list[_Segment]:
    found = []
    for each in folder.iterdir():
        match = _SEGMENT.fullmatch(each.name)
        if match is not None:
            with contextlib.suppress(FileNotFoundError):
                found.append(_Segment(int(match[1]), each.stat().st_size))
    return sorted(found, key=lambda segment: segment.first)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SEGMENT_BYTES)


def _whole(path: Path, segment: _Segment) -> tuple[int, int]:
    """The number after a segment's last whole record, and where that ends."""
    number, at = segment.first, min(SEGMENT_BYTES, segment.size)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while (found := find(file, segment.first, at, segment.size)) is not None:
            number, at = found.number + 1, found.end
    finally:
        os.close(file)
    return number, at


def _load_cursor(path: Path) -> _Cursor:
    """The cursor in a file; one at the very beginning where there is none, or a damaged one."""
    try:
        checksum, _, told = path.read_bytes().partition(b" ")
        if int(checksum, 16) != zlib.crc32(told):
            return _Cursor()
        found = json.loads(told)
        return _Cursor(found["number"], found["segment"], found["offset"], Counts(**found["counts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _Cursor()
