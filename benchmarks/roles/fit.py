"""Turns measured.json into the role priors: python fit.py [measured.json] [roles.json]. Needs Adumbra, no root, no clock.

Every figure of the priors is computed here from what was measured, or stands in STATED with the reason why it can't be.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stated import ALIASES, COMMON, STATED, Stated

from adumbra.emulate.demand import wakes

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "src" / "adumbra" / "emulate" / "data" / "roles.json"
COSTS = ("connection_s", "request_s", "byte_in_s", "byte_out_s", "packet_s", "wake_s")
FEWEST = 8  # requests answered; a run with fewer says too little
WIRE = slice(2, 5)  # of COSTS: those of bytes and packets, which the kernel has for all software alike
OWN_SD = 2.0  # of a cost's logarithm about where it is expected: how lightly costs that can't be told apart are held together
USUAL_NOISE = 0.5  # log-sd of runs about a law, as far as it weighs the prior
STEPS = 200
TO_SD = 1.0 / 1.2816  # half the width of what holds 80 %, to a normal distribution's standard deviation
SIGNIFICANT = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """Runs as columns: `demand` (n x 6) is what came, by COSTS, `work_s` what it took beside idling; `group`, `level` to leave
    out by.
    """

    demand: Floats
    work_s: Floats
    weight: Floats
    group: NDArray[np.str_]
    level: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.work_s)

    def only(self, wanted: NDArray[np.bool_]) -> Runs:
        return Runs(
            self.demand[wanted],
            self.work_s[wanted],
            self.weight[wanted],
            self.group[wanted],
            self.level[wanted],
        )

    def without_wakes(self) -> Runs:
        """The same runs without the last column of the demand, for a law in which no request costs more than another."""
        return replace(self, demand=self.demand[:, :-1])


@dataclass(frozen=True)
class Law:
    """Costs (COSTS, but of a wake where the runs have none) that runs were explained by; `noise`: log-sd of what is left;
    `each`: log-sd of a cost by itself."""

    costs: Floats
    noise: float
    each: float


def runs_of(measured: Mapping[str, Any]) -> Runs:
    """The runs of one role. Each workload weighs the same, however many runs it has."""
    idle = measured["idle"]["cores"]
    kept = [
        (run, run["cpu_s"] - idle * run["seconds"])
        for run in measured["runs"]
        if run["answered"] >= FEWEST and run["cpu_s"] > 1.05 * idle * run["seconds"]
    ]
    demand = [
        [r["connections"], r["answered"], r["bytes_in"], r["bytes_out"], r["packets_in"] + r["packets_out"], _woken(r)]
        for r, _ in kept
    ]
    group = np.array([r["workload"] for r, _ in kept])
    lowest = min(r["rate"] for r, _ in kept)
    highest = {(r["workload"], r["mode"]): max(o["rate"] for o, _ in kept if _cell(o) == _cell(r)) for r, _ in kept}
    level = ["low" if r["rate"] == lowest else "high" if r["rate"] == highest[_cell(r)] else "middle" for r, _ in kept]
    weight = np.array([1.0 / np.count_nonzero(group == name) for name in group])
    work_s, even = np.array([s for _, s in kept]), weight * len(kept) / weight.sum()
    return Runs(np.array(demand, np.float64), work_s, even, group, np.array(level))


def _woken(run: Mapping[str, Any]) -> float:
    """The requests of a run that nothing before them has woken the machine for, at the rate at which they were sent."""
    return float(wakes(np.float64(run["answered"]), run["answered"] / run["rate"]))


def _cell(run: Mapping[str, Any]) -> tuple[str, str]:
    return run["workload"], run["mode"]


def wire_costs(all_runs: Sequence[Runs]) -> Floats:
    """Where the costs of a byte in, a byte out and a packet are expected, float64[3].

    Of all runs of all roles, the one with the least work by byte (or packet) bounds what that can cost; bytes in, bytes out
    and packets come together and share, so a third of the bound is expected of each.
    """
    demand, work_s = np.vstack([runs.demand[:, WIRE] for runs in all_runs]), np.concatenate([r.work_s for r in all_runs])
    expected: Floats = (work_s[:, None] / np.maximum(demand, 1e-9)).min(axis=0) / 3.0
    return expected


def fit_law(runs: Runs, wire_s: Floats) -> Law:
    """Positive costs, by least squares on log(predicted / measured), in three steps.

    A relative error that is symmetric: half as much is as wrong as twice as much, so that workloads of very unlike cost
    aren't all predicted by the cheapest. (1) All costs, alike for all workloads. Each one's logarithm has a normal prior of
    sd OWN_SD: about `wire_s` for bytes and packets, about half of the work each for connections and requests. So costs that
    the runs can't tell apart share, and none is 0. (2) The cost of a request for each workload by itself, and the role's as
    the mean over workloads: CPU adds up by means, and a VM may have any of them. (3) With these, the cost of a connection
    again. Raises ValueError for no runs.
    """
    if not len(runs):
        raise ValueError("no runs to fit; measure the role again")
    demand, target, root = runs.demand, np.log(runs.work_s), np.sqrt(runs.weight)
    halves = [_half(demand[:, j], runs.work_s) for j in range(demand.shape[1]) if j not in range(WIRE.start, WIRE.stop)]
    start = np.array([*halves[:2], *np.log(wire_s), *halves[2:]])
    noise = USUAL_NOISE
    for _ in range(3):  # the noise says how much the prior weighs, and the fit says the noise
        theta = _descend(demand, Aim(target, root, start, noise / OWN_SD))
        shares = demand * np.exp(theta)
        left = root * (np.log(shares.sum(axis=1)) - target)
        noise = max(float(np.sqrt(np.mean(left**2))), 0.05)
    each = _own_spread(shares, root, noise)
    costs = np.exp(theta)
    request_s, own = _request_costs(runs, costs)
    others = demand @ np.where(np.arange(len(costs)) == 0, 0.0, costs) + demand[:, 1] * (own - costs[1])
    aim = Aim(target, root, theta[:1], USUAL_NOISE / OWN_SD, others)
    costs[:2] = float(np.exp(_descend(demand[:, :1], aim)[0])), request_s
    return Law(costs, noise, each)


def _request_costs(runs: Runs, costs: Floats) -> tuple[float, Floats]:
    """The mean over workloads of what a request of each costs, the other costs given; and each run's own, float64[n]."""
    names, own = np.unique(runs.group), np.empty(len(runs))
    others = runs.demand @ np.where(np.arange(len(costs)) == 1, 0.0, costs)
    for name in names:
        rows = runs.group == name
        aim = Aim(
            np.log(runs.work_s[rows]), np.sqrt(runs.weight[rows]), np.log(costs[1:2]), USUAL_NOISE / OWN_SD, others[rows]
        )  # fmt: skip
        own[rows] = np.exp(_descend(runs.demand[rows, 1:2], aim)[0])
    return float(np.mean([own[runs.group == name][0] for name in names])), own


def _own_spread(parts: Floats, root: Floats, noise: float) -> float:
    """Log-sd of one cost by itself, each weighed by its share of the work, from the curvature of the fit and the prior."""
    shares = parts / parts.sum(axis=1, keepdims=True)
    precision = (root[:, None] * shares).T @ (root[:, None] * shares) / noise**2 + np.eye(shares.shape[1]) / OWN_SD**2
    return math.sqrt(float(np.sum(np.diag(np.linalg.inv(precision)) * shares.mean(axis=0))))


def _half(column: Floats, work_s: Floats) -> float:
    """The logarithm of the cost that would make a column half of the work, where it is more than a handful."""
    there = column >= FEWEST
    return math.log(1e-5) if not there.any() else float(np.mean(np.log(work_s[there] / column[there]))) - math.log(2.0)


@dataclass(frozen=True)
class Aim:
    """What a descent aims at: log of work (n) with the roots of weights, logarithms of costs to start from and be pulled to
    with `pull`, and the work (n) that is explained already."""

    target: Floats
    root: Floats
    start: Floats
    pull: float
    given: Floats | float = 0.0


def _descend(demand: Floats, aim: Aim) -> Floats:
    """Logarithms of the costs that come nearest to the aim; Levenberg-Marquardt (Marquardt 1963)."""
    theta, damping = aim.start.copy(), 1e-2

    def left(t: Floats) -> Floats:
        predicted = np.log(aim.given + (demand * np.exp(t)).sum(axis=1))
        return np.concatenate([aim.root * (predicted - aim.target), aim.pull * (t - aim.start)])

    now = left(theta)
    for _ in range(STEPS):
        parts = demand * np.exp(theta)
        slope = aim.root[:, None] * parts / (aim.given + parts.sum(axis=1))[:, None]
        slope = np.vstack([slope, aim.pull * np.eye(len(theta))])
        normal = slope.T @ slope
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slope.T @ now)
        new = left(theta + step)
        if new @ new < now @ now:
            theta, now, damping = theta + step, new, damping / 3
            if np.abs(step).max() < 1e-9:
                break
        else:
            damping *= 4
    return theta


def predict(law: Law, runs: Runs) -> Floats:
    """Work in seconds that a law gives runs."""
    predicted: Floats = runs.demand @ law.costs
    return predicted


def held_out(runs: Runs, by: NDArray[np.str_], wire_s: Floats) -> Floats:
    """log(predicted / measured) of every run, by a law fitted without the runs that are like it in `by`."""
    errors = np.full(len(runs), np.nan)
    for name in np.unique(by):
        out = by == name
        if out.all():
            continue
        errors[out] = np.log(predict(fit_law(runs.only(~out), wire_s), runs.only(out)) / runs.work_s[out])
    return errors


def summary(errors: Floats, weight: Floats) -> dict[str, float]:
    """Of errors as logarithms: their weighted root mean square, median and 90 % as factors, and the factor of their mean."""
    there = ~np.isnan(errors)
    errors, weight = errors[there], weight[there]
    if not len(errors):
        return {}
    size = np.abs(errors)
    return {
        "log_rms": _round(math.sqrt(float(np.average(errors**2, weights=weight)))),
        "factor_median": _round(math.exp(float(np.median(size)))),
        "factor_p90": _round(math.exp(float(np.quantile(size, 0.9)))),
        "bias_factor": _round(math.exp(float(np.average(errors, weights=weight)))),
    }


def variation(measured: Mapping[str, Any]) -> float:
    """Coefficient of variation of a request's work: across the kinds of a workload (their CPU), and within a kind.

    Within: of response times at a low rate, where nothing waits, as CPU isn't accounted by request; the median over kinds.
    Both are taken as independent: 1 + cv^2 = (1 + across^2)(1 + within^2).
    """
    idle = measured["idle"]["cores"]
    cost = {}
    for run in measured["kinds"]:
        work = run["cpu_s"] - idle * run["seconds"]
        if run["answered"] and work > 0:
            cost[run["workload"]] = work / run["answered"]
    within = float(np.median([shape["cv"] for run in measured["kinds"] for shape in run["response"].values()]))
    across = []
    for mix in measured["workloads"].values():
        share, each = np.array([mix[k] for k in mix if k in cost]), np.array([cost[k] for k in mix if k in cost])
        if len(each):
            mean = np.average(each, weights=share)
            across.append(float(np.average((each / mean - 1.0) ** 2, weights=share)))
    return math.sqrt((1.0 + float(np.mean(across or [0.0]))) * (1.0 + within**2) - 1.0)


def memory_of(measured: Mapping[str, Any], stated: Stated) -> dict[str, float]:
    """Base, per connection (a line through held connections), and what a cache grows by."""
    memory = measured["memory"]
    points = np.array([[p["connections"], p["own"]] for p in memory["held"]], np.float64)
    found = {
        "base_bytes": float(memory["started"]["own"]),
        "connection_bytes": max(float(np.polyfit(points[:, 0], points[:, 1], 1)[0]), 0.0),
        "release_s": stated.release_s,
    }
    if stated.cache_bytes and stated.kept_values:  # what was set, against what memory grew by
        overhead = memory["prepared"]["grown"] / memory["prepared"]["bytes_in"]
        found |= {"cache_bytes": stated.cache_bytes, "cache_request_bytes": overhead * COMMON.value_bytes * COMMON.new_share}
    elif stated.cache_bytes:  # a database's buffers: what memory grew by over the first runs
        base, asked, grown = memory["started"]["own"], 0, []
        for run in measured["runs"]:
            asked += run["answered"]
            filled = min(max((run["memory_own"] - base) / stated.cache_bytes, 0.0), 0.95)
            grown.append(-stated.cache_bytes * math.log1p(-filled) / max(asked, 1))
        found |= {"cache_bytes": stated.cache_bytes, "cache_request_bytes": float(np.median(grown))}
    return found


def storage_of(measured: Mapping[str, Any], stated: Stated) -> dict[str, float | None]:
    """Space of the package and its data, growth per byte received, or per request of what only logs, operations per request:
    means over the workloads.
    """
    growth, logged, ops = [], [], []
    for name in {run["workload"] for run in measured["runs"]}:
        runs = [run for run in measured["runs"] if run["workload"] == name]
        grown = max(sum(r["grown_bytes"] for r in runs), 0)
        growth.append(0.0 if stated.logs else grown / max(sum(r["bytes_in"] for r in runs), 1))
        logged.append(grown / max(sum(r["answered"] for r in runs), 1) if stated.logs else 0.0)
        ops.append(sum(r["ops"] for r in runs) / max(sum(r["answered"] for r in runs), 1))
    storage = measured["storage"]
    return {
        "base_bytes": float(storage["installed_bytes"] + storage["data_bytes"]),
        "written_per_byte_in": float(np.mean(growth)),
        "written_per_request": float(np.mean(logged)),
        "ops_per_request": float(np.mean(ops)),
        "retention_s": stated.retention_s,
    }


def unseen_of(runs: Runs, stated: Stated) -> dict[str, float]:
    """What a request has of bytes, as the geometric mean over runs; how many a connection brings is its clients' doing."""
    each = np.exp(np.mean(np.log(np.maximum(runs.demand[:, 2:4], 1.0) / runs.demand[:, 1:2]), axis=0))
    return {
        "requests_per_connection": stated.requests_per_connection,
        "request_bytes": float(each[0]),
        "response_bytes": float(each[1]),
    }


@dataclass(frozen=True)
class Fitted:
    """A role's prior as plain data, and the errors that it comes with."""

    prior: dict[str, Any]
    errors: dict[str, Any]


def fit_role(name: str, measured: Mapping[str, Any], machine: Mapping[str, Any], wire_s: Floats) -> Fitted:
    """The prior of one role from its measurement. Raises ValueError where it has less than two workloads."""
    stated, runs = STATED[name], runs_of(measured)
    if len(np.unique(runs.group)) < 2:
        raise ValueError(f"{name} has one workload, so none can be held out; measure two or more")
    law = fit_law(runs, wire_s)
    left_out = held_out(runs, runs.group, wire_s)
    errors = {
        "runs": len(runs),
        "repeated": sum(run["tries"] > 1 for run in measured["runs"]),
        "in_sample": summary(np.log(predict(law, runs) / runs.work_s), runs.weight),
        "held_out_workload": summary(left_out, runs.weight),
        "without_wakes": _without_wakes(runs, wire_s),
        "held_out_level": summary(held_out(runs, runs.level, wire_s), runs.weight),
        "by_level": {str(k): summary(left_out[runs.level == k], runs.weight[runs.level == k]) for k in np.unique(runs.level)},
        "by_workload": {
            str(k): summary(left_out[runs.group == k], runs.weight[runs.group == k]) for k in np.unique(runs.group)
        },
    }
    own = errors["held_out_workload"]["log_rms"]
    cpu_spread = math.sqrt(own**2 + (math.log(COMMON.machine_factor) * TO_SD) ** 2 + (math.log(stated.use_factor) * TO_SD) ** 2)
    wide = math.log(COMMON.other_factor) * TO_SD
    prior = {
        "cpu": {
            "idle_cores": measured["idle"]["cores"],
            **dict(zip(COSTS, map(float, law.costs))),
            "service_cv": variation(measured),
            "servers": stated.servers,
            "discipline": stated.discipline,
        },
        "memory": memory_of(measured, stated),
        "storage": storage_of(measured, stated),
        "unseen": unseen_of(runs, stated),
        "spread": {"cpu": cpu_spread, "memory": wide, "storage": wide, "costs": law.each},
        "source": _source(stated, errors, machine),
    }
    return Fitted(prior, errors)


def _without_wakes(runs: Runs, wire_s: Floats) -> dict[str, float]:
    """The held-out errors of a law that has no cost for waking."""
    return summary(held_out(runs.without_wakes(), runs.group, wire_s), runs.weight)


def _source(stated: Stated, errors: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    out = errors["held_out_workload"]
    return (
        f"measured, see benchmarks/roles: {stated.software}; {errors['runs']} runs on one machine ({machine['cpu_model']}, "
        f"{machine['kernel']}); held_out_error: of runs of a workload that the fit had not seen, half are within a factor of "
        f"{out['factor_median']:.2g} and 9 of 10 within {out['factor_p90']:.2g}; added, not measured: factors either way of "
        f"{COMMON.machine_factor:g} for other machines and {stated.use_factor:g} for other use ({stated.use_reason}); of "
        f"{COMMON.other_factor:g} for memory and storage. Not measured: requests per connection, seconds to give memory back, "
        f"servers and discipline{stated.not_measured}"
    )


def pooled(priors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The prior of a role without a measurement: geometric means over the measured ones, and the spread between them."""

    def means(part: str, wanted: Sequence[str]) -> dict[str, float]:
        return {key: _geometric([prior[part].get(key) or 0.0 for prior in priors.values()]) for key in wanted}

    cpu, unseen = means("cpu", ("idle_cores", *COSTS, "service_cv")), means("unseen", tuple(_first(priors)["unseen"]))
    memory = means("memory", ("base_bytes", "connection_bytes", "release_s"))
    storage = means("storage", ("base_bytes", "written_per_byte_in", "written_per_request", "ops_per_request"))

    def request_s(prior: Mapping[str, Any]) -> float:
        """CPU of a common request by a role's costs."""
        size = unseen["request_bytes"], unseen["response_bytes"]
        return float(
            prior["cpu"]["connection_s"] / unseen["requests_per_connection"]
            + prior["cpu"]["request_s"]
            + prior["cpu"]["byte_in_s"] * size[0]
            + prior["cpu"]["byte_out_s"] * size[1]
            + prior["cpu"]["packet_s"] * sum(math.ceil(s / COMMON.segment_bytes) + 1 for s in size)
            + prior["cpu"]["wake_s"] / 2  # every second one wakes the machine, at 50 a second
        )

    between = {
        "cpu": _log_sd([request_s(prior) for prior in priors.values()]),
        "memory": _log_sd([p["memory"]["base_bytes"] + 100 * p["memory"]["connection_bytes"] for p in priors.values()]),
        "storage": _log_sd([p["storage"]["base_bytes"] for p in priors.values()]),
    }
    own = {
        key: float(np.mean([p["spread"][key] ** 2 for p in priors.values()])) for key in ("cpu", "memory", "storage", "costs")
    }
    return {
        "cpu": {**cpu, "servers": None, "discipline": "fcfs"},
        "memory": memory,
        "storage": storage,
        "unseen": unseen,
        "spread": {**{key: math.sqrt(between[key] ** 2 + own[key]) for key in between}, "costs": math.sqrt(own["costs"])},
        "source": f"pooled, not measured as such: the geometric mean of the measured roles ({', '.join(priors)}); its spread is "
        f"that between them (CPU of one common request: log-sd {between['cpu']:.2f}) and each one's own",
    }


def _first(priors: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(iter(priors.values()))


def _geometric(values: Sequence[float]) -> float:
    """The geometric mean; a value of 0 counts as a tenth of the smallest that isn't."""
    there = [value for value in values if value > 0]
    if not there:
        return 0.0
    return math.exp(float(np.mean([math.log(value or min(there) / 10) for value in values])))


def _log_sd(values: Sequence[float]) -> float:
    return float(np.std(np.log(values), ddof=1)) if len(values) > 1 else 0.0


def fit_all(measured: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole priors file, and the errors of each role's fit, from a whole measurement."""
    machine = measured["machine"]
    wire_s = wire_costs([runs_of(role) for role in measured["roles"].values()])
    fitted = {name: fit_role(name, role, machine, wire_s) for name, role in measured["roles"].items()}
    priors = {name: each.prior for name, each in fitted.items()}
    speed = f" at {machine['cpu_mhz'] / 1000:.1f} GHz" if machine["cpu_mhz"] else ""
    file = {
        "reference_core": f"one hardware thread of the machine measured on: {machine['cpu_model']}{speed}, {machine['kernel']}",
        "system": measured["system"],
        "aliases": {alias: role for alias, role in ALIASES.items() if role in priors},
        "roles": {"generic": pooled(priors), **priors},
    }
    return _rounded(file), {name: each.errors for name, each in fitted.items()}


def _round(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return _round(value)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def text_of(priors: Mapping[str, Any]) -> str:
    """The priors as they stand in the file."""
    return json.dumps(priors, indent=2) + "\n"


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "measured.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET
    priors, errors = fit_all(json.loads(source.read_text()))
    target.write_text(text_of(priors))
    for name, found in errors.items():
        out = found["held_out_workload"]
        print(f"{name}: {found['runs']} runs, held out: factor {out['factor_median']} (median), {out['factor_p90']} (90 %)")


if __name__ == "__main__":
    main()
