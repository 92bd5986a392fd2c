"""What OpenStack can hold, and what a change interrupts there. Pure facts and checks; calls nothing, writes nothing.

Sources: OpenStack Networking guide ("Quality of Service", "IPv6"), Compute API reference ("Resize server"), Block Storage
("Extend an attached volume").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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

RESERVED_FIRST, RESERVED_LAST = 4, 1
"""Addresses of each subnet that aren't for machines: its own, the router's, two for what the network itself puts there."""
MAX_KBPS = 2**31 - 1  # a bandwidth limit is a 32-bit number
MAX_RULES = 1000

_ANEW = frozenset({"network", "subnet", "addresses"})


def flavor_name(network: str, settings: Mapping[str, Any]) -> str:
    """The flavor of a machine of just this size: one a size and network, as a flavor's name stands once in a cloud."""
    return f"adumbra-{network}-{cores_of(settings)}c-{memory_mib(settings)}m"


@dataclass(frozen=True, slots=True)
class OpenStackRules:
    """The rules of OpenStack. make_flavors: each size gets a flavor of its own, which takes an administrator; else the type
    that the profile names is a flavor that stands already."""

    provider: str
    make_flavors: bool = True

    def check(self, desired: Desired) -> None:
        """Refuses what OpenStack can't hold. Raises InputError naming the item and what to do."""
        refuse_problems("OpenStack", desired, {**_CHECKS, **({} if self.make_flavors else {Kind.MACHINE: _check_named})})

    def settle(self, desired: Desired) -> Desired:
        """Flavors by size, and firewalls that hold in what has no way to the outside: a router has one for all its subnets."""
        inside = _inside(desired)
        cidrs: list[str] = [cidr for item in desired.items if item.kind is Kind.NETWORK for cidr in item.settings["cidrs"]]
        return replace(desired, items=tuple(self._settled(desired.network, item, inside, cidrs) for item in desired.items))

    def change(self, before: Item, after: Item) -> Change:
        """What it takes to turn `before` into `after`. A disk is never shrunk: the larger one stays."""
        if before.kind is Kind.NETWORK and before != after:
            return Change(Effect.LIVE, after)  # its CIDRs are those of its subnets
        if before.kind is not Kind.MACHINE:
            return change_around(before, after)
        differ = differing(before, after)
        if differ & _ANEW:
            return anew(after)
        after = with_larger_disk(before, after)
        if before.settings == after.settings:
            return Change(Effect.NOTHING, before)
        if "type" in differ:
            return Change(Effect.RESTART, after, f"{after.name} is resized to another flavor, which restarts it")
        return Change(Effect.LIVE, after)

    def _settled(self, network: str, item: Item, inside: frozenset[str], cidrs: list[str]) -> Item:
        if item.kind is Kind.MACHINE:
            named = flavor_name(network, item.settings) if self.make_flavors else item.settings["type"]
            return replace(item, settings={**item.settings, "type": named, "made_flavor": self.make_flavors})
        if item.kind is Kind.FIREWALL and item.name in inside:
            versions = {parse_prefix(prefix).version for prefix in item.settings["egress"]}
            egress = [cidr for cidr in cidrs if parse_prefix(cidr).version in versions]
            return replace(item, settings={**item.settings, "egress": egress})
        return item


def _inside(desired: Desired) -> frozenset[str]:
    """The firewalls all of whose machines are in subnets without a way to the outside."""
    open_ = {item.name for item in desired.items if item.kind is Kind.ROUTING and item.settings["default_route"] is not None}
    machines = [item.settings for item in desired.items if item.kind is Kind.MACHINE]
    out = {settings["firewall"] for settings in machines if settings["subnet"] in open_}
    return frozenset(settings["firewall"] for settings in machines) - out


def _check_subnet(item: Item, _all: Standing) -> Iterator[Problem]:
    cidr = parse_prefix(item.settings["cidr"])
    if cidr.num_addresses <= RESERVED_FIRST + RESERVED_LAST:
        yield f"the subnet {item.name} ({cidr}) has no address for a machine", "make it a /29 or larger"


def _check_firewall(item: Item, _all: Standing) -> Iterator[Problem]:
    count = len(item.settings["ingress"])
    if count > MAX_RULES:
        yield (
            f"the ports of {item.name} make {count} firewall rules, and {MAX_RULES} is the most",
            "give runs of consecutive ports, or link its subnet to fewer others",
        )


def _check_machine(item: Item, all_: Standing) -> Iterator[Problem]:
    yield from reserved_addresses(item, all_, RESERVED_FIRST, RESERVED_LAST)
    yield from too_many_addresses(item, MAX_ADDRESSES)
    if limit_kbps(item.settings) > MAX_KBPS:
        yield f"{item.name} has a bandwidth of {item.settings['bandwidth_mbps']} Mbps", f"give it {MAX_KBPS // 1000} at most"


def _check_named(item: Item, all_: Standing) -> Iterator[Problem]:
    if item.settings["type"] is None:
        yield f"no flavor fits {item.name}", "let flavors be made, or see its reasons in `adumbra profile`"
    yield from _check_machine(item, all_)


_CHECKS = {Kind.SUBNET: _check_subnet, Kind.FIREWALL: _check_firewall, Kind.MACHINE: _check_machine}
