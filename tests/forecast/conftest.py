"""What tests of forecasts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adumbra.forecast.models import lightgbm


@pytest.fixture(scope="module")
def few_examples() -> Iterator[None]:
    """LightGBM learns from 400 examples' origins at most: enough for tests of all that is around it, at a third of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lightgbm, "_SOME_PAIRS", 400)
        yield
