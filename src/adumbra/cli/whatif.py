"""The command that asks what other traffic, or other machines, would show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, asked, iso, progress_bar, say, show, table_of
from adumbra.cli.session import RayOption, uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.service.whatif import Answer, Answers, Choice

_FIGURES = ("CPU", "CPU p99", "p99", "lost", "memory", "$/h", "fits?")
_SHOWN = 5
_ARCH = {"x86_64": "x86", "arm64": "ARM"}


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
    ray: RayOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what the VMs would need with other traffic, or on other machines."""
    from adumbra.schema.errors import InputError
    from adumbra.schema.units import parse_duration_s
    from adumbra.service.whatif import Question

    if sweep and type:
        raise InputError("--sweep tries every type, --type one", "give one of them")
    times = asked(factor, traffic, "--traffic")
    last_s = None if last == "all" else asked(parse_duration_s, last, "--last")
    question = Question(times, tuple(vm or ()), type, last_s, sweep)
    with uses(ray) as use, progress_bar(f"what if, {name}") as tell:
        found = use.what_if(name, question, tell)
    show(output, {**found.to_dict(), "last_s": last_s}, lambda: sweep_table(found) if sweep else table(found))
    if output is Output.TABLE and sweep:
        for line in why_not(found.vms):
            say(line)


def _title(found: Answers) -> str:
    """How much traffic, of what time there really was."""
    from adumbra.schema.units import format_duration, format_number

    of = "the traffic" if found.factor == 1.0 else f"{format_number(found.factor)} times the traffic"
    return f"{found.network}: {of} of {format_duration(found.observed_s)}, {iso(found.start_ns)} to {iso(found.end_ns)}"


def table(found: Answers) -> RenderableType:
    """Each VM as it is declared under the traffic that was seen, and as was asked; and on the type that was asked for."""
    from adumbra.schema.units import format_number

    rows = []
    asked_for = f"{format_number(found.factor)}x"
    for answer in found.vms:
        shown = [("1x", answer.now), (asked_for, answer.declared)] if found.factor != 1.0 else [("1x", answer.now)]
        if answer.choices[0] != answer.declared:
            shown.append((asked_for, answer.choices[0]))
        for number, (traffic, choice) in enumerate(shown):
            own = choice is answer.now or choice is answer.declared
            figures = _figures(choice, answer if number == len(shown) - 1 else None)
            rows.append((answer.vm if number == 0 else "", traffic, _on(choice, answer, own=own), *figures))
    caption = "CPU: mean share in use, and below it the emulation's 80 % interval; CPU p99: exceeded in 1 % of the\n"
    caption += "intervals; p99: latency of the requests that were answered"
    caption += _about_arch((answer, answer.choices[0]) for answer in found.vms)
    return table_of(_title(found), ("VM", "traffic", "on", *_FIGURES), rows, caption, text=frozenset({"on", "fits?"}))


def sweep_table(found: Answers) -> RenderableType:
    """For each VM what is declared, and the cheapest types that fit; all under the traffic that was asked for."""
    rows = []
    for answer in found.vms:
        rows.append((answer.vm, _on(answer.declared, answer, own=True), *_figures(answer.declared)))
        rows += [("", _on(choice, answer, own=False), *_figures(choice)) for choice in _shown(answer)]
        fitting = sum(choice.fits for choice in answer.choices)
        rows.append(("", f"{fitting:,} of {len(answer.choices):,} types fit", *[""] * len(_FIGURES)))
    caption = "the cheapest types that fit; --output json gives every type"
    caption += _about_arch((answer, choice) for answer in found.vms for choice in _shown(answer))
    columns = ("VM", "on", *_FIGURES)
    return table_of(_title(found), columns, rows, caption, names=frozenset({"on"}), text=frozenset({"fits?"}))


def _shown(answer: Answer) -> list[Choice]:
    """The cheapest types that fit; where none of them has the declared architecture, the cheapest that has it as well."""
    fitting = [choice for choice in answer.choices if choice.fits]
    shown, of_own = fitting[:_SHOWN], [choice for choice in fitting if not _is_other_arch(choice, answer)]
    return shown if any(choice in of_own for choice in shown) else [*shown, *of_own[:1]]


def _is_other_arch(choice: Choice, answer: Answer) -> bool:
    """Whether the software would have to run on other processors than those declared; x86, where none are."""
    return choice.arch is not None and choice.arch != (answer.declared.arch or "x86_64")


def _about_arch(shown: Iterable[tuple[Answer, Choice]]) -> str:
    there = sorted({_ARCH[choice.arch or ""] for answer, choice in shown if _is_other_arch(choice, answer)})
    return "".join(f"\n({arch}): only for software that runs on {arch} processors" for arch in there)


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


def _on(choice: Choice, answer: Answer, *, own: bool) -> str:
    """What a VM stands on. own: on what is declared of it."""
    what = choice.type or f"{choice.machine.cpu_cores:g} cores, {choice.machine.memory_gb:g} GB"
    if own:
        return f"{what} ({'assumed' if answer.assumed else 'declared'})"
    return f"{what} ({_ARCH[choice.arch or '']})" if _is_other_arch(choice, answer) else what


def _figures(choice: Choice, answer: Answer | None = None) -> tuple[str, ...]:
    """The cells of _FIGURES; with the interval of the CPU, where an answer has it."""
    from adumbra.schema.units import format_duration, format_number

    tried = choice.tried
    cpu = _percent(tried.cpu_utilization)
    if answer and "cpu_utilization" in answer.interval:
        _, low, high = answer.interval["cpu_utilization"]
        cpu += f"\n{_percent(low).removesuffix(' %')} to {_percent(high)}"
    price = f"{choice.price_per_hour:.4f}" if choice.price_per_hour is not None else "-"
    verdict = "yes" if choice.fits else "no: " + "; ".join(choice.short)
    latency, memory = format_duration(tried.latency_ms_p99 / 1e3), f"{format_number(tried.memory_gb, 2)} GB"
    return cpu, _percent(tried.cpu_p99), latency, _percent(tried.loss), memory, price, verdict


def _percent(share: float) -> str:
    """A share for a column of them: hundredths of a percent are enough."""
    from adumbra.schema.units import format_share

    return format_share(round(share, 4), 3 if share >= 0.1 else 2)
