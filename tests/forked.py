"""Processes of Adumbra, for tests: real ones, that can be killed, but forked from one that has imported all of it already.

Python takes a second of a processor to import what a command needs; a fork takes some milliseconds. There is one process to
fork from for each process of pytest; it and all that it forked end with that. Some tests start `python -m adumbra` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

READ_AT_IMPORT = ("NUMBA_", "OMP_", "OPENBLAS_", "PYTHON")
"""Settings that the process forked from has read already: all share them."""


class Forked(subprocess.Popen[Any]):
    """As subprocess.Popen, but the command is `adumbra` with arguments, or the path of a Python script with arguments.

    namespace: the network namespace to run in, by its name, as of `ip netns exec`.
    """

    def __init__(self, *arguments: str, namespace: str = "", **options: Any) -> None:
        self._namespace = namespace
        super().__init__(arguments, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        """Instead of a fork and an exec, asks for a fork. As of Python 3.11 to 3.14: the ends of pipes are the 9th on."""
        cwd, env = rest[4], rest[5]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[9:15]
        environment = dict(os.environ if env is None else env)
        for name in {*environment, *os.environ}:
            if name.startswith(READ_AT_IMPORT) and name not in {"PYTHONPATH", "PYTHONBREAKPOINT"}:
                same = environment.get(name) == _settings().get(name)
                assert same, f"{name} can't differ in what is forked; start Python itself"
        asked = {"arguments": args, "environment": environment, "folder": os.fspath(cwd or os.getcwd())}
        asked["namespace"] = self._namespace
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            streams = [given if given >= 0 else own for own, given in enumerate((p2cread, c2pwrite, errwrite))]
            socket.send_fds(_server(), [json.dumps(asked).encode()], [*streams, theirs.fileno()])
        self.pid = int(self._line.recv(32))
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._line.recv(32))
            self._line.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """By way of the process that it was forked from, which knows whether it is still there."""
        if self.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._line.send(str(int(sig)).encode())


def run(*arguments: str, namespace: str = "", timeout: float = 300.0, text: bool = True, **options: Any) -> Any:
    """What a command printed, and its status: as subprocess.run(capture_output=True, check=False) gives them."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(*arguments, namespace=namespace, text=text, **streams, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@functools.cache
def _settings() -> dict[str, str]:
    """The environment of the process forked from."""
    return dict(os.environ)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    command = [sys.executable, str(Path(__file__).with_name("forked_server.py")), str(theirs.fileno())]
    environment = _settings() | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with theirs:
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        process.wait(20)

    atexit.register(end)
    return ours
