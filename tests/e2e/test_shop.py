"""The whole path on the recorded shop: what the command prints equals tshark, and what it plans stands by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import forked, tshark

SHOP = Path(__file__).parents[2] / "examples" / "shop"
VM_OF = {"10.20.1.10": "web-1", "10.20.1.11": "web-2", "10.20.2.10": "db", "10.20.2.11": "cache"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def demo(home: Path) -> str:
    """What `adumbra demo` prints, run once as a user would."""
    command = [sys.executable, "-m", "adumbra", "demo"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment(home), timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}


def adumbra(home: Path, *arguments: str) -> str:
    run = forked.run("adumbra", *arguments, env=environment(home), timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return str(run.stdout)


def as_json(home: Path, *arguments: str) -> Any:
    return json.loads(adumbra(home, *arguments, "--output", "json"))


def test_the_demo_ends_with_the_sizes_and_the_terraform_file(demo: str, home: Path) -> None:
    last = demo.rstrip().splitlines()[-1]
    assert last == f"Terraform JSON: {home / 'terraform' / 'shop' / 'main.tf.json'}"
    assert json.loads(Path(last.split(": ", 1)[1]).read_text())["resource"]["aws_instance"]
    for vm in VM_OF.values():
        assert f" {vm} " in demo


@tshark.needs_tshark
@pytest.mark.usefixtures("demo")
def test_metrics_equal_tshark(home: Path, tmp_path: Path) -> None:
    capture = tmp_path / "shop.pcap"
    with capture.open("wb") as file:
        subprocess.run(["zstd", "-dc", str(SHOP / "shop.pcap.zst")], stdout=file, check=True)
    want = tshark.cells(capture, VM_OF)
    rows = as_json(home, "metrics", "shop")["rows"]
    assert len(rows) == 900 * len(VM_OF)
    counted = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_established")
    seen = set()
    for row in rows:
        second = int(datetime.fromisoformat(row["time"]).timestamp())
        cell = want.get((row["vm"], second), tshark.Cell())
        seen.add((row["vm"], second))
        assert {name: row[name] for name in counted} == {name: getattr(cell, name) for name in counted}, row["time"]
        for level, name in ((0.5, "rtt_ms_p50"), (0.99, "rtt_ms_p99")):
            if cell.rtt_ms:
                assert abs(row[name] - float(np.quantile(cell.rtt_ms, level))) <= 0.001
            else:
                assert row[name] is None
    assert not set(want) - seen


@pytest.mark.usefixtures("demo")
def test_planning_again_is_empty_and_deletion_and_return_behave(home: Path) -> None:
    file = home / "terraform" / "shop" / "main.tf.json"
    first = file.read_bytes()
    assert as_json(home, "activate", "shop", "--provider", "terraform")["plan"]["steps"] == []
    taken = as_json(home, "deactivate", "shop")["plan"]["steps"]
    assert {step["act"] for step in taken} == {"delete"}
    assert not file.exists()
    made = as_json(home, "activate", "shop", "--provider", "terraform")["plan"]["steps"]
    assert len(made) == len(taken)
    assert file.read_bytes() == first


@pytest.mark.usefixtures("demo")
def test_the_profile_is_in_the_documented_form_and_honest(home: Path) -> None:
    profile = as_json(home, "profile", "shop")
    assert {"network", "horizon_s", "shortfall", "learned_s", "model", "vms", "risk"} == set(profile)
    assert (profile["shortfall"], profile["horizon_s"]) == (0.01, 604_800)
    assert 890 <= profile["learned_s"] <= 900
    for vm in profile["vms"]:
        assert vm["confidence"] == "low"
        assert vm["reasons"]
        for resource, points in vm["estimate"].items():
            assert points["p50"] <= points["p90"] <= points["p99"]
            assert vm[resource] >= points["p90"] * (1 - 1e-9)
    looser = as_json(home, "profile", "shop", "--shortfall", "20%")
    for tight, loose in zip(profile["vms"], looser["vms"], strict=True):
        assert loose["bandwidth_mbps"] <= tight["bandwidth_mbps"]


@pytest.mark.usefixtures("demo")
def test_a_second_demo_changes_nothing(home: Path, demo: str) -> None:
    before = as_json(home, "metrics", "shop")
    assert adumbra(home, "demo").rstrip().splitlines()[-1] == demo.rstrip().splitlines()[-1]
    assert as_json(home, "metrics", "shop") == before


def test_the_recording_is_small_enough_to_be_committed() -> None:
    assert sum(path.stat().st_size for path in SHOP.iterdir() if path.is_file()) <= 12_000_000
