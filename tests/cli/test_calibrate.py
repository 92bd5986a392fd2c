"""`adumbra calibrate` as a user meets it: a real process on made traffic, its words, its exit status."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests import forked

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.service import networks
from adumbra.service.workspace import Workspace

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets:
  - {name: a, cidr: 10.9.1.0/24}
vms:
  - {name: web, subnet: a, role: nginx, type: m7i.large, ports: [80]}
"""
START_S = 1_700_000_000


def adumbra(home: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "80", "NO_COLOR": "1"}
    run = forked.run("adumbra", *arguments, env=environment)
    assert run.returncode == status, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with five minutes of stored traffic, and its measured use beside it."""
    folder = tmp_path_factory.mktemp("calibrate")
    rng = np.random.default_rng(2)
    requests = rng.poisson(30 * (1.1 + np.sin(np.arange(300) / 40)))[:, None]
    columns = {metric.name: np.zeros((300, 1), np.int64 if metric.whole else np.float64) for metric in METRICS}
    columns |= {"requests": requests, "rx_bytes": requests * 500, "tx_bytes": requests * 2000, "rx_packets": requests * 3}
    starts = (START_S + np.arange(300)) * NANOSECONDS
    with Workspace(folder / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", 1)
        opened.metrics.write(MetricBatch("lab", 1.0, ("web",), starts, columns, np.zeros((300, 1), np.bool_), "pcap:made"))
    rows = [f"web,{START_S + t},{0.01 + 0.003 * int(requests[t, 0])}" for t in range(300)]
    (folder / "use.csv").write_text("\n".join(["vm,time,cpu_cores", *rows]) + "\n")
    return folder / "home"


def test_a_calibration_from_file_to_table_and_back(home: Path) -> None:
    use = str(home.parent / "use.csv")
    assert "was not calibrated" in adumbra(home, "calibrate", "lab", "--show", status=2).stderr
    run = adumbra(home, "calibrate", "lab", use)
    assert "web  cpu_cores   300" in run.stdout
    assert all(len(line.rstrip()) <= 80 for line in run.stdout.splitlines())
    assert "300 stored rows emulated anew" in run.stderr
    assert "times what the prior said" in run.stderr
    told = json.loads(adumbra(home, "calibrate", "lab", "--show", "--output", "json").stdout)
    assert told["network"] == "lab"
    (web,) = told["vms"]
    assert web["fits"]["cpu_cores"]["error_after"] < 0.1
    assert "taken as measured on m7i.large, as declared (core speed 1): web" in run.stderr
    assert "Calibrated 1 of 1 VMs" in adumbra(home, "events", "lab").stdout
    assert "follows its roles' priors" in adumbra(home, "calibrate", "lab", "--reset").stdout


def test_an_update_says_what_it_went_on_from_and_what_that_was_worth(home: Path) -> None:
    lines = (home.parent / "use.csv").read_text().splitlines()
    early, later = home.parent / "early.csv", home.parent / "later.csv"
    early.write_text("\n".join(lines[:201]) + "\n")
    later.write_text("\n".join([lines[0], *lines[201:]]) + "\n")
    assert "nothing to go on from" in adumbra(home, "calibrate", "lab", str(early), "--update", status=2).stderr
    first = json.loads(adumbra(home, "calibrate", "lab", str(early), "--measured-on", "0.5", "--output", "json").stdout)
    run = adumbra(home, "calibrate", "lab", str(later), "--update")
    assert f"calibration {first['version'] + 1}, which goes on from {first['version']}" in run.stdout
    assert "web  cpu_cores   300" in run.stdout
    assert "100 new rows; the same traffic takes about what the last calibration said" in run.stderr
    assert "taken as measured on cores of the given speed (core speed 0.5): web" in run.stderr
    assert "300 stored rows emulated anew" in run.stderr
    assert "nothing is later" in adumbra(home, "calibrate", "lab", str(later), "--update", status=2).stderr
    adumbra(home, "calibrate", "lab", "--reset")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "one thing at a time"),
        (("--from-traffic", "--update"), "--update goes on with later use; give it"),
        (("--reset", "--measured-on", "2"), "--measured-on says on what use was measured"),
        (("USE", "--measured-on", "fast"), "no current instance type 'fast'"),
        (("USE", "--reset"), "one thing at a time"),
        (("none.csv",), "No such file"),
        (("USE", "--train-share", "99%"), "leaves too little"),
        (("BAD",), "bad.csv:2: cpu_cores is 'much'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(home: Path, arguments: tuple[str, ...], what: str) -> None:
    (home.parent / "bad.csv").write_text("vm,time,cpu_cores\nweb,1700000000,much\n")
    files = {"USE": str(home.parent / "use.csv"), "BAD": str(home.parent / "bad.csv")}
    run = adumbra(home, "calibrate", "lab", *(files.get(each, each) for each in arguments), status=2)
    assert what in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
