"""The what-if command: multiples of traffic as people write them, and tables that fit a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.service.test_whatif import SPEC, traffic
from typer.testing import CliRunner

from adumbra.cli.main import app
from adumbra.cli.whatif import factor
from adumbra.service import networks
from adumbra.service.workspace import Workspace


@pytest.mark.parametrize(("text", "want"), [("2x", 2.0), ("1.5", 1.5), ("50%", 0.5), (" 3X ", 3.0), ("1e2x", 100.0)])
def test_multiples(text: str, want: float) -> None:
    assert factor(text) == want


@pytest.mark.parametrize("text", ["", "x", "twice", "-1x", "0", "nan", "inf", "1e999x", "2xx"])
def test_what_is_no_multiple(text: str) -> None:
    with pytest.raises(ValueError, match="no multiple"):
        factor(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADUMBRA_HOME", str(tmp_path))
    with Workspace(tmp_path) as workspace:
        networks.create(workspace, SPEC, "lab.yaml", 1)
        workspace.metrics.write(traffic())
    return tmp_path


def test_the_tables_fit(home: Path) -> None:
    for asked in (
        ["--traffic", "3x"],
        ["--traffic", "300x", "--sweep"],
        ["--vm", "web", "--type", "c7g.xlarge", "--last", "all"],
    ):
        found = CliRunner().invoke(app, ["whatif", "lab", *asked])
        assert found.exit_code == 0, found.output
        assert max(len(line) for line in found.stdout.splitlines()) <= 110
        assert "web" in found.stdout


def test_what_it_tells_programs(home: Path) -> None:
    found = CliRunner().invoke(app, ["whatif", "lab", "--sweep", "--vm", "db", "-o", "json"])
    (db,) = json.loads(found.stdout)["vms"]
    assert db["cheapest"] in {choice["type"] for choice in db["choices"] if choice["fits"]}
    assert all(choice["short"] for choice in db["choices"] if not choice["fits"])
