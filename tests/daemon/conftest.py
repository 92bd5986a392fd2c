"""What the daemon's tests share: a database of a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest


@pytest.fixture
def database(postgresql_url: str) -> Iterator[str]:
    """A database of the test's own, as ADUMBRA_STATE."""
    name = f"daemon_{time.time_ns()}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgresql_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
