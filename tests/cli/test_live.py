"""`adumbra live`: what it shows, that it fits a terminal, and how it reads by hand where no server does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from tests.client.answering import Said, ask
from tests.service.lab import SECONDS, START_S, made_lab
from tests.service.scripted import Scripted, moments

from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import live
from adumbra.service.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The lab, whose web uses 3 cores in a fifth of the time, and whose db isn't measured."""
    with Workspace(tmp_path / "home") as workspace:
        made_lab(workspace)
        cores = np.where(np.arange(SECONDS) % 50 < 10, 3.0, 0.2)[:, None]
        columns = {"cpu_seconds": cores, "memory_bytes": np.full((SECONDS, 1), 1.5 * 2**30)}
        starts = (START_S + np.arange(SECONDS)) * 10**9
        sided = np.zeros((SECONDS, 1), np.bool_)
        workspace.metrics.write(MetricBatch("lab", 1.0, ("web",), starts, columns, sided, "libvirt", Origin.LIVE))
    return tmp_path / "home"


def asked(home: Path, *arguments: str, **environment: str) -> Said:
    return ask({"ADUMBRA_HOME": str(home), **environment}, "live", *arguments)


@pytest.mark.parametrize("width", ["80", "110"])
def test_the_table_fits_the_terminal(home: Path, width: str) -> None:
    said = asked(home, "lab", COLUMNS=width)
    assert said.status == 0, said.told
    assert all(len(line) <= int(width) for line in said.shown.splitlines())
    lines = said.shown.splitlines()
    assert lines[0].startswith("lab: predicted against measured, 5 min from 2023-11-14T22:13:20Z")
    told = " ".join(said.shown.split())
    assert "web CPU cores" in told
    assert "20 %" in told, "how often it was short"
    assert "short of" in told
    assert "not measured" in told
    assert "1 % that were promised" in told


def test_programs_get_all_of_it(home: Path) -> None:
    found = json.loads(asked(home, "lab", "-o", "json").shown)
    assert YAML(typ="safe").load(asked(home, "lab", "-o", "yaml").shown) == found
    web, db = found["vms"]
    assert (web["word"], db["word"]) == ("short of CPU", "not measured")
    assert [(each["resource"], each["way"]) for each in web["scores"]] == [
        ("cpu_cores", ""), ("memory_gb", ""), ("bandwidth_mbps", ""), ("bandwidth_mbps", "rx"), ("bandwidth_mbps", "tx"),
        ("storage_gb", ""),
    ]  # fmt: skip
    assert web["scores"][0]["promise"]["short"]["share"] == 0.2
    assert web["scores"][2]["measured"] is None, "nobody told of its interfaces"


def test_it_reads_by_hand_where_no_server_does(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = asked(home, "lab", "--read", "2s")
    assert said.status == 2
    assert "lab is shadowing: there is no machine to read; run `adumbra activate lab` first" in said.told
    with Workspace(home) as workspace:
        plan = {"network": "lab", "provider": "libvirt", "steps": [], "price_per_hour": None, "aim": "active"}
        record = workspace.state.plans.begin("lab", plan, 2, "it begins")
        workspace.state.plans.finish(record.id, PlanState.DONE, 3, (NetworkState.ACTIVE, "it stands"))
    script = Scripted(moments(START_S + 1000, {"db": np.full(40, 0.5)}, every_s=10.0))
    monkeypatch.setattr(live, "provider_of", lambda *_: script)
    waited: list[float] = []
    monkeypatch.setattr("adumbra.cli.compare._wait", lambda for_s, stopped: waited.append(for_s))
    said = asked(home, "lab", "--read", "30s", "-o", "json")
    assert said.status == 0, said.told
    assert "read 300 intervals of real machines" in said.told
    assert (len(waited), script.opened, script.closed) == (30, 1, 1)
    db = next(vm for vm in json.loads(said.shown)["vms"] if vm["vm"] == "db")
    assert db["scores"][0]["only_measured"] == 30
    monkeypatch.setattr(live, "provider_of", lambda *_: Scripted([()]))
    assert "libvirt tells of no machine of lab that runs" in asked(home, "lab", "--read", "5s").told


def test_it_shows_it_again_and_again_until_it_is_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []

    def wait(for_s: float, stopped: object) -> None:
        shown.append(for_s)
        if len(shown) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("adumbra.cli.compare._wait", wait)
    said = asked(home, "lab", "--watch", "5")
    assert (said.status, shown) == (0, [5.0] * 3)
    assert said.shown.count("predicted against measured") == 3


@pytest.mark.parametrize(
    "arguments",
    [("--watch", "0.1"), ("--read", "0.1"), ("--last", "soon"), ("--last", "2s"), ("--step", "0s"), ("--watch", "x")],
)
def test_what_can_not_be_is_refused(home: Path, arguments: tuple[str, str]) -> None:
    said = asked(home, "lab", *arguments)
    assert said.status == 2
    assert ";" in said.told or "give" in said.told or "write it" in said.told
