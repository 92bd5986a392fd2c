"""Commands on the versions of what was learned of a network: list, show, rollback, forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, iso, say, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.schema.state import TrainingVersion

app = typer.Typer(no_args_is_help=True, help="The versions of a network's models: which of them serves, its scores.")
VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")]


@app.command("list")
def list_(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """List the versions that are kept, newest first."""
    with uses() as use:
        kept = use.versions(name)
    show(output, [_data(each) for each in kept], lambda: versions_table(name, kept))


@app.command("show")
def show_(name: NameArgument, version: VersionArgument, output: OutputOption = Output.TABLE) -> None:
    """Show what a version learned from, why it serves or doesn't, and each model's scores."""
    with uses() as use:
        found = use.version(name, version)
    show(output, _data(found), lambda: scores_table(found))
    if output is Output.TABLE:
        for line in about(found):
            say(line)


@app.command("rollback")
def rollback(
    name: NameArgument,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=1, help="By default the one that served before.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let an earlier version serve, or any other that is kept."""
    with uses() as use:
        served = use.rollback(name, version)
    show(output, _data(served), lambda: f"version {served.version} of {name} serves, {_learned_from(served)}")
    if output is Output.TABLE:
        say(f"next: adumbra profile {name}")


@app.command("forget")
def forget(name: NameArgument, version: VersionArgument, output: OutputOption = Output.TABLE) -> None:
    """Remove a version that doesn't serve, for good."""
    with uses() as use:
        gone = use.forget(name, version)
    show(output, _data(gone), lambda: f"forgot version {gone.version} of {name}")


def versions_table(name: str, kept: Sequence[TrainingVersion]) -> RenderableType:
    """One row a version: when it was made, what it learned from, the models that it picked, and whether it serves."""
    from adumbra.schema.units import format_duration, format_number
    from adumbra.store.trainings import KEPT_BYTES, KEPT_TRAININGS

    rows = []
    for each in kept:
        origin = each.origin or {}
        span = format_duration((origin["end_ns"] - origin["start_ns"]) / 1e9) if origin else "-"
        until = _minute(origin["end_ns"]) if origin else "-"
        vms = f"{len(origin['vms']):,}" if origin else "-"
        size = f"{format_number(each.artifact_bytes / 2**10, 3)} KB"
        status = "serves" if each.serves else "served before" if each.served_ns is not None else "never served"
        chosen = ", ".join(dict.fromkeys(str(found["model"]) for found in each.summary["resources"]))
        rows.append((str(each.version), _minute(each.created_ns), span, until, vms, chosen, size, status))
    columns = ("version", "made", "from", "until", "VMs", "models", "size", "status")
    caption = f"kept are the newest {KEPT_TRAININGS}, up to {KEPT_BYTES // 2**20} MB together, and the one that serves"
    title = f"{name}: what was learned (times in UTC)"
    return table_of(title, columns, rows, caption, text=frozenset({"models"}), names=frozenset({"status"}))


def scores_table(version: TrainingVersion) -> RenderableType:
    """One row a resource and model: how it did in the version's back-test."""
    rows: list[tuple[str, ...]] = []
    for found in version.summary["resources"]:
        resource = str(found["resource"])
        for model, scored in found["scores"].items():
            chosen = "chosen" if model == found["model"] else ""
            rows.append((resource, str(model), *_scores(scored), chosen))
            resource = ""
    rows += [(str(resource), "-", *["-"] * 5, "not learned") for resource in version.summary["skipped"]]
    columns = ("resource", "model", "upper", "WQL", "MASE", "80 %", "95 %", "")
    caption = "upper: pinball loss of the 90, 95 and 99 % levels, per mean use, by which the model is chosen;\n"
    caption += "80 %, 95 %: how much lay within these intervals, before calibration"
    title = f"{version.network}: version {version.version}, {_status(version)}"
    return table_of(title, columns, rows, caption, names=frozenset({"model"}), text=frozenset({""}))


def about(version: TrainingVersion) -> list[str]:
    """What it learned from, and how it was judged, in sentences."""
    lines = [f"  made {_moment(version.created_ns)}, {_learned_from(version)}"]
    if version.judgement:
        lines.append(f"  {'served' if version.judgement['serves'] else 'did not serve'}: {version.judgement['why']}")
    lines += [f"  {resource} was not learned: {why}" for resource, why in version.summary["skipped"].items()]
    return lines


def _learned_from(version: TrainingVersion) -> str:
    from adumbra.schema.units import format_count, format_duration

    origin = version.origin
    if not origin:
        return "from what was stored then (that was not kept)"
    span_s = (origin["end_ns"] - origin["start_ns"]) / 1e9
    vms, step = len(origin["vms"]), format_duration(origin["step_s"])
    least = min(origin["measured_s"].values()) / max(span_s * vms, 1e-9)
    measured = f", {min(least, 1.0):.0%} of it measured" if least < 0.9995 else ""
    return (
        f"from {format_duration(span_s)} of {format_count(vms, 'VM')} in steps of {step}, "
        f"{_moment(origin['start_ns'])} to {_moment(origin['end_ns'])}{measured}, seed {origin['seed']}, "
        f"by Adumbra {origin['software']}"
    )


def _status(version: TrainingVersion) -> str:
    if version.serves:
        return "which serves"
    return "which served before" if version.served_ns is not None else "which never served"


def _scores(scored: Mapping[str, Any] | None) -> tuple[str, ...]:
    if scored is None:
        return ("-",) * 5
    coverage = scored["coverage"]
    figures = (scored["upper"], scored["wql"], scored["mase"])
    return (*(f"{each:.3g}" if each is not None else "-" for each in figures),
            *(f"{coverage[name] * 100:.3g} %" for name in ("80", "95")))  # fmt: skip


def _moment(time_ns: int) -> str:
    """A time to the second."""
    return iso(time_ns // 10**9 * 10**9)


def _minute(time_ns: int) -> str:
    """A time to the minute."""
    return iso(time_ns)[:16]


def _data(version: TrainingVersion) -> dict[str, Any]:
    return {
        "network": version.network,
        "version": version.version,
        "serves": version.serves,
        "made": iso(version.created_ns),
        "served": iso(version.served_ns) if version.served_ns is not None else None,
        "origin": _origin_data(version.origin),
        "judgement": version.judgement,
        "bytes": version.artifact_bytes,
        **version.summary,
    }


def _origin_data(origin: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    times = {"start": iso(origin["start_ns"]), "end": iso(origin["end_ns"])}
    return times | {key: value for key, value in origin.items() if key not in {"start_ns", "end_ns"}}
