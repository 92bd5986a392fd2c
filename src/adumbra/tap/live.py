"""Taps a live interface by a TPACKET_V3 ring that is walked where it lies. Decodes nothing; opens no socket itself."""

from __future__ import annotations

import errno
import mmap
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Self

import numpy as np

from adumbra.schema.errors import SourceError
from adumbra.schema.records import Bytes, Frames, Ints, Losses
from adumbra.tap import ring_kernels
from adumbra.tap.bpf import Program
from adumbra.tap.packet_socket import PacketSocket

BATCH_FRAMES = 16_384
_STATUS_USER, _STATUS_KERNEL = 1, 0  # whose a block is
# How much older than now, or than the newest frame given, one that is still to come may be: besides the time until its block
# is handed over, what timers and the several processors that fill the ring may be late by.
_UNORDERED_NS = 200_000_000
_MS_NS = 1_000_000


class LiveTap:
    """A packet socket's ring as a source, which ends only when it is stopped or the interface goes.

    A batch's `data` is the ring itself. Its blocks go back to the kernel when the next batch is asked for. A batch is given at
    least every `idle_ms`, if need be an empty one, whose complete_to_ns lets intervals close. `now` is the wall clock in
    nanoseconds. `should_stop` is asked at each batch: once it says so, or `stop` was called, what lies in the ring is given
    and the source ends. A VLAN tag that the kernel keeps beside the frame is in neither its bytes nor its length; a packet
    that offload made of several (GRO, TSO) is one frame, longer than the interface's MTU.

    Takes the socket over: it is closed on leaving. Packets are taken from when iteration begins; the ring is mapped and
    kernels are loaded before, on entering. No privilege is needed for any of it. Raises SourceError on entering where the
    ring can't be mapped.
    """

    def __init__(
        self, packet_socket: PacketSocket, now: Callable[[], int], should_stop: Callable[[], bool] | None = None
    ) -> None:
        self._socket = packet_socket
        self._now = now
        self._should_stop = should_stop or (lambda: False)
        self._stopped = False
        self._ring = _Ring(packet_socket)
        self._dropped = 0
        self._freezes = 0
        self._ended = ""
        self._down = False

    @property
    def name(self) -> str:
        return f"live:{self._socket.interface}"

    @property
    def notes(self) -> tuple[str, ...]:
        """In words, what could not be had as it was asked for."""
        return self._socket.notes

    def __enter__(self) -> Self:
        try:
            self._ring.open()
        except OSError as error:
            self._socket.close()
            what = f"the ring of {self.name} can't be mapped: {error.strerror}"
            raise SourceError(what, "give a smaller ring, or raise the limit of locked memory (ulimit -l)") from None
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # a batch that is still held keeps the socket alive: it shall take nothing more
            self._socket.disarm()
        self._note_statistics()
        self._ring.close()
        self._socket.close()

    def stop(self) -> None:
        """Has the iteration end once what was taken until then is given. May be called from a signal's handler."""
        self._stopped = True

    def refit(self, program: Program) -> None:
        """From now on the ring takes what this filter passes, and loses nothing of what both this one and the last pass. Raises
        SourceError where the kernel refuses it."""
        self._socket = replace(self._socket, filter=program)
        try:
            self._socket.arm()
        except OSError as error:
            raise SourceError(
                f"{self.name} can't be tapped for other addresses: {error.strerror}", "start the tap again"
            ) from None

    def progress(self) -> float | None:
        return None

    def losses(self) -> Losses:
        """Frames that the kernel dropped because the ring was full, how often it was full, and why the source ended."""
        self._note_statistics()
        return Losses(dropped=self._dropped + self._ring.unreadable, freezes=self._freezes, ended=self._ended)

    def __iter__(self) -> Iterator[Frames]:
        settings = self._socket.settings
        late_ns = 2 * settings.retire_ms * _MS_NS + _UNORDERED_NS
        ready = select.poll()
        ready.register(self._socket.socket, select.POLLIN)
        self._socket.arm()
        draining = silent = False
        while True:
            frames = self._ring.take(late_ns)
            if len(frames):
                yield frames
                silent = False
            elif draining and silent:
                break
            else:
                silent = self._silent(ready, 2 * settings.retire_ms + 50 if draining else settings.idle_ms)
                if silent and not draining:
                    yield self._ring.nothing(self._now() - late_ns)
            if not draining and (self._down or self._stopped or self._should_stop()):
                draining, silent = True, False
                with suppress(OSError):
                    self._socket.disarm()
        if self._down:
            self._ended = f"{self._socket.interface} {'went down' if self._socket.interface_is_there() else 'is gone'}"

    def _silent(self, ready: select.poll, wait_ms: int) -> bool:
        """Waits until a block is handed over; True where none was in all that time. Notes when the interface goes down."""
        told = ready.poll(wait_ms)
        failed = any(event & ~select.POLLIN for _, event in told)
        if failed and self._socket.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.ENETDOWN, errno.ENODEV):
            self._down = True
        return not told

    def _note_statistics(self) -> None:
        with suppress(OSError):  # after closing, what was told until then stands
            drops, freezes = self._socket.statistics()
            self._dropped += drops
            self._freezes += freezes


def warm_up() -> None:
    """Loads the compiled code that walks a ring."""
    columns = [np.zeros(1, np.int64) for _ in range(4)]
    ring_kernels.walk_block(np.zeros(64, np.uint8), 0, 64, 0, 0, 0, *columns)
    ring_kernels.fence()


class _Ring:
    """The mapped ring: blocks that the kernel hands over in turn, and gets back."""

    def __init__(self, packet_socket: PacketSocket) -> None:
        self._socket = packet_socket
        self._block_bytes = packet_socket.settings.block_bytes
        self._blocks = packet_socket.ring_bytes // self._block_bytes
        self._map: mmap.mmap | None = None
        self._data: Bytes = np.zeros(0, np.uint8)
        self._status = self._data.view(np.uint32)  # one word a block
        self._columns: list[Ints] = [np.zeros(BATCH_FRAMES, np.int64) for _ in range(4)]
        self._link: Ints = np.full(BATCH_FRAMES, packet_socket.link.value, np.int64)
        self._block = 0  # the next to be walked, and where in it
        self._at = 0
        self._left = 0
        self._walked: list[int] = []  # blocks to be given back
        self.unreadable = 0

    def open(self) -> None:
        """Maps the ring and loads the compiled code. Raises OSError."""
        self._map = mmap.mmap(self._socket.socket.fileno(), self._socket.ring_bytes, flags=mmap.MAP_SHARED)
        self._data = np.frombuffer(self._map, np.uint8)
        self._status = self._data.view(np.uint32)[ring_kernels.STATUS_AT // 4 :: self._block_bytes // 4]
        warm_up()

    def close(self) -> None:
        self._data = np.zeros(0, np.uint8)
        self._status = self._data.view(np.uint32)
        if self._map is not None:
            with suppress(BufferError):  # a batch is still held: it is unmapped with that
                self._map.close()
            self._map = None

    def take(self, late_ns: int) -> Frames:
        """Gives back the blocks of the last batch, and the frames of those that are ready: none where none is."""
        self._give_back()
        found = 0
        while found < BATCH_FRAMES and len(self._walked) < self._blocks and self._status[self._block] & _STATUS_USER:
            ring_kernels.fence()
            start = self._block * self._block_bytes
            found, self._at, self._left, state = ring_kernels.walk_block(
                self._data, start, self._block_bytes, self._at, self._left, found, *self._columns
            )
            if state == ring_kernels.FULL:
                break
            if state == ring_kernels.CORRUPT:
                self.unreadable += min(self._left, self._block_bytes // ring_kernels.FRAME_HEADER_BYTES)
            self._walked.append(self._block)
            self._block, self._at, self._left = (self._block + 1) % self._blocks, 0, 0
        if not found:
            self._give_back()
        complete_to_ns = int(self._columns[3][:found].max()) - late_ns if found else 0
        return self._frames(found, complete_to_ns)

    def nothing(self, complete_to_ns: int) -> Frames:
        return self._frames(0, complete_to_ns)

    def _frames(self, found: int, complete_to_ns: int) -> Frames:
        offset, captured, length, time_ns = (column[:found] for column in self._columns)
        return Frames(self._data, offset, captured, length, time_ns, self._link[:found], max(0, complete_to_ns))

    def _give_back(self) -> None:
        ring_kernels.fence()
        self._status[self._walked] = _STATUS_KERNEL
        self._walked.clear()
