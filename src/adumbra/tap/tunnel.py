"""The far end of tunnels: VXLAN and Geneve by UDP, GRE and ERSPAN by raw sockets. Gives frames that begin with the tunnel's
header; unwraps nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import Frames, Link, Losses
from adumbra.schema.sources import RawTunnelSource, Tunnel, UdpTunnelSource
from adumbra.tap.datagrams import Clock, Received, Receiver, Room, open_gre, open_udp, widen

HEADERS_ROOM = Room(datagrams=1024, each_bytes=640)
"""Enough for the headers of tunnels within tunnels: payloads are copied no further than that, their lengths are kept."""

_LINKS = {Tunnel.VXLAN: Link.VXLAN, Tunnel.GENEVE: Link.GENEVE, Tunnel.GRE: Link.GRE, Tunnel.ERSPAN: Link.GRE}
_ERSPAN_PROTOCOLS = (0x88BE, 0x22EB)  # types I and II, type III
_LONGEST_IPV4_HEADER = 60
_VNI_END = 7  # bytes 4 to 6, in VXLAN's header (RFC 7348) as in Geneve's (RFC 8926)


def open_endpoint(spec: UdpTunnelSource | RawTunnelSource) -> socket.socket:
    """The socket of a tunnel's endpoint, its buffer as large as may be had: all that needs privileges. Raises SourceError."""
    name = str(spec)
    opened = open_udp(spec.address, spec.port, name) if isinstance(spec, UdpTunnelSource) else open_gre(spec.address, name)
    widen(opened, HEADERS_ROOM.receive_buffer_bytes)
    return opened


class TunnelTap:
    """A tunnel's endpoint on this host as a source. Batches share one buffer: use a batch before asking for the next.

    Frames' `length` is the payload that was sent, UDP's or IP's, and `captured` at most the room for each. `now` is the wall
    clock in nanoseconds; `should_stop` is asked at each batch. An empty batch comes at least every quarter of a second.
    `opened`: its socket, where that was opened before; it is closed on leaving. Raises SourceError on entering where the port
    is taken or the privilege is missing; none is needed after that.
    """

    def __init__(
        self,
        spec: UdpTunnelSource | RawTunnelSource,
        now: Clock,
        should_stop: Callable[[], bool] | None = None,
        room: Room = HEADERS_ROOM,
        opened: socket.socket | None = None,
    ) -> None:
        self.spec = spec
        self._opened = opened
        self._room, self._now, self._should_stop = room, now, should_stop or (lambda: False)
        self._stopped = False
        self._receiver: Receiver | None = None
        self._filtered = 0

    @property
    def name(self) -> str:
        return str(self.spec)

    def __enter__(self) -> Self:
        room = self._room
        if isinstance(self.spec, RawTunnelSource):
            room = replace(room, each_bytes=room.each_bytes + _LONGEST_IPV4_HEADER)
        opened = self._opened or open_endpoint(self.spec)
        self._receiver = Receiver(opened, room, self._now, lambda: self._stopped or self._should_stop())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._receiver is not None:
            self._receiver.close()

    def stop(self) -> None:
        """Has the iteration end once what was received until then is given. May be called from a signal's handler."""
        self._stopped = True

    def __iter__(self) -> Iterator[Frames]:
        assert self._receiver is not None, "a source is read within `with`"
        for received in self._receiver.batches():
            yield self._frames(received)

    def losses(self) -> Losses:
        dropped = self._receiver.dropped() if self._receiver is not None else 0
        return Losses(dropped=dropped, filtered=self._filtered)

    def progress(self) -> float | None:
        return None

    def _frames(self, received: Received) -> Frames:
        offset, captured, length, time_ns = received.offset, received.captured, received.length, received.time_ns
        if len(received) and isinstance(self.spec, RawTunnelSource) and ":" not in self.spec.address:
            header = _ipv4_header_bytes(received)
            offset, captured, length = offset + header, captured - header, length - header
            captured = np.minimum(captured, self._room.each_bytes)
        if len(received) and (kept := self._kept(received, offset, captured)) is not None and not kept.all():
            self._filtered += int(np.count_nonzero(~kept))
            offset, captured, length, time_ns = offset[kept], captured[kept], length[kept], time_ns[kept]
        link = np.full(len(offset), _LINKS[self.spec.tunnel], np.int64)
        return Frames(received.data, offset, captured, length, time_ns, link, received.complete_to_ns)

    def _kept(self, received: Received, offset: NDArray[np.int64], captured: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which datagrams belong to what is asked for; those that are too short to say are left to the decoder."""
        spec, data, at = self.spec, received.data, offset  # behind each datagram's room lie 64 bytes that are free
        if isinstance(spec, UdpTunnelSource):
            if not spec.vnis:
                return None
            vni = data[at + 4].astype(np.int64) << 16 | data[at + 5].astype(np.int64) << 8 | data[at + 6]
            return np.isin(vni, spec.vnis) | (captured < _VNI_END)
        if spec.tunnel is Tunnel.GRE:
            return None
        protocol = data[at + 2].astype(np.int64) << 8 | data[at + 3]
        return np.isin(protocol, _ERSPAN_PROTOCOLS) | (captured < 4)


def _ipv4_header_bytes(received: Received) -> NDArray[np.int64]:
    """The IP headers' lengths: raw IPv4 sockets give them before the payload (raw(7)), IPv6 ones don't."""
    first = received.data[received.offset].astype(np.int64)
    header: NDArray[np.int64] = np.minimum((first & 15) * 4, received.captured)
    return header
