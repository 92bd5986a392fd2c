"""How well emulated VMs tell the CPU and memory that real servers used, and their response times: from the roles' priors,
calibrated, and, for what they used, followed live.

usage: python benchmarks/calibration.py [--home FOLDER] [--out docs/images/calibration.svg]
Observes examples/shop and benchmarks/unseen (kept in FOLDER, so that a second run is quick), calibrates on the first third of
the time, judges on the rest, in steps of 10 s. Prints tables in Markdown and draws a plot.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adumbra.emulate.calibration.calibrate import Judged
from adumbra.emulate.calibration.regression import INNER_80
from adumbra.emulate.calibration.response_times import fit_responses
from adumbra.emulate.calibration.tasks import STEP_S
from adumbra.emulate.parameters import PARAMETER_SETS
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import EmulatedNetwork
from adumbra.schema.calibration import Calibration
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service import calibrations, networks, observations, replays
from adumbra.service.measured_on import cores_of
from adumbra.service.networks import Network
from adumbra.service.usage import UsageVm, read_usage
from adumbra.service.workspace import Workspace

ROOT = Path(__file__).parent.parent
CASES = (
    ("shop", ROOT / "examples" / "shop" / "shop.yaml", ROOT / "examples" / "shop" / "shop.pcap.zst"),
    ("unseen", ROOT / "benchmarks" / "unseen" / "unseen.yaml", ROOT / "benchmarks" / "unseen" / "unseen.pcap.zst"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One VM's resource: its held-out time; the same followed live, each step told by what was learned before it; the prior's
    spread; and what the emulated VM used in each step of that time by what was learned before all of it (float64[3, n]: central
    run, and the ends of its 80 % interval); none for memory."""

    vm: str
    resource: str
    judged: Judged
    live: Judged
    spread: float
    carried: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Responses:
    """One VM's response times in steps of the held-out time: `of` is p50 or p99; observed float64[n]; by prior and calibrated
    float64[3, n]: the emulated latency without the path's round trip, central, and the ends of its 80 % interval. In ms."""

    vm: str
    of: str
    observed: np.ndarray
    prior: np.ndarray
    calibrated: np.ndarray


def observed(workspace: Workspace, name: str, spec: Path, capture: Path) -> Network:
    if name not in {network.name for network in networks.listing(workspace)}:
        networks.create(workspace, spec.read_text(), str(spec), time.time_ns())
    if workspace.metrics.span(name) is None:
        observations.observe(workspace, name, f"pcap:{capture}", time.time_ns)
    return networks.get(workspace, name)


def judged(workspace: Workspace, share: float) -> tuple[list[Row], list[Responses]]:
    rows: list[Row] = []
    responses: list[Responses] = []
    for name, spec, capture in CASES:
        if not capture.exists():
            print(f"{capture} is not there: left out")
            continue
        network = observed(workspace, name, spec, capture)
        usage = read_usage(capture.with_name("usage.csv"), {vm.name: vm.name for vm in network.vms})
        roles, cores = {vm.name: vm.role for vm in network.vms}, cores_of(network, None)
        learned = calibrations.learn(workspace, network, usage, cores, lambda *_: None, train_share=share)
        begins = min(int(held_out["cpu_cores"].start_ns[0]) for _, held_out in learned)
        before = replace(usage, vms=tuple(_until(vm, begins) for vm in usage.vms))
        first = calibrations.learn(workspace, network, before, cores, lambda *_: None)
        known = Calibration(name, "the time before", 0, begins, tuple(vm for vm, _ in first))
        followed = calibrations.learn_on(workspace, network, usage, cores, lambda *_: None, known=known)
        live = {(vm.vm, resource): one for vm, all_of in followed for resource, one in all_of.items()}
        run = carried(workspace, network, known, {vm.vm: held_out for vm, held_out in learned})
        for vm, held_out in learned:
            for resource, one in held_out.items():
                spread = bundled_priors().prior(roles[vm.vm]).spread
                whole = math.hypot(spread.cpu if resource == "cpu_cores" else spread.memory, spread.costs)
                rows.append(Row(vm.vm, resource, one, live[vm.vm, resource], whole, run.get((vm.vm, resource))))
            for resource, why in vm.refused.items():
                print(f"{vm.vm}, {resource}: {why}")
        responses += answered(workspace, (name, spec, capture), known)
    return rows, responses


def answered(workspace: Workspace, case: tuple[str, Path, Path], known: Calibration) -> list[Responses]:
    """Observed response times beside the emulated VMs' latencies, by the priors and calibrated, in the time after what a
    calibration learned from. The capture is observed once more by VMs that follow it, so that each request comes when it came.
    """
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder)) as again:
        networks.create(again, case[1].read_text(), str(case[1]), time.time_ns())
        again.state.save_calibration(case[0], known.to_dict(), "For a benchmark.", time.time_ns())
        network = observed(again, *case)
        by_prior, calibrated = (_latencies(each, network, known.end_ns) for each in (workspace, again))
    found = []
    for v, vm in enumerate(observations.emulated_vms(network)):
        for of in ("p50", "p99"):
            names = [f"latency_ms_{of}{end}" for end in ("", "_low", "_high")]
            rtt_ms = vm.path.rtt_s * 1e3
            prior, told = (np.stack([each[name][v] - rtt_ms for name in names]) for each in (by_prior, calibrated))
            found.append(Responses(vm.name, of, by_prior[f"response_ms_{of}"][v], prior, told))
    return found


def _latencies(workspace: Workspace, network: Network, begins_ns: int) -> Mapping[str, np.ndarray]:
    columns = [f"latency_ms_{of}{end}" for of in ("p50", "p99") for end in ("", "_low", "_high")]
    names = tuple(vm.name for vm in network.vms)
    end_ns = replays.span(workspace, network.name)[1]
    query = SeriesQuery(network.name, (*columns, "response_ms_p50", "response_ms_p99"), names, begins_ns, end_ns, STEP_S)
    return workspace.metrics.read(query).values


def carried(
    workspace: Workspace, network: Network, known: Calibration, judged: Mapping[str, Mapping[str, Judged]]
) -> dict[tuple[str, str], np.ndarray]:
    """The CPU of VMs that are emulated in steps of STEP_S, calibrated by the use before the held-out time: VM and resource ->
    float64[3, n] in cores, central, low and high, at the steps of Judged."""
    vms = [replace(vm, calibration=known.of(vm.name)) for vm in observations.emulated_vms(network) if known.of(vm.name)]
    span_ns = replays.span(workspace, network.name)
    query = SeriesQuery(network.name, replays.COLUMNS, tuple(vm.name for vm in vms), *span_ns, STEP_S)
    intervals = replays.intervals_of(workspace.metrics.read(query))
    out = EmulatedNetwork(vms, observations.EMULATION_SEED, PARAMETER_SETS).emulate(intervals)
    found = {}
    for v, vm in enumerate(vms):
        step_ns = round(STEP_S * NANOSECONDS)
        at = np.searchsorted(intervals.start_ns // step_ns, judged[vm.name]["cpu_cores"].start_ns // step_ns)
        columns = [out[f"cpu_seconds{end}"][at, v] / STEP_S for end in ("", "_low", "_high")]
        found[vm.name, "cpu_cores"] = np.stack(columns)
    return found


def told_by_responses(workspace: Workspace, rows: list[Row]) -> str:
    """What --from-traffic says of each server's work, in times of the prior, and what was measured."""
    lines = ["| server | by response times | measured |", "|---|---|---|"]
    for name, _, _ in (case for case in CASES if case[2].exists()):
        network = networks.get(workspace, name)
        for vm in observations.emulated_vms(network):
            row = next((row for row in rows if (row.vm, row.resource) == (vm.name, "cpu_cores")), None)
            seen = calibrations._responses(workspace, name, vm.name, replays.span(workspace, name))  # noqa: SLF001
            fit = fit_responses(seen, replace(vm, calibration=None).prior, vm.core_speed)
            if row is not None and not isinstance(fit, str):
                at = fit.names.index("request_s")
                told, measured = fit.mean[at] / fit.before[at], row.judged.measured.mean() / row.judged.before.mean()
                lines.append(f"| {vm.name} | {told:.2g} | {measured:.2g} |")
    return "\n".join(lines)


def _until(vm: UsageVm, end_ns: int) -> UsageVm:
    """What was measured of a VM before a moment."""
    wanted = vm.time_ns < end_ns
    return replace(vm, time_ns=vm.time_ns[wanted], columns={name: values[wanted] for name, values in vm.columns.items()})


def share_inside(one: Judged, spread: float) -> float:
    """Coverage of the prior's own 80 % interval: lognormal, of its spread."""
    low, high = one.before * math.exp(-INNER_80 * spread), one.before * math.exp(INNER_80 * spread)
    return float(((low <= one.measured) & (one.measured <= high)).mean())


def table(rows: list[Row], resource: str) -> str:
    head = (
        "server",
        "measured",
        "prior: error",
        "ratio",
        "in its 80 %",
        "calibrated: error",
        "ratio",
        "in its 80 %",
        "live: error",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        if row.resource != resource:
            continue
        one = row.judged
        mean = float(one.measured.mean())
        shown = f"{mean:.4f} cores" if resource == "cpu_cores" else f"{mean / 1e6:.1f} MB"
        before = f"{share_inside(one, row.spread):.0%}"
        errors = [one.error(said) or math.nan for said in (one.before, one.after)] + [
            row.live.error(row.live.after) or math.nan
        ]
        ratios = [float(said.mean()) / mean for said in (one.before, one.after)]
        lines.append(
            f"| {row.vm} | {shown} | {errors[0]:.1%} | {ratios[0]:.2f} | {before} | {errors[1]:.1%} | "
            f"{ratios[1]:.2f} | {one.coverage() or 0:.0%} | {errors[2]:.1%} |"
        )
    return "\n".join(lines)


def emulated_table(rows: list[Row]) -> str:
    """How the emulated VM's own run errs, each request's work drawn, and how much its interval holds."""
    lines = ["| server | emulated: error | in its 80 % |", "|---|---|---|"]
    for row in rows:
        if row.carried is not None:
            central, low, high = row.carried
            inside = float(((low <= row.judged.measured) & (row.judged.measured <= high)).mean())
            lines.append(f"| {row.vm} | {row.judged.error(central) or math.nan:.1%} | {inside:.0%} |")
    return "\n".join(lines)


def responses_table(responses: list[Responses]) -> str:
    """Emulated latency beside observed response times: ratio of their medians, and how many steps lie in the interval."""
    head = ("server", "", "observed: median", "prior: ratio", "in its 80 %", "calibrated: ratio", "in its 80 %")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in responses:
        there = ~np.isnan(one.observed) & ~np.isnan(one.prior[0]) & ~np.isnan(one.calibrated[0])
        seen = one.observed[there]
        told = []
        for central, low, high in (one.prior[:, there], one.calibrated[:, there]):
            told.append(f"{np.median(central) / np.median(seen):.2f}")
            told.append(f"{((low <= seen) & (seen <= high)).mean():.0%}")
        lines.append(f"| {one.vm} | {one.of} | {np.median(seen):.3g} ms | " + " | ".join(told) + " |")
    return "\n".join(lines)


KEY = (
    'CPU cores per 10 s, held-out time: <tspan fill="#111111">measured</tspan>, <tspan fill="#b45309">from the prior</tspan>, '
    '<tspan fill="#1d4ed8">calibrated, with its 80 % interval</tspan>'
)
WIDTH, HEIGHT, LEFT, TOP, BELOW = 720, 130, 62, 24, 34


def draw(rows: list[Row]) -> str:
    """A panel a server: what was measured, what the prior said, what the calibrated VM says with its interval."""
    panels = [(row.vm, row.judged) for row in rows if row.resource == "cpu_cores"]
    total = TOP + len(panels) * (HEIGHT + BELOW) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="15" font-size="12">{KEY}</text>',
    ]
    for number, (vm, one) in enumerate(panels):
        parts += panel(vm, one, TOP + number * (HEIGHT + BELOW))
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(vm: str, one: Judged, top: float) -> list[str]:
    seconds = (one.start_ns - one.start_ns[0]) / 1e9
    most = 1.1 * max(float(one.measured.max()), float(np.quantile(one.high, 0.97)))
    across, down = (WIDTH - LEFT - 14) / max(float(seconds[-1]), 1.0), HEIGHT / most

    def points(values: np.ndarray) -> str:
        clipped = np.minimum(values, most)
        return " ".join(f"{LEFT + s * across:.1f},{top + HEIGHT - v * down:.1f}" for s, v in zip(seconds, clipped, strict=True))

    band = points(one.high) + " " + " ".join(reversed(points(one.low).split(" ")))
    marks = [f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{top + HEIGHT}" y2="{top + HEIGHT}" stroke="#999999"/>']
    for share in (0.0, 0.5, 1.0):
        value, y = most * share, top + HEIGHT * (1 - share)
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{value:.3f}</text>')
    for second in range(0, int(seconds[-1]) + 1, 60):
        x = LEFT + second * across
        marks.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 14}" text-anchor="middle" fill="#555555">{second} s</text>')
    return [
        *marks,
        f'<polygon points="{band}" fill="#93c5fd" opacity="0.5"/>',
        f'<polyline points="{points(one.before)}" fill="none" stroke="#b45309" stroke-width="1" stroke-dasharray="4 3"/>',
        f'<polyline points="{points(one.after)}" fill="none" stroke="#1d4ed8" stroke-width="1.3"/>',
        f'<polyline points="{points(one.measured)}" fill="none" stroke="#111111" stroke-width="1.3"/>',
        f'<text x="{LEFT + 6}" y="{top + 12}" font-weight="bold">{vm}</text>',
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--share", type=float, default=1 / 3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Workspace(asked.home or Path(folder)) as workspace:
        rows, responses = judged(workspace, asked.share)
        by_responses = told_by_responses(workspace, rows)
    for resource in ("cpu_cores", "memory_gb"):
        print(f"\n{resource}, held-out time, steps of 10 s\n\n{table(rows, resource)}")
    print(f"\ncpu_cores, emulated VMs, held-out time, steps of 10 s\n\n{emulated_table(rows)}")
    print(f"\nresponse times, emulated VMs, held-out time, steps of 10 s\n\n{responses_table(responses)}")
    print(f"\ncpu_cores, from traffic alone, times the prior\n\n{by_responses}")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(draw(rows))
        print(f"\ndrawn: {asked.out}")


if __name__ == "__main__":
    main()
