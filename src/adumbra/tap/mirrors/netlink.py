"""A netlink socket for traffic-control filters, message by message, and the kernel's refusals in plain words.

Links and qdiscs go through pyroute2, whose u32 messages lack links, cookies and "continue". Knows nothing of mirrors.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from adumbra.schema.errors import MirrorError, MirrorUnsupportedError
from adumbra.tap.mirrors.u32 import attributes

NEW_FILTER, DELETE_FILTER, GET_FILTER = 44, 45, 46
INGRESS_PARENT, EGRESS_PARENT = 0xFFFFFFF2, 0xFFFFFFF3
"""Where filters of a clsact or ingress qdisc are attached (linux/pkt_sched.h)."""

_REQUEST, _ACK, _DUMP, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3
_KIND, _OPTIONS = 1, 2
_HEADER, _TC = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII")
_EXTENDED_ACK, _WANTS_EXTENDED_ACK, _CAPPED, _HAS_TLVS = 270, 11, 0x100, 0x200
_TIMEOUT_S = 10
_RECEIVE_BYTES = 1 << 20

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EINVAL})
"""What the kernel answers where the filter, qdisc or device that is to be deleted isn't there."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT})


class RefusedError(OSError):
    """The kernel's answer to a request that it didn't carry out: its error number, and its own words if it has any."""


@dataclass(frozen=True, slots=True)
class FilterId:
    """A filter, or all of a priority where `handle` is 0: the device's index, its hook, the ethertype in host order."""

    device: int
    parent: int
    priority: int
    protocol: int
    handle: int = 0

    def packed(self) -> bytes:
        return _TC.pack(0, self.device, self.handle, self.parent, self.priority << 16 | socket.htons(self.protocol))


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as it stands: its kind, and its options as bytes."""

    id: FilterId
    kind: str
    options: bytes


class FilterSocket:
    """Adds, deletes and lists filters in this process's network namespace. Opened by `with`; refusals are RefusedError."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._seen: dict[tuple[int, int], list[Filter]] | None = None

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.setsockopt(_EXTENDED_ACK, _WANTS_EXTENDED_ACK, 1)
        self._socket.bind((0, 0))
        return self

    def __exit__(self, *exc: object) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def add(self, where: FilterId, options: bytes) -> None:
        """Adds a u32 filter or hash table; one that is there already is refused (EEXIST)."""
        kind = struct.pack("=HH4s", 8, _KIND, b"u32\0")
        body = where.packed() + kind + struct.pack("=HH", len(options) + 4, _OPTIONS) + options
        self._ask(NEW_FILTER, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, body)

    def delete(self, where: FilterId) -> None:
        """Deletes a u32 filter or hash table, or all of its priority."""
        self._ask(DELETE_FILTER, _REQUEST | _ACK, where.packed() + struct.pack("=HH4s", 8, _KIND, b"u32\0"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Meanwhile each hook is listed once, whoever asks: a mirror has many steps, and a listing thousands of filters."""
        self._seen = {}
        try:
            yield
        finally:
            self._seen = None

    def filters(self, device: int, parent: int) -> list[Filter]:
        """All filters of a hook, of every kind and owner; none where it has no qdisc."""
        if self._seen is None:
            return self._list(device, parent)
        if (device, parent) not in self._seen:
            self._seen[device, parent] = self._list(device, parent)
        return self._seen[device, parent]

    def _list(self, device: int, parent: int) -> list[Filter]:
        found = []
        try:
            answers = self._ask(GET_FILTER, _REQUEST | _DUMP, _TC.pack(0, device, 0, parent, 0))
        except RefusedError as error:
            if error.errno in GONE:
                return []
            raise
        for body in answers:
            _, index, handle, where, info = _TC.unpack_from(body)
            if index != device or where != parent:
                continue
            values = dict(attributes(body[_TC.size :]))
            kind = values.get(_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
            where_found = FilterId(index, where, info >> 16, socket.ntohs(info & 0xFFFF), handle)
            found.append(Filter(where_found, kind, values.get(_OPTIONS, b"")))
        return found

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Sends one request; gives the bodies of the answers to it."""
        if self._socket is None:
            raise RuntimeError("the netlink socket isn't open: use it in a `with` block")
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            for answer, of, given, payload in _messages(data):
                if of != self._sequence:
                    continue
                if answer == _ERROR:
                    _raise_refusal(payload, given)
                    return answers
                if answer == _DONE:
                    return answers
                answers.append(payload)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, flags, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _raise_refusal(payload: bytes, flags: int) -> None:
    number = -struct.unpack_from("=i", payload)[0]
    if not number:
        return
    said = ""
    if flags & _HAS_TLVS:
        sent = _HEADER.unpack_from(payload, 4)[0]
        at = 4 + (_HEADER.size if flags & _CAPPED else (sent + 3) & ~3)
        said = dict(attributes(payload[at:])).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
    raise RefusedError(number, said or os.strerror(number))


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns the kernel's refusals into one line. Raises MirrorError, or MirrorUnsupportedError for what it doesn't have."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        said = error.args[1] if len(error.args) > 1 else ""
        raise _refused(doing, error.code, str(said or os.strerror(error.code))) from error
    except OSError as error:
        raise _refused(doing, error.errno or 0, error.strerror or str(error)) from error


def _refused(doing: str, number: int, said: str) -> MirrorError:
    said = " ".join(said.split())
    if number in {errno.EPERM, errno.EACCES}:
        return MirrorError(f"could not {doing}: it takes CAP_NET_ADMIN", "run the same command with sudo")
    if number in _UNSUPPORTED:
        return MirrorUnsupportedError(f"could not {doing}: the kernel says {said!r}", "use another --method")
    return MirrorError(f"could not {doing}: the kernel says {said!r}", "look at `tc -s filter show`, and run the same again")


def number_of(error: Exception) -> int:
    """The error number in an error of pyroute2's or of this module's; 0 for another."""
    return int(getattr(error, "code", None) or getattr(error, "errno", None) or 0)


def unless_gone(act: Callable[[], Any]) -> bool:
    """Does an act of deletion. Gives whether there was something to delete; other refusals are raised as they are."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        act()
    except (NetlinkError, OSError) as error:
        if number_of(error) in GONE:
            return False
        raise
    return True
