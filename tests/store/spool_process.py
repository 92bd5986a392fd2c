"""Run as a process of its own by the spool's tests: appends numbered records and reads them, and says so, until it is killed.

`a N` is said once record N was acknowledged to the one who appended it, `r N` once it was read and before it is acknowledged.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from adumbra.store.spool import Spool

BOUND_BYTES = 4 << 20


def payload(number: int) -> bytes:
    """Record `number`: of any length up to 20,000 bytes, which says its number and is known in every byte."""
    chance = random.Random(number)
    return number.to_bytes(8, "little") + chance.randbytes(chance.choice([0, 1, 100, 3000, 20_000]))


def say(kind: str, number: int) -> None:
    os.write(1, f"{kind} {number}\n".encode())


def main(folder: Path, first: int, save_every: int) -> None:
    with Spool(folder, BOUND_BYTES, save_every=save_every) as spool:
        say("open", 0)

        def read() -> None:
            while True:
                record = spool.peek()
                if record is None:
                    spool.wait(1.0)
                    continue
                number = int.from_bytes(record.payload[:8], "little")
                assert record.payload == payload(number)
                say("r", number)
                spool.acknowledge()

        threading.Thread(target=read, daemon=True).start()
        for number in range(first, first + 1_000_000):
            spool.append(payload(number))
            say("a", number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
