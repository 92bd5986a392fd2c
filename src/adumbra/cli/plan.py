"""Commands on plans: plan show, approve, reject, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.live import DryRunOption, plan_notes, plan_table, tell_of
from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, iso, progress_bar, say, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from adumbra.schema.plans import Plan
    from adumbra.schema.state import PlanRecord

app = typer.Typer(no_args_is_help=True, help="A network's plans: what came of them; approve, reject, roll back.")
NumberArgument = Annotated[int | None, typer.Argument(metavar="[NUMBER]", min=1, help="The plan's number.")]


@app.command("show")
def show_(name: NameArgument, number: NumberArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Show the newest plan, or another one, and what came of its steps."""
    from adumbra.schema.plans import Plan

    with uses() as use:
        found = use.plan(name, number)
    plan = Plan.from_dict(found.plan)
    show(output, _data(found), lambda: record_table(found, plan))
    if output is Output.TABLE:
        for line in (*_about(found, plan), *plan_notes(plan)):
            say(line)


@app.command("approve")
def approve(name: NameArgument, number: NumberArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Approve the plan that waits, and carry it out: exactly that one, or none."""
    with uses() as use, progress_bar(f"activating {name}") as tell:
        activation = use.approve(name, number, tell)
    show(output, activation.to_dict(), lambda: plan_table(activation.plan))
    if output is Output.TABLE:
        tell_of(activation)


@app.command("reject")
def reject(name: NameArgument, number: NumberArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Say that the plan which waits for approval won't be carried out."""
    with uses() as use:
        gone = use.reject(name, number)
    show(output, _data(gone), lambda: f"plan {gone.id} of {name} is rejected")


@app.command("rollback")
def rollback(name: NameArgument, dry_run: DryRunOption = False, output: OutputOption = Output.TABLE) -> None:
    """Take back what the newest plan has done, where it failed. What can't be taken back is said, and stays."""
    with uses() as use, progress_bar(f"rolling back {name}") as tell:
        activation = use.undo_plan(name, dry_run=dry_run, tell=tell)
    show(output, activation.to_dict(), lambda: plan_table(activation.plan))
    if output is Output.TABLE:
        if dry_run:
            say("this was a dry run; nothing was touched")
        for line in plan_notes(activation.plan):
            say(line)


def record_table(record: PlanRecord, plan: Plan) -> RenderableType:
    """One row a step: what it does, and what its last attempt came to."""
    from adumbra.provision.plan import describe

    last = {step.index: step.outcome for step in record.steps}
    rows = [_row(describe(step), last.get(number)) for number, step in enumerate(plan.steps[:100])]
    if len(plan.steps) in last:
        rows.append(_row("after the last step", last[len(plan.steps)]))
    caption = f"and {len(plan.steps) - 100} more steps" if len(plan.steps) > 100 else ""
    title = f"plan {record.id} for {record.network} by {plan.provider}: {record.state.value}"
    return table_of(title, ("step", "", "what came of it"), rows, caption, text=frozenset({"what came of it"}))


def _row(what: str, outcome: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if outcome is None:
        return what, "-", "-"
    return what, "done" if outcome["done"] else "failed", str(outcome.get("detail") or "-")


def _about(record: PlanRecord, plan: Plan) -> list[str]:
    from adumbra.schema.state import PlanState

    said = [f"made {iso(record.created_ns)[:19]}Z"]
    if record.plan.get("undoes") is not None:
        said.append(f"it takes back plan {record.plan['undoes']}")
    if record.state is PlanState.AWAITING:
        said += [f"it waits for approval: {plan.approval}", f"next: adumbra plan approve {record.network} {record.id}"]
    elif record.decided_by is not None and record.decided_ns is not None:
        word = "rejected" if record.state is PlanState.REJECTED else "approved"
        said.append(f"{word} by {record.decided_by}, {iso(record.decided_ns)[:19]}Z")
    if record.state is PlanState.FAILED:
        said.append(f"next: the same command again goes on from there, or adumbra plan rollback {record.network}")
    return said


def _data(record: PlanRecord) -> dict[str, Any]:
    last = {step.index: step.outcome for step in record.steps}
    return {
        "id": record.id, "network": record.network, "state": record.state, "made": iso(record.created_ns),
        "finished": None if record.finished_ns is None else iso(record.finished_ns), "decided_by": record.decided_by,
        "decided": None if record.decided_ns is None else iso(record.decided_ns), "undoes": record.plan.get("undoes"),
        "outcomes": [
            {"step": number, "done": bool(outcome["done"]), "detail": str(outcome.get("detail") or "")}
            for number, outcome in sorted(last.items())
        ],
        "plan": record.plan,
    }  # fmt: skip
