"""A workspace whose network was observed, trained and sized: made once, copied for each module that asks of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api import lives
from tests.api.serving import Serving, served


@pytest.fixture(scope="session")
def lived_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a workspace with shop, which has lived, and bare, which has not."""
    home = tmp_path_factory.mktemp("lived") / "home"
    with served(home) as serving:
        serving.make("shop")
        serving.make("bare")
        lives.observe(serving, "shop")
        lives.learn(serving, "shop")
    return home


@pytest.fixture(scope="module")
def lived(lived_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server over a copy of it."""
    home = tmp_path_factory.mktemp("copy") / "home"
    shutil.copytree(lived_home, home)
    with served(home) as running:
        yield running
