"""Begins a child that ends with its parent: `python -m adumbra.daemon.leash PARENT PROGRAM ARGUMENT ...`.

A server that is killed can end nobody any more, so the kernel does (prctl(2), PR_SET_PDEATHSIG, which execve keeps). Told to
end, the child ends in good order. Imports next to nothing: what it begins takes its place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the program. Ends at once where the parent is gone already."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("whoever began this is gone")
    os.execv(command[0], command)  # noqa: S606 - a path that the server chose, and no shell


if __name__ == "__main__":
    main()
