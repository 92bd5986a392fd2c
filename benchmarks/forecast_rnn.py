"""Trains the recurrent network on the first 50 days of measured use, and scores it on what came after, beside its rivals.

    python benchmarks/forecast_rnn.py USAGE.parquet [--resource cpu_cores] [--steps 1000] [--origins 6] [--seed 0]

USAGE is a usage file (DESIGN.md section 8), 5 minutes a step. Every model learns once, from what lies before 2013-08-20,
and forecasts 1 h, 1 d and 7 d from origins spread over what comes after; it is handed all that was known at each origin and
nothing after it. Prints WQL and pinball loss (.5 .9 .95 .99), MASE and how often the 80 and 95 % intervals held. Needs
pyarrow and the extra [rnn]. Some six minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adumbra.forecast.models.gru import Gru
from adumbra.forecast.models.gru_batches import Budget
from adumbra.forecast.models.lightgbm import LightGbm
from adumbra.forecast.models.protocol import LEVELS, Fitted, Forecaster, Horizon
from adumbra.forecast.models.seasonal_naive import SeasonalNaive
from adumbra.forecast.scores import PINBALL_LEVELS, Cases, score
from adumbra.forecast.series import resource_named, scale_of, until
from adumbra.schema.records import Panel
from adumbra.schema.sizing import BYTES_PER_GB

STEP_S = 300
SPLIT = datetime(2013, 8, 20, tzinfo=UTC)
HORIZONS = {"1 h": 12, "1 d": 288, "7 d": 2016}
MOST_POINTS = 168  # of a horizon, evenly spread
LEARNED = {"cpu_cores": ("cpu_cores", 1.0), "memory_gb": ("memory_bytes", 1 / BYTES_PER_GB)}


def load(path: Path, resource: str) -> tuple[Panel, dict[str, float]]:
    """Measured use on a grid with NaN gaps, and the largest size that each VM was told to have."""
    table = pq.read_table(path)
    coded = table["vm"].combine_chunks().dictionary_encode()
    names, row = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    seconds = table["time"].to_numpy().astype("datetime64[s]").astype(np.int64)
    step = (seconds - seconds.min()) // STEP_S
    column, factor = LEARNED[resource]

    def grid(name: str) -> np.ndarray:
        values = np.full((len(names), int(step.max()) + 1), np.nan)
        values[row, step] = table[name].to_numpy(zero_copy_only=False).astype(np.float64) * factor
        return values

    told = np.nanmax(grid(f"{column}_provisioned"), axis=1)
    panel = Panel(resource, tuple(names), int(seconds.min()) * 1_000_000_000, float(STEP_S), grid(column))
    return panel, {name: float(size) for name, size in zip(names, told, strict=True) if size > 0}


def naive_errors(values: np.ndarray) -> np.ndarray:
    """Each VM's mean error of repeating the day before, within what was learned from: what MASE divides by."""
    return np.nanmean(np.abs(values[:, 288:] - values[:, :-288]), axis=1)


def scored(fitted: Fitted, panel: Panel, origins: list[int], steps: int, measures: tuple[np.ndarray, np.ndarray]) -> str:
    """One model's line for one horizon; measures: each VM's mean use and naive error."""
    scale, naive = measures
    horizon = Horizon.thinned(steps, MOST_POINTS)
    actual, quantiles, spread, error = [], [], [], []
    for origin in origins:
        said = fitted.quantiles(until(panel, origin), horizon, LEVELS).values
        came = panel.values[:, origin + horizon.ahead - 1]
        sound = np.isfinite(came) & np.isfinite(said).all(axis=-1)
        actual.append(came[sound])
        quantiles.append(said[sound])
        spread.append(np.broadcast_to(scale[:, None], came.shape)[sound])
        error.append(np.broadcast_to(naive[:, None], came.shape)[sound])
    cases = Cases(LEVELS, *(np.concatenate(part) for part in (actual, quantiles, spread, error)))
    got = score(cases)
    losses = " ".join(f"{got.pinball[f'{level:g}']:7.4f}" for level in PINBALL_LEVELS)
    covered = f"{100 * got.coverage['80']:5.1f} {100 * got.coverage['95']:5.1f}"
    return f"{got.wql:7.4f} {got.mase:7.4f} {losses} {covered} {got.width['80']:7.3f} {got.points:9d}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("usage", type=Path)
    parser.add_argument("--resource", default="cpu_cores", choices=LEARNED)
    parser.add_argument("--steps", type=int, default=Budget().steps, help="batches that the network learns from, at most")
    parser.add_argument("--origins", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["seasonal-naive", "lightgbm", "gru"])
    args = parser.parse_args()
    panel, declared = load(args.usage, args.resource)
    split = round((SPLIT.timestamp() - panel.start_ns / 1e9) / STEP_S)
    history = until(panel, split)
    last = panel.values.shape[1] - max(HORIZONS.values())
    origins = [int(at) for at in np.linspace(split, last, args.origins)]
    scale, naive = scale_of(history, resource_named(args.resource).floor), naive_errors(history.values)
    most = max(HORIZONS.values())
    started = time.perf_counter()

    def told(epoch) -> None:
        passed = time.perf_counter() - started
        print(
            f"  {passed:6.1f} s  {epoch.step:5d}/{epoch.steps}  {epoch.trained:.4f}  held out {epoch.held_out:.4f}", flush=True
        )

    models: dict[str, Forecaster] = {
        "seasonal-naive": SeasonalNaive(), "lightgbm": LightGbm(most),
        "gru": Gru(most, declared, Budget(steps=args.steps), told=told),
    }  # fmt: skip
    print(f"{args.resource}: {len(panel.vms)} VMs, {split} steps learned from, {args.origins} origins after")
    print("horizon  model            WQL    MASE   pinball .5 .9 .95 .99 (per mean use)  in 80  in 95  width80    points")
    for name in args.only:
        started = time.perf_counter()
        fitted = models[name].fit(history, np.random.default_rng(args.seed))
        learned = time.perf_counter() - started
        for title, steps in HORIZONS.items():
            print(f"{title:8s} {name:14s} {scored(fitted, panel, origins, steps, (scale, naive))}", flush=True)
        print(f"         {name} learned in {learned:.1f} s, answered in {time.perf_counter() - started - learned:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
