"""A server's connections, within bounds: so many at once, none that says nothing, none whose request doesn't come.

What an app can't see: uvicorn waits for a request's headers for ever, and so long as a client doesn't read its answer.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from adumbra.api.context import Care
from adumbra.api.problems import MEDIA_TYPE, problem
from adumbra.settings import ServeSettings

SPARE_FILES = 500
"""Open files beside those of connections: stores, logs, children."""


def uvicorn_options(settings: ServeSettings, care: Care, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """What uvicorn.Config is to be given beside the app, its host and port."""
    trusted = [str(each.network_address) if each.num_addresses == 1 else str(each) for each in settings.trusted_proxies]
    options: dict[str, Any] = {
        "http": guarded(care),
        "timeout_keep_alive": round(care.idle_s),
        "proxy_headers": bool(trusted),
        "forwarded_allow_ips": trusted,
        "server_header": False,
        "access_log": False,
        "ws_max_size": 2**20,
    }
    if tls is not None:
        options["ssl_context_factory"] = lambda *_: tls
    return options


def raise_open_files(care: Care) -> int:
    """Lets this process hold as many files open as its connections need, where its hard limit allows it. Gives how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = care.connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def guarded(care: Care) -> type[asyncio.Protocol]:
    """uvicorn's protocol for a connection, within these bounds: what uvicorn.Config takes as `http`."""

    class Guarded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """A connection that is closed where its next request doesn't come in time, is no request, or is one too many."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._late: asyncio.TimerHandle | None = None
            self._head_bytes = 0
            if len(self.connections) > care.connections:
                _say(transport, _FULL)
                return
            _give_up_on_the_deaf(transport, care.wait_s)
            self._wait_for_a_head()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.transport.is_closing() or self.transport.get_protocol() is not self or self._answering():
                self._stop_waiting()  # the rest of the request is the limits' affair, or a web socket's
                return
            self._head_bytes += len(data)
            if self._head_bytes > care.head_bytes:
                _say(self.transport, _LONG_HEAD)
            elif self._late is None:
                self._wait_for_a_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait_for_a_head(self) -> None:
            self._late = self.loop.call_later(care.wait_s, self._too_late)

        def _stop_waiting(self) -> None:
            self._head_bytes = 0
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _too_late(self) -> None:
            self._late = None
            if self._answering() or self.transport.is_closing():
                return
            if self._head_bytes and self.cycle is None:
                _say(self.transport, _SLOW_HEAD)
            else:
                self.transport.close()

    return Guarded


def _give_up_on_the_deaf(transport: asyncio.Transport, wait_s: float) -> None:
    """Lets the kernel end connections whose other side is gone, or doesn't read what is sent to it (tcp(7))."""
    found = transport.get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with suppress(OSError, AttributeError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(wait_s * 1e3))


def _say(transport: asyncio.Transport, answer: bytes) -> None:
    transport.write(answer)
    transport.close()


def _raw(status: str, kind: str, title: str, detail: str, headers: Mapping[str, str]) -> bytes:
    body = bytes(problem(int(status[:3]), kind, title, detail).body)
    lines = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close", **headers}
    told = (f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in lines.items()), "", "")
    return "\r\n".join(told).encode() + body


_FULL = _raw(
    "503 Service Unavailable",
    "busy",
    "this server holds as many connections as it may",
    "try again in 5 s",
    {"retry-after": "5"},
)
_SLOW_HEAD = _raw("408 Request Timeout", "too-slow", "the request came too slowly", "send it in one go", {"retry-after": "1"})
_LONG_HEAD = _raw("431 Request Header Fields Too Large", "too-large", "the request's headers are too long", "send fewer", {})
