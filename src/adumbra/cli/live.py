"""Commands on what becomes real: activate, deactivate, and the events of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, iso, progress_bar, say, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.provision.changes import SettingChange
    from adumbra.schema.plans import Plan, Step
    from adumbra.service.activations import Activation

ProviderOption = Annotated[str, typer.Option("--provider", help="Who makes it: terraform or libvirt.")]
_WORDS = frozenset({"network", "kind", "what", "interrupts"})
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan; touch nothing.")]


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("activate")(activate)
    root.command("deactivate")(deactivate)
    root.command("events")(events)


def activate(
    name: NameArgument,
    provider: ProviderOption,
    dry_run: DryRunOption = False,
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve the plan in the same act, where its policy asks for that.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the network real, with the sizes of its profile, held to its policy."""
    with uses() as use, progress_bar(f"activating {name}") as tell:
        activation = use.activate(name, provider, dry_run=dry_run, approve=approve, tell=tell)
    show(output, activation.to_dict(), lambda: plan_table(activation.plan))
    if output is Output.TABLE:
        tell_of(activation)


def deactivate(
    name: NameArgument,
    provider: Annotated[str | None, typer.Option("--provider", help="Who made it; by default whoever did.")] = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take away what `activate` made; the shadow stays."""
    with uses() as use, progress_bar(f"deactivating {name}") as tell:
        activation = use.deactivate(name, provider, dry_run=dry_run, tell=tell)
    show(output, activation.to_dict(), lambda: plan_table(activation.plan))
    if output is Output.TABLE:
        for line in activation.told:
            say(line)


def tell_of(activation: Activation) -> None:
    """What became of a plan, and what to do next."""
    plan = activation.plan
    for line in plan_notes(plan):
        say(line)
    if activation.awaiting is not None:
        say(f"nothing was touched: plan {activation.awaiting} waits for approval, as {plan.approval}")
        say(f"next: adumbra plan approve {plan.network}, or adumbra plan reject {plan.network}")
    elif not activation.carried_out:
        if plan.approval:
            say(f"it would need approval: {plan.approval}")
        say("this was a dry run; nothing was touched")
    elif activation.plan.provider == "terraform":
        say(f"written: {activation.place}\nnext: cd {Path(activation.place).parent} && tofu init && tofu plan")
    else:
        say(f"it stands at {activation.place}")
        say(f"next: adumbra live {plan.network}, which holds what was predicted against what is measured")
    for line in activation.told:
        say(line)


def plan_notes(plan: Plan) -> list[str]:
    """What the policy made of VMs, or what can't be done for things, a line each."""
    lines = [f"{name}: {'; '.join(said)}" for name, said in plan.notes.items()]
    return lines if len(lines) <= 50 else [*lines[:50], f"and {len(lines) - 50} more"]


def plan_table(plan: Plan) -> RenderableType:
    """A plan's steps, in order, with what each may interrupt."""
    rows = [
        (
            f"{step.act.value} {step.item.kind.value} {step.item.name}",
            _what(step),
            step.interrupts or "-",
        )
        for step in plan.steps[:100]
    ]
    caption = f"and {len(plan.steps) - 100} more steps" if len(plan.steps) > 100 else ""
    if plan.empty:
        caption = "nothing to do: all stands as it should"
    elif plan.price_per_hour is not None and plan.price_per_hour > 0:
        what = "the machines cost" if plan.provider == "terraform" else "machines of these sizes cost in a cloud"
        caption += f" {what} ${plan.price_per_hour:.4f} an hour, ${plan.price_per_hour * 730:.0f} a month of 730 h"
        if plan.price_before_per_hour:
            caption += f" (now: ${plan.price_before_per_hour:.4f} an hour)"
    return table_of(
        f"plan for {plan.network} by {plan.provider}", ("step", "what", "interrupts"), rows, caption.strip(), text=_WORDS
    )


def _what(step: Step) -> str:
    """What a step makes or takes away, or which settings it changes, from what to what."""
    from adumbra.provision.changes import changes
    from adumbra.schema.plans import Act

    if step.act not in {Act.UPDATE, Act.REPLACE}:
        return _settings(dict(step.item.settings))
    changed = changes(step)
    plain = [f"{each.setting} {_word(each.before)} -> {_word(each.after)}" for each in changed if _short(each)]
    rest = [each.setting for each in changed if not _short(each)]
    return ", ".join([*plain, *([f"other {', '.join(rest)}"] if rest else [])])[:120] or "-"


def _short(change: SettingChange) -> bool:
    """Whether a change can be told within a line: a number, a word, a few words."""
    return all(len(_word(value)) <= 40 for value in (change.before, change.after))


def _word(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)


def _settings(settings: dict[str, Any]) -> str:
    shown = [settings[key] for key in ("cidr", "type", "addresses") if settings.get(key)]
    if "cpu_cores" in settings and "type" not in settings:
        shown.insert(
            0, "{cpu_cores:g} cores, {memory_gb:g} GB, {storage_gb:g} GB disk, {bandwidth_mbps:g} Mbps".format(**settings)
        )
    return " ".join(", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in shown)[:80] or "-"


def events(
    name: Annotated[str | None, typer.Argument(help="The network's name; without it, all.", metavar="[NETWORK]")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many of the newest.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what happened, newest last."""
    with uses() as use:
        found = tuple(reversed(use.events(name, limit)))
    data = [
        {"id": e.id, "time": iso(e.time_ns), "network": e.network, "kind": e.kind, "message": e.message, "data": e.data}
        for e in found
    ]
    rows = [(iso(e.time_ns)[:19], e.network or "-", e.kind, e.message) for e in found]
    caption = "" if rows else "nothing has happened yet"
    columns = ("time", "network", "kind", "what")
    show(output, data, lambda: table_of(f"events of {name or 'all networks'}", columns, rows, caption, text=_WORDS))
