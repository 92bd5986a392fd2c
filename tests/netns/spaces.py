"""Network namespaces for tests: several, joined by veth pairs and bridges, all removed at the end. Needs root and iproute2."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import pytest

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips where the test is not run as root or a tool is missing."""
    missing = [tool for tool in ("ip", *tools) if shutil.which(tool) is None]
    reason = "needs root" if os.geteuid() else f"needs {', '.join(missing)}"
    return pytest.mark.skipif(os.geteuid() != 0 or bool(missing), reason=reason)


class Spaces:
    """Namespaces by short names of the test's own; the real ones hold the process's number, so that runs don't meet.

    with Spaces("client", "server") as net:
        net.veth(("client", "c0"), ("server", "s0"), ["10.0.0.1/24"], ["10.0.0.2/24"])
        net.run("client", "ping", "-c1", "10.0.0.2")
        with net.inside("server"): ...   # sockets that this thread opens here belong to that namespace
    """

    def __init__(self, *names: str) -> None:
        self._real = {name: f"adumbra-{os.getpid()}-{next(_numbers)}-{name}" for name in names}
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            for name, real in self._real.items():
                _run("ip", "netns", "add", real)
                # IPv6 off: else the kernel sends neighbour and router solicitations of its own on each new interface.
                self.run(name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
                self.run(name, "ip", "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def real(self, name: str) -> str:
        """The namespace's name as `ip netns` has it."""
        return self._real[name]

    def run(self, name: str, *command: str, timeout_s: float = 60.0, check: bool = True) -> str:
        """Runs a command in a namespace; gives what it printed. Fails with what it said on its error output."""
        return _run("ip", "netns", "exec", self._real[name], *command, timeout_s=timeout_s, check=check)

    def start(self, name: str, *command: str, **options: object) -> subprocess.Popen[bytes]:
        """Starts a command in a namespace; it is ended with the namespaces."""
        child = subprocess.Popen(["ip", "netns", "exec", self._real[name], *command], **options)  # type: ignore[call-overload]
        self._children.append(child)
        return child

    def veth(
        self, one: tuple[str, str], other: tuple[str, str], one_has: Sequence[str] = (), other_has: Sequence[str] = ()
    ) -> None:
        """A cable between (namespace, interface) and another, both up, with these addresses, such as 10.0.0.1/24."""
        (space_a, a), (space_b, b) = one, other
        ends = ["ip", "link", "add", a, "netns", self._real[space_a], "type", "veth"]
        _run(*ends, "peer", "name", b, "netns", self._real[space_b])
        for space, interface, addresses in ((space_a, a, one_has), (space_b, b, other_has)):
            for address in addresses:
                self.run(space, "ip", "address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
            self.run(space, "ip", "link", "set", interface, "up")

    def bridge(self, name: str, interface: str, ports: Sequence[str]) -> None:
        """A bridge in a namespace over interfaces that are there."""
        self.run(name, "ip", "link", "add", interface, "type", "bridge", "mcast_snooping", "0")
        for port in ports:
            self.run(name, "ip", "link", "set", port, "master", interface)
        self.run(name, "ip", "link", "set", interface, "up")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """What this thread opens meanwhile belongs to the namespace, and so do the processes that it starts."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{self._real[name]}", "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def _remove(self) -> None:
        for child in self._children:
            child.kill()
            child.wait(10)
        for real in self._real.values():
            subprocess.run(["ip", "netns", "delete", real], capture_output=True, check=False)


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str, timeout_s: float = 60.0, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
