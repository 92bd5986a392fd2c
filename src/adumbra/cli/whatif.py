"""The command that asks what other traffic, or other machines, would show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, progress_bar, say, show, table_of
from adumbra.cli.session import workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.service.whatif import Answer, Choice

_COLUMNS = ("VM", "on", "CPU", "CPU p99", "p99 ms", "lost", "memory GB", "$/h", "fits?")
_SHOWN = 5


def register(root: typer.Typer) -> None:
    """Adds this room's top-level command."""
    root.command("whatif")(whatif)


def factor(text: str) -> float:
    """How many times the traffic: "2x", "1.5", "50%". Raises ValueError."""
    number, scale = text.strip().lower(), 1.0
    if number.endswith("%"):
        number, scale = number[:-1], 0.01
    try:
        value = float(number.removesuffix("x")) * scale
    except ValueError:
        value = math.nan
    if not value > 0 or math.isinf(value):
        raise ValueError(f"{text[:40]!r} is no multiple of the traffic; give one such as 2x, 1.5x or 50%")
    return value


def whatif(
    name: NameArgument,
    *,
    traffic: Annotated[str, typer.Option("--traffic", help="How much of what was seen: 2x, 1.5x, 50%.")] = "1x",
    vm: Annotated[list[str] | None, typer.Option("--vm", help="Only this VM; may be given again.")] = None,
    type: Annotated[str | None, typer.Option("--type", help="Put the VMs on this instance type.")] = None,
    last: Annotated[str, typer.Option("--last", help="How much of the stored time, from its end; or all.")] = "24h",
    sweep: Annotated[bool, typer.Option("--sweep", help="Try every type of the catalogue.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what the VMs would need with other traffic, or on other machines."""
    from adumbra.schema.errors import InputError
    from adumbra.schema.units import parse_duration_s
    from adumbra.service.whatif import Question, what_if

    if sweep and type:
        raise InputError("--sweep tries every type, --type one", "give one of them")
    times = asked(factor, traffic, "--traffic")
    last_s = None if last == "all" else asked(parse_duration_s, last, "--last")
    question = Question(times, tuple(vm or ()), type, last_s, sweep)
    with workspace() as opened, progress_bar(f"what if, {name}") as tell:
        answers = what_if(opened, name, question, tell)
    data = {"network": name, "traffic": times, "last_s": last_s, "vms": [answer.to_dict() for answer in answers]}
    title = f"{name}: {times:g} times the traffic of the last {last}" if last_s else f"{name}: {times:g} times the traffic"
    show(output, data, lambda: sweep_table(title, answers) if sweep else table(title, answers))
    if output is Output.TABLE and sweep:
        for line in why_not(answers):
            say(line)


def table(title: str, answers: Sequence[Answer]) -> RenderableType:
    """Each VM as it is declared under the traffic that was seen, and as was asked."""
    rows = []
    for answer in answers:
        rows += [_row(answer.vm, answer.now, "now: "), _row("", answer.choices[0], "then: ", answer)]
    caption = "CPU: mean share in use (the emulation's 80 % interval below); p99: exceeded in 1 % of the intervals"
    return table_of(title, _COLUMNS, rows, caption, text=frozenset({"on", "fits?"}))


def sweep_table(title: str, answers: Sequence[Answer]) -> RenderableType:
    """For each VM what is declared, and the cheapest types that fit."""
    rows = []
    for answer in answers:
        rows.append(_row(answer.vm, answer.now, "now: "))
        fitting = [choice for choice in answer.choices if choice.fits]
        rows += [_row("", choice, "") for choice in fitting[:_SHOWN]]
        rows.append(("", f"{len(fitting)} of {len(answer.choices)} types fit", *[""] * (len(_COLUMNS) - 2)))
    return table_of(title, _COLUMNS, rows, "--output json gives every type", text=frozenset({"on", "fits?"}))


def why_not(answers: Sequence[Answer]) -> list[str]:
    """Of each VM, why the cheapest type that would cost less than the one chosen doesn't fit."""
    lines = []
    for answer in answers:
        cheapest = answer.cheapest
        cheaper = [choice for choice in answer.choices if choice.short and not _bursts(choice)]
        if cheapest is None:
            lines.append(f"  {answer.vm}: no type fits: {cheaper[-1].short[0] if cheaper else 'there are none'}")
            continue
        below = [choice for choice in cheaper if (choice.price_per_hour or 0) < (cheapest.price_per_hour or 0)]
        if below:
            lines.append(f"  {answer.vm}: {below[-1].type} would cost less, but: {', '.join(below[-1].short)}")
    return lines


def _bursts(choice: Choice) -> bool:
    return any("bursts" in reason for reason in choice.short)


def _row(vm: str, choice: Choice, when: str, answer: Answer | None = None) -> tuple[str, ...]:
    tried = choice.tried
    cpu = f"{tried.cpu_utilization:.1%}"
    if answer and "cpu_utilization" in answer.interval:
        _, low, high = answer.interval["cpu_utilization"]
        cpu += f"\n{low:.1%} to {high:.1%}"
    price = f"{choice.price_per_hour:.4f}" if choice.price_per_hour is not None else "-"
    on = choice.type or f"{choice.machine.cpu_cores:g} cores, {choice.machine.memory_gb:g} GB"
    verdict = "yes" if choice.fits else "no: " + "; ".join(choice.short)
    p99 = f"{tried.latency_ms_p99:.3g}" if not math.isnan(tried.latency_ms_p99) else "-"
    return (
        vm, f"{when}{on}", cpu, f"{tried.cpu_p99:.1%}", p99, f"{tried.loss:.2%}", f"{tried.memory_gb:.2g}", price, verdict,
    )  # fmt: skip
