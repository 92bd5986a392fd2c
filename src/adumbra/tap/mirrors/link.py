"""Network devices by pyroute2: those that there are, and the veth pair that a mirror may make for itself.

Only a pair with the planned MAC addresses is touched; one of the same name that others made is left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from adumbra.schema.mirrors import Device, DeviceRef, Look, Standing, VethPair
from adumbra.tap.mirrors.netlink import explained, unless_gone

_IFF_UP, _IFF_NOARP = 0x1, 0x80
_REMOTES = (
    "IFLA_VXLAN_GROUP", "IFLA_VXLAN_GROUP6", "IFLA_GENEVE_REMOTE", "IFLA_GENEVE_REMOTE6", "IFLA_GRE_REMOTE", "IFLA_IPIP_REMOTE",
)  # fmt: skip
_SETTINGS = {
    "ipv6/conf/{}/disable_ipv6": "1",
    "ipv6/conf/{}/addr_gen_mode": "1",
    "ipv4/conf/{}/rp_filter": "1",  # a copy of a broadcast frame must not reach this host's own sockets a second time
}


def devices(route: IPRoute) -> tuple[Device, ...]:
    """The devices of this network namespace, in the kernel's order. Raises MirrorError."""
    with explained("list the network devices"):
        found = list(route.get_links())
    names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in found}
    return tuple(_device(message, names) for message in found)


def _device(message: Any, names: dict[int, str]) -> Device:
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None
    values = dict(data["attrs"]) if isinstance(data, dict) and "attrs" in data else {}
    remotes = [values[name] for name in _REMOTES if values.get(name) not in {None, "0.0.0.0", "::"}]  # noqa: S104
    return Device(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=(info.get_attr("IFLA_INFO_KIND") if info else "") or "",
        link_type=message["ifi_type"],
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        lower="" if elsewhere else names.get(message.get_attr("IFLA_LINK"), ""),
        remote=remotes[0] if remotes else "",
        master=names.get(message.get_attr("IFLA_MASTER"), ""),
    )


def resolve(ref: DeviceRef, there: Iterable[Device]) -> Device | None:
    """The device that was planned for, also under a new name; else one of its name, made since; None where it is gone."""
    known = tuple(there)
    same = next((device for device in known if device.index == ref.index and device.mac == ref.mac), None)
    return same or next((device for device in known if device.name == ref.name), None)


def same_device(ref: DeviceRef, there: Iterable[Device]) -> Device | None:
    """The very device that was planned for, whatever its name or MAC is now; None where it is gone."""
    known = (device for device in there if device.index == ref.index)
    return next((device for device in known if ref.mac == device.mac or ref.name == device.name), None)


def make_pair(route: IPRoute, step: VethPair) -> None:
    """Makes the pair, without addresses, IPv6 or ARP, and sets it up; the very pair that stands will do. Raises MirrorError."""
    if look_at_pair(route, step).standing is Standing.STANDS:
        return
    with explained(f"make the devices {step.outer} and {step.inner}"):
        peer = {"ifname": step.outer, "address": step.outer_mac, "mtu": step.mtu}
        route.link("add", ifname=step.inner, kind="veth", address=step.inner_mac, mtu=step.mtu, peer=peer)
        for name in (step.inner, step.outer):
            _quieten(name)
            index = route.link_lookup(ifname=name)[0]
            route.link("set", index=index, IFLA_IFALIAS=step.alias)
            route.link("set", index=index, flags=_IFF_UP | _IFF_NOARP, change=_IFF_UP | _IFF_NOARP)


def _quieten(name: str) -> None:
    """Settings by which the host itself says and hears nothing on a device.

    Where a container may not write them the mirror works all the same: the device then has a link-local address.
    """
    for path, value in _SETTINGS.items():
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", path.format(name)).write_text(value)


def _ours(step: VethPair, there: Iterable[Device]) -> list[Device]:
    macs = {step.inner_mac, step.outer_mac}
    return [device for device in there if device.kind == "veth" and device.mac in macs]


def take_pair(route: IPRoute, step: VethPair) -> str:
    """Removes the pair; either end takes the other with it. Gives a word where it wasn't there. Raises MirrorError."""
    with explained(f"remove the devices {step.outer} and {step.inner}"):
        found = _ours(step, devices(route))
        if not found:
            return f"the devices {step.outer} and {step.inner} were gone already"
        unless_gone(lambda: route.link("del", index=found[0].index))
    return ""


def look_at_pair(route: IPRoute, step: VethPair) -> Look:
    """Whether both ends are there, and up."""
    found = _ours(step, devices(route))
    if not found:
        return Look(Standing.GONE, f"the devices {step.outer} and {step.inner} are gone")
    if {device.name for device in found} != {step.inner, step.outer}:
        return Look(Standing.CHANGED, f"{step.outer} or {step.inner} was renamed, or moved away")
    with explained(f"look at {step.inner}"):
        down = [d.name for d in found if not route.get_links(d.index)[0]["flags"] & _IFF_UP]
    return Look(Standing.CHANGED, f"{' and '.join(down)} is down") if down else Look(Standing.STANDS)
