"""Turns a spec, its VMs and their profile into the things that should stand, every name and size settled.

Pure; knows no provider. Whatever a provider can't hold is refused by its own rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adumbra.schema.errors import InputError
from adumbra.schema.plans import Desired, Item, Kind
from adumbra.schema.sizing import RESOURCES, NetworkProfile, VmProfile
from adumbra.schema.spec import INTERNET, NetworkSpec, Subnet, Vm

EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
"""All addresses, by IP version."""


def make_desired(spec: NetworkSpec, vms: Sequence[Vm], profile: NetworkProfile) -> Desired:
    """What should stand: network, subnets, gateway, routing, firewalls and machines, in an order in which they can be made.

    A subnet linked to the internet gets a default route, and its IPv4 machines a public address. One firewall a VM group
    lets its ports in: from everywhere where its subnet is linked to the internet, else from its own subnet and those that
    are linked to it, and from the whole network where the subnet has no links. All goes out.
    Raises InputError where the profile is another network's, or has no sizes for a VM.
    """
    if profile.network != spec.name:
        raise InputError(f"planning {spec.name} with the profile of {profile.network}", f"run `adumbra profile {spec.name}`")
    sizes = {vm.vm: vm for vm in profile.vms}
    missing = [vm.name for vm in vms if vm.name not in sizes]
    if missing:
        raise InputError(
            f"the profile of {spec.name} has no sizes for {', '.join(missing[:5])}", f"run `adumbra profile {spec.name}` again"
        )
    joined = _joined(spec)
    outside = {name for name, others in joined.items() if INTERNET in others}
    version = {subnet.name: subnet.cidr.version for subnet in spec.subnets}
    items = [
        Item(Kind.NETWORK, spec.name, {"cidrs": [str(cidr) for cidr in spec.cidrs]}),
        *(Item(Kind.SUBNET, subnet.name, {"network": spec.name, "cidr": str(subnet.cidr)}) for subnet in spec.subnets),
        *([Item(Kind.GATEWAY, INTERNET, {"network": spec.name})] if outside else []),
        *(_routing(spec, subnet, subnet.name in outside) for subnet in spec.subnets),
        *_firewalls(spec, vms, joined, version),
        # An IPv6 address is reachable as it is; an IPv4 one from the outside only through a public one beside it.
        *(_machine(spec.name, vm, sizes[vm.name], vm.subnet in outside and version[vm.subnet] == 4) for vm in vms),
    ]
    return Desired(spec.name, tuple(items))


def machine_prices(profile: NetworkProfile) -> dict[str, float]:
    """What each machine costs, in US dollars an hour, where that is known."""
    return {vm.vm: vm.price_per_hour for vm in profile.vms if vm.price_per_hour is not None}


def _joined(spec: NetworkSpec) -> dict[str, set[str]]:
    """Per subnet, what its links join it to."""
    joined: dict[str, set[str]] = {subnet.name: set() for subnet in spec.subnets}
    for link in spec.links:
        for here, there in (link.between, link.between[::-1]):
            if here in joined:
                joined[here].add(there)
    return joined


def _routing(spec: NetworkSpec, subnet: Subnet, outside: bool) -> Item:
    """A subnet's own routes: one table a subnet, so that a change of one subnet leaves the others' routes alone."""
    settings = {
        "network": spec.name,
        "subnet": subnet.name,
        "gateway": INTERNET if outside else None,
        "default_route": EVERYWHERE[subnet.cidr.version] if outside else None,
    }
    return Item(Kind.ROUTING, subnet.name, settings)


def _firewalls(
    spec: NetworkSpec, vms: Sequence[Vm], joined: Mapping[str, set[str]], version: Mapping[str, int]
) -> Iterator[Item]:
    sources = {name: _sources(spec, name, others, version[name]) for name, others in joined.items()}
    groups: dict[str, Vm] = {}
    for vm in vms:
        groups.setdefault(vm.group, vm)
    for vm in groups.values():
        ingress = [
            {"protocol": "tcp", "from_port": first, "to_port": last, "source": source}
            for first, last in _runs(vm.ports)
            for source in sources[vm.subnet]
        ]
        egress = [EVERYWHERE[version[vm.subnet]]]
        yield Item(Kind.FIREWALL, vm.group, {"network": spec.name, "ingress": ingress, "egress": egress})


def _sources(spec: NetworkSpec, name: str, others: set[str], version: int) -> list[str]:
    """The prefixes that a subnet's machines take traffic from, of the subnet's own IP version."""
    if INTERNET in others:
        return [EVERYWHERE[version]]
    near = [subnet.cidr for subnet in spec.subnets if subnet.name in others or subnet.name == name]
    return [str(cidr) for cidr in (near if others else spec.cidrs) if cidr.version == version]


def _runs(ports: Sequence[int]) -> list[tuple[int, int]]:
    """Ports as runs of consecutive ones, ascending: a firewall has room for a limited number of rules."""
    runs: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if runs and port == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], port)
        else:
            runs.append((port, port))
    return runs


def _machine(network: str, vm: Vm, sizes: VmProfile, public: bool) -> Item:
    settings: dict[str, Any] = {
        "network": network,
        "subnet": vm.subnet,
        "firewall": vm.group,
        "gateway": INTERNET if public else None,
        "public_address": public,
        "addresses": [str(block) for block in vm.addresses],
        "role": vm.role,
        "type": sizes.type,
    }
    return Item(Kind.MACHINE, vm.name, settings | {name: getattr(sizes, name) for name in RESOURCES})
