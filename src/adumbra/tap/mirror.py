"""Mirrors on this host: reads what stands, carries a plan out step by step, takes it away again, and looks after it.

Decides nothing (tap/mirrors/plan.py does) and keeps nothing (the service does, before it calls here).
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from pyroute2 import IPRoute

from adumbra.schema.errors import MirrorError
from adumbra.schema.mirrors import (
    Classifier,
    Clsact,
    Device,
    HostState,
    Look,
    Method,
    MirrorPlan,
    MirrorStep,
    NftTable,
    OvsMirror,
    Place,
    Standing,
    VethPair,
)
from adumbra.tap.mirrors import command, link, nft, ovs, tc
from adumbra.tap.mirrors.netlink import FilterSocket, explained

_CAP_NET_ADMIN = 12
_TOOL = {Method.NFT: "nft", Method.OVS: "ovs-vsctl"}


class Host:
    """The host's devices, filters and tables, in this process's network namespace. Opened by `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._route: IPRoute | None = None
        self._filters = FilterSocket()
        self._devices: tuple[Device, ...] | None = None

    def __enter__(self) -> Self:
        with explained("open a netlink socket"):
            self._route = self._stack.enter_context(IPRoute())
            self._stack.enter_context(self._filters)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def devices(self) -> tuple[Device, ...]:
        """The devices that there are, as of the last `state` or the last change of ours to them."""
        if self._devices is None:
            self._devices = link.devices(self._opened())
        return self._devices

    def state(self, device: str, method: Method | None) -> HostState:
        """All that planning a mirror of a device must know, by a method or (None) by any. Raises MirrorError."""
        self._devices = None
        devices = self.devices()
        found = next((each for each in devices if each.name == device), None)
        may = may_administer()  # reading nftables takes as much as changing them
        methods = {each for each in Method if each not in _TOOL or command.find(_TOOL[each])}
        if found is None:
            return HostState(devices, methods=frozenset(methods))
        priorities, tables = tc.in_use(self._filters, found.index)
        bridge = ovs.bridge_of(device) if method in {None, Method.OVS} else ""
        return HostState(
            devices,
            tc.qdisc_of(self._opened(), found.index),
            priorities,
            tables,
            nft.tables() if may and method in {None, Method.NFT} and Method.NFT in methods else frozenset(),
            bridge,
            ovs.ports_of(bridge) if bridge else frozenset(),
            ovs.mirrors() if bridge else frozenset(),
            frozenset(methods),
        )

    def reading(self) -> AbstractContextManager[None]:
        """Meanwhile nothing is changed, and what was read of filters isn't read again."""
        return self._filters.reading()

    def make(self, step: MirrorStep) -> None:
        """Carries out one step. Raises MirrorError; what it had begun is taken away by `take_away`."""
        match step:
            case VethPair():
                self._devices = None
                link.make_pair(self._opened(), step)
            case Clsact():
                tc.make_clsact(self._opened(), step, self.devices())
            case Classifier():
                tc.make_classifier(self._filters, step, self.devices())
            case NftTable():
                nft.make_table(step, self.devices())
            case OvsMirror():
                ovs.make_mirror(step)

    def take_away(self, step: MirrorStep) -> str:
        """Undoes one step, done, half done or not begun. Gives a word on what was not as it should be; again is harmless."""
        match step:
            case VethPair():
                self._devices = None
                return link.take_pair(self._opened(), step)
            case Clsact():
                return tc.take_clsact(self._opened(), self._filters, step, self.devices())
            case Classifier():
                return tc.take_classifier(self._filters, step, self.devices())
            case NftTable():
                return nft.take_table(step)
            case OvsMirror():
                return ovs.take_mirror(step)

    def look(self, step: MirrorStep) -> Look:
        """Whether a step's work stands. Raises MirrorError where it can't be looked at."""
        match step:
            case VethPair():
                return link.look_at_pair(self._opened(), step)
            case Clsact():
                return tc.look_at_clsact(self._opened(), step, self.devices())
            case Classifier():
                return tc.look_at_classifier(self._filters, step, self.devices())
            case NftTable():
                return nft.look_at_table(step, self.devices())
            case OvsMirror():
                return ovs.look_at_mirror(step)

    def _opened(self) -> IPRoute:
        if self._route is None:
            raise RuntimeError("the host isn't open: use it in a `with` block")
        return self._route


def install(plan: MirrorPlan, host: Host) -> None:
    """Carries the plan out. Raises MirrorError at the first step that fails: `remove` the plan then."""
    for step in plan.steps:
        host.make(step)


def remove(plan: MirrorPlan, host: Host) -> tuple[str, ...]:
    """Takes away all that stands of a plan, from the last step to the first. Gives what was not as it should be."""
    told = [host.take_away(step) for step in reversed(plan.steps)]
    return tuple(dict.fromkeys(each for each in told if each))


def look(plan: MirrorPlan, host: Host) -> Look:
    """Whether the whole mirror stands, and what it has mirrored. What can't be looked at is unknown."""
    try:
        with host.reading():
            looks = [host.look(step) for step in plan.steps]
        known = {device.name for device in host.devices()}
    except MirrorError as error:
        return Look(Standing.UNKNOWN, str(error))
    counts = [each for each in looks if each.packets is not None]
    packets = sum(each.packets or 0 for each in counts) if counts else None
    size = sum(each.bytes or 0 for each in counts) if counts else None
    drift = [each.detail for each in looks if each.standing is not Standing.STANDS]
    if not drift and plan.sink not in known:
        drift = [f"the device {plan.sink}, to which copies are sent, is gone"]
    if not drift:
        return Look(Standing.STANDS, "", packets, size)
    gone = all(each.standing is Standing.GONE for each in looks)
    return Look(Standing.GONE if gone else Standing.CHANGED, drift[0], packets, size)


def is_gone(plan: MirrorPlan, host: Host) -> bool:
    """Whether the very device that is mirrored is there no more, as a VM's port ends with its VM."""
    return plan.device is not None and link.same_device(plan.device, host.devices()) is None


def may_administer() -> bool:
    """Whether this process may change the network: CAP_NET_ADMIN (capabilities(7)), as /proc/self/status tells."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return bool(int(status.split("CapEff:")[1].split()[0], 16) >> _CAP_NET_ADMIN & 1)
    return False


def this_place() -> Place:
    """The running of the kernel, and the network namespace that this process is in."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Place(boot, _namespace(Path("/proc/self/ns/net")))


def still_there(place: Place) -> bool:
    """Whether the network namespace of a place is there still: named, or some process's that this one may see."""
    if place.boot != this_place().boot:
        return False
    named = Path("/run/netns")
    seen = (*(named.iterdir() if named.is_dir() else ()), *Path("/proc").glob("[0-9]*/ns/net"))
    return any(_namespace(path) == place.namespace for path in seen)


def _namespace(path: Path) -> str:
    with suppress(OSError):
        found = os.stat(path)
        return f"{found.st_dev}:{found.st_ino}"
    return ""
