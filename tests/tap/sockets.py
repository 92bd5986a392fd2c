"""For tests of taps that listen: sends on loopback, and reads a source for as long as it takes, on a clock that ends."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

PATIENCE_S = 5.0


def free_port(family: int = socket.AF_INET) -> int:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sender(family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


@dataclass
class Stop:
    """A switch; it also goes off by itself, so that no test hangs."""

    pressed: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE_S)

    def press(self) -> None:
        self.pressed = True

    def __call__(self) -> bool:
        return self.pressed or time.monotonic() > self.deadline
