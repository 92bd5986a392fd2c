"""Reads datagram sockets by the batch (recvmmsg), with the kernel's receive times and drops. Knows no format.

Linux only. Sockets are opened here too, so that a refusal says what to do about it; nothing is sent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from adumbra.schema.errors import AdumbraError, SourceError
from adumbra.schema.records import NANOSECONDS, Bytes, Ints

Clock = Callable[[], int]

IDLE_MS = 200
"""For how long nothing is waited for: a batch comes at least every quarter of a second, an empty one if need be."""

COMPLETE_SLACK_NS = 100_000_000
"""How long the kernel may take from a datagram's receive time until it can be read: `complete_to_ns` stays behind by it."""

SENDER_BYTES = 28  # sockaddr_in6, the longest that inet sockets give

# Numbers of Linux (asm-generic/socket.h, linux/sock_diag.h) that Python's socket module doesn't name.
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SO_MEMINFO = 33, 35, 55
_MEMINFO_QUEUED, _MEMINFO_DROPS, _MEMINFO_BYTES = 0, 8, 36
_IPPROTO_GRE = 47

_MOST_A_CALL = 1024  # recvmmsg(2) takes no more (UIO_MAXIOV)
_RECEIVE_BUFFER_BYTES = 32 << 20
_LEAST_TRUESIZE_BYTES = 256  # what any queued datagram takes of a receive buffer, at the least
_FILLING_BYTES_PER_S = 4e9  # of receive buffer, headers of the kernel included: some 2 million datagrams a second
_LONGEST_PAUSE_S = 0.002

_MSGHDR = np.dtype(
    [
        ("name", np.uintp), ("name_bytes", np.uint32), ("parts", np.uintp), ("part_count", np.uintp), ("control", np.uintp),
        ("control_bytes", np.uintp), ("flags", np.int32),
    ],
    align=True,
)  # fmt: skip
_MMSGHDR = np.dtype([("head", _MSGHDR), ("length", np.uint32)], align=True)
_IOVEC = np.dtype([("base", np.uintp), ("size", np.uintp)])
# SO_TIMESTAMPNS is the only option set that gives control messages: one of them, in one place.
_CONTROL = np.dtype([("size", np.uintp), ("level", np.int32), ("kind", np.int32), ("s", np.int_), ("ns", np.int_)], align=True)


@dataclass(frozen=True, slots=True)
class Room:
    """How many datagrams one batch holds at most, up to 1024, and bytes of each; what is longer is cut and its length kept.

    `receive_buffer_bytes` is asked of the kernel, which gives no more than net.core.rmem_max without CAP_NET_ADMIN.
    """

    datagrams: int = 1024
    each_bytes: int = 9216
    receive_buffer_bytes: int = _RECEIVE_BUFFER_BYTES


@dataclass(frozen=True, slots=True)
class Received:
    """A batch of datagrams; its arrays but time_ns are used again for the next batch. All columns have one length, n.

    data: uint8[bytes]; offset, captured, length: int64[n], where each lies, bytes there and bytes as sent; time_ns: int64[n],
    the kernel's receive times; sender: uint8[n, 28], sockaddr. complete_to_ns: none received before this time will follow.
    """

    data: Bytes
    offset: Ints
    captured: Ints
    length: Ints
    time_ns: Ints
    sender: Bytes
    complete_to_ns: int

    def __len__(self) -> int:
        return len(self.offset)


class Receiver:
    """Reads `opened` until it is told to stop, and closes it. Memory: a batch's room, whatever is sent.

    `now`: the wall clock in nanoseconds; `should_stop` is asked at each batch. Raises SourceError where the
    kernel lacks the options that it needs (before Linux 4.12).
    """

    def __init__(self, opened: socket.socket, room: Room, now: Clock, should_stop: Callable[[], bool]) -> None:
        self._socket, self._now, self._should_stop = opened, now, should_stop
        self._dropped, self._drops_seen, self._open = 0, 0, True
        self._buffers = _Buffers(min(room.datagrams, _MOST_A_CALL), room.each_bytes)
        self._receive = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._receive.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self.receive_buffer_bytes = widen(opened, room.receive_buffer_bytes)
            self._note_drops()
        except OSError as error:
            opened.close()
            raise SourceError(f"receive times and drops can't be told: {error.strerror}", "use Linux 4.12 or later") from None
        # A short pause lets datagrams gather, so that a trickle isn't handled one by one; never so long that they overflow.
        self._pause_s = min(_LONGEST_PAUSE_S, self.receive_buffer_bytes / _FILLING_BYTES_PER_S)

    def batches(self) -> Iterator[Received]:
        """Batches as they come; empty ones while nothing does. Once told to stop, what was received by then, and the end."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        while not self._should_stop():
            batch = self._read()
            if not len(batch) and waiting.poll(IDLE_MS):
                continue
            yield batch
            if len(batch) < self._buffers.count // 4:
                time.sleep(self._pause_s)
        # Not by receive times: the kernel stamps what it took before it began to stamp only as it is read.
        left = self._meminfo(_MEMINFO_QUEUED) // _LEAST_TRUESIZE_BYTES
        while left > 0 and len(batch := self._read()):
            yield batch
            left -= len(batch)

    def dropped(self) -> int:
        """Datagrams that the kernel threw away so far, mostly as they were not read in time."""
        if self._open:
            self._note_drops()
        return self._dropped

    def close(self) -> None:
        if self._open:
            self._note_drops()
            self._open = False
            self._socket.close()

    def _note_drops(self) -> None:
        """SO_MEMINFO tells drops at any time; SO_RXQ_OVFL only with the next datagram, so that the last ones would be lost."""
        seen = self._meminfo(_MEMINFO_DROPS)
        self._dropped += (seen - self._drops_seen) % (1 << 32)
        self._drops_seen = seen

    def _meminfo(self, which: int) -> int:
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_BYTES)
        return int(np.frombuffer(told, np.uint32)[which])

    def _read(self) -> Received:
        """What can be read at once."""
        buffers, now_ns = self._buffers, self._now()
        buffers.renew()
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC  # MSG_TRUNC: tell the length as sent
        count = self._receive(self._socket.fileno(), buffers.address, buffers.count, flags, None)
        if count < 0:
            _pass_over(ctypes.get_errno())
            count = 0
        buffers.used = count
        time_ns = buffers.times_ns(now_ns)
        full = count == buffers.count  # more may wait, which was received after what was read
        complete_to_ns = (int(time_ns[-1]) if full else now_ns) - COMPLETE_SLACK_NS
        length = buffers.heads["length"][:count].astype(np.int64)
        captured = np.minimum(length, buffers.each_bytes)
        return Received(buffers.data, buffers.offset[:count], captured, length, time_ns, buffers.sender[:count], complete_to_ns)


class _Buffers:
    """The arrays that recvmmsg writes into, and the headers that point at them, built once."""

    def __init__(self, count: int, each_bytes: int) -> None:
        self.count, self.each_bytes = count, each_bytes
        # Not a power of two apart, where all datagrams' headers would compete for the same lines of the cache.
        apart = (each_bytes + 63) // 64 * 64 + 64
        self.data: Bytes = np.empty(count * apart, np.uint8)
        self.offset: Ints = np.arange(count, dtype=np.int64) * apart
        self.sender: Bytes = np.zeros((count, SENDER_BYTES), np.uint8)
        self.heads = np.zeros(count, _MMSGHDR)
        self.used = count
        self._control = np.zeros(count, _CONTROL)
        self._parts = np.zeros(count, _IOVEC)
        self._parts["base"], self._parts["size"] = self.data.ctypes.data + self.offset, each_bytes
        head = self.heads["head"]
        rows = np.arange(count, dtype=np.uintp)
        head["name"] = self.sender.ctypes.data + rows * SENDER_BYTES
        head["parts"], head["part_count"] = self._parts.ctypes.data + rows * _IOVEC.itemsize, 1
        head["control"] = self._control.ctypes.data + rows * _CONTROL.itemsize
        self.address = self.heads.ctypes.data

    def renew(self) -> None:
        """The kernel overwrites these fields of the headers that it uses."""
        head = self.heads["head"][: self.used]
        head["name_bytes"], head["control_bytes"], head["flags"] = SENDER_BYTES, _CONTROL.itemsize, 0

    def times_ns(self, now_ns: int) -> Ints:
        """The kernel's receive times; `now_ns` where it gave none."""
        control = self._control[: self.used]
        told = self.heads["head"]["control_bytes"][: self.used] >= _CONTROL.itemsize
        told &= (control["size"] == _CONTROL.itemsize) & (control["level"] == socket.SOL_SOCKET)
        told &= control["kind"] == _SO_TIMESTAMPNS
        times: Ints = np.where(told, control["s"].astype(np.int64) * NANOSECONDS + control["ns"], now_ns)
        return times


def _pass_over(code: int) -> None:
    """Nothing to read, or no memory for it just now, is no failure."""
    if code not in {errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN}:
        raise AdumbraError(f"the socket could not be read: {os.strerror(code)}", "start the observation again")


def widen(opened: socket.socket, size_bytes: int) -> int:
    """Asks for a receive buffer as large as is allowed; gives what was granted, as the kernel counts it: twice that. One that
    is as large already stays: it may have been had by a privilege that is gone."""
    if (granted := opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)) >= 2 * size_bytes:
        return granted
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
    return opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def open_udp(address: str, port: int, name: str) -> socket.socket:
    """A UDP socket at that address and port; "" for every address, IPv4 and, where the host has it, IPv6.

    `name`: what the user calls the source, for the message. Raises SourceError saying what to do.
    """
    if not address:
        try:
            return _bound(socket.AF_INET6, socket.SOCK_DGRAM, 0, ("::", port))
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise _refusal(error, "", port, name) from None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return _bound(family, socket.SOCK_DGRAM, 0, (address, port))
    except OSError as error:
        raise _refusal(error, address, port, name) from None


def open_gre(address: str, name: str) -> socket.socket:
    """A raw socket for IP protocol 47 (GRE) at an IPv4 or IPv6 address. Raises SourceError saying what to do."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return _bound(family, socket.SOCK_RAW, _IPPROTO_GRE, (address, 0))
    except OSError as error:
        raise _refusal(error, address, 0, name) from None


def _bound(family: int, kind: int, protocol: int, where: tuple[str, int]) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6 and kind == socket.SOCK_DGRAM:  # of raw ones it can't be set: they hear IPv6 only
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind(where)
    except BaseException:
        opened.close()
        raise
    return opened


def _refusal(error: OSError, address: str, port: int, name: str) -> SourceError:
    """Why a socket could not be opened, and what to do."""
    what = f"{name} can't be listened to"
    program = os.path.realpath(sys.executable)
    if isinstance(error, PermissionError):
        capability = "cap_net_bind_service" if port else "cap_net_raw"
        return SourceError(
            f"{what}: this needs the privilege {capability.upper()}",
            f"run it as root, or allow it once: sudo setcap {capability}+ep {program}",
        )
    if error.errno == errno.EADDRINUSE:
        return SourceError(
            f"{what}: UDP port {port} is taken, by another program or by a tunnel device of the kernel",
            "find it by `ss -lunp` or `ip -d link`; remove it, give another port, or observe a tunnel device by live:IFACE",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return SourceError(f"{what}: {address} is no address of this host", "see `ip address`, or leave the address out")
    return SourceError(f"{what}: {error.strerror}", "check the address and the port")
