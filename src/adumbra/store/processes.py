"""Names a process so that a later one can tell whether it still runs. Reads /proc; ends nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """This process by place, boot, number and start: a number alone is given out again."""
    return process_of(os.getpid())


def process_of(number: int) -> str:
    """A process of this place in the same words; one that is gone has died in them."""
    return f"{_place()} {_boot()} {number} {_started(number) or '-'}"


def is_here(process: str) -> bool:
    """Whether that process is, or was, of this place: one that can be looked at."""
    return process.rsplit(" ", 3)[0] == _place()


def has_died(process: str, *, other_hosts: bool) -> bool:
    """Whether the process that `this_process` named has ended.

    A process of another place, a host or container, can't be looked at: it counts as alive where others may use the same
    state (`other_hosts`), and as dead where they can't, for then it is this place that has another name now.
    """
    parts = process.rsplit(" ", 3)
    if len(parts) != 4 or not (parts[2].isascii() and parts[2].isdecimal()):
        return True  # what no process is called: a tap on another host says of itself what it likes
    place, boot, number, started = parts
    if other_hosts and place != _place():
        return False
    return boot != _boot() or _started(int(number)) != started


def _place() -> str:
    """Where processes are numbered as they are here. Hosts and containers may have the same name, so it alone won't do."""
    try:
        namespace = _NAMESPACE.readlink().name
    except OSError:
        namespace = "-"
    return f"{socket.gethostname()}/{_read(_MACHINE_ID)}/{namespace}"


def _boot() -> str:
    return _read(_BOOT_ID)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip() or "-"
    except OSError:
        return "-"


def _started(number: int) -> str:
    """When the process began, in clock ticks since boot (proc(5), /proc/pid/stat field 22); "" where there is none."""
    try:
        stat = Path(f"/proc/{number}/stat").read_bytes()
    except OSError:
        return ""
    return stat.rpartition(b")")[2].split()[19].decode()
