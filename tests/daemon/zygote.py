"""Begins servers for tests, each a process of its own, without each loading the libraries anew: that takes seconds.

    python tests/daemon/zygote.py      loads what `adumbra serve` does, then forks for each line on standard input

A line is JSON: {"environment": {...}, "arguments": [...], "out": FILE, "err": FILE}; answered by the process's number. What is
forked then runs the command from its beginning: it opens its own stores and sockets, and is killed like any process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

LOADED = (
    "adumbra.api.app", "adumbra.api.connections", "adumbra.api.measured", "adumbra.cli.main", "adumbra.cli.serving",
    "adumbra.daemon.server", "adumbra.daemon.serving", "adumbra.service.recovery",
    "adumbra.service.tls", "adumbra.store.duckdb",
    "adumbra.store.embedded", "adumbra.store.scrape", "adumbra.store.state", "adumbra.telemetry", "anyio._core._sockets",
    "encodings.idna", "fastapi.telemetry._runtime", "prometheus_client", "ruamel.yaml",
    "sqlalchemy.dialects.sqlite", "sqlite3", "stamina", "typer._adapters", "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)  # fmt: skip
"""What a server loads until it has answered a few requests."""


def main() -> None:
    """Forks until its input ends."""
    for name in LOADED:
        importlib.import_module(name)
    from adumbra.profile.catalog import load_catalog

    load_catalog()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    _say("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        number = os.fork()
        if not number:
            _become(asked)
        _say(number)
    os._exit(0)  # to take all that was loaded apart takes a while


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def _become(asked: dict[str, object]) -> None:
    """The server, in the forked process. Never returns."""
    status = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], 0), (2, asked["err"], 0)):
            file = (
                os.open(str(name), flags or os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                if descriptor
                else os.open(os.devnull, os.O_RDONLY)
            )
            os.dup2(file, descriptor)
            os.close(file)
        os.environ.update(asked["environment"])  # type: ignore[arg-type, call-overload]
        sys.argv = ["adumbra", *asked["arguments"]]  # type: ignore[misc]
        from adumbra.cli.main import run

        run()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
