"""The commands on versions of models, as they are used: learn, learn again, compare, go back, forget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from tests.cli.asking import shown, told
from tests.cli.test_commands import adumbra, one_line
from tests.service.test_whatif import SPEC, START_S, traffic
from typer.testing import CliRunner

from adumbra.cli.main import app
from adumbra.cli.output import iso
from adumbra.forecast import gate
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.schema.version import __version__
from adumbra.service import networks
from adumbra.service.workspace import Workspace

USED = ("cpu_seconds", "memory_bytes", "rx_bytes", "tx_bytes")


def use(seed: int, begin_s: int) -> MetricBatch:
    """Five minutes of steady use."""
    batch, rng = traffic(), np.random.default_rng(seed)
    columns = dict(batch.columns)
    for name, mean in zip(USED, (0.4, 2e9, 2e6, 8e6), strict=True):
        values = mean * rng.gamma(20.0, 1 / 20, batch.one_sided.shape)
        columns[name] = values.astype(columns[name].dtype)
    return replace(batch, start_ns=batch.start_ns + begin_s * NANOSECONDS, columns=columns)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 learned from five minutes; version 2 from ten, under a gate that lets nothing pass."""
    folder = tmp_path_factory.mktemp("home")
    with Workspace(folder) as workspace:
        networks.create(workspace, SPEC, "lab.yaml", 1)
    for number in range(2):
        with Workspace(folder) as workspace:
            workspace.metrics.write(use(number, 300 * number))
        with pytest.MonkeyPatch.context() as shut:
            shut.setattr(gate, "TOLERANCE", -1.0)
            trained = told(folder, "train", "lab", "--seed", str(7 + number))
        (folder / f"trained-{number + 1}.json").write_text(json.dumps(trained))
    return folder


def test_the_first_serves_and_a_worse_one_does_not_take_its_place(home: Path) -> None:
    first, second = (json.loads((home / f"trained-{number}.json").read_text()) for number in (1, 2))
    assert (first["version"], first["serves"], first["judgement"]["why"]) == (1, True, "it is the first")
    assert (second["version"], second["serves"], second["judgement"]["against"]) == (2, False, 1)
    assert second["judgement"]["ratio"] > 0
    assert {each["resource"] for each in second["judgement"]["compared"]} >= {"cpu_cores", "memory_gb", "bandwidth_mbps"}


def test_the_list_tells_which_serves_and_what_each_learned_from(home: Path) -> None:
    second, first = told(home, "model", "list", "lab")
    assert [(each["version"], each["serves"], each["seed"]) for each in (second, first)] == [(2, False, 8), (1, True, 7)]
    assert (second["served"], first["served"]) == (None, first["made"])
    assert first["origin"] == {
        "start": iso(START_S * NANOSECONDS), "end": iso((START_S + 300) * NANOSECONDS), "step_s": 1.0,
        "vms": ["web", "db"], "measured_s": dict.fromkeys(("cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb"), 600.0),
        "seed": 7, "software": __version__,
    }  # fmt: skip
    assert second["origin"]["end"] == iso((START_S + 600) * NANOSECONDS)
    assert first["bytes"] > 1000
    rows = shown(home, "model", "list", "lab").splitlines()
    assert max(map(len, rows)) <= 100
    assert any(row.startswith(" 2 ") and "never served" in row and "10 min" in row for row in rows)
    assert any(row.startswith(" 1 ") and " serves" in row and "5 min" in row for row in rows)


def test_one_version_is_shown_with_each_models_scores(home: Path) -> None:
    found = told(home, "model", "show", "lab", "2")
    for learned in found["resources"]:
        assert set(learned["scores"]) >= {"seasonal-naive", "lightgbm"}
        assert learned["scores"][learned["model"]]["upper"] >= 0
    yaml = YAML(typ="safe", pure=True).load(shown(home, "model", "show", "lab", "2", "-o", "yaml"))
    assert yaml == found
    run = adumbra(home, "model", "show", "lab", "2", COLUMNS="100")
    assert max(map(len, run.stdout.splitlines())) <= 100
    assert "version 2, which never served" in run.stdout
    assert "chosen" in run.stdout
    assert f"did not serve: {found['judgement']['why']}" in run.stderr
    assert f"from 10 min of 2 VMs in steps of 1 s, {found['origin']['start']} to {found['origin']['end']}, seed 8" in run.stderr


def test_going_back_and_forth_is_told_as_events_and_changes_what_is_forecast(home: Path) -> None:
    by_first = told(home, "forecast", "lab", "--horizon", "60s")
    assert told(home, "model", "rollback", "lab", "2")["serves"] is True
    by_second = told(home, "forecast", "lab", "--horizon", "60s")
    assert by_second != by_first
    assert told(home, "model", "rollback", "lab")["version"] == 1
    assert told(home, "forecast", "lab", "--horizon", "60s") == by_first
    changes = [event for event in told(home, "events", "lab") if event["kind"] == "training.served"]
    assert [event["message"] for event in changes] == [
        "Version 2 of what was learned serves, in place of 1.", "Version 1 of what was learned serves, in place of 2.",
    ]  # fmt: skip
    again = shown(home, "model", "rollback", "lab", "1")
    assert "version 1 of lab serves" in again
    assert len([e for e in told(home, "events", "lab") if e["kind"] == "training.served"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "lab", "9"), "there is no version 9 of what was learned of lab; kept are 2, 1"),
        (("rollback", "lab"), "no version of lab that served before 1 is kept; `adumbra model list lab` shows those that are"),
        (("rollback", "lab", "9"), "there is no version 9"),
        (("forget", "lab", "1"), "version 1 of what was learned of lab serves; let another serve first"),
        (("list", "lob"), "no network 'lob'; did you mean 'lab'"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(home: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in one_line(adumbra(home, "model", *arguments, status=2))
    assert [each["version"] for each in told(home, "model", "list", "lab") if each["serves"]] == [1]


def test_a_version_that_is_forgotten_is_gone_and_the_next_has_another_number(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "TOLERANCE", -1.0)
    assert "forgot version 2 of lab" in shown(home, "model", "forget", "lab", "2")
    assert [each["version"] for each in told(home, "model", "list", "lab")] == [1]
    again = CliRunner(env={"ADUMBRA_HOME": str(home), "COLUMNS": "100"}).invoke(app, ["train", "lab"])
    assert "training 3" in again.stdout
    lines = again.stderr.splitlines()
    assert lines[0].startswith("version 3 does not serve, version 1 does: it would have lost ")
    assert lines[1:] == ["to let it serve all the same: adumbra model rollback lab 3", "next: adumbra profile lab"]


def test_models_that_can_not_be_read_serve_nobody_and_are_replaced(home: Path) -> None:
    """As those of an older program may be."""
    import sqlite3

    with sqlite3.connect(home / "state.db") as raw:
        raw.execute("UPDATE trainings SET artifact = x'00' WHERE version = 3")
    raw.close()
    assert "can't be read; train again" in one_line(adumbra(home, "model", "rollback", "lab", "3", status=1))
    assert [each["version"] for each in told(home, "model", "list", "lab") if each["serves"]] == [1]
    with sqlite3.connect(home / "state.db") as raw:
        raw.execute("UPDATE trainings SET artifact = x'00' WHERE version = 1")
    raw.close()
    trained = told(home, "train", "lab")
    assert (trained["version"], trained["serves"]) == (4, True)
    assert "that one can't be read any more" in trained["judgement"]["why"]
