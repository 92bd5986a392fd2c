"""Commands on what is learned: train, forecast, profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, iso, progress_bar, say, show, table_of
from adumbra.cli.session import RayOption, uses
from adumbra.schema.sizing import Risk

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.records import Quantiles
    from adumbra.schema.sizing import NetworkProfile
    from adumbra.service.learning import Found

UNITS: Mapping[str, str] = {"cpu_cores": "cores", "memory_gb": "GB", "bandwidth_mbps": "Mbps", "storage_gb": "GB"}


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("train")(train)
    root.command("forecast")(forecast)
    root.command("profile")(profile)


def train(
    name: NameArgument,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="What is drawn by chance follows from it.")] = 1,
    ray: RayOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fit, back-test and calibrate models of what the VMs use. They serve unless they would have done worse than before."""
    with uses(ray) as use, progress_bar(f"training {name}") as tell:
        found = use.train(name, seed, tell)
    show(output, found.to_dict(), lambda: training_table(found))
    if output is Output.TABLE:
        for line in _beside_before(found):
            say(line)


def _beside_before(found: Found) -> list[str]:
    """What became of the version that served before, what went, and what to do next."""
    judged, name = found.judged, found.network
    lines = []
    if judged and judged.against is not None:
        stands = "serves" if judged.serves else f"does not serve, version {judged.against} does"
        lines.append(f"version {found.version} {stands}: {judged.why}")
    if found.forgotten:
        gone = ", ".join(map(str, found.forgotten))
        lines.append(f"forgot version{'s' if len(found.forgotten) > 1 else ''} {gone} (see adumbra model list {name})")
    if judged and not judged.serves:
        lines.append(f"to let it serve all the same: adumbra model rollback {name} {found.version}")
    return [*lines, f"next: adumbra profile {name}"]


def training_table(trained: Found) -> RenderableType:
    """Which model serves each resource, and why."""
    from adumbra.schema.units import format_duration

    summary = trained.summary
    rows = [
        (str(found["resource"]), str(found["model"]), _without(str(found["resource"]), str(found["why"])), held_of(found))
        for found in summary["resources"]
    ]
    rows += [(resource, "-", str(why), "-") for resource, why in summary["skipped"].items()]
    title = f"{trained.network}: learned from {format_duration(summary['learned_s'])}, training {trained.version}"
    return table_of(
        title, ("resource", "model", "why", "intervals held"), rows, text=frozenset({"model", "why", "intervals held"})
    )


def held_of(found: Mapping[str, Any]) -> str:
    """How often the calibrated 80 % interval held on held-out data: in all, and of the VM where it held least often."""
    asked = [each for each in found["coverage_per_vm"] if each["asked"] == 0.8]
    if not asked or "80" not in found["calibrated_coverage"]:
        return "-"
    worst = min(asked, key=lambda each: (each["held"], each["vm"]))
    told = f"80 %: {100 * found['calibrated_coverage']['80']:.0f} %"
    return f"{told}; least {worst['vm']}, {100 * worst['held']:.0f} % of {worst['n']}" if len(asked) > 1 else told


def _without(resource: str, why: str) -> str:
    return why.removeprefix(f"{resource}: ")


def forecast(
    name: NameArgument,
    horizon: Annotated[str, typer.Option("--horizon", help="How far to look: 15m, 24h, 7d.")] = "24h",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show calibrated quantiles of what each VM will use."""
    from adumbra.schema.units import parse_duration_s

    horizon_s = asked(parse_duration_s, horizon, "--horizon")
    with uses() as use:
        found = use.forecast(name, horizon_s)
    show(output, _forecast_data(name, horizon_s, found), lambda: _forecast_table(name, horizon, found))


def _forecast_data(name: str, horizon_s: float, found: Mapping[str, Quantiles]) -> dict[str, Any]:
    resources = {}
    for resource, quantiles in found.items():
        step_ns = round(quantiles.step_s * 1e9)
        resources[resource] = {
            "unit": UNITS[resource],
            "times": [iso(quantiles.start_ns + h * step_ns) for h in range(quantiles.values.shape[1])],
            "levels": list(quantiles.levels),
            "vms": {vm: quantiles.values[v].tolist() for v, vm in enumerate(quantiles.vms)},
        }
    return {"network": name, "horizon_s": horizon_s, "resources": resources}


def _forecast_table(name: str, horizon: str, found: Mapping[str, Quantiles]) -> RenderableType:
    import numpy as np

    rows = []
    for resource, quantiles in found.items():
        at = {level: quantiles.levels.index(level) for level in (0.1, 0.5, 0.9, 0.99) if level in quantiles.levels}
        for v, vm in enumerate(quantiles.vms):
            over = [quantiles.values[v, :, k] for k in at.values()]
            cells = [f"{np.nanmean(each):.3g}" if not np.isnan(each).all() else "-" for each in over]
            last = [f"{each[-1]:.3g}" for each in over[-1:]]
            rows.append((vm, f"{resource} ({UNITS[resource]})", *cells, *last))
    columns = ("VM", "resource", "p10", "p50", "p90", "p99", "p99 at the end")
    return table_of(f"{name}: use over the next {horizon}, mean of each quantile", columns, rows, text=frozenset({"resource"}))


def profile(  # noqa: PLR0917 options by name
    name: NameArgument,
    shortfall: Annotated[
        str | None, typer.Option("--shortfall", help="The dial: the share of time a VM may be short, such as 1%.")
    ] = None,
    horizon: Annotated[str | None, typer.Option("--horizon", help="For how long the sizes are meant: 7d.")] = None,
    risk: Annotated[
        Risk, typer.Option("--risk", help="Whose time the dial bounds: each VM's, or the fleet's with each VM's bounded.")
    ] = Risk.PER_VM,
    hours: Annotated[bool, typer.Option("--by-hour", help="CPU and bandwidth for each hour of the week.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Size each VM: cores, memory, bandwidth, storage, type and price, with reasons."""
    from adumbra.schema.units import parse_duration_s, parse_share
    from adumbra.service import profiles

    share = asked(parse_share, shortfall, "--shortfall") if shortfall is not None else None
    horizon_s = asked(parse_duration_s, horizon, "--horizon") if horizon is not None else None
    wanted = profiles.Asked(share, horizon_s, risk)
    with uses() as use:
        if hours:
            found = use.by_hour(name, wanted)
            show(output, {name: each.to_dict() for name, each in found.items()}, lambda: hourly_table(name, found))
            return
        sized = use.profile(name, wanted)
    show(output, sized.to_dict(), lambda: profile_table(sized))
    if output is Output.TABLE:
        for line in reasons(sized):
            say(line)
        say(f"next: adumbra activate {name} --provider terraform --dry-run")


def hourly_table(name: str, found: Mapping[str, HourlySizes]) -> RenderableType:
    """What the hours of the week need, beside the one size that holds all week."""
    import numpy as np

    from adumbra.profile.hourly import DAYS

    rows = []
    for resource, each in found.items():
        for vm, sizes in zip(each.vms, each.sizes, strict=True):
            if np.isnan(sizes).any():
                continue
            day, hour = np.unravel_index(int(sizes.argmax()), sizes.shape)
            most, mean = float(sizes.max()), float(sizes.mean())
            saved = f"{100 * (1 - mean / most):.0f} %" if most > 0 else "-"
            busiest = f"{DAYS[day]} {hour:02d}:00"
            least, middle, all_week = (_figure(amount) for amount in (float(sizes.min()), mean, most))
            rows.append((vm, f"{resource} ({UNITS[resource]})", all_week, busiest, middle, least, saved))
    columns = ("VM", "resource", "all week", "busiest hour", "mean by hour", "least hour", "saved by the hour")
    caption = "all hours: --output json. Hours are UTC, before rounding to whole cores"
    return table_of(
        f"{name}: sizes by the hour of the week", columns, rows, caption, text=frozenset({"resource", "busiest hour"})
    )


def profile_table(profile: NetworkProfile) -> RenderableType:
    """Sizes, with the interval in which what is needed is believed to lie (p50 to p99)."""
    from adumbra.schema.units import format_duration

    rows = []
    for vm in profile.vms:
        price = f"{vm.price_per_hour:.4f}" if vm.price_per_hour is not None else "-"
        sizes = (vm.cpu_cores, vm.memory_gb, vm.bandwidth_mbps, vm.storage_gb)
        between = [vm.estimate.get(resource) for resource in UNITS]
        cells = [
            f"{size:g}\n{_figure(one.p50)} to {_figure(one.p99)}" if one is not None else f"{size:g}"
            for size, one in zip(sizes, between, strict=True)
        ]
        rows.append((vm.vm, *cells, vm.type or "none fits", price, vm.confidence.value))
    total = sum(vm.price_per_hour or 0.0 for vm in profile.vms)
    columns = ("VM", "cores", "memory GB", "Mbps", "storage GB", "type", "$/h", "confidence")
    dial, span = _percent(profile.shortfall), format_duration(profile.horizon_s)
    title = f"{profile.network}: sizes for {span}, short in at most {dial} of the time, learned from "
    title += format_duration(profile.learned_s)
    caption = (
        f"below each size, the need as believed: p50 to p99. In all ${total:.4f} an hour, ${total * 730:.0f} a month of 730 h"
    )
    return table_of(title, columns, rows, caption, text=frozenset({"type", "confidence"}))


def _figure(amount: float) -> str:
    return f"{amount:.0f}" if amount >= 9.95 else f"{amount:.2g}"


def first_reasons(profile: NetworkProfile) -> str:
    """Why the first VM of a profile is sized so, in a paragraph: what stands first, and how the type was found."""
    vm = profile.vms[0]
    picked = [reason for reason in vm.reasons if vm.type is not None and reason.startswith(vm.type)]
    told = "\n".join(f"  - {reason}" for reason in dict.fromkeys((*vm.reasons[:2], *picked)))
    return (
        f"why {vm.vm} is sized so (confidence {vm.confidence.value}; all reasons: adumbra profile {profile.network}):\n{told}\n"
    )


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def reasons(profile: NetworkProfile) -> list[str]:
    """The reasons of a profile, those that several VMs share once, in lines to read."""
    of: dict[str, list[str]] = {}
    for vm in profile.vms:
        for reason in vm.reasons:
            of.setdefault(reason, []).append(vm.vm)
    lines = []
    for reason, vms in of.items():
        who = "all" if len(vms) == len(profile.vms) > 1 else ", ".join(vms[:6]) + (" ..." if len(vms) > 6 else "")
        lines.append(f"  {who}: {reason}")
    return lines
