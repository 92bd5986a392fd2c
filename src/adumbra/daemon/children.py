"""Child processes of the server: begun, listened to, ended. Knows nothing of what they do.

Secrets reach them by their environment, never by their arguments. A thread that begins one must live as long as it does: the
kernel ends the child with that thread (leash.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from adumbra.schema.errors import StoreError
from adumbra.store.processes import process_of
from adumbra.telemetry import without_secrets

KEPT_LINES, LINE_CHARS = 20, 2_000
"""How much of what a child said last is remembered."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. argv: the program's path first; environment: what is set for it beside the server's own, of which it isn't
    told what `without` names."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """A command, and what is to be done once it has ended."""

    command: Command
    ended: Callable[[], None] = lambda: None


class Child:
    """A process that runs a command, until it ends or is ended. said: told each line that it writes on standard error."""

    def __init__(self, command: Command, said: Callable[[str], None] = lambda _: None) -> None:
        """Begins it. Raises StoreError where the system refuses."""
        self.began_s = time.monotonic()
        self.stopping_since_s: float | None = None
        self._said = said
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        inherited = {name: value for name, value in os.environ.items() if name not in command.without}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "adumbra.daemon.leash", str(os.getpid()), *command.argv],
                env={**inherited, **command.environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise StoreError(
                f"a process can't be begun ({error.strerror})", "look at the server's memory and its limits"
            ) from None
        assert self._process.stderr is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), name="child", daemon=True)
        self._listener.start()
        self.process = process_of(self._process.pid)

    def status(self) -> int | None:
        """Its exit status, as subprocess gives it; None while it runs."""
        status = self._process.poll()
        if status is not None:
            self._listener.join(1.0)  # its last words
        return status

    @property
    def ran_s(self) -> float:
        """How long ago it was begun."""
        return time.monotonic() - self.began_s

    def stop(self, patience_s: float) -> None:
        """Asks it to end in good order. Asked again after patience_s, ends it at once."""
        if self._process.poll() is not None:
            return
        if self.stopping_since_s is None:
            self.stopping_since_s = time.monotonic()
            with suppress(ProcessLookupError):
                self._process.terminate()
        elif time.monotonic() - self.stopping_since_s >= patience_s:
            self.kill()

    def kill(self) -> None:
        """Ends it and what it began, at once."""
        self.stopping_since_s = self.stopping_since_s or time.monotonic()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own: its group has its number
        with suppress(ProcessLookupError):
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end. Gives whether it came."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """The last line that it wrote on standard error, without this program's name before it."""
        return self._lines[-1].removeprefix("adumbra: ") if self._lines else ""

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            while raw := stream.readline(LINE_CHARS):
                line = without_secrets(raw.decode(errors="replace").rstrip())
                if line:
                    self._lines.append(line)
                    self._said(line)


def end_all(children: list[Child], for_s: float) -> None:
    """Ends them all in good order, and those that take longer at once."""
    until_s = time.monotonic() + for_s
    for child in children:
        child.stop(for_s)
    for child in children:
        if not child.wait(until_s - time.monotonic()):
            child.kill()
    for child in children:
        child.wait(5.0)
