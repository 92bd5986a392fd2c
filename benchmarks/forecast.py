"""How long forecasting and sizing take: a whole back-test, sizes of 10,000 VMs, and training beside statsforecast's AutoETS.

    python benchmarks/forecast.py USAGE.parquet [--from 2013-08-20] [--resources cpu_cores,memory_gb]

One run, one input. Times are by the wall and, in brackets, of this process's CPU: on a machine with other work these differ.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from adumbra.forecast import registry
from adumbra.forecast.evaluation import Exam, evaluate
from adumbra.forecast.models.protocol import Covariates
from adumbra.forecast.risk.layout import DAY_S, Shape
from adumbra.forecast.risk.model import RiskModel, fit
from adumbra.forecast.risk.walk import step
from adumbra.forecast.series import resource_named
from adumbra.profile.decide import Curves, Dial, Memory, decide
from adumbra.profile.rules import RULES
from adumbra.schema.backtests import MeasuredUse, Usages
from adumbra.schema.records import Panel
from adumbra.service.backtests import BacktestRequest, backtest
from adumbra.service.schedules import Periods
from adumbra.service.usages import read_usages

VMS = 10_000
SEED = 1


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("usage", type=Path)
    asked.add_argument("--from", dest="first", default=None)
    asked.add_argument("--resources", default="cpu_cores,memory_gb")
    given = asked.parse_args()
    names = tuple(given.resources.split(","))
    with timed("reading"):
        usages = read_usages(given.usage, None, names)
    whole_backtest(usages, given.first)
    use = usages.resources[names[0]]
    model = trained(use)
    many_vms(use, model)
    beside_autoets(use)
    print(f"most memory held: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - wall:.1f} s (CPU {time.process_time() - cpu:.1f} s)", flush=True)


def whole_backtest(usages: Usages, first: str | None) -> None:
    """All rules and our own dials, every day that can be scored."""
    first_ns = None if first is None else round(datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp()) * 10**9
    with timed(f"back-test of {', '.join(usages.resources)}, {len(RULES)} rules, both dials"):
        report = backtest(usages, BacktestRequest(periods=Periods(first_ns=first_ns)))
    print(f"  {report.vms} VMs, {len(report.origins_ns)} days")


def trained(use: MeasuredUse) -> RiskModel:
    panel = use.panel
    shape = Shape(panel.step_s, round(DAY_S / panel.step_s), resource_named(panel.resource).floor)
    with timed(f"learning the risks of {panel.resource}"):
        return fit(use, shape, panel.values.shape[1], SEED)


def many_vms(use: MeasuredUse, model: RiskModel) -> None:
    """Copies of the VMs, each of another size, with their last 14 days."""
    rng = np.random.default_rng(SEED)
    last = use.panel.values[:, -14 * model.shape.day :]
    rows = rng.integers(len(last), size=VMS)
    factors = rng.lognormal(0.0, 0.5, VMS)
    values = last[rows] * factors[:, None]
    panel = Panel(use.panel.resource, tuple(str(i) for i in range(VMS)), use.panel.start_ns, use.panel.step_s, values)
    fleet = MeasuredUse(panel, use.provisioned[rows] * factors)
    with timed(f"sizes of {VMS:,} VMs from a trained model"):
        found = step(fleet, model, values.shape[1])
        curves = Curves(found.vms, found.candidates, found.short, 1.0)
        decided, _ = decide(curves, Memory.empty(VMS), Dial(0.01))
    print(f"  {len(decided.amounts):,} sized")


def beside_autoets(use: MeasuredUse) -> None:
    """Training and forecasts of the same origins and VMs, one model after the other."""
    exam = Exam(vms=60, origins=6, burn_in=2, fits=1)
    none = Covariates(use.provisioned, (), {})
    for name in ("autoets", "lightgbm"):
        model = {name: registry.forecaster(name, round(7 * DAY_S / use.panel.step_s))}
        with timed(f"{registry.TITLES[name]}: learning and forecasting"):
            rows = evaluate(use.panel, model, exam, SEED, lambda *_: None, none)
        for row in rows:
            if row.case == "history" and row.raw is not None:
                print(f"  {row.horizon_s / 3600:g} h ahead: WQL {row.raw.wql:.3f}, MASE {row.raw.mase:.2f}")


if __name__ == "__main__":
    main()
