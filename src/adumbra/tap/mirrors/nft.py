"""A mirror by nftables: one table of family netdev, made and deleted as a whole by `nft -j`. Chooses nothing.

The table is ours if its rules carry the plan's tag as their comment; other tables are never touched.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from adumbra.schema.addresses import Prefix, parse_prefix
from adumbra.schema.mirrors import Device, End, Hook, Look, NftTable, Standing
from adumbra.tap.mirrors import command
from adumbra.tap.mirrors.link import resolve

_FAMILY = "netdev"
_PRIORITY = {Hook.INGRESS: -500, Hook.EGRESS: 500}
"""Before the host's own chains on the way in, as on the wire; behind them on the way out, for what is dropped there
doesn't come to the wire."""

_PROTOCOL, _TYPE, _SET = {4: "ip", 6: "ip6"}, {4: "ipv4_addr", 6: "ipv6_addr"}, {4: "v4", 6: "v6"}


def tables() -> frozenset[str]:
    """The names of the tables of the family. Raises MirrorError."""
    listed = _read("list the tables of nftables", ["nft", "-j", "list", "tables", _FAMILY])
    return frozenset(each["table"]["name"] for each in listed if "table" in each)


def make_table(step: NftTable, there: tuple[Device, ...]) -> None:
    """Makes the table in one transaction. Raises MirrorError, also where one of its name has come meanwhile."""
    device = resolve(step.device, there)
    text = json.dumps({"nftables": commands(step, device.name if device else step.device.name)})
    command.run(f"make the nftables table {step.name}", ["nft", "-j", "-f", "-"], text)


def take_table(step: NftTable) -> str:
    """Deletes the table if it is ours. Gives a word where it wasn't there, or is another's. Raises MirrorError."""
    listed = _listing(step)
    if not listed:
        return f"the nftables table {step.name} was gone already"
    if not any(rule.get("comment") == step.owner for rule in _parts(listed, "rule")):
        return f"the nftables table {step.name} is not the one that was made, and was left alone"
    doing = f"delete the nftables table {step.name}"
    command.run(doing, ["nft", "delete", "table", _FAMILY, step.name], fine=("No such file",))
    return ""


def look_at_table(step: NftTable, there: tuple[Device, ...]) -> Look:
    """Whether the table is as it was made; packets and bytes are what its rules copied."""
    listed = _listing(step)
    if not listed:
        return Look(Standing.GONE, f"the nftables table {step.name} is gone")
    rules = _parts(listed, "rule")
    counts = [part["counter"] for rule in rules for part in rule["expr"] if "counter" in part]
    packets, size = sum(c["packets"] for c in counts), sum(c["bytes"] for c in counts)
    device = resolve(step.device, there)
    if device is None:
        return Look(Standing.GONE, f"the device {step.device.name} is gone", packets, size)
    if _essence(listed) != _essence([each["add"] for each in commands(step, device.name) if "add" in each]):
        return Look(Standing.CHANGED, f"the nftables table {step.name} was changed, or its devices are gone", packets, size)
    return Look(Standing.STANDS, "", packets, size)


def commands(step: NftTable, device: str) -> list[dict[str, Any]]:
    """What makes the table, as libnftables-json(5) has it: sets of prefixes, and a chain for each hook.

    A packet to the prefixes is copied by one rule, and one that is only from them by the other: once, never twice.
    """
    own = {"family": _FAMILY, "table": step.name}
    made: list[dict[str, Any]] = [{"create": {"table": {"family": _FAMILY, "name": step.name}}}]
    by_version = {v: _of_version(step.prefixes, v) for v in (4, 6)}
    for version, prefixes in by_version.items() if not step.picks else ():
        if prefixes and not _everything(prefixes):
            made.append({"add": {"set": own | _set(_SET[version], version, prefixes)}})
    for number, pick in enumerate(step.picks):
        for version in (4, 6):
            for letter, these in (("p", pick.prefixes), ("u", pick.unless)):
                prefixes = _of_version(these, version)
                if prefixes and not _everything(prefixes):
                    made.append({"add": {"set": own | _set(_name(letter, number, version), version, prefixes)}})
    for hook in step.hooks:
        chain: dict[str, Any] = own | {"name": hook.value, "type": "filter", "hook": hook.value, "dev": device}
        chain |= {"prio": _PRIORITY[hook], "policy": "accept"}
        made.append({"add": {"chain": chain}})
        for version, prefixes in by_version.items():
            rules = _picked(step, hook, version) if step.picks else _conditions(version, prefixes)
            for conditions in rules:
                expression = [*conditions, {"counter": {"packets": 0, "bytes": 0}}, {"dup": {"addr": step.sink}}]
                made.append({"add": {"rule": own | {"chain": hook.value, "expr": expression, "comment": step.owner}}})
    return made


def _of_version(prefixes: tuple[str, ...], version: int) -> list[Prefix]:
    return [prefix for prefix in map(parse_prefix, prefixes) if prefix.version == version]


def _name(letter: str, pick: int, version: int) -> str:
    """The set of the prefixes (p) of a pick, or of its exceptions (u)."""
    return f"{letter}{pick}v{version}"


def _set(name: str, version: int, prefixes: list[Prefix]) -> dict[str, Any]:
    elements = [{"prefix": {"addr": str(p.network_address), "len": p.prefixlen}} if p.prefixlen < p.max_prefixlen
                else str(p.network_address) for p in prefixes]  # fmt: skip
    return {"name": name, "type": _TYPE[version], "flags": ["interval"], "elem": elements}


def _picked(step: NftTable, hook: Hook, version: int) -> list[list[dict[str, Any]]]:
    """The conditions of each pick's rule for the packets of an IP version; a pick that takes none has no rule."""
    found = []
    for number, pick in enumerate(step.picks):
        prefixes, unless = _of_version(pick.prefixes, version), _of_version(pick.unless, version)
        if pick.hook is not hook or not prefixes or (unless and _everything(unless)):
            continue
        near, far = ("daddr", "saddr") if pick.end is End.TO else ("saddr", "daddr")
        conditions = [_is_protocol(version)]
        if not _everything(prefixes):
            conditions = [_is_in(version, near, "==", _name("p", number, version))]
        if unless:
            conditions.append(_is_in(version, far, "!=", _name("u", number, version)))
        found.append(conditions)
    return found


def _is_protocol(version: int) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"meta": {"key": "protocol"}}, "right": _PROTOCOL[version]}}


def _is_in(version: int, field: str, operator: str, name: str) -> dict[str, Any]:
    left = {"payload": {"protocol": _PROTOCOL[version], "field": field}}
    return {"match": {"op": operator, "left": left, "right": f"@{name}"}}


def _everything(prefixes: list[Any]) -> bool:
    return any(not prefix.prefixlen for prefix in ipaddress.collapse_addresses(prefixes))


def _conditions(version: int, prefixes: list[Any]) -> list[list[dict[str, Any]]]:
    """The conditions of each rule for the packets of an IP version."""
    if not prefixes:
        return []
    if _everything(prefixes):
        return [[_is_protocol(version)]]
    name = _SET[version]
    return [
        [_is_in(version, "daddr", "==", name)],
        [_is_in(version, "saddr", "==", name), _is_in(version, "daddr", "!=", name)],
    ]


def _essence(listed: list[dict[str, Any]]) -> list[str]:
    """What must be as it was made: names, hooks, elements and rules, without handles and counts."""
    essential = []
    for each in listed:
        for kind, keys in (
            ("set", ("name", "type", "elem")),
            ("chain", ("name", "type", "hook", "prio")),
            ("rule", ("chain", "comment")),
        ):
            if kind in each:
                part = {key: each[kind].get(key) for key in keys}
                part["expr"] = [e for e in each[kind].get("expr", []) if "counter" not in e]
                essential.append(json.dumps([kind, part], sort_keys=True))
    return sorted(essential)


def _listing(step: NftTable) -> list[dict[str, Any]]:
    arguments = ["nft", "-j", "list", "table", _FAMILY, step.name]
    return _read(f"list the nftables table {step.name}", arguments)


def _parts(listed: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each[kind] for each in listed if kind in each]


def _read(doing: str, arguments: list[str]) -> list[dict[str, Any]]:
    text = command.run(doing, arguments, fine=("No such file",))
    return list(json.loads(text)["nftables"]) if text else []
