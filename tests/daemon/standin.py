"""Stands in for a tap: `python standin.py WHAT [FILE]`. Says what it is on standard error, and in FILE that it began."""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> int:
    what, *rest = sys.argv[1:]
    if rest:
        with open(rest[0], "a") as file:
            file.write(f"{os.getpid()} {os.environ.get('ADUMBRA_TOKEN', '')}\n")
    sys.stderr.write(f"adumbra: {what} it is\n")
    sys.stderr.flush()
    if what == "fails":
        return 1
    if what == "wrong":
        return 2
    if what == "ends":
        return 0
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
