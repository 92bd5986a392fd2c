"""What the daemon's tests share: where servers are begun."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.daemon.running import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.end()
