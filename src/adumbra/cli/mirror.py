"""Commands on mirrors of this host: install, list, handover, remove. Shows what the service tells; touches nothing itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adumbra.cli.network import NameArgument
from adumbra.cli.output import Output, OutputOption, iso, say, show, table_of
from adumbra.cli.session import now_ns, own_workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adumbra.schema.mirrors import MirrorPlan
    from adumbra.service.handover import HandedOver
    from adumbra.service.mirrors import Status

app = typer.Typer(no_args_is_help=True, help="Install, list, hand over and remove mirrors of a network's traffic on this host.")

_WORDS = frozenset({"from", "to", "method", "state", "what", "vm"})


class MethodOption(StrEnum):
    """What copies the packets; auto is tc, or where that can't be, nft."""

    AUTO = "auto"
    TC = "tc"
    NFT = "nft"
    OVS = "ovs"


FromOption = Annotated[str, typer.Option("--from", help="The device that the traffic crosses.", metavar="DEVICE")]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="The device to send copies to; without it, one is made to observe.", metavar="DEVICE"),
]
ChoiceOption = Annotated[
    MethodOption, typer.Option("--method", help="What copies the packets: traffic control, nftables, or OVS.")
]


@app.command("install")
def install(
    name: NameArgument,
    from_device: FromOption,
    to_device: ToOption = None,
    method: ChoiceOption = MethodOption.AUTO,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy what crosses a device, both ways, to or from the network's CIDRs and its donors' addresses. Needs root.

    Again it changes nothing; interrupted, it leaves nothing.
    """
    import random

    from adumbra.schema.mirrors import Method
    from adumbra.service import mirrors

    chosen = None if method is MethodOption.AUTO else Method(method.value)
    with own_workspace("mirror") as opened:
        wanted = mirrors.Wanted(name, from_device, to_device, chosen)
        installed = mirrors.install(opened, wanted, now_ns, random.SystemRandom())
    for told in installed.told:
        say(told)
    data = _data(installed.plan) | {"changed": installed.changed}
    show(output, data, lambda: _installed_table(installed.plan, changed=installed.changed))
    if output is Output.TABLE:
        if installed.plan.observe:
            say(f"now run: adumbra observe {name} {installed.plan.observe}")
        else:
            say(f"now, on the host where {installed.plan.sink} leads: adumbra observe {name} vxlan:4789, or as the tunnel is")


@app.command("list")
def listing(
    name: Annotated[str | None, typer.Argument(help="The network's name; without it, all.", metavar="[NETWORK]")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the mirrors that were installed here, and whether they still stand."""
    from adumbra.service import mirrors

    with own_workspace("mirror") as opened:
        found = mirrors.listing(opened, name)
    data = [_data(status.plan) | _state(status) for status in found]
    show(output, data, lambda: _table(found))


@app.command("remove")
def remove(
    name: NameArgument,
    from_device: Annotated[
        str | None, typer.Option("--from", help="Only the mirror of this device; without it, all.", metavar="DEVICE")
    ] = None,
) -> None:
    """Remove the network's mirrors: exactly what was installed. Needs root."""
    from adumbra.service import mirrors

    with own_workspace("mirror") as opened:
        removed = mirrors.remove(opened, name, now_ns, from_device)
    for each in removed:
        beside = f" ({'; '.join(each.told)})" if each.told else ""
        say(f"removed the mirror of {each.plan.spec.from_device or 'the ports'} for {name}{beside}")
    if not removed:
        say(f"nothing to do: {name} has no mirrors")


@app.command("handover")
def handover(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Move the network's mirrors to the ports of its real VMs, as `activate` does, or see that all are there. Needs root.

    Each packet is copied once, to the device that was observed before. `deactivate` puts back what stood.
    """
    import random

    from adumbra.service import handover as service

    with own_workspace("mirror") as opened:
        done = service.refresh(opened, name, now_ns, random.SystemRandom())
    for told in done.told:
        say(told)
    data = {
        "network": name, "ports": [{"vm": port.vm, "device": port.device} for port in done.ports], "to": done.sink or None,
        "observe": done.observe or None, "followed": done.followed, "changed": done.changed, "told": list(done.told),
    }  # fmt: skip
    show(output, data, lambda: _handed_over_table(done))


def _handed_over_table(done: HandedOver) -> RenderableType:
    title = "the VMs' ports are mirrored" if done.ports else "no VM's port is mirrored"
    rows = [(port.vm, port.device, done.sink) for port in done.ports]
    caption = "" if done.changed else "nothing was changed"
    if done.followed:
        caption = f"the server observes {done.observe}" + (f"; {caption}" if caption else "")
    return table_of(title, ("vm", "from", "to"), rows, caption, text=_WORDS)


def _data(plan: MirrorPlan) -> dict[str, Any]:
    spec = plan.spec
    return {
        "network": spec.network,
        "scope": spec.scope,
        "vm": spec.vm or None,
        "from": spec.from_device or None,
        "to": plan.sink,
        "method": spec.method,
        "prefixes": list(spec.prefixes),
        "observe": plan.observe or None,
        "notes": list(plan.notes),
    }


def _state(status: Status) -> dict[str, Any]:
    return {
        "state": status.look.standing,
        "detail": status.look.detail or None,
        "packets": status.look.packets,
        "bytes": status.look.bytes,
        "installed": iso(status.record.created_ns),
    }


def _installed_table(plan: MirrorPlan, *, changed: bool) -> RenderableType:
    title = "the mirror stands" if changed else "nothing to do: the mirror stands already"
    rows = [(plan.spec.network, plan.spec.from_device, plan.sink, plan.spec.method.value, ", ".join(plan.spec.prefixes))]
    return table_of(title, ("network", "from", "to", "method", "what"), rows, text=_WORDS)


def _table(found: tuple[Status, ...]) -> RenderableType:
    from adumbra.schema.mirrors import Scope

    rows = []
    for status in found:
        plan, look = status.plan, status.look
        count = "-" if look.packets is None else f"{look.packets:,}"
        state = f"{look.standing.value}: {look.detail}" if look.detail else look.standing.value
        spec = plan.spec
        method = "-" if spec.scope is Scope.SINK else spec.method.value
        what = spec.vm or (f"for {len(plan.hand_over.ports)} ports" if plan.hand_over else "-")
        rows.append((spec.network, what, spec.from_device or "-", plan.sink, method, count, state))
    caption = "" if rows else "there are no mirrors; run `adumbra mirror install NETWORK --from DEVICE`"
    return table_of("mirrors", ("network", "vm", "from", "to", "method", "packets", "state"), rows, caption, text=_WORDS)
