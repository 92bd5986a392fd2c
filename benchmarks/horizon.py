"""Measures how much further use wanders over a long horizon than a short history showed, and checks the sizes that follow.

    python benchmarks/horizon.py USAGE.parquet [--write src/adumbra/forecast/horizon.json] [--check]

USAGE is a usage file (DESIGN.md section 8) of many machines, 5 minutes a step. Prints the horizon table and, with
--check, learns from 1 day and from 7 days of machines that the table was *not* made from (it is measured on every other
machine for this), sizes them for the next 7 days, and says how often the sizes were short. Needs pyarrow. Two minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adumbra.forecast import horizon
from adumbra.forecast.demand import Known, demand_given, train
from adumbra.forecast.series import RESOURCE, Statistic
from adumbra.forecast.window import Need, measured
from adumbra.schema.records import Panel
from adumbra.schema.sizing import BYTES_PER_GB, SizingPolicy
from adumbra.schema.units import format_duration

STEP_S = 300
SPANS_S = (900, 3_600, 21_600, 86_400, 259_200, 604_800)  # 15 min, 1 h, 6 h, 1 d, 3 d, 7 d: learned, and looked ahead
SHARES = (0.005, 0.01, 0.05)
PAIRS = 20_000  # random machines and origins
LEAST_PAIRS, LEAST_MACHINES = 60, 8
CHECKED = ("cpu_cores", "memory_gb", "bandwidth_mbps")
CHECKED_ORIGINS = 6
POINTS = ("p50", "p90", "p99")
EDGES = {  # what the learned window needed, in the table's unit: the first group is below the floor
    "cpu_cores": (0.01, 0.1, 1.0),
    "memory_gb": (0.01, 0.1, 1.0),
    "bandwidth_mbps": (0.1, 1.0, 10.0),
    "storage_gb": (0.01, 0.1, 1.0),
}
WHAT = {
    "cpu_cores": "CPU cores in use: what no more than the share of 5-minute means exceeds",
    "memory_gb": "memory in active use: the largest 5-minute value",
    "bandwidth_mbps": "bandwidth of the busier direction: what no more than the share of 5-minute means exceeds",
    "storage_gb": (
        "growth of storage, by analogy: the trace has no storage in use, so the mean rate of disk writes, in GB a day, "
        "stands in for the rate of growth"
    ),
}


def load(path: Path) -> tuple[list[str], int, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Machines, the first step's time, use per resource float64[V, T] with NaN gaps, and what was provisioned [V, T]."""
    table = pq.read_table(path)
    coded = table["vm"].combine_chunks().dictionary_encode()
    names, row = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    seconds = table["time"].to_numpy().astype("datetime64[s]").astype(np.int64)
    step = (seconds - seconds.min()) // STEP_S

    def column(name: str) -> np.ndarray:
        grid = np.full((len(names), int(step.max()) + 1), np.nan)
        grid[row, step] = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return grid

    use = {
        "cpu_cores": column("cpu_cores"),
        "memory_gb": column("memory_bytes") / BYTES_PER_GB,
        "bandwidth_mbps": np.fmax(column("rx_bytes_per_s"), column("tx_bytes_per_s")) * 8e-6,
        "storage_gb": column("write_bytes_per_s") * 86_400 / BYTES_PER_GB,
    }
    provisioned = {"cpu_cores": column("cpu_cores_provisioned"), "memory_gb": column("memory_bytes_provisioned") / BYTES_PER_GB}
    return names, int(seconds.min()), use, provisioned


def windows(values: np.ndarray, machine: np.ndarray, first: np.ndarray, need: Need) -> np.ndarray:
    """What windows of each of SPANS_S need, float64[6, n]; NaN where less than 80 % of one was measured.

    `first`: int64[6, n], where each begins.
    """
    out = []
    for span_s, begin in zip(SPANS_S, first, strict=True):
        steps = span_s // STEP_S
        parts = []
        for chunk in np.array_split(np.arange(len(machine)), max(1, len(machine) * steps // 4_000_000)):
            stretch = values[machine[chunk, None], begin[chunk, None] + np.arange(steps)]
            value = measured(stretch, need)
            value[np.isfinite(stretch).sum(axis=1) < 0.8 * steps] = np.nan
            parts.append(value)
        out.append(np.concatenate(parts))
    return np.array(out)


def measure(use: dict[str, np.ndarray], machines: np.ndarray, source: str, measured_on: str) -> dict:
    """The table, as plain data, from the rows `machines`."""
    rng = np.random.default_rng(20130701)
    steps = np.array([span // STEP_S for span in SPANS_S])
    machine = machines[rng.integers(len(machines), size=PAIRS)]
    origin = rng.integers(steps[-1], next(iter(use.values())).shape[1] - steps[-1], size=PAIRS)
    resources = {}
    for name, values in use.items():
        traits = RESOURCE[name]
        shares = SHARES if traits.statistic is Statistic.SHARE else SHARES[1:2]
        ratios, used = [], []
        for share in shares:
            need = Need(traits.statistic, share)
            learned = windows(values, machine, origin[None, :] - steps[:, None], need)
            ahead = windows(values, machine, np.broadcast_to(origin, (len(steps), PAIRS)), need)
            used.append(group_centres(learned, EDGES[name]))
            ratios.append(by_group(learned, ahead, machine, EDGES[name]))
        resources[name] = {
            "what": WHAT[name], "floor": traits.floor, "shares": list(shares),
            "used": [float(f"{x:.3g}") for x in np.median(used, axis=0)],
            "ratios": [float(f"{x:.3g}") for x in np.ravel(ratios)],
        }  # fmt: skip
        resources[name]["ratios"] = np.reshape(resources[name]["ratios"], np.shape(ratios)).tolist()
    return {
        "source": source, "licence": "measured figures of a public trace; the trace itself is not part of this package",
        "measured": measured_on, "machines": len(machines), "pairs": PAIRS,
        "how": "random machines and origins; ratio of what the horizon after the origin needed to what the window before "
        "it needed, both at least the floor; a window counts where 80 % of it was measured; by groups of what the learned "
        "window needed, the first below the floor. 15 minutes hold only 3 five-minute samples. The quantiles are of all "
        "pairs of a group, so that a machine of many pairs weighs no more than its share of the draws",
        "levels": list(horizon.LEVELS), "windows_s": list(SPANS_S), "horizons_s": list(SPANS_S), "resources": resources,
    }  # fmt: skip


def group_centres(learned: np.ndarray, edges: tuple[float, ...]) -> list[float]:
    """The median need of each group's learned windows, over all spans."""
    flat = learned[np.isfinite(learned)]
    at = np.digitize(flat, edges)
    return [float(np.median(flat[at == group])) if group else edges[0] for group in range(len(edges) + 1)]


def by_group(learned: np.ndarray, ahead: np.ndarray, machine: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Ratios float64[B, W, H, 4]; a cell with too few pairs or machines takes those of the next smaller window."""
    out = np.empty((len(edges) + 1, len(learned), len(ahead), len(horizon.LEVELS)))
    for b in range(len(edges) + 1):
        for w, before in enumerate(learned):
            for h, after in enumerate(ahead):
                sound = np.isfinite(before) & np.isfinite(after) & (np.digitize(before, edges) == b)
                if sound.sum() < LEAST_PAIRS or len(np.unique(machine[sound])) < LEAST_MACHINES:
                    out[b, w, h] = out[b, w - 1, h]
                    continue
                ratio = np.maximum(after[sound], edges[0]) / np.maximum(before[sound], edges[0])
                out[b, w, h] = np.quantile(ratio, horizon.LEVELS)
    return out


def show(table: dict) -> None:
    """The table at 1 % short, for the next hour, day and week."""
    span = ("15 min", "1 h", "6 h", "1 d", "3 d", "7 d")
    for name, entry in table["resources"].items():
        print(f"\n{name}: {entry['what']}\n  quantiles 10, 50, 90, 99 % of next / learned")
        ratios = np.array(entry["ratios"])[entry["shares"].index(0.01)]
        for b, used in enumerate(entry["used"]):
            print(f"  learned window needed {'less than' if b == 0 else 'about'} {used:g}")
            for w in range(len(span)):
                cells = ("/".join(f"{x:.3g}" for x in ratios[b, w, h]) for h in (1, 3, 5))
                print(f"    {span[w]:>6}: " + "   ".join(f"{cell:>24}" for cell in cells))


def check(use: dict, provisioned: dict, table: dict, machines: np.ndarray, learned_s: int) -> None:
    """Learns from `learned_s` of machines the table wasn't made from, sizes them for 7 days, and says what came of it."""
    widening = horizon.widening_of(table)
    policy = SizingPolicy(shortfall=0.01, horizon_s=604_800.0)
    learned, ahead = learned_s // STEP_S, 604_800 // STEP_S
    origins = np.linspace(4_100, next(iter(use.values())).shape[1] - ahead, CHECKED_ORIGINS).astype(int)
    size_of = {name: np.nanmedian(values[machines], axis=1) for name, values in provisioned.items()}
    found: dict[str, list[np.ndarray]] = {}
    spent_s = 0.0
    for origin in origins:
        names = tuple(str(machine) for machine in machines)
        panels = {
            name: Panel(name, names, 0, float(STEP_S), use[name][machines, origin - learned : origin]) for name in CHECKED
        }  # fmt: skip
        begun = time.perf_counter()
        training = train(panels, 1, lambda _share, _what: None)
        told = {"": Known(widening=widening), ", size declared": Known(widening=widening, capacity=size_of)}
        sized = {words: demand_given(training, panels, policy, known) for words, known in told.items()}
        spent_s += time.perf_counter() - begun
        print("    chosen: " + ", ".join(f"{entry.resource} {entry.chosen}" for entry in training.resources))
        for name in CHECKED:
            after = use[name][machines, origin : origin + ahead]
            whole = size_of.get(name, np.full(len(machines), np.nan))
            for words, demands in sized.items():
                if words and name not in size_of:
                    continue
                found.setdefault(name + words, []).append(judge(demands, name, after, whole))
            plain = measured(panels[name].values, Need(RESOURCE[name].statistic, 0.01)) * 1.15
            found.setdefault(name + ", baseline: the same statistic of what was learned, x 1.15", []).append(
                outcome(np.maximum(plain, RESOURCE[name].floor), after, whole)
            )
    print(
        f"  learned {format_duration(learned_s)}, sized for the next 7 d, 1 % asked; {len(machines)} machines, "
        f"{len(origins)} origins, {spent_s:.0f} s"
    )
    for name, parts in found.items():
        tell(name, np.concatenate(parts, axis=1))


def outcome(need: np.ndarray, after: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """[3, V]: share of steps short, whether by more than asked, allocation as a share of what was provisioned.

    What use beyond the provisioned size no allocation could have held is no shortness; NaN where under half was measured.
    """
    there = np.isfinite(after)
    bound = np.fmin(np.nan_to_num(whole, nan=np.inf), np.inf)
    over = (after > need[:, None] * (1 + 1e-9)) & ~(after > bound[:, None])
    short = np.where(there.mean(axis=1) > 0.5, over.sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.nan)
    short[~np.isfinite(need)] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing was provisioned, or nobody knows what
        return np.stack([short, short > 0.01, np.where(whole > 0, np.minimum(need, whole) / whole, np.nan)])


def judge(demands: tuple, name: str, after: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """[6, V]: `outcome` of the needs, and whether the requirement lay within the belief's points."""
    need = np.array([each.need.get(name, np.nan) for each in demands])
    required = np.maximum(measured(after, Need(RESOURCE[name].statistic, 0.01)), RESOURCE[name].floor)
    points = [[getattr(each.estimate[name], p) if name in each.estimate else np.nan for each in demands] for p in POINTS]
    within = [required <= np.maximum(point, RESOURCE[name].floor) * (1 + 1e-9) for point in points]
    return np.concatenate([outcome(need, after, whole), within])


def tell(name: str, found: np.ndarray) -> None:
    sound = np.isfinite(found[0])
    mean = [100 * row[sound & np.isfinite(row)].mean() if np.isfinite(row[sound]).any() else np.nan for row in found]
    told = f"short in {mean[0]:.2f} % of intervals; VMs short above 1 %: {mean[1]:.1f} %"
    told += f", above 3 %: {100 * (found[0, sound] > 0.03).mean():.1f} %"
    if np.isfinite(mean[2]):
        told += f"; allocated {mean[2]:.1f} % of provisioned"
    if len(found) > 3:
        told += f"; required within p50, p90, p99: {mean[3]:.0f}, {mean[4]:.0f}, {mean[5]:.0f} %"
    print(f"  {name}: {told}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("usage", type=Path)
    parser.add_argument("--source", default="GWA-T-12 Bitbrains Rnd, 200 VMs, 2013-07 to 2013-09 (Shen, van Beek, Iosup 2015)")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    names, _start, use, provisioned = load(asked.usage)
    today = datetime.now(UTC).date().isoformat()
    table = measure(use, np.arange(len(names)), asked.source, today)
    show(table)
    if asked.write:
        asked.write.write_text(json.dumps(table, separators=(",", ":")) + "\n", "utf-8")
        print(f"\nwrote {asked.write}")
    if asked.check:
        print("\nsizes of machines with an odd number, by a table of those with an even number")
        half = measure(use, np.arange(0, len(names), 2), asked.source, today)
        sample = np.arange(1, len(names), 2)
        for learned_s in (3_600, 86_400, 604_800):
            check(use, provisioned, half, sample, learned_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
