"""`adumbra store` as a user meets it: exit statuses, tables, and no secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import servers
from tests.cli.test_commands import adumbra, one_line

SECRET = "s3cr3t"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_check_says_by_its_status_whether_all_works_and_shows_no_secret(home: Path) -> None:
    assert "what is sent twice is there once" in adumbra(home, "store", "check").stdout
    url = f"influxdb+http://me:{SECRET}@127.0.0.1:{servers.free_port()}/db?header.X-Key={SECRET}"
    run = adumbra(home, "store", "check", "-o", "json", status=1, ADUMBRA_STORE=f"duckdb: {url}")
    assert [store["works"] for store in json.loads(run.stdout)] == [True, False]
    assert one_line(run).startswith("not all works that is needed: influxdb+http://127.0.0.1:")
    for kept in (run.stdout, run.stderr, *(path.read_text("latin1") for path in home.rglob("*") if path.is_file())):
        assert SECRET not in kept


def test_what_can_not_be_read_is_refused_in_a_line(home: Path) -> None:
    run = adumbra(home, "store", "status", status=2, ADUMBRA_STORE=f"prometheus+http://u:{SECRET}@h?sharts=2")
    assert one_line(run).startswith(
        "adumbra: ADUMBRA_STORE (prometheus+http://h) has an option sharts, which prometheus has not"
    )
    assert SECRET not in run.stderr
    run = adumbra(home, "network", "list", status=2, ADUMBRA_DRAIN_S="long")
    assert "ADUMBRA_DRAIN_S: input should be a valid number" in one_line(run)


def test_nothing_waits_without_remote_stores(home: Path) -> None:
    assert "there is no remote store" in adumbra(home, "store", "flush").stdout
