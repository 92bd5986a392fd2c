"""Which packets a mirror copies, by its scope: each packet of a network once, wherever it is seen. Pure; knows no method."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from adumbra.schema.addresses import Prefix, parse_prefix
from adumbra.schema.mirrors import End, Hook, MirrorSpec, Pick, Scope
from adumbra.tap.mirrors.u32 import complement


def picks_of(spec: MirrorSpec) -> tuple[Pick, ...]:
    """The packets that a mirror copies.

    A device: those to the prefixes, and those from them to anywhere else, in both directions. A VM's port: those to the VM as
    they go in, and those from it to none of the network's VMs as they come out: one to another VM is copied there. So a packet
    is copied at one port at most, whichever bridges it crosses, also if they flood it; a VM that routes for others copies
    nothing of theirs. A device beside ports copies the rest: what is neither to a VM with a port, nor from one to no VM.
    """
    match spec.scope:
        case Scope.SINK:
            return ()
        case Scope.PORT:
            into = Pick(Hook.EGRESS, End.TO, spec.prefixes)
            return into, Pick(Hook.INGRESS, End.FROM, spec.prefixes, spec.members)
        case Scope.DEVICE if not spec.left:
            ways = [(End.TO, spec.prefixes, ()), (End.FROM, spec.prefixes, spec.prefixes)]
        case Scope.DEVICE:
            ways = [
                (End.TO, minus(spec.members, spec.left), ()),
                (End.TO, minus(spec.prefixes, spec.members), spec.left),
                (End.FROM, minus(spec.prefixes, spec.left), spec.prefixes),
            ]
    return tuple(Pick(hook, end, these, unless) for hook in Hook for end, these, unless in ways if these)


def minus(prefixes: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The fewest prefixes that cover the addresses of the first that aren't among the others'."""
    own, taken = list(map(parse_prefix, prefixes)), list(map(parse_prefix, others))
    left: list[Prefix] = []
    for version in (4, 6):
        outside = complement((p for p in own if p.version == version), version)
        left += complement([*outside, *(p for p in taken if p.version == version)], version)
    return merged(left)


def merged(prefixes: Iterable[Prefix]) -> tuple[str, ...]:
    """The fewest prefixes that cover the same addresses, in order, as text."""
    by_version: dict[int, list[Prefix]] = {4: [], 6: []}
    for prefix in prefixes:
        by_version[prefix.version].append(prefix)
    return tuple(str(p) for own in by_version.values() for p in ipaddress.collapse_addresses(own))  # type: ignore[type-var]
