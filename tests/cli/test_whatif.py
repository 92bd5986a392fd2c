"""The what-if command: multiples of traffic as people write them, and tables that fit a terminal."""

from __future__ import annotations

import json
import re
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


def prepared(home: Path) -> Path:
    """The folder, with a network in it, and its traffic."""
    with Workspace(home) as workspace:
        networks.create(workspace, SPEC, "lab.yaml", 1)
        workspace.metrics.write(traffic())
    return home


ASKED = {
    "times": ["--traffic", "3x"],
    "share": ["--traffic", "10%"],
    "sweep": ["--traffic", "300x", "--sweep", "--last", "10s"],
    "type": ["--vm", "web", "--type", "c7g.xlarge", "--last", "all"],
    "short": ["--traffic", "1000x", "--type", "t4g.nano", "--last", "2s"],
}
THERE_WAS = {"short": "2 s, 2023-11-14T22:18:18Z", "sweep": "10 s, 2023-11-14T22:18:10Z"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is asked -> the table, 100 columns wide."""
    home = prepared(tmp_path_factory.mktemp("home"))
    environment = {"ADUMBRA_HOME": str(home), "COLUMNS": "100"}
    found = {name: CliRunner(env=environment).invoke(app, ["whatif", "lab", *asked]) for name, asked in ASKED.items()}
    assert all(each.exit_code == 0 for each in found.values())
    return {name: each.stdout for name, each in found.items()}


def test_the_tables_fit(tables: dict[str, str]) -> None:
    for name, text in tables.items():
        assert max(len(line) for line in text.splitlines()) <= 100, name
        assert (
            f"traffic of {THERE_WAS.get(name, '5 min, 2023-11-14T22:13:20Z')} to 2023-11-14T22:18:20Z" in text.splitlines()[0]
        )
        assert not re.search(r"\de[+-]\d", text), "no exponents"


def test_what_is_declared_stands_first_under_the_traffic_asked_for(tables: dict[str, str]) -> None:
    web = [line for line in tables["sweep"].splitlines() if re.search(r"m7i\.large|c\d+\w*\.|types fit", line)]
    assert re.match(r" web  m7i.large \(declared\) +\d", web[0])
    busy = re.search(r"declared\) +([\d.]+) %", web[0])
    now = re.search(r" web +1x  m7i.large \(declared\) +([\d.]+) %", tables["times"])
    assert busy is not None
    assert now is not None
    assert float(busy[1]) > 20 * float(now[1])
    assert re.search(r" 3x  m7i.large \(declared\)", tables["times"])
    assert "1,000x" in tables["short"]
    assert "0.1x" in tables["share"]


def test_other_processors_than_the_declared_ones_are_said(tables: dict[str, str]) -> None:
    assert re.search(r" 1x  c7g.xlarge \(ARM\) .* yes", tables["type"])
    for name in ("type", "sweep"):
        assert "(ARM): only for software that runs on ARM processors" in tables[name]
    assert "ARM" not in tables["times"]
    of_web = tables["sweep"].partition("types fit")[0].splitlines()
    assert any(" yes" in line and "ARM" not in line and "declared" not in line for line in of_web), "one that needs no port"


def test_what_it_tells_programs(tmp_path: Path) -> None:
    found = CliRunner(env={"ADUMBRA_HOME": str(prepared(tmp_path))}).invoke(
        app, ["whatif", "lab", "--sweep", "--vm", "db", "-o", "json"]
    )
    (db,) = json.loads(found.stdout)["vms"]
    assert db["cheapest"] in {choice["type"] for choice in db["choices"] if choice["fits"]}
    assert all(choice["short"] for choice in db["choices"] if not choice["fits"])
