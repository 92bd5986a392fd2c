"""A mirror by Open vSwitch: one Mirror row of a bridge, made and removed by `ovs-vsctl` in one transaction each.

The row, and the port that may be added for it, are ours if their external_ids carry the plan's tag.
"""

from __future__ import annotations

import json
from typing import Any

from adumbra.schema.errors import MirrorError
from adumbra.schema.mirrors import Look, OvsMirror, Standing
from adumbra.tap.mirrors import command

_VSCTL = ("ovs-vsctl", "--timeout=10")
_TAG = "external_ids:adumbra"


def bridge_of(device: str) -> str:
    """The bridge of which the device is a port; "" where it is none's, or Open vSwitch doesn't run here."""
    if command.find("ovs-vsctl") is None:
        return ""
    try:
        return command.run("ask Open vSwitch", [*_VSCTL, "port-to-br", device]).strip()
    except MirrorError:
        return ""


def ports_of(bridge: str) -> frozenset[str]:
    """The ports of a bridge. Raises MirrorError."""
    return frozenset(command.run("list the ports of Open vSwitch", [*_VSCTL, "list-ports", bridge]).split())


def mirrors() -> frozenset[str]:
    """The names of all mirrors. Raises MirrorError."""
    return frozenset(row["name"] for row in _rows("list the mirrors of Open vSwitch", ["list", "Mirror"]))


def make_mirror(step: OvsMirror) -> None:
    """Makes the row, and the output a port where it isn't one, in one transaction. Raises MirrorError."""
    add = ("add-port", step.bridge, step.output, "--", "set", "Port", step.output, f"{_TAG}={step.owner}", "--")
    row = ("create", "Mirror", f"name={step.name}", f"{_TAG}={step.owner}", "select_src_port=@p", "select_dst_port=@p")
    command.run(
        f"make the Open vSwitch mirror {step.name}",
        [
            *_VSCTL, *(("--", *add) if step.adds_output else ("--",)), "--id=@p", "get", "Port", step.port,
            "--", "--id=@o", "get", "Port", step.output, "--", "--id=@m", *row, "output_port=@o",
            "--", "add", "Bridge", step.bridge, "mirrors", "@m",
        ],
    )  # fmt: skip


def take_mirror(step: OvsMirror) -> str:
    """Removes what carries the tag. Gives a word where nothing did. Raises MirrorError."""
    doing = f"remove the Open vSwitch mirror {step.name}"
    acts = []
    for row in _tagged(doing, "Mirror", step):
        acts += ["--", "--if-exists", "remove", "Bridge", step.bridge, "mirrors", row["_uuid"][1]]
    for row in _tagged(doing, "Port", step):
        acts += ["--", "--if-exists", "del-port", step.bridge, row["name"]]
    if not acts:
        return f"the Open vSwitch mirror {step.name} was gone already"
    command.run(doing, [*_VSCTL, *acts])
    return ""


def look_at_mirror(step: OvsMirror) -> Look:
    """Whether the row is as it was made; packets and bytes are what Open vSwitch counted."""
    doing = f"look at the Open vSwitch mirror {step.name}"
    rows = _tagged(doing, "Mirror", step)
    if not rows:
        return Look(Standing.GONE, f"the Open vSwitch mirror {step.name} is gone")
    row = rows[0]
    counts = dict(row["statistics"][1])
    packets, size = counts.get("tx_packets"), counts.get("tx_bytes")
    names = {each["_uuid"][1]: each["name"] for each in _rows(doing, ["list", "Port"])}
    asked = {"select_src_port": {step.port}, "select_dst_port": {step.port}, "output_port": {step.output}}
    for column, want in asked.items():
        if {names.get(uuid, "") for uuid in _uuids(row[column])} != want:
            return Look(Standing.CHANGED, f"{column} of the Open vSwitch mirror {step.name} was changed", packets, size)
    return Look(Standing.STANDS, "", packets, size)


def _tagged(doing: str, table: str, step: OvsMirror) -> list[dict[str, Any]]:
    return _rows(doing, ["find", table, f"{_TAG}={step.owner}"])


def _rows(doing: str, question: list[str]) -> list[dict[str, Any]]:
    """The rows of an answer, by column; values are as RFC 7047, section 5.1, writes them."""
    text = command.run(doing, [*_VSCTL, "--format=json", *question])
    if not text.strip():
        return []
    answer = json.loads(text)
    return [dict(zip(answer["headings"], row, strict=True)) for row in answer["data"]]


def _uuids(value: Any) -> list[str]:
    """The references in a column: one, or a set of them."""
    return [value[1]] if value[0] == "uuid" else [each[1] for each in value[1]]
