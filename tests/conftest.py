"""For all tests: `--examples N` has each property tried with N examples instead of its own few, for a long run by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, help="try each property with so many examples")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if count := config.getoption("--examples"):
        for item in items:
            test: Any = getattr(item, "obj", None)
            if is_hypothesis_test(test):
                known = getattr(test, "_hypothesis_internal_use_settings", settings())
                long = settings(known, max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
                test._hypothesis_internal_use_settings = long
