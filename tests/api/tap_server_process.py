"""A server of a test in a process of its own, to be killed: `tap_server_process.py HOME PORT [STATE_URL]`.

Says its token once it listens.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.api.tap_server import serving

from adumbra.service.workspace import Storage

if __name__ == "__main__":
    home, port, *state = sys.argv[1:]
    storage = Storage(state=state[0]) if state else None
    with serving(Path(home), port=int(port), storage=storage) as server:
        sys.stdout.write(f"{server.token}\n")
        sys.stdout.flush()
        while True:
            time.sleep(60)
