"""Names a process so that a later one can tell whether it still runs. Reads /proc; ends nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """This process by host, boot, number and start: a number alone is given out again."""
    return f"{socket.gethostname()} {_boot()} {os.getpid()} {_started(os.getpid())}"


def has_died(process: str, *, other_hosts: bool) -> bool:
    """Whether the process that `this_process` named has ended.

    A process of another host can't be looked at: it counts as alive where other hosts may use the same state
    (`other_hosts`), and as dead where they can't, for then it is this host that was renamed. A process in another
    container counts as dead.
    """
    host, boot, number, started = process.rsplit(" ", 3)
    if other_hosts and host != socket.gethostname():
        return False
    return boot != _boot() or _started(int(number)) != started


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "-"


def _started(number: int) -> str:
    """When the process began, in clock ticks since boot (proc(5), /proc/pid/stat field 22); "" where there is none."""
    try:
        stat = Path(f"/proc/{number}/stat").read_bytes()
    except OSError:
        return ""
    return stat.rpartition(b")")[2].split()[19].decode()
