"""A workspace with a network whose traffic and sizes are made up, so that nothing need be trained; and NiceGUI's user."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.lab import made_lab

from adumbra.schema.access import NewUser, Role
from adumbra.service import access
from adumbra.service.workspace import Workspace

PASSWORD = "a long enough password"


@pytest.fixture(scope="session")
def hashed() -> str:
    """Hashing takes long on purpose: once is enough."""
    return access.hash_password(PASSWORD)


@pytest.fixture
def lab(tmp_path: Path, hashed: str) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        made_lab(opened)
        for name, role, networks in (
            ("ada", Role.ADMIN, None), ("olga", Role.OPERATOR, ("lab",)), ("vera", Role.VIEWER, ("lab",)),
            ("stan", Role.VIEWER, ("other",)),
        ):  # fmt: skip
            opened.state.access.add_user(NewUser(name, role, networks), hashed, time.time_ns())
        yield opened
