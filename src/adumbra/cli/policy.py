"""Commands on what a network's plans are held to: policy show, set, clear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, say, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.schema.policy import ProvisionPolicy
    from adumbra.service.policies import KeptPolicy

app = typer.Typer(no_args_is_help=True, help="What a network's plans are held to: sizes, types, budget, approval.")
_PROBLEMS_SHOWN = 50
_EXAMPLE = """Give a network a policy, in place of the one that it has.

\b
A policy looks like this; each line may be left out:
  budget: $2/h                        # of all VMs together; or $1500/month, of 730 h
  approval: {above: $1/h, increase: $0.25/h}
  keep_above_use: true                # no size below what is used of it,
  use_margin: 10%                     # and so much more
  vms:                                # a VM, a VM group, or * for all: the most specific counts
    "*": {types: [m7i.*, t3.large], caps: {cpu_cores: 16}}
    web: {floors: {cpu_cores: 2, memory_gb: 4, bandwidth_mbps: 500, storage_gb: 20}}
"""


@app.command("show")
def show_(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Show the policy that a network has."""
    with uses() as use:
        found = use.policy(name)
    show(output, found.to_dict(), lambda: policy_table(found))
    if output is Output.TABLE:
        for line in about(found.policy):
            say(line)


@app.command("set", help=_EXAMPLE)
def set_(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="The policy, YAML or JSON.", metavar="FILE")],
    output: OutputOption = Output.TABLE,
) -> None:
    from adumbra.schema.errors import SpecError
    from adumbra.service import policies

    text = policies.read_file(file)
    try:
        with uses() as use:
            found = use.set_policy(name, text, str(file))
    except SpecError as error:
        for problem in error.problems[1:_PROBLEMS_SHOWN]:
            say(problem)
        raise SpecError([error.problems[0]]) from None
    show(output, found.to_dict(), lambda: f"policy of {name}, version {found.record.version}, holds from the next plan on")
    if output is Output.TABLE:
        say(f"next: adumbra activate {name} --provider PROVIDER --dry-run")


@app.command("clear")
def clear(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Take a network's policy away: nothing is bounded any more, and nothing needs approval."""
    with uses() as use:
        gone = use.clear_policy(name)
    show(output, gone.to_dict(), lambda: f"cleared version {gone.record.version} of the policy of {name}")


def policy_table(found: KeptPolicy) -> RenderableType:
    """One row a selector: its floors, caps and types."""
    rows = [
        (selector, _amounts(bounds.floors), _amounts(bounds.caps), " ".join(bounds.types or ()) or "-")
        for selector, bounds in found.policy.vms.items()
    ]
    title = f"policy of {found.record.network}, version {found.record.version}"
    columns = ("VMs", "at least", "at most", "types")
    return table_of(title, columns, rows, "" if rows else "no VM is bounded", text=frozenset(columns[1:]))


def about(policy: ProvisionPolicy) -> list[str]:
    """What holds for the whole network, in sentences."""
    from adumbra.schema.units import HOURS_PER_MONTH, format_price_per_hour, format_share

    said = []
    if policy.budget is not None:
        month = policy.budget * HOURS_PER_MONTH
        said.append(f"all VMs together cost no more than {format_price_per_hour(policy.budget)}, ${month:.0f} a month of 730 h")
    limits = {"a plan needs approval where the VMs then cost more than": policy.approval.above,
              "a plan needs approval where they cost more than before by over": policy.approval.increase}  # fmt: skip
    said += [f"{words} {format_price_per_hour(limit)}" for words, limit in limits.items() if limit is not None]
    margin = f"no size falls below what was measured to be used of it, and {format_share(policy.use_margin)} more"
    said.append(margin if policy.keep_above_use else "sizes may fall below what is used")
    return said


def _amounts(amounts: object) -> str:
    from adumbra.schema.sizing import RESOURCE_UNITS

    told = [f"{amount:g} {RESOURCE_UNITS[name]}{' of storage' if name == 'storage_gb' else ''}"
            for name, amount in dict(amounts).items()]  # type: ignore[call-overload]  # fmt: skip
    return ", ".join(told) or "-"
