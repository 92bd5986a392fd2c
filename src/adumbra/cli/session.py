"""What each command begins with: the workspace, the clock, and what the last process left half done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adumbra.cli.output import say

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.service.workspace import Workspace


def now_ns() -> int:
    """The time, in ns since the epoch."""
    return time.time_ns()


@contextmanager
def stop_on_signal(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether ^C or SIGTERM came, for work that ends in good order by itself; a second one ends it at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        del frame
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)} if wanted else {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def workspace(home: Path | None = None) -> Iterator[Workspace]:
    """The user's workspace, once what was interrupted in it is ended."""
    from adumbra.service.recovery import recover
    from adumbra.service.workspace import Workspace
    from adumbra.settings import Settings

    with Workspace(home or Settings().home) as opened:
        for told in recover(opened, now_ns()):
            say(told)
        yield opened
