"""Filters of traffic control: makes, takes away and looks at what a plan names. Chooses nothing.

A rule is ours if it is where the plan puts it, asks what the plan asks, and carries the plan's cookie. Others' stay.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pyroute2 import IPRoute

from adumbra.schema.errors import MirrorError
from adumbra.schema.mirrors import Classifier, Clsact, Device, Hook, Look, Rule, Standing
from adumbra.tap.mirrors import u32
from adumbra.tap.mirrors.link import resolve, same_device
from adumbra.tap.mirrors.netlink import (
    EGRESS_PARENT,
    INGRESS_PARENT,
    FilterId,
    FilterSocket,
    RefusedError,
    explained,
    number_of,
    unless_gone,
)

_PARENT = {Hook.INGRESS: INGRESS_PARENT, Hook.EGRESS: EGRESS_PARENT}
_BUSY_WAIT_S, _MOST_TRIES = 0.01, 500


def qdisc_of(route: IPRoute, index: int) -> str:
    """What hangs on the device's hooks: "clsact", "ingress" or ""."""
    with explained("list the qdiscs"):
        found = [message.get_attr("TCA_KIND") for message in route.get_qdiscs(index=index)]
    return next((kind for kind in found if kind in {"clsact", "ingress"}), "")


def in_use(filters: FilterSocket, index: int) -> tuple[frozenset[int], frozenset[int]]:
    """The priorities that filters of the device have, and the numbers of its u32 hash tables."""
    with explained("list the filters"):
        found = [each for parent in _PARENT.values() for each in filters.filters(index, parent)]
    tables = {each.id.handle >> 20 for each in found if each.kind == "u32"}
    return frozenset(each.id.priority for each in found), frozenset(tables)


def make_clsact(route: IPRoute, step: Clsact, there: Iterable[Device]) -> None:
    """Adds the qdisc. Raises MirrorError where one came meanwhile that isn't ours."""
    device = _there(step.device.name, resolve(step.device, there))
    doing = f"add the qdisc clsact to {device.name}"
    with explained(doing):
        try:
            route.tc("add", "clsact", device.index)
        except Exception as error:
            if number_of(error) != errno.EEXIST:
                raise
            if not step.shared:
                raise MirrorError(f"could not {doing}: one has come meanwhile", "run the same again") from error


def take_clsact(route: IPRoute, filters: FilterSocket, step: Clsact, there: Iterable[Device]) -> str:
    """Removes the qdisc, unless filters are left on it. Gives a word where it wasn't there, or stays.

    A device that was made anew under the same name has lost ours: one that it has is another's.
    """
    device = same_device(step.device, there)
    if device is None or qdisc_of(route, device.index) != "clsact":
        return ""
    with explained(f"remove the qdisc clsact of {device.name}"):
        if any(filters.filters(device.index, parent) for parent in _PARENT.values()):
            return f"the qdisc clsact of {device.name} stays, as there are other filters on it"
        unless_gone(lambda: route.tc("del", "clsact", device.index))
    return ""


def look_at_clsact(route: IPRoute, step: Clsact, there: Iterable[Device]) -> Look:
    device = resolve(step.device, there)
    if device is None:
        return Look(Standing.GONE, f"the device {step.device.name} is gone")
    if qdisc_of(route, device.index) != "clsact":
        return Look(Standing.GONE, f"the qdisc clsact of {device.name} is gone")
    return Look(Standing.STANDS)


def make_classifier(filters: FilterSocket, step: Classifier, there: tuple[Device, ...]) -> None:
    """Adds the tables, then the rules. Raises MirrorError where others have taken what the plan had found free."""
    device = _there(step.device.name, resolve(step.device, there))
    sink = _there(step.sink, next((each for each in there if each.name == step.sink), None))
    with explained(f"add filters to the {step.hook} of {device.name}"):
        for table in step.tables:
            filters.add(_id(device, step, table << 20), u32.table_options())
        for rule in step.rules:
            options = u32.rule_options(rule, sink.index, step.cookie)
            filters.add(_id(device, step, rule.table << 20 | rule.node), options)


def take_classifier(filters: FilterSocket, step: Classifier, there: Iterable[Device]) -> str:
    """Removes what is ours under the priority, and the priority itself unless it holds others'. Again is harmless."""
    device = resolve(step.device, there)
    if device is None:
        return f"the device {step.device.name} was gone already, with its filters"
    with explained(f"remove filters from the {step.hook} of {device.name}"):
        found = _found(filters, device, step)
        for handle, rule in found.ours:
            if rule.link:
                _delete(filters, device, step, handle)
        for table in found.tables:
            _delete_table(filters, device, step, table << 20)
        if not found.others:
            if found.any:
                _delete(filters, device, step, 0)
            return ""
        for handle, rule in found.ours:
            if not rule.link:
                _delete(filters, device, step, handle)
    return f"filters of others at priority {step.priority} of {device.name} were left alone"


def look_at_classifier(filters: FilterSocket, step: Classifier, there: tuple[Device, ...]) -> Look:
    """Whether all rules stand and lead to the sink; packets and bytes are what they mirrored."""
    device = resolve(step.device, there)
    if device is None:
        return Look(Standing.GONE, f"the device {step.device.name} is gone")
    sink = next((each.index for each in there if each.name == step.sink), -1)
    with explained(f"list the filters of {device.name}"):
        found = _found(filters, device, step)
    packets, size = (
        (sum(values) for values in zip(*((m.packets, m.bytes) for m in found.mirrors), strict=True))
        if found.mirrors
        else (0, 0)
    )
    if not found.ours:
        return Look(Standing.GONE, f"the filters of {device.name} ({step.hook}) are gone")
    if sink == -1:
        return Look(Standing.CHANGED, f"the device {step.sink}, to which copies are sent, is gone", packets, size)
    if any(mirror.sink != sink or not mirror.alone for mirror in found.mirrors):
        return Look(Standing.CHANGED, f"filters of {device.name} ({step.hook}) lead elsewhere", packets, size)
    if len(found.ours) != len(step.rules):
        told = f"{len(found.ours)} of {len(step.rules)} filters are left on {device.name} ({step.hook})"
        return Look(Standing.CHANGED, told, packets, size)
    return Look(Standing.STANDS, "", packets, size)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is under a priority: our rules with their handles, what they mirrored, the tables that hold nothing of others',
    and whether others' rules are there.
    """

    ours: tuple[tuple[int, Rule], ...]
    mirrors: tuple[u32.Found, ...]
    tables: tuple[int, ...]
    others: bool
    any: bool


def _found(filters: FilterSocket, device: Device, step: Classifier) -> _Found:
    wanted = {(rule.table, rule.node): rule for rule in step.rules}
    here = [f for f in filters.filters(device.index, _PARENT[step.hook]) if f.id.priority == step.priority]
    ours, mirrors = [], []
    tables: set[int] = set()
    foreign: set[int] = set()
    others = any(f.kind != "u32" or f.id.protocol != step.protocol for f in here)
    for each in here if not others else ():
        node = u32.read_options(each.id.handle, each.options)
        if node is None:
            tables.add(each.id.handle >> 20)
            continue
        rule = wanted.get((node.table if node.table in step.tables else 0, node.node))
        if rule is None or not _is(node, rule, step.cookie):
            others = True
            foreign.add(node.table)
            continue
        ours.append((each.id.handle, rule))
        mirrors += [] if rule.link else [node]
    return _Found(tuple(ours), tuple(mirrors), tuple((tables - foreign) & set(step.tables)), others, bool(here))


def _is(node: u32.Found, rule: Rule, cookie: str) -> bool:
    same = node.keys == frozenset(rule.keys) and node.link == rule.link
    return same and (bool(rule.link) or node.cookie == cookie)


def _delete(filters: FilterSocket, device: Device, step: Classifier, handle: int) -> None:
    unless_gone(lambda: filters.delete(_id(device, step, handle)))


def _delete_table(filters: FilterSocket, device: Device, step: Classifier, handle: int) -> None:
    """Deletes a table. The kernel lets go of a deleted rule, and so of the table that it leads to, a moment later."""
    for _ in range(_MOST_TRIES):
        try:
            return _delete(filters, device, step, handle)
        except RefusedError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(_BUSY_WAIT_S)
    raise MirrorError(f"a hash table of {device.name} is in use by filters of others", "remove those that lead to it first")


def _id(device: Device, step: Classifier, handle: int) -> FilterId:
    return FilterId(device.index, _PARENT[step.hook], step.priority, step.protocol, handle)


def _there(name: str, device: Device | None) -> Device:
    if device is None:
        raise MirrorError(f"the device {name} is gone", "run the same again")
    return device
