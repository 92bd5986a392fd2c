"""Gives up every capability of this process, for good, and checks that none is left. Opens no sockets, reads no traffic."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from adumbra.schema.errors import AdumbraError

SINGLE_THREADED: dict[str, str] = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment for a process that is to drop its capabilities after NumPy has been imported: they belong to each thread, and
NumPy's libraries start theirs when they are loaded."""

# linux/capability.h, linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAP_NET_RAW = 13
_HIGHEST_CAPABILITY = 63
_SETS = {"CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding", "CapAmb": "ambient"}
_HOW_TO_GRANT = "sudo setcap cap_net_raw+ep {python}"


@dataclass(frozen=True, slots=True)
class Held:
    """What a thread holds, as /proc/self/task/*/status tells: capability sets as bits, and whether it can gain none."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privileges: bool

    @property
    def nothing(self) -> bool:
        """No capability now, and none by executing a program. The bounding set may be left: alone it gives nothing."""
        return self.no_new_privileges and not (self.inheritable | self.permitted | self.effective | self.ambient)


def held(status: Path = Path("/proc/thread-self/status")) -> Held:
    """What the calling thread holds, or the one whose status file is given. Raises AdumbraError where /proc isn't there."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        sets = {name: int(lines[label], 16) for label, name in _SETS.items()}
        return Held(**sets, no_new_privileges=int(lines["NoNewPrivs"]) == 1)
    except (OSError, KeyError, ValueError):
        raise AdumbraError(f"the capabilities of this process can't be read from {status}", "mount /proc") from None


def may_capture() -> bool:
    """Whether this thread may open packet sockets."""
    return bool(held().effective >> _CAP_NET_RAW & 1)


def how_to_grant() -> str:
    """The command that grants what capturing needs, to the Python that runs this."""
    return _HOW_TO_GRANT.format(python=os.path.realpath(sys.executable))


def drop_all() -> None:
    """Empties the effective, permitted, inheritable and ambient sets, and the bounding set where that is allowed; sets
    no_new_privs, so that no program that is executed gains any.

    Applies to the calling thread and those it starts; so call it before other threads are started. Raises AdumbraError where
    a thread still holds a capability afterwards: nothing must be read from the network then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for capability in range(_HIGHEST_CAPABILITY + 1):  # refused without CAP_SETPCAP, or beyond the kernel's last
        libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), zero, zero, zero)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), zero, zero, zero)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # 0: the calling thread
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, in two words each
    if libc.capset(header, nothing) != 0:
        why = os.strerror(ctypes.get_errno())
        raise AdumbraError(f"the capabilities could not be dropped: {why}", "report this with the kernel's version")
    _check_nothing_held()


def _check_nothing_held() -> None:
    """Reads what every thread holds, after the fact, instead of trusting that the calls worked."""
    holding = 0
    for task in sorted(Path("/proc/self/task").iterdir()):
        if not held(task / "status").nothing:
            holding += 1
    if holding:
        raise AdumbraError(
            f"{holding} threads of this process still hold capabilities after they were dropped",
            "drop them before other threads are started: set " + " ".join(f"{k}={v}" for k, v in SINGLE_THREADED.items()),
        )
