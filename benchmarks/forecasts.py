"""How well each model forecasts measured use an hour, a day and a week ahead: VMs with a history, VMs that were kept from
fitting and are seen by declared size, by traffic, or for an hour, a day, a week of their own use. One run, same cases for all.

    python benchmarks/forecasts.py USAGE.parquet [--resource cpu_cores|memory_gb] [--models a,b] [--vms 160] [--json OUT]

WQL and MASE are of the forecasts as the model gives them; coverage and width also of the calibrated ones, each calibrated by
what had come of earlier forecasts when it was made. USAGE has the columns of a usage file, on a regular grid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adumbra.forecast import registry
from adumbra.forecast.evaluation import CASES, HORIZONS_S, Exam, Row, evaluate, served
from adumbra.forecast.models.protocol import Covariates
from adumbra.forecast.scores import Scores
from adumbra.schema.records import Floats, Panel

MODELS = ("seasonal-naive", "autoets", "fleet", "lightgbm", "ensemble")  # theta takes as long as all of these, and says as much
COLUMNS = {
    "cpu_cores": ("cpu_cores", "cpu_cores_provisioned", 1.0),
    "memory_gb": ("memory_bytes", "memory_bytes_provisioned", 2**-30),
}
TRAFFIC = {"rx_mbps": "rx_bytes_per_s", "tx_mbps": "tx_bytes_per_s"}
SEED = 1
_PARTS = {3_600.0: "1 h", 86_400.0: "1 d", 604_800.0: "7 d"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("usage", type=Path)
    asked.add_argument("--resource", default="cpu_cores", choices=sorted(COLUMNS))
    asked.add_argument("--models", default=",".join(MODELS))
    asked.add_argument("--vms", type=int, default=100)
    asked.add_argument("--origins", type=int, default=12)
    asked.add_argument("--json", type=Path)
    given = asked.parse_args()
    began = time.perf_counter()
    panel, covariates = read(given.usage, given.resource)
    exam = Exam(vms=given.vms, origins=given.origins, burn_in=given.origins // 3, fits=1)
    most = round(max(HORIZONS_S) / panel.step_s)
    rows: list[Row] = []
    print(f"{given.usage.name}: {given.resource}, {len(panel.vms)} VMs, {panel.values.shape[1]} steps of {panel.step_s:g} s")
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


def read(path: Path, resource: str) -> tuple[Panel, Covariates]:
    """A usage file's VMs on the grid of its commonest step, what was declared of them, and their traffic."""
    column, provisioned, factor = COLUMNS[resource]
    there = set(pq.read_schema(path).names)
    traffic = {name: source for name, source in TRAFFIC.items() if source in there}
    read_in = pq.read_table(path, columns=["vm", "time", column, provisioned, *traffic.values()])
    coded = read_in.column("vm").combine_chunks().dictionary_encode()
    vm, names = coded.indices.to_numpy(), tuple(coded.dictionary.to_pylist())
    seconds = read_in.column("time").to_numpy().astype("datetime64[s]").astype(np.int64)
    gaps = np.diff(np.unique(seconds[:100_000]))
    step_s = int(np.bincount(gaps).argmax())
    first = int(seconds.min() // step_s * step_s)
    at = (seconds - first) // step_s

    def grid(source: str, by: float) -> Floats:
        out = np.full((len(names), int(at.max()) + 1), np.nan)
        out[vm, at] = read_in.column(source).to_numpy().astype(np.float64) * by
        return out

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        declared = np.nanmax(grid(provisioned, factor), axis=1)
    values = grid(column, factor)
    values[values < 0] = np.nan
    panel = Panel(resource, names, first * 10**9, float(step_s), values)
    return panel, Covariates(declared, (), {name: grid(source, 8e-6) for name, source in traffic.items()})


if __name__ == "__main__":
    main()
