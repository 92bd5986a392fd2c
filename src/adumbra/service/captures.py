"""Captures that somebody sent, kept in the workspace's folder under their network. Bounded; checked to be captures at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from adumbra.schema.errors import ConflictError, InputError, StoreError
from adumbra.service.workspace import Workspace

FOLDER = "captures"
_BLOCK = 1 << 20
_MAGICS = (
    b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1",  # pcap, us and ns, both orders
    b"\x0a\x0d\x0d\x0a",  # pcapng
    b"\x1f\x8b", b"\x28\xb5\x2f\xfd",  # either, by gzip or zstd
)  # fmt: skip
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def keep(workspace: Workspace, network: str, name: str, content: BinaryIO, most_bytes: int) -> str:
    """Keeps a capture, and gives the source that reads it, such as pcap:/…/captures/shop/1f2e-day.pcap.

    name: what its owner calls it; most_bytes: how much may be kept of a network. On the disk when this returns. Raises
    InputError for what is no capture, ConflictError where too much is kept, StoreError where the disk refuses.
    """
    folder = folder_of(workspace, network)
    path = folder / f"{secrets.token_hex(4)}-{tidy(name)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = most_bytes - sum(each.stat().st_size for each in folder.iterdir())
        _write(path, content, room, name)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"the capture can't be kept ({error.strerror})", "check the server's disk") from None
    except (InputError, ConflictError):
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return f"pcap:{path}"


def folder_of(workspace: Workspace, network: str) -> Path:
    """Where a network's captures are kept."""
    return (workspace.home / FOLDER / network).absolute()


def drop(source: str) -> None:
    """Removes a capture that nothing came of, by the source that `keep` gave."""
    with suppress(OSError):
        Path(source.removeprefix("pcap:")).unlink()


def forget(workspace: Workspace, network: str) -> None:
    """Removes all captures of a network."""
    shutil.rmtree(folder_of(workspace, network), ignore_errors=True)


def _write(path: Path, content: BinaryIO, room: int, name: str) -> None:
    first = content.read(_BLOCK)
    if not first.startswith(_MAGICS):
        raise InputError(f"{name[:80]} is no capture", "give a pcap or pcapng file, as it is or by gzip or zstd")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        block, had = first, 0
        while block:
            had += len(block)
            if had > room:
                raise ConflictError(
                    "there is no room for this capture beside those that are kept of the network",
                    "observe it by `adumbra observe` where it lies, or delete the network when it is done with",
                )
            file.write(block)
            block = content.read(_BLOCK)
        file.flush()
        os.fsync(file.fileno())


def tidy(name: str) -> str:
    """A name that any file system takes, and that is no other path."""
    return _UNSAFE.sub("-", Path(name.replace("\\", "/")).name).strip(".-")[-80:] or "capture"
