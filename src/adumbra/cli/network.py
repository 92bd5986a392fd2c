"""Commands on networks: check, and network create, list, show, update, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.output import Output, OutputOption, iso, say, show, table_of
from adumbra.cli.session import uses

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.service.networks import Network

app = typer.Typer(no_args_is_help=True, help="Create, list, show, update and delete networks.")

SpecArgument = Annotated[Path, typer.Argument(help="The network's spec, YAML or JSON.", metavar="SPEC")]
NameArgument = Annotated[str, typer.Argument(help="The network's name.", metavar="NETWORK")]

_EXAMPLE = """Is this spec right?

\b
A spec looks like this:
  name: shop
  cidrs: [10.20.0.0/16]
  subnets:
    - {name: web,  cidr: 10.20.1.0/24}
    - {name: data, cidr: 10.20.2.0/24}
  links:
    - {between: [web, data], rtt: 200us, bandwidth: 10Gbps}
    - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}
  vms:
    - {name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, type: m7i.large, ports: [80]}
    - {name: db, subnet: data, addresses: [10.20.2.10], role: postgresql, resources: {cpu_cores: 4, memory_gb: 16}}
  targets: {shortfall: 1%}
  interval: 1s
"""
_PROBLEMS_SHOWN = 50
_WORDS = frozenset({"subnet", "addresses", "role", "declared", "ports"})


def register(root: typer.Typer) -> None:
    """Adds this room's top-level commands."""
    root.command("check", help=_EXAMPLE)(_check)


def _check(spec: SpecArgument, output: OutputOption = Output.TABLE) -> None:
    from adumbra.schema.errors import SpecError
    from adumbra.schema.spec import expand_vms
    from adumbra.service import networks

    try:
        checked = networks.check(networks.read_spec(spec), str(spec))
    except SpecError as error:
        for problem in error.problems[1:_PROBLEMS_SHOWN]:
            say(problem)
        raise SpecError([error.problems[0]]) from None
    vms = expand_vms(checked)
    data = {
        "network": checked.name,
        "valid": True,
        "vms": [{"name": vm.name, "addresses": [str(block) for block in vm.addresses], "role": vm.role} for vm in vms],
    }
    rows = [(vm.name, vm.subnet, ", ".join(map(str, vm.addresses)), vm.role, vm.declared) for vm in vms[:200]]
    more = f"and {len(vms) - 200} more" if len(vms) > 200 else ""
    title = f"{spec} is right: network {checked.name}, {len(vms)} VMs"
    columns = ("VM", "subnet", "addresses", "role", "declared")
    show(output, data, lambda: table_of(title, columns, rows, more, text=_WORDS))


@app.command("create")
def create(spec: SpecArgument, output: OutputOption = Output.TABLE) -> None:
    """Create a network, and its shadow in the same act."""
    from adumbra.service import networks

    text = networks.read_spec(spec)
    with uses() as use:
        network = use.create(text, str(spec))
    show(output, _data(network), lambda: network_table(network, f"created {network.name}, and its shadow"))
    if output is Output.TABLE:
        say(f"next: adumbra observe {network.name} pcap:FILE")


@app.command("list")
def listing(output: OutputOption = Output.TABLE) -> None:
    """List the networks."""
    with uses() as use:
        found = use.networks()
    rows = [
        (n.name, n.record.state.value, str(len(n.vms)), ", ".join(map(str, n.spec.cidrs)), iso(n.record.created_ns)[:19])
        for n in found
    ]
    caption = "" if rows else "there are no networks yet; run `adumbra network create SPEC`, or `adumbra demo`"
    columns = ("network", "state", "VMs", "CIDRs", "created")
    show(
        output,
        [_data(n) for n in found],
        lambda: table_of("networks", columns, rows, caption, text=frozenset({"state", "CIDRs"})),
    )


@app.command("show")
def show_one(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a network: its VMs, and what its shadow has seen."""
    with uses() as use:
        network = use.network(name)
        seen = use.observations(name)
    data = _data(network) | {"observations": [_observation(each) for each in seen]}
    sources = "; ".join(f"{each.source} ({each.state.value})" for each in seen[-5:]) or "nothing observed yet"
    show(output, data, lambda: network_table(network, f"{name}: {network.record.state.value}; {sources}"))


@app.command("update")
def update(spec: SpecArgument, output: OutputOption = Output.TABLE) -> None:
    """Replace the spec of a network; what was observed stays."""
    from adumbra.service import networks

    text = networks.read_spec(spec)
    with uses() as use:
        network = use.update(text, str(spec))
    show(output, _data(network), lambda: network_table(network, f"updated {network.name} to version {network.record.version}"))


@app.command("delete")
def delete(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Also where its VMs may stand; they are left alone.")] = False,
) -> None:
    """Delete a network, its shadow, and what was learned of it."""
    with uses() as use:
        for left in use.delete(name, force=force):
            say(left)
    say(f"deleted {name} and its shadow; its events stay: adumbra events {name}")


def _data(network: Network) -> dict[str, Any]:
    from adumbra.schema.spec import spec_to_dict

    record = network.record
    return {
        "name": network.name,
        "state": record.state,
        "version": record.version,
        "created": iso(record.created_ns),
        "updated": iso(record.updated_ns),
        "spec": spec_to_dict(network.spec),
        "vms": [
            {"name": vm.name, "subnet": vm.subnet, "role": vm.role, "addresses": [str(block) for block in vm.addresses]}
            for vm in network.vms
        ],
    }


def _observation(record: Any) -> dict[str, Any]:
    return {
        "source": record.source,
        "state": record.state,
        "started": iso(record.started_ns),
        "finished": iso(record.finished_ns) if record.finished_ns else None,
        "accounts": record.accounts,
    }


def network_table(network: Network, title: str) -> RenderableType:
    """A network's VMs."""
    rows = [
        (vm.name, vm.subnet, ", ".join(map(str, vm.addresses)), vm.role, vm.declared, ",".join(map(str, vm.ports)) or "-")
        for vm in network.vms[:200]
    ]
    more = f"and {len(network.vms) - 200} more" if len(network.vms) > 200 else ""
    return table_of(title, ("VM", "subnet", "addresses", "role", "declared", "ports"), rows, more, text=_WORDS)
