"""What is written from the metric catalogue: rules, dashboards, and the tables of a page. Writes nothing itself."""

from __future__ import annotations

from pathlib import Path

from tools.monitoring.dashboards import network_dashboard, process_dashboard
from tools.monitoring.names import with_tables
from tools.monitoring.rules import rules_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/monitoring.md"


def outputs() -> dict[Path, str]:
    """Each file with what is to stand in it."""
    return {
        ROOT / "deploy/prometheus/rules.yml": rules_yaml(),
        ROOT / "deploy/grafana/adumbra-network.json": network_dashboard(),
        ROOT / "deploy/grafana/adumbra-process.json": process_dashboard(),
        PAGE: with_tables(PAGE.read_text(encoding="utf-8")),
    }
