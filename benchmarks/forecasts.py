"""How well each model forecasts measured use an hour, a day and a week ahead: VMs with a history, VMs that were kept from
fitting and are seen by declared size, by traffic, or for an hour, a day, a week of their own use. One run, same cases for all.

    python benchmarks/forecasts.py USAGE.parquet [--resource cpu_cores|memory_gb] [--models a,b] [--vms 160] [--json OUT]

WQL and MASE are of the forecasts as the model gives them; coverage and width also of the calibrated ones, each calibrated by
what had come of earlier forecasts when it was made. USAGE is a usage file (docs/usage-files.md). Needs the extras
[statsforecast] for autoets and [rnn] for gru; every model learns once, from what lies before the first origin.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from adumbra.forecast import registry
from adumbra.forecast.evaluation import CASES, HORIZONS_S, Exam, Row, evaluate, served
from adumbra.forecast.models.protocol import Covariates
from adumbra.forecast.scores import Scores
from adumbra.schema.records import Panel
from adumbra.service.usages import read_usages

MODELS = (
    "seasonal-naive",
    "autoets",
    "fleet",
    "lightgbm",
    "ensemble",
    "gru",
)  # theta takes as long as autoets, and says as much
TRAFFIC = "bandwidth_mbps"
SEED = 1
_PARTS = {3_600.0: "1 h", 86_400.0: "1 d", 604_800.0: "7 d"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("usage", type=Path)
    asked.add_argument("--resource", default="cpu_cores", choices=("cpu_cores", "memory_gb"))
    asked.add_argument("--models", default=",".join(MODELS))
    asked.add_argument("--vms", type=int, default=100)
    asked.add_argument("--origins", type=int, default=12)
    asked.add_argument("--json", type=Path)
    given = asked.parse_args()
    began = time.perf_counter()
    panel, covariates, notes = read(given.usage, given.resource)
    exam = Exam(vms=given.vms, origins=given.origins, burn_in=given.origins // 3, fits=1)
    most = round(max(HORIZONS_S) / panel.step_s)
    rows: list[Row] = []
    print(f"{given.usage.name}: {given.resource}, {len(panel.vms)} VMs, {panel.values.shape[1]} steps of {panel.step_s:g} s")
    for note in notes:
        print(f"  {note}")
    for name in given.models.split(","):
        start = time.perf_counter()
        rows += evaluate(panel, {name: registry.forecaster(name, most)}, exam, SEED, lambda *_: None, covariates)
        print(f"  {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    for line in table(rows):
        print(line)
    for line in served(rows):
        print(line)
    print(f"{time.perf_counter() - began:.0f} s in all")
    if given.json:
        given.json.write_text(json.dumps([row.to_dict() for row in rows], indent=1))


def table(rows: list[Row]) -> list[str]:
    """A line for each case, horizon and model."""
    head = f"{'case':<10}{'ahead':<6}{'model':<16}{'WQL':>7}{'MASE':>8}{'80 %':>7}{'95 %':>7}{'width80':>9}{'width95':>9}"
    out = [head + "   calibrated:" + f"{'WQL':>7}{'80 %':>7}{'95 %':>7}{'width80':>9}{'width95':>9}{'n':>8}"]
    for case in CASES:
        for horizon_s in HORIZONS_S:
            for row in rows:
                if (row.case, row.horizon_s) != (case.name, horizon_s):
                    continue
                start = f"{row.case:<10}{_PARTS[horizon_s]:<6}{row.model:<16}"
                if row.raw is None or row.calibrated is None:
                    out.append(f"{start}  -  {row.why}")
                    continue
                raw, held = row.raw, row.calibrated
                figures = [f"{raw.wql or 0:7.3f}{raw.mase or 0:8.2f}{_held(raw)}", f"{held.wql or 0:7.3f}{_held(held)}"]
                out.append(start + (" " * 14).join(figures) + f"{raw.points:8d}")
    return out


def _held(scored: Scores) -> str:
    shares = "".join(f"{100 * scored.coverage[name]:7.1f}" for name in ("80", "95"))
    return shares + "".join(f"{scored.width[name]:9.2f}" for name in ("80", "95"))


def read(path: Path, resource: str) -> tuple[Panel, Covariates, tuple[str, ...]]:
    """A usage file's VMs on its grid, what was declared of them, and their traffic; and what was mended, in words."""
    found = read_usages(path, resources=(resource, TRAFFIC))
    use = found.resources[resource]
    return use.panel, Covariates(use.provisioned, (), {TRAFFIC: found.resources[TRAFFIC].panel.values}), found.notes


if __name__ == "__main__":
    main()
