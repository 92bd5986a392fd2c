"""Files that came with a request, kept in the workspace's folder until the job that reads them ends. Bounded in all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adumbra.schema.errors import ConflictError, StoreError
from adumbra.service.workspace import Workspace

FOLDER = "uploads"
MAX_BYTES = 2 * 2**30
"""How large all that is kept may be together."""
_NAME = re.compile(rf"{FOLDER}/[0-9a-f]{{32}}(\.[a-z]{{1,8}})?")


def keep(workspace: Workspace, content: bytes, suffix: str = "") -> str:
    """Keeps a file, and gives its name, such as "uploads/3f….csv". On the disk when this returns.

    Raises ConflictError where too much is kept already, StoreError where the disk refuses.
    """
    folder = workspace.home / FOLDER
    name = f"{FOLDER}/{secrets.token_hex(16)}{suffix}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sum(each.stat().st_size for each in folder.iterdir())
        if kept + len(content) > MAX_BYTES:
            raise ConflictError("too many files wait for their jobs", "wait for some jobs to end, or cancel them")
        with os.fdopen(os.open(workspace.home / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"the file can't be kept ({error.strerror})", "check the server's disk") from None
    return name


def path(workspace: Workspace, name: str) -> Path:
    """Where a kept file is. Raises StoreError for what is none, and for one that isn't there any more."""
    found = workspace.home / name
    if not _NAME.fullmatch(name) or not found.is_file():
        raise StoreError("the file that came with the request isn't on this server any more", "send it again")
    return found


def is_kept(usage: str | None) -> bool:
    """Whether a job's `usage` names a kept file, rather than a server."""
    return usage is not None and _NAME.fullmatch(usage) is not None


def drop(workspace: Workspace, asked: Mapping[str, Any]) -> None:
    """Removes the file of what a job was asked for, if it has one and it is there."""
    usage = asked.get("usage")
    if isinstance(usage, str) and is_kept(usage):
        with suppress(OSError):
            (workspace.home / usage).unlink()


def sweep(workspace: Workspace, older_ns: int) -> int:
    """Removes the files that no open job reads and that were kept before that time. Gives how many."""
    folder = workspace.home / FOLDER
    if not folder.is_dir():
        return 0
    read = {str(job.asked.get("usage")) for job in workspace.state.jobs.open()}
    gone = 0
    for each in folder.iterdir():
        with suppress(OSError):
            if f"{FOLDER}/{each.name}" not in read and each.stat().st_mtime_ns < older_ns:
                each.unlink()
                gone += 1
    return gone
