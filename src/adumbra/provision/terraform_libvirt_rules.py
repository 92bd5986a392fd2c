"""What libvirt can hold as its Terraform provider says it, and what a change interrupts there. Pure; calls nothing.

Source: the schemas of dmacvicar/libvirt 0.8: nearly all of a domain, a volume and a network is fixed once it is made. A domain
that is made anew keeps its volume, so that it is a restart; a volume that is made anew is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adumbra.provision.common_rules import (
    MAX_ADDRESSES,
    Problem,
    Standing,
    anew,
    change_around,
    cores_of,
    differing,
    limit_kbps,
    memory_mib,
    refuse_problems,
    reserved_addresses,
    too_many_addresses,
    with_larger_disk,
)
from adumbra.provision.protocol import Change, Effect
from adumbra.schema.addresses import parse_prefix
from adumbra.schema.plans import Desired, Item, Kind

RESERVED_FIRST, RESERVED_LAST = 2, 1
"""Addresses of each subnet that aren't for machines: its own, the host's, and the last."""
MAX_KBPS = 2**31 - 1

_ANEW = frozenset({"network", "subnet", "addresses"})
_RESTART = frozenset({"type", "bandwidth_mbps", "firewall"})


@dataclass(frozen=True, slots=True)
class TerraformLibvirtRules:
    """The rules of one host's libvirt, by way of Terraform."""

    provider: str

    def check(self, desired: Desired) -> None:
        """Refuses what can't be made. Raises InputError naming the item and what to do."""
        refuse_problems("libvirt", desired, _CHECKS)

    def settle(self, desired: Desired) -> Desired:
        """Machines have just the sizes that they are to have; no catalogue's type is theirs."""
        return replace(desired, items=tuple(_settled(item) for item in desired.items))

    def change(self, before: Item, after: Item) -> Change:
        """What it takes to turn `before` into `after`. A disk is never shrunk: the larger one stays."""
        if before.kind is Kind.MACHINE:
            return _machine_change(before, after)
        if before.kind is Kind.NETWORK and before != after:
            return Change(Effect.LIVE, after)
        change = change_around(before, after)
        why = _restarts(before, after) if change.effect is Effect.LIVE else ""
        return Change(Effect.RESTART, after, "; ".join(filter(None, (why, change.interrupts)))) if why else change


def _restarts(before: Item, after: Item) -> str:
    """Why a change around machines restarts them; "" where it doesn't."""
    differ = differing(before, after)
    if before.kind is Kind.FIREWALL and "ingress" in differ:
        return f"the machines of {after.name} are restarted: their guests read which ports are open as they boot"
    if before.kind is Kind.ROUTING and "default_route" in differ:
        return f"the machines of subnet {after.name} are restarted as its network is made anew"
    return ""


def _settled(item: Item) -> Item:
    if item.kind is not Kind.MACHINE:
        return item
    sizes = f"{cores_of(item.settings)}c-{memory_mib(item.settings)}m"
    return replace(item, settings={**item.settings, "type": sizes})


def _machine_change(before: Item, after: Item) -> Change:
    differ = differing(before, after)
    after = after if differ & _ANEW else with_larger_disk(before, after)
    if differ & _ANEW or before.settings["storage_gb"] != after.settings["storage_gb"]:
        return anew(after)
    if before.settings == after.settings:
        return Change(Effect.NOTHING, before)
    if differing(before, after) & _RESTART:
        return Change(Effect.RESTART, after, f"{after.name} is stopped and started with its new settings; its disk stays")
    return Change(Effect.LIVE, after)


def _check_subnet(item: Item, _all: Standing) -> Iterator[Problem]:
    cidr = parse_prefix(item.settings["cidr"])
    if cidr.num_addresses <= RESERVED_FIRST + RESERVED_LAST:
        yield f"the subnet {item.name} ({cidr}) has no address for a machine", "make it a /30 or larger"


def _check_machine(item: Item, all_: Standing) -> Iterator[Problem]:
    yield from reserved_addresses(item, all_, RESERVED_FIRST, RESERVED_LAST)
    yield from too_many_addresses(item, MAX_ADDRESSES)
    if limit_kbps(item.settings) > MAX_KBPS:
        yield f"{item.name} has a bandwidth of {item.settings['bandwidth_mbps']} Mbps", f"give it {MAX_KBPS // 1000} at most"


_CHECKS = {Kind.SUBNET: _check_subnet, Kind.MACHINE: _check_machine}
