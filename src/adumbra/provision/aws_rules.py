"""What AWS can hold, and what a change interrupts there. Pure facts and checks; calls nothing, writes nothing.

Sources: Amazon VPC user guide ("VPC CIDR blocks", "Subnet CIDR blocks", "Amazon VPC quotas") and Amazon EC2 user guide
("IP addresses per network interface per instance type", "Change the instance type", "Modify a volume").
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adumbra.provision.common_rules import (
    MAX_ADDRESSES,
    Problem,
    anew,
    change_around,
    differing,
    refuse_problems,
    with_larger_disk,
)
from adumbra.provision.protocol import Change, Effect
from adumbra.schema.addresses import AddressBlock, address_of, parse_block, parse_prefix
from adumbra.schema.plans import Desired, Item, Kind

MAX_CIDRS = 50  # a VPC's IPv4 CIDRs, once the quota (5) is raised as far as it goes
MAX_RULES = 1000  # a network interface's inbound rules, once the quota (60) is raised as far as it goes
MAX_ROOT_GIB = 16_384  # gp3
RESERVED_FIRST, RESERVED_LAST = 4, 1  # addresses of each subnet that AWS keeps
V4_LENGTHS = range(16, 29)
V6_NETWORK_LENGTHS = range(44, 61, 4)
V6_SUBNET_LENGTHS = range(44, 65, 4)

_PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_BENCHMARK = ipaddress.IPv4Network("198.19.0.0/16")
_GRAVITON = re.compile(r"a1\.|[a-z]+[0-9]+g")
_XEN = re.compile(r"(t2|x1|x1e|i3|h1|m4|c4|r4|d2)\.")
_ADDRESSES_BY_SIZE = {"nano": 2, "micro": 2, "small": 4, "medium": 4}

_NOT_FOR_HOSTS = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
)
_ANEW = frozenset({"network", "subnet", "addresses"})
"""Settings of a machine that can't be changed while it stands."""


def arch_of(type: str) -> str:
    """The architecture of an instance type, by AWS' naming: a `g` after the generation stands for Graviton."""
    return "arm64" if _GRAVITON.match(type) else "x86_64"


def root_gib(storage_gb: float) -> int:
    """The volume for a disk of storage_gb (2^30 bytes each), in whole GiB, as AWS counts them."""
    return math.ceil(storage_gb)


@dataclass(frozen=True, slots=True)
class AwsRules:
    """The rules of AWS, for whichever provider makes things there."""

    provider: str

    def check(self, desired: Desired) -> None:
        """Refuses what AWS can't hold. Raises InputError naming the item and what to do."""
        refuse_problems("AWS", desired, _CHECKS)

    def settle(self, desired: Desired) -> Desired:
        """What is desired, as it is: each kind has its like on AWS."""
        return desired

    def change(self, before: Item, after: Item) -> Change:
        """What it takes to turn `before` into `after` on AWS. A disk is never shrunk: the larger one stays."""
        if before.kind is Kind.MACHINE:
            return _machine_change(before, after)
        if before.kind is Kind.NETWORK and before != after and primary_cidr(before) == primary_cidr(after):
            return Change(Effect.LIVE, after)
        return change_around(before, after)


def primary_cidr(network: Item) -> str | None:
    """The VPC's own CIDR: the first IPv4 one. The others are associated with it."""
    return next((text for text in network.settings["cidrs"] if parse_prefix(text).version == 4), None)


def _machine_change(before: Item, after: Item) -> Change:
    differ = differing(before, after)
    if differ & _ANEW or arch_of(before.settings["type"]) != arch_of(after.settings["type"]):
        return anew(after)
    after = with_larger_disk(before, after)
    if before.settings == after.settings:
        return Change(Effect.NOTHING, before)
    if "type" in differ:
        return Change(Effect.RESTART, after, f"{after.name} is stopped and started for its new type")
    return Change(Effect.LIVE, after)


def _check_network(item: Item, _all: Mapping[tuple[str, str], Item]) -> Iterator[Problem]:
    cidrs = [parse_prefix(text) for text in item.settings["cidrs"]]
    fours = [cidr for cidr in cidrs if isinstance(cidr, ipaddress.IPv4Network)]
    if not fours:
        yield "a VPC needs an IPv4 CIDR, and there is none", "add one to cidrs, such as 10.255.0.0/16; it may stay unused"
        return
    if len(fours) > MAX_CIDRS:
        yield f"it has {len(fours)} IPv4 CIDRs, and a VPC takes {MAX_CIDRS}", "use fewer, larger ones, or split the network"
    for cidr in cidrs:
        lengths = V4_LENGTHS if cidr.version == 4 else V6_NETWORK_LENGTHS
        if cidr.prefixlen not in lengths:
            yield (
                f"the CIDR {cidr} is not of a size that a VPC takes (/{lengths[0]} to /{lengths[-1]})",
                "list under cidrs those parts of it that the subnets lie in",
            )
        if any(cidr.version == other.version and cidr.overlaps(other) for other in _NOT_FOR_HOSTS):
            yield f"the CIDR {cidr} is not for hosts", "choose one such as 10.20.0.0/16"
    for cidr in fours[1:]:
        why = _unlike(fours[0], cidr)
        if why:
            yield f"the CIDR {cidr} can't be joined to {fours[0]}, {why}", "take one of the same range, or split the network"


def _unlike(first: ipaddress.IPv4Network, other: ipaddress.IPv4Network) -> str:
    """Why a CIDR can't be associated with a VPC whose own is `first` ("IPv4 CIDR block association restrictions")."""
    home = next((block for block in _PRIVATE if first.subnet_of(block)), None)
    if any(other.overlaps(block) for block in _PRIVATE if block != home):
        return "as a VPC does not mix private ranges (10/8, 172.16/12, 192.168/16) with each other or with public ones"
    if other.overlaps(_BENCHMARK) and not first.subnet_of(_BENCHMARK):
        return "as 198.19.0.0/16 is AWS' own there"
    if first.subnet_of(ipaddress.IPv4Network("10.0.0.0/15")) and other.overlaps(ipaddress.IPv4Network("10.0.0.0/16")):
        return "as nothing of 10.0.0.0/16 can be added to 10.0.0.0/15"
    if home == _PRIVATE[1] and other.overlaps(ipaddress.IPv4Network("172.31.0.0/16")):
        return "as nothing of 172.31.0.0/16 can be added to 172.16.0.0/12"
    return ""


def _check_subnet(item: Item, _all: Mapping[tuple[str, str], Item]) -> Iterator[Problem]:
    cidr = parse_prefix(item.settings["cidr"])
    lengths = V4_LENGTHS if cidr.version == 4 else V6_SUBNET_LENGTHS
    if cidr.prefixlen not in lengths:
        step = "" if cidr.version == 4 else ", in steps of 4"
        yield (
            f"the subnet {item.name} ({cidr}) is not of a size that AWS takes",
            f"make it a /{lengths[0]} to /{lengths[-1]}{step}",
        )


def _check_firewall(item: Item, _all: Mapping[tuple[str, str], Item]) -> Iterator[Problem]:
    count = len(item.settings["ingress"])
    if count > MAX_RULES:
        yield (
            f"the ports of {item.name} make {count} firewall rules, and {MAX_RULES} is the most",
            "give runs of consecutive ports, or link its subnet to fewer others",
        )


def _check_machine(item: Item, all_: Mapping[tuple[str, str], Item]) -> Iterator[Problem]:
    settings: Mapping[str, Any] = item.settings
    kind = settings["type"]
    if kind is None:
        yield f"no instance type fits {item.name}", f"see its reasons in `adumbra profile {settings['network']}`"
        return
    cidr = parse_prefix(all_[(Kind.SUBNET.value, settings["subnet"])].settings["cidr"])
    whole = AddressBlock.of_prefix(cidr)
    room = _ADDRESSES_BY_SIZE.get(kind.rpartition(".")[2], MAX_ADDRESSES)
    blocks = [parse_block(text) for text in settings["addresses"]]
    if sum(block.count for block in blocks) > room:
        yield (
            f"{item.name} has {sum(block.count for block in blocks)} addresses, and the interface of a {kind} takes {room}",
            f"give it at most {room}, or a larger type",
        )
    for block in blocks:
        if block.first < whole.first + RESERVED_FIRST or block.last > whole.last - RESERVED_LAST:
            free = AddressBlock(whole.version, whole.first + RESERVED_FIRST, whole.last - RESERVED_LAST)
            yield (
                f"{item.name} has {block}, and AWS keeps the first four addresses and the last of {cidr}",
                f"give it one of {address_of(free.version, free.first)} to {address_of(free.version, free.last)}",
            )
    if cidr.version == 6 and _XEN.match(kind):
        yield f"{item.name} is a {kind}, which can't be in an IPv6 subnet", "allow only types of a later generation"
    if root_gib(settings["storage_gb"]) > MAX_ROOT_GIB:
        yield (
            f"{item.name} needs a disk of {settings['storage_gb']} GB, and {MAX_ROOT_GIB} GiB is the most",
            "spread its data over more VMs",
        )


_CHECKS = {
    Kind.NETWORK: _check_network,
    Kind.SUBNET: _check_subnet,
    Kind.FIREWALL: _check_firewall,
    Kind.MACHINE: _check_machine,
}
