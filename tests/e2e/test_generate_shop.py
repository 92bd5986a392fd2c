"""The shop's traffic, generated from what its recording taught, and observed again: the same load, and the same CPU."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import forked

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MIDDAY_S = (290, 420)  # of the recording: the load is level there
LENGTH_S = 300
SERVED = ("requests", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets")


def adumbra(home: Path, *arguments: str) -> str:
    environment = os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}
    run = forked.run("adumbra", *arguments, env=environment, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def metrics(home: Path, name: str) -> list[dict[str, Any]]:
    return json.loads(adumbra(home, "metrics", name, "--output", "json"))["rows"]  # type: ignore[no-any-return]


def means(rows: list[dict[str, Any]], first: float, last: float) -> dict[str, dict[str, float]]:
    """Per VM and column, the mean of the intervals from `first` up to `last`, epoch seconds."""
    chosen = [row for row in rows if first <= datetime.fromisoformat(row["time"]).timestamp() < last]
    names = (*SERVED, "connections_attempted", "connections_initiated", "cpu_seconds", "connections_active", "peers")
    return {
        vm: {name: float(np.mean([row[name] for row in chosen if row["vm"] == vm])) for name in names}
        for vm in {row["vm"] for row in chosen}
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the shop showed at midday, and what generated traffic of that rate shows."""
    home = tmp_path_factory.mktemp("home")
    adumbra(home, "network", "create", str(SHOP / "shop.yaml"))
    adumbra(home, "observe", "shop", f"pcap:{SHOP / 'shop.pcap.zst'}")
    rows = metrics(home, "shop")
    began = min(datetime.fromisoformat(row["time"]).timestamp() for row in rows)
    was = means(rows, began + MIDDAY_S[0], began + MIDDAY_S[1])
    rate = sum(vm["connections_attempted"] - vm["connections_initiated"] for name, vm in was.items() if name.startswith("web"))
    options = ("--connections-per-s", f"{rate:.3f}", "--duration", f"{LENGTH_S}s", "--output", "json")
    told = json.loads(adumbra(home, "generate", "shop", str(home / "noon.pcap.zst"), *options))
    (home / "copy.yaml").write_text((SHOP / "shop.yaml").read_text().replace("name: shop", "name: copy", 1))
    adumbra(home, "network", "create", str(home / "copy.yaml"))
    adumbra(home, "observe", "copy", f"pcap:{home / 'noon.pcap.zst'}")
    start_s = told["start_ns"] / 1e9
    return was, means(metrics(home, "copy"), start_s, start_s + LENGTH_S)


@pytest.mark.parametrize("vm", ["web", "db", "cache"])
def test_rates_are_near(compared: tuple[dict[str, Any], dict[str, Any]], vm: str) -> None:
    """Standard errors of such means are about 3 %; sizes are those of the whole day, not of midday alone."""
    was, now = (_of_kind(each, vm) for each in compared)
    for name in SERVED:
        assert now[name] == pytest.approx(was[name], rel=0.15), name


def test_cpu_is_predicted_within_a_few_percent(compared: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for vm in ("web", "db", "cache"):
        was, now = (_of_kind(each, vm) for each in compared)
        assert now["cpu_seconds"] == pytest.approx(was["cpu_seconds"], rel=0.08), vm


def test_connections_between_the_servers_are_there(compared: tuple[dict[str, Any], dict[str, Any]]) -> None:
    was, now = compared
    for name in ("db", "cache"):
        assert now[name]["connections_initiated"] == 0.0
        assert now[name]["connections_active"] == pytest.approx(was[name]["connections_active"], rel=0.5)
        assert now[name]["peers"] == pytest.approx(2.0, abs=0.1)  # the two web servers, and nobody else
    for name in ("web-1", "web-2"):
        assert now[name]["connections_initiated"] > 0.0
        assert now[name]["connections_active"] == pytest.approx(was[name]["connections_active"], rel=0.3)


def _of_kind(measured: dict[str, dict[str, float]], kind: str) -> dict[str, float]:
    of = [columns for vm, columns in measured.items() if vm.startswith(kind)]
    return {name: float(np.sum([each[name] for each in of])) for name in of[0]}
