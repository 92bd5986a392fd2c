"""That one server at a time runs on a home and on a state store in a file. Starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adumbra.daemon.locks import FileLock
from adumbra.service.workspace import Workspace

LOCK = ".serving"
"""No network's name begins with a dot, so that its own lock never has this name."""


@contextmanager
def one_server(workspace: Workspace) -> Iterator[None]:
    """Raises ConflictError where another server runs on the same home, or on the same state store in a file."""
    with ExitStack() as held:
        for folder in dict.fromkeys(_folders(workspace)):
            mend = "stop that one first, or give this one an ADUMBRA_HOME of its own, and both one PostgreSQL as ADUMBRA_STATE"
            held.enter_context(FileLock(folder / "locks" / LOCK, f"another server runs on {folder}", mend))
        yield


def _folders(workspace: Workspace) -> Iterator[Path]:
    yield workspace.home.resolve()
    file = workspace.state.database.file
    if file is not None:
        yield file.resolve().parent
