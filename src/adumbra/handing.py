"""Messages between a process and one that it began, over a stream socket, with the sockets and pipes that are in them.

For processes of one program only: what is read is unpickled. Knows nothing of what is said.
"""

from __future__ import annotations

import io
import pickle
import socket
from multiprocessing.connection import Connection
from typing import Any

_LENGTH_BYTES = 8
_MOST_HANDED = 64
"""Sockets and pipes of one message. The kernel takes 253 (SCM_MAX_FD)."""


def send(line: socket.socket, message: object) -> None:
    """Sends a message; what is handed over with it stays open here. Raises OSError where nobody reads it any more."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dump(message)
    content = file.getvalue()
    if len(pickler.handed) > _MOST_HANDED:
        raise ValueError(f"{len(pickler.handed)} sockets can't be handed over at once; at most {_MOST_HANDED} can")
    head = len(content).to_bytes(_LENGTH_BYTES)
    if pickler.handed:
        sent = socket.send_fds(line, [head], pickler.handed)
        head = head[sent:]
    line.sendall(head + content)


def receive(line: socket.socket) -> Any:
    """Waits for a message. Raises EOFError where none will come any more, OSError."""
    head, handed, _, _ = socket.recv_fds(line, _LENGTH_BYTES, _MOST_HANDED)
    if not head:
        raise EOFError
    head += _read(line, _LENGTH_BYTES - len(head))
    return _Unpickler(io.BytesIO(_read(line, int.from_bytes(head))), handed).load()


def _read(line: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = line.recv(min(size - len(content), 1 << 20))
        if not part:
            raise EOFError
        content += part
    return bytes(content)


class _Pickler(pickle.Pickler):
    """Leaves out sockets and pipes; handed: their descriptors."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.handed: list[int] = []

    def persistent_id(self, obj: object) -> tuple[str, int] | None:
        if isinstance(obj, socket.socket):
            kind = "socket"
        elif isinstance(obj, Connection):
            kind = "pipe"
        else:
            return None
        self.handed.append(obj.fileno())
        return kind, len(self.handed) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, handed: list[int]) -> None:
        super().__init__(file)
        self._handed = handed

    def persistent_load(self, told: Any) -> socket.socket | Connection:
        kind, number = told
        descriptor = self._handed[number]
        return socket.socket(fileno=descriptor) if kind == "socket" else Connection(descriptor)
