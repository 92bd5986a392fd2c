"""What libvirt can hold, how things are named there, and what a change interrupts. Pure; knows no connection and no XML.

Sources: libvirt's pages "Network XML format", "Domain XML format" and "Network Filters".
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adumbra.provision.common_rules import (
    MAX_ADDRESSES,
    Checks,
    Problem,
    Standing,
    addresses_of,
    anew,
    closed,
    cores_of,
    differing,
    refuse_problems,
    reserved_addresses,
    too_many_addresses,
    with_larger_disk,
)
from adumbra.provision.protocol import Change, Effect
from adumbra.schema.addresses import Address, AddressBlock, Prefix, address_of, parse_prefix
from adumbra.schema.plans import Desired, Item, Kind

PROVIDER = "libvirt"
MAX_RULES = 1000
MAX_CORES = 255
_SPACE = uuid.UUID("5f9c4b0e-6f0e-4b62-9a52-8f1f6f0c5a11")
"""Of the UUIDs that are derived from names."""
_ANEW = frozenset({"network", "subnet", "addresses", "mac", "device"})
"""Settings of a machine that can't be changed while it stands."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a network's things are called at a hypervisor, the same at every start. owner: tells networks of one name apart."""

    owner: str
    network: str

    def of(self, item: Item) -> str:
        """A domain's, network's, filter's or pool's name."""
        return f"adumbra-{self.network}" if item.kind is Kind.NETWORK else f"adumbra-{self.network}-{item.name}"

    def uuid(self, kind: Kind, name: str) -> str:
        return str(uuid.uuid5(_SPACE, f"{self.owner} {self.network} {kind.value} {name}"))

    def device(self, prefix: str, name: str) -> str:
        """A device's name: of 15 characters at most, so a digest stands for what it is of."""
        return prefix + self._digest(name)[:10]

    def mac(self, name: str) -> str:
        """A locally administered address."""
        digest = self._digest(f"mac {name}")
        return ":".join(("02", "ad", *(digest[at : at + 2] for at in range(0, 8, 2))))

    def _digest(self, name: str) -> str:
        return hashlib.sha256(f"{self.owner} {self.network} {name}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Choices:
    """What is chosen for all machines of a hypervisor.

    outside: how subnets that are linked to the internet reach it: "route" (their addresses are reached from outside, too) or
    "nat". filtered: whether ports are kept shut by network filters. headroom: cores and memory that a machine can be given
    while it runs, as a multiple of what it begins with. unplugs: whether cores can be taken from a machine while it runs.
    """

    outside: str = "route"
    filtered: bool = True
    headroom: float = 2.0
    unplugs: bool = True


def gateway_of(cidr: Prefix) -> Address:
    """The hypervisor's own address in a subnet: the first that a host may have."""
    whole = AddressBlock.of_prefix(cidr)
    return address_of(whole.version, whole.first + (1 if whole.count > 2 else 0))


@dataclass(frozen=True, slots=True)
class LibvirtRules:
    """The rules of a libvirt hypervisor for one network."""

    names: Names
    choices: Choices = Choices()

    @property
    def provider(self) -> str:
        return PROVIDER

    def check(self, desired: Desired) -> None:
        """Refuses what libvirt can't hold. Raises InputError naming the item and what to do."""
        refuse_problems("libvirt", desired, _CHECKS)

    def settle(self, desired: Desired) -> Desired:
        """A storage pool for the network; a libvirt network with leases and names for each subnet; filters; domains."""
        machines = [item for item in desired.items if item.kind is Kind.MACHINE]
        joined = self._joined(desired)
        items = []
        for item in desired.items:
            if item.kind is Kind.NETWORK:
                items.append(replace(item, settings={}))
            elif item.kind is Kind.SUBNET:
                items.append(self._subnet(item, machines, joined.get(item.name, "route")))
            elif item.kind is Kind.FIREWALL and self.choices.filtered:
                items.append(replace(item, settings={name: item.settings[name] for name in ("network", "ingress")}))
            elif item.kind is Kind.MACHINE:
                items.append(self._machine(item))
        return Desired(desired.network, tuple(items))

    def change(self, before: Item, after: Item) -> Change:
        """What it takes to turn `before` into `after`. A disk is never shrunk, and head-room that is there is kept."""
        if before.settings == after.settings:
            return Change(Effect.NOTHING, before)
        if before.kind is Kind.MACHINE:
            return _machine_change(before, after, unplugs=self.choices.unplugs)
        if before.kind is Kind.SUBNET:
            return _subnet_change(before, after)
        return Change(Effect.LIVE, after, closed(before, after) if before.kind is Kind.FIREWALL else "")

    def _joined(self, desired: Desired) -> dict[str, str]:
        """Per subnet, how its packets are forwarded: one that is alone and has no way out not at all."""
        settled = {item.name: item.settings["forward"] for item in desired.items if "forward" in item.settings}
        routes = {item.name: item.settings["default_route"] for item in desired.items if item.kind is Kind.ROUTING}
        alone = sum(item.kind is Kind.SUBNET for item in desired.items) == 1
        found = {
            name: self.choices.outside if route is not None else "isolated" if alone else "route"
            for name, route in routes.items()
        }
        return found | settled

    def _subnet(self, item: Item, machines: Sequence[Item], forward: str) -> Item:
        cidr = parse_prefix(item.settings["cidr"])
        leases = [
            {"mac": self.names.mac(each.name), "name": each.name, "address": str(addresses_of(each)[0])}
            for each in machines
            if each.settings["subnet"] == item.name
        ]
        names = [{"name": each.name, "address": str(addresses_of(each)[0])} for each in machines]
        settings = {
            "network": item.settings["network"],
            "cidr": str(cidr),
            "forward": forward,
            "bridge": self.names.device("adb", item.name),
            "router": str(gateway_of(cidr)),
            "leases": sorted(leases, key=lambda lease: lease["name"]),
            "names": sorted(names, key=lambda named: named["name"]),
        }
        return replace(item, settings=settings)

    def _machine(self, item: Item) -> Item:
        given = item.settings
        if "mac" in given:
            return item  # settled already
        cores, memory_gb = int(given["cpu_cores"]), float(given["memory_gb"])
        settings: dict[str, Any] = {
            name: given[name]
            for name in ("network", "subnet", "addresses", "role", "cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb")
        }
        if self.choices.filtered:
            settings["firewall"] = given["firewall"]
        return replace(
            item,
            settings=settings | {
                "mac": self.names.mac(item.name),
                "device": self.names.device("adt", item.name),
                "most_cpu_cores": min(MAX_CORES, max(cores, math.ceil(cores * self.choices.headroom))),
                "most_memory_gb": max(memory_gb, round(memory_gb * self.choices.headroom, 3)),
                "running": True,
            },
        )  # fmt: skip


def _machine_change(before: Item, after: Item, *, unplugs: bool) -> Change:
    was = before.settings
    if differing(before, after) & _ANEW:
        return anew(after)
    now = dict(with_larger_disk(before, after).settings)
    beyond = []
    for name, most, word in (("cpu_cores", "most_cpu_cores", "cores"), ("memory_gb", "most_memory_gb", "memory")):
        if now[name] <= was[most]:
            now[most] = was[most]
        else:
            beyond.append(word)
    if now["cpu_cores"] < was["cpu_cores"] and not unplugs:
        beyond.append("cores")
    after = replace(after, settings=now)
    if dict(was) == now:
        return Change(Effect.NOTHING, before)
    if beyond and was["running"]:
        return Change(Effect.RESTART, after, f"{after.name} is stopped and started for its new {' and '.join(beyond)}")
    return Change(Effect.LIVE, after)


def _subnet_change(before: Item, after: Item) -> Change:
    differ = differing(before, after)
    if differ & {"network", "cidr", "bridge", "router"}:
        return Change(Effect.REPLACE, after, f"subnet {before.name} is made anew, with all its machines")
    cut = "forward" in differ
    return Change(Effect.LIVE, after, f"the machines of subnet {after.name} are cut off for a moment" if cut else "")


def _firewall_problems(item: Item, _all: Standing) -> Iterator[Problem]:
    count = len(item.settings["ingress"])
    if count > MAX_RULES:
        yield (
            f"the ports of {item.name} make {count} rules, and {MAX_RULES} is the most",
            "give runs of consecutive ports, or link its subnet to fewer others",
        )


def _subnet_problems(item: Item, _all: Standing) -> Iterator[Problem]:
    name, cidr = item.name, parse_prefix(item.settings["cidr"])
    longest = 30 if cidr.version == 4 else 126
    if cidr.prefixlen > longest:
        yield f"the subnet {name} ({cidr}) has no room beside the hypervisor's own address", f"make it a /{longest} or larger"
    if cidr.version == 6 and cidr.prefixlen != 64:
        yield f"the subnet {name} ({cidr}) is no /64, and its bridge announces routes for a /64 only", "make it a /64"
    if cidr.overlaps(ipaddress.ip_network("224.0.0.0/4" if cidr.version == 4 else "ff00::/8")):
        yield f"the subnet {name} ({cidr}) is not for hosts", "choose one such as 10.20.0.0/24"


def _machine_problems(item: Item, all_: Standing) -> Iterator[Problem]:
    yield from too_many_addresses(item, MAX_ADDRESSES)
    version = parse_prefix(all_[(Kind.SUBNET.value, item.settings["subnet"])].settings["cidr"]).version
    yield from reserved_addresses(item, all_, 2, 1 if version == 4 else 0)
    cores = cores_of(item.settings)
    if cores > MAX_CORES:
        yield f"{item.name} needs {cores} cores, and {MAX_CORES} is the most of one machine", "spread its work over more VMs"


_CHECKS: Checks = {
    Kind.SUBNET: _subnet_problems,
    Kind.FIREWALL: _firewall_problems,
    Kind.MACHINE: _machine_problems,
}
