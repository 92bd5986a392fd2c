"""A bounded queue of byte records on disk, which outlives its processes. Knows nothing of what its records say.

What is appended is on the disk when `append` returns: it calls fdatasync(2), once for what comes at once, of several threads
too. Each process writes a lane of its own, held by flock(2); a process that opens the spool takes on the lanes of those that
ended, oldest first, before its own. When the bound is reached the oldest segment goes, and is counted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from adumbra.schema.errors import StoreError
from adumbra.store.files import replace_file
from adumbra.store.spool_lane import Counts, Lane, clear_leftovers, lanes, look_at
from adumbra.store.spool_records import MAX_PAYLOAD_BYTES, RECORD_BYTES, SEGMENT_BYTES

BOUND_BYTES = 2**30
"""How much a spool keeps, by default."""
_COUNTS, _COUNTS_LOCK = "counts", "counts.lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a spool: records, their bytes on the disk, and how many of them lie in lanes that a process holds."""

    records: int
    size_bytes: int
    held: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """The oldest record. `after_gap`: what came before it in its lane was lost, or went before this process began."""

    payload: bytes
    after_gap: bool


@dataclass(slots=True, eq=False)
class _Append:
    """What a thread wants appended, and what became of it."""

    payloads: Sequence[bytes]
    done: bool = False
    error: OSError | None = None
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.size_bytes = sum(len(each) + RECORD_BYTES for each in self.payloads)


class Spool:
    """A spool in a folder. Opened by `with`. Any number of threads may append; one at a time reads.

    bound_bytes: of the segment files of the lanes that this process holds. save_every: after so many acknowledgements, or the
    last one, the disk is told; those that it wasn't told of come again after a kill.
    """

    def __init__(self, folder: Path, bound_bytes: int = BOUND_BYTES, *, save_every: int = 1) -> None:
        self.folder = folder
        self.bound_bytes = bound_bytes
        self._segment_bytes = max(4096, min(16 * 2**20, bound_bytes // 16))
        self._save_every = save_every
        self._turn = threading.Condition()
        self._committing = threading.Lock()
        self._wanted: list[_Append] = []
        self._adopted: list[Lane] = []
        self._own: Lane | None = None
        self._known: tuple[Lane, int] | None = None
        self._handed: tuple[Lane, int] | None = None  # a lane and the bytes of its oldest record, which is being worked on
        self._unsaved = 0

    def __enter__(self) -> Self:
        """Takes on the lanes of processes that ended. Raises StoreError where the folder can't be used."""
        with self._explained("open"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.adopt()
        return self

    def __exit__(self, *exc: object) -> None:
        """Lets the lanes go: what waits in them waits for the next process."""
        with self._committing, self._turn:
            for lane in self._held():
                if lane.waiting:
                    lane.close()
                else:
                    self._end_lane(lane)
            self._adopted, self._own, self._known, self._handed = [], None, None, None

    def append(self, *payloads: bytes) -> None:
        """Adds records, all or none, in this order. They are on the disk when this returns.

        Where they don't fit, the oldest go, and are counted; records larger than the whole bound are counted and not kept. A
        full disk is treated as a bound that was reached early. Raises StoreError where the disk refuses them even so.
        """
        mine = _Append(payloads)
        with self._turn:
            self._wanted.append(mine)
        with self._committing:
            if not mine.done:  # else another thread took them along
                with self._turn:
                    group, self._wanted = self._wanted, []
                self._commit(group)
        if mine.error is not None:
            with self._explained("write to"):
                raise mine.error

    def peek(self) -> Record | None:
        """The oldest record that waits; the same until it is acknowledged. None: none waits, that can be read."""
        with self._turn:
            for lane in self._held():
                found = lane.peek()
                if found is not None:
                    self._handed = lane, found.end - found.begin
                    return Record(found.payload, self._known != (lane, found.number))
                if lane is not self._own:
                    self._adopted.remove(lane)
                    self._end_lane(lane)
            return None

    def acknowledge(self, *, refused: bool = False) -> None:
        """What `peek` gave is done with. `refused`: because it could not be used, which is counted."""
        with self._turn:
            handed, self._handed = self._handed, None
            if handed is None:
                return
            lane, size = handed
            if size < 0:  # it was given up meanwhile, and went all the same
                lane.counts.dropped -= 1
                lane.counts.dropped_bytes += size
                return
            lane.counts.refused += refused
            self._unsaved += 1
            save = refused or self._unsaved >= self._save_every or lane.waiting == 1
            with contextlib.suppress(OSError):  # the disk is full: after a kill it comes again, which is harmless
                lane.acknowledge(save=save)
            self._unsaved = 0 if save else self._unsaved
            self._known = lane, lane.acknowledged

    def wait(self, timeout_s: float) -> bool:
        """Waits until a record waits, or anybody calls `wake`, or so long. Whether one waits."""
        with self._turn:
            if not self.waiting().records:
                self._turn.wait(timeout_s)
            return bool(self.waiting().records)

    def wake(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def waiting(self) -> Waiting:
        """What waits in the lanes that this process holds."""
        with self._turn:
            held = self._held()
            records = sum(lane.waiting for lane in held)
            return Waiting(records, sum(lane.waiting_bytes for lane in held), records)

    def counts(self) -> Counts:
        """What was lost, by this process and those before it, whose lanes are its own now or are gone."""
        with self._turn:
            total = _ended(self.folder)[0]
            for lane in self._held():
                total.add(lane.counts)
            return total

    def adopt(self) -> int:
        """Takes on the lanes of processes that ended meanwhile. Gives the records in them."""
        adopted = 0
        with self._turn:
            clear_leftovers(self.folder)
            held = {lane.folder for lane in self._held()}
            merged = _ended(self.folder)[1]
            for folder in lanes(self.folder):
                lane = None if folder in held else Lane.adopt(folder)
                if lane is None:
                    continue
                if folder.name in merged:
                    lane.remove()
                    continue
                self._adopted.append(lane)
                adopted += lane.waiting
            self._turn.notify_all()
        return adopted

    def _held(self) -> list[Lane]:
        """The lanes of this process, oldest first."""
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    def _commit(self, group: list[_Append]) -> None:
        """Writes what threads want appended: small ones all at once, others one after the other."""
        fitting = [each for each in group if self._fits(each)]
        together = sum(each.size_bytes for each in fitting) <= self._segment_bytes
        for asked in [fitting] if together and fitting else [[each] for each in fitting]:
            error = self._tried([payload for each in asked for payload in each.payloads])
            for each in asked:
                each.error = error
        for each in group:
            each.done = True

    def _fits(self, asked: _Append) -> bool:
        """Whether the bound allows for it at all; where not, that is counted."""
        if asked.size_bytes + SEGMENT_BYTES <= self.bound_bytes and all(len(p) <= MAX_PAYLOAD_BYTES for p in asked.payloads):
            return True
        with self._turn, contextlib.suppress(OSError):
            own = self._own_lane()
            own.counts.dropped += len(asked.payloads)
            own.counts.dropped_bytes += asked.size_bytes
            own.save()
        return False

    def _tried(self, payloads: Sequence[bytes]) -> OSError | None:
        """Writes records, for which others give way where they must; what the disk had against it."""
        size = sum(len(each) + RECORD_BYTES for each in payloads) + SEGMENT_BYTES
        try:
            with self._turn:
                lane = self._own_lane()
                while sum(each.size_bytes for each in self._held()) + size > self.bound_bytes and self._drop_oldest():
                    pass
            while True:
                try:
                    with self._turn:
                        lane.make_ready(self._segment_bytes)
                    written = lane.write(payloads)
                    break
                except OSError as error:
                    with self._turn:
                        if error.errno not in _FULL or not self._drop_oldest():
                            raise
        except OSError as error:
            return error
        with self._turn:
            lane.publish(*written)
            self._turn.notify_all()
        return None

    def _own_lane(self) -> Lane:
        if self._own is None:
            self._own = Lane.create(self.folder)
        return self._own

    def _drop_oldest(self) -> bool:
        for lane in self._held():
            before = lane.counts.dropped
            if lane.drop_oldest():
                if self._handed is not None and self._handed[0] is lane and lane.counts.dropped > before:
                    self._handed = lane, -abs(self._handed[1])
                return True
        return False

    def _end_lane(self, lane: Lane) -> None:
        """Removes a lane in which nothing waits; what it counted is kept, once, whatever happens meanwhile."""
        try:
            if lane.counts.any():
                self._keep(lane.counts, lane.folder.name)
        except OSError:  # the disk is full: another process may do it later
            lane.close()
        else:
            lane.remove()

    def _keep(self, counts: Counts, name: str) -> None:
        with _locked(self.folder / _COUNTS_LOCK):
            total, merged = _ended(self.folder)
            there = {each.name for each in lanes(self.folder)}
            total.add(counts)
            told = {"counts": asdict(total), "merged": [*(each for each in merged if each in there), name]}
            replace_file(self.folder / _COUNTS, json.dumps(told).encode())

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in _FULL
            raise StoreError(
                f"could not {doing} the spool {self.folder}: {'the disk is full' if full else error.strerror or error}",
                "free some space and run the same again" if full else "check the folder and its permissions",
            ) from error


def survey(folder: Path) -> tuple[Waiting, Counts]:
    """What waits in a spool and what it lost, all processes' lanes together. Takes and changes nothing."""
    if not folder.is_dir():
        return Waiting(0, 0), Counts()
    total, merged = _ended(folder)
    seen = [look_at(each) for each in lanes(folder) if each.name not in merged]
    for each in seen:
        total.add(each.counts)
    held = sum(each.waiting for each in seen if each.held)
    return Waiting(sum(each.waiting for each in seen), sum(each.waiting_bytes for each in seen), held), total


def _ended(folder: Path) -> tuple[Counts, list[str]]:
    """What lanes that are gone had counted, and the names of those whose folders may yet be there."""
    try:
        told = json.loads((folder / _COUNTS).read_bytes())
        return Counts(**told["counts"]), list(told["merged"])
    except (OSError, ValueError, KeyError, TypeError):
        return Counts(), []


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
