"""Sizes of young VMs: what a model of other VMs says of one of which an hour, a day or nothing but its declared size is known.

    python benchmarks/cold_start.py USAGE.parquet [--from 2013-08-20] [--origins 10] [--folds 4]

USAGE is a usage file (DESIGN.md section 8) of many machines. They are dealt into folds; for those of each fold a model learns
from the others, up to --from. At times after that, by chance, all but the last hours of a machine's history are hidden, and it
gets the least candidate of which no more than the dial is expected, for a day; simple rules see the same hours. Nothing sets
right what is expected: that takes a history of sizes. Prints, for each age: allocated and short in % (see docs/rules.md), short
as a ratio to the dial and to what was expected, how often the machine at the 95th percentile is short, and by what factor sizes
differ from those that the whole history gives, in the median. Five minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from adumbra.forecast.risk.examples import Pairs, look
from adumbra.forecast.risk.layout import DAY_S, Shape
from adumbra.forecast.risk.model import RiskModel, fit
from adumbra.forecast.series import resource_named
from adumbra.profile.rules import percentile_of
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.records import NANOSECONDS
from adumbra.service.usages import read_usages

AGES_H = {"none": 0.0, "1 h": 1.0, "6 h": 6.0, "1 d": 24.0, "7 d": 168.0, "all": np.inf}
DIALS = (0.005, 0.01, 0.02, 0.05)
RULES = {"p95 x 1.3": (95.0, 1.3), "peak x 1.15": (100.0, 1.15)}


def origins_after(use: MeasuredUse, first: int, held: int, many: int, rng: np.random.Generator) -> np.ndarray:
    """Whole hours by chance, int64[many], whose windows lie in the panel."""
    hour = round(3600 / use.panel.step_s)
    every = np.arange(first, use.panel.values.shape[1] - held + 1, hour)
    return np.sort(rng.choice(every, min(many, len(every)), replace=False))


def counted(use: MeasuredUse, shape: Shape, vms: np.ndarray, origins: np.ndarray) -> Pairs:
    """The machines and origins that count: 7 of the 14 days before have any sample, and half of the window was measured."""
    found = [
        (vm, origin)
        for origin in origins
        for vm in vms
        if np.isfinite(use.panel.values[vm, origin - 14 * shape.day : origin]).reshape(14, -1).any(axis=1).sum() >= 7
        and 2 * np.isfinite(use.panel.values[vm, origin : origin + shape.held]).sum() >= shape.held
        and use.provisioned[vm] > 0
    ]
    vm, origin = np.array(found, np.int64).reshape(-1, 2).T
    return Pairs(vm, np.zeros(len(vm), np.int64), origin)


def aged(pairs: Pairs, age_h: float, step_s: float) -> Pairs:
    """The same with all but the last hours hidden."""
    if np.isinf(age_h):
        return pairs
    return replace(pairs, begins=np.maximum(pairs.origins - round(age_h * 3600 / step_s), 0))


def by_model(use: MeasuredUse, model: RiskModel, pairs: Pairs) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """For each dial: its name, the sizes float64[n], and what is expected of them."""
    looks = look(use, model.shape, pairs)
    short = model.short(looks)
    for dial in DIALS:
        within = short <= dial
        place = np.where(within.any(axis=1), np.argmax(within, axis=1), short.shape[1] - 1)[:, None]
        amounts, expected = (np.take_along_axis(each, place, axis=1)[:, 0] for each in (looks.candidates, short))
        yield f"{100 * dial:g} %", amounts, expected


def by_rules(use: MeasuredUse, pairs: Pairs) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same by rules, from what isn't hidden of the last 14 days; where that is nothing, what was declared."""
    back = round(14 * DAY_S / use.panel.step_s)
    for name, (percent, factor) in RULES.items():
        amounts = np.array([
            factor * percentile_of(use.panel.values[vm, max(begin, origin - back) : origin], percent)
            for vm, begin, origin in zip(pairs.vms, pairs.begins, pairs.origins, strict=True)
        ])  # fmt: skip
        yield name, np.where(np.isfinite(amounts), amounts, use.provisioned[pairs.vms]), np.full(len(amounts), np.nan)


def came(use: MeasuredUse, shape: Shape, pairs: Pairs, amounts: np.ndarray) -> np.ndarray:
    """The share of each window's steps above the amount but not above what was provisioned, float64[n]."""
    window = use.panel.values[pairs.vms[:, None], pairs.origins[:, None] + np.arange(shape.held)]
    capacity = use.provisioned[pairs.vms, None]
    above = (window > np.minimum(amounts[:, None], capacity)) & ~(window > capacity)
    return above.sum(axis=1) / np.isfinite(window).sum(axis=1)


def measure(use: MeasuredUse, first: int, folds: int, many: int, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """(age, who) -> of every machine and origin: machine, provisioned, amount, expected and what came, float64[5, n]."""
    rng = np.random.default_rng(seed)
    shape = Shape(use.panel.step_s, round(DAY_S / use.panel.step_s), resource_named(use.panel.resource).floor)
    vms = len(use.panel.vms)
    origins = origins_after(use, first, shape.held, many, rng)
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    for held_out in np.array_split(rng.permutation(vms), folds):
        others = np.setdiff1d(np.arange(vms), held_out)
        panel = replace(
            use.panel, vms=tuple(use.panel.vms[vm] for vm in others), values=use.panel.values[others, :first]
        )  # fmt: skip
        model = fit(MeasuredUse(panel, use.provisioned[others]), shape, first, seed)
        pairs = counted(use, shape, np.sort(held_out), origins)
        for age, hours in AGES_H.items():
            young = aged(pairs, hours, use.panel.step_s)
            for who, amounts, expected in (*by_model(use, model, young), *by_rules(use, young)):
                whole = use.provisioned[pairs.vms]
                found = np.array([pairs.vms, whole, np.minimum(amounts, whole), expected, came(use, shape, pairs, amounts)])
                rows.setdefault((age, who), []).append(found)
    return {key: np.concatenate(each, axis=1) for key, each in rows.items()}


def tell(found: dict[tuple[str, str], np.ndarray]) -> None:
    whos = list(dict.fromkeys(who for _, who in found))
    print(f"{'':>12} {'known':>6} {'alloc %':>8} {'short %':>8} {'/dial':>6} {'/exp':>6} {'p95 VM':>7} {'x all':>6}")
    for who in whos:
        for age in AGES_H:
            vm, whole, amount, expected, short = found[age, who]
            of_vm = [short[vm == each].mean() for each in np.unique(vm)]
            dial = float(who.split()[0]) / 100 if who.endswith("%") else np.nan
            at_all = found["all", who][2]
            used = (amount > 0) & (at_all > 0)
            apart = np.exp(np.median(np.abs(np.log(amount[used] / at_all[used]))))
            came_to = short.mean()
            print(
                f"{who:>12} {age:>6} {100 * amount.sum() / whole.sum():8.1f} {100 * came_to:8.3f} {came_to / dial:6.2f} "
                f"{came_to / expected.mean():6.2f} {100 * np.percentile(of_vm, 95):7.2f} {apart:6.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("usage", type=Path)
    parser.add_argument("--from", dest="first", default="2013-08-20", help="learned from before, tried after (UTC)")
    parser.add_argument("--origins", type=int, default=10)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    usages = read_usages(asked.usage, resources=("cpu_cores", "memory_gb"))
    first_ns = int(datetime.fromisoformat(asked.first).replace(tzinfo=UTC).timestamp()) * NANOSECONDS
    for name, use in usages.resources.items():
        first = round((first_ns - use.panel.start_ns) / NANOSECONDS / use.panel.step_s)
        found = measure(use, first, asked.folds, asked.origins, asked.seed)
        vm = next(iter(found.values()))[0]
        print(f"\n{name}: {len(np.unique(vm))} machines, {len(vm):,} machines and times", flush=True)
        tell(found)


if __name__ == "__main__":
    main()
