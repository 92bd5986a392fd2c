"""What the rules of all providers share: how problems are told, and what a change of a machine's surroundings means. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from adumbra.provision.protocol import Change, Effect
from adumbra.schema.addresses import Address, AddressBlock, address_of, parse_block, parse_prefix
from adumbra.schema.errors import InputError
from adumbra.schema.plans import Desired, Item, Kind

MAX_ADDRESSES = 10
"""The most single addresses of one interface anywhere."""
MIB_PER_GB = 1024

Problem = tuple[str, str]
"""What is wrong, and how to mend it."""
Standing = Mapping[tuple[str, str], Item]
Checks = Mapping[Kind, Callable[[Item, Standing], Iterator[Problem]]]


def refuse_problems(where: str, desired: Desired, checks: Checks) -> None:
    """Raises InputError for the first thing that can't be held, saying how many more there are."""
    by_key = {item.key: item for item in desired.items}
    problems = [problem for item in desired.items if item.kind in checks for problem in checks[item.kind](item, by_key)]
    if problems:
        what, mend = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where} can't hold {desired.network}: {what}", f"{mend}{more}")


def change_around(before: Item, after: Item) -> Change:
    """What it takes to change what is no machine: firewalls and routes live, the rest is made anew."""
    if before.settings == after.settings:
        return Change(Effect.NOTHING, before)
    if before.kind is Kind.FIREWALL and before.settings["network"] == after.settings["network"]:
        return Change(Effect.LIVE, after, closed(before, after))
    if before.kind is Kind.ROUTING and before.settings["subnet"] == after.settings["subnet"]:
        return Change(Effect.LIVE, after, cut_off(before, after))
    return anew(after)


def anew(after: Item) -> Change:
    """Something that can't become `after` while it stands."""
    if after.kind is Kind.MACHINE:
        return Change(Effect.REPLACE, after, f"{after.name} is destroyed, with its disk, and made anew")
    return Change(Effect.REPLACE, after, f"{after.kind.value} {after.name} is made anew")


def differing(before: Item, after: Item) -> set[str]:
    """The names of the settings that differ."""
    was, now = before.settings, after.settings
    return {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}


def with_larger_disk(before: Item, after: Item) -> Item:
    """`after`, with the disk of `before` where that is larger: a disk is never shrunk."""
    larger = max(before.settings["storage_gb"], after.settings["storage_gb"])
    return replace(after, settings={**after.settings, "storage_gb": larger})


def cut_off(before: Item, after: Item) -> str:
    """What a change of routes takes away; "" for nothing."""
    cut = before.settings["default_route"] is not None and after.settings["default_route"] is None
    return f"subnet {after.name} loses its way to the outside" if cut else ""


def closed(before: Item, after: Item) -> str:
    """What a firewall no longer lets in."""
    shut = [rule for rule in before.settings["ingress"] if rule not in after.settings["ingress"]]
    named = ", ".join(f"port {ports_of(rule)} from {rule['source']}" for rule in shut[:3])
    return f"{after.name} no longer takes {named}{' and more' if len(shut) > 3 else ''}" if shut else ""


def reserved_addresses(item: Item, all_: Standing, first: int, last: int) -> Iterator[Problem]:
    """A machine's addresses that lie in the `first` ones of its subnet, or in the `last` ones, which the provider keeps."""
    cidr = parse_prefix(all_[(Kind.SUBNET.value, item.settings["subnet"])].settings["cidr"])
    whole = AddressBlock.of_prefix(cidr)
    for block in (parse_block(text) for text in item.settings["addresses"]):
        if block.first < whole.first + first or block.last > whole.last - last:
            free = AddressBlock(whole.version, whole.first + first, whole.last - last)
            yield (
                f"{item.name} has {block}, and the first {first} addresses and the last of {cidr} are kept",
                f"give it one of {address_of(free.version, free.first)} to {address_of(free.version, free.last)}",
            )


def too_many_addresses(item: Item, room: int) -> Iterator[Problem]:
    """A machine with more addresses than its interface takes."""
    count = sum(parse_block(text).count for text in item.settings["addresses"])
    if count > room:
        yield f"{item.name} has {count} addresses, and its interface takes {room}", f"give it at most {room}"


def cores_of(settings: Mapping[str, Any]) -> int:
    """A machine's whole cores, rounded up."""
    return max(1, math.ceil(float(settings["cpu_cores"])))


def memory_mib(settings: Mapping[str, Any]) -> int:
    """A machine's memory in whole MiB, rounded up."""
    return max(1, math.ceil(float(settings["memory_gb"] * MIB_PER_GB)))


def disk_gib(settings: Mapping[str, Any]) -> int:
    """A machine's disk in whole GiB, rounded up."""
    return max(1, math.ceil(float(settings["storage_gb"])))


def limit_kbps(settings: Mapping[str, Any]) -> int:
    """A machine's bandwidth each way in kbit/s, as a bandwidth limit counts."""
    return max(1, math.ceil(float(settings["bandwidth_mbps"] * 1000)))


def addresses_of(item: Item) -> list[Address]:
    """A machine's single addresses, the primary one first, at most one more than any interface carries."""
    single: list[Address] = []
    for text in item.settings["addresses"]:
        block = parse_block(text)
        last = min(block.last, block.first + MAX_ADDRESSES - len(single))
        single += [address_of(block.version, number) for number in range(block.first, last + 1)]
    return single


def ports_of(rule: Mapping[str, Any]) -> str:
    """A rule's ports in words: 80, or 80-82."""
    first, last = rule["from_port"], rule["to_port"]
    return f"{first}" if first == last else f"{first}-{last}"
