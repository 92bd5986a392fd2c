"""For all tests: `--examples N` tries each property with N examples, `--outage-s S` makes outages last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, is_hypothesis_test, settings
from tests import order, servers

settings.register_profile("adumbra", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("adumbra")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, help="try each property with so many examples")
    parser.addoption("--outage-s", type=float, default=9.0, help="how long stores are away in the outage tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order.sort(items)
    if count := config.getoption("--examples"):
        for item in items:
            test: Any = getattr(item, "obj", None)
            if is_hypothesis_test(test):
                known = getattr(test, "_hypothesis_internal_use_settings", settings())
                long = settings(known, max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
                test._hypothesis_internal_use_settings = long


@pytest.fixture(autouse=True)
def a_log_of_its_own() -> Iterator[None]:
    """A command that a test runs in its own process sets up a log, to a stream that ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def prometheus_url() -> Iterator[str]:
    yield from servers.session(servers.prometheus)


@pytest.fixture(scope="session")
def victoriametrics_url() -> Iterator[str]:
    yield from servers.session(servers.victoriametrics)


@pytest.fixture(scope="session")
def influxdb_url() -> Iterator[str]:
    yield from servers.session(servers.influxdb)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    yield from servers.session(servers.postgresql)
