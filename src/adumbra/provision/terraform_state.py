"""What the tool's state tells of the items of a document: which stand as they should, which are unfinished or drifted. Pure.

The state is the format version 4, as `tofu state pull` prints it and terraform.tfstate holds it. Others' are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adumbra.provision.plan import Key, in_order
from adumbra.provision.protocol import Change, Effect, Rules
from adumbra.provision.terraform_document import Draft, Rendered, Target, Watch, draft_of
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Desired, Item, Kind

STATE_VERSION = 4
INCOMPLETE = "incomplete"
"""A setting that no desired item has: it marks what stands only in part, so that the next plan has a step for it."""
UNFINISHED = "not applied in full"
TAINTED = "half made"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as the state has it; tainted: its making failed half way, and the tool will make it anew."""

    attributes: Mapping[str, Any]
    tainted: bool


def parse_state(data: bytes) -> dict[str, Resource]:
    """The managed resources of the root module by address; none where there is no state. Raises ProvisionError."""
    if not data.strip():
        return {}
    try:
        state = json.loads(data)
        if state["version"] != STATE_VERSION:
            raise ProvisionError(f"the state has version {state['version']!r}, not {STATE_VERSION}", "use a tool of today")
        return {
            f"{entry['type']}.{entry['name']}": Resource(dict(one.get("attributes") or {}), one.get("status") == "tainted")
            for entry in state.get("resources") or []
            if entry["mode"] == "managed" and "module" not in entry
            for one in entry["instances"]
            if "index_key" not in one and "deposed" not in one
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProvisionError("the tool's state can't be read: it isn't a state of Terraform's", "restore its backup") from error


def standing_items(target: Target, rendered: Rendered, state: Mapping[str, Resource]) -> tuple[Item, ...]:
    """The items as they stand: those of the document, but marked or with what the state says where it says otherwise.

    What changed since the last apply stands as it was before, marked, whatever of it was carried out: a step that is done
    again is harmless, one that is left out is not.
    """
    draft = draft_of(target, rendered.items)
    owned: dict[Key, list[str]] = {}
    for address, keys in draft.owners.items():
        for key in keys:
            owned.setdefault(key, []).append(address)
    items = {item.key: item for item in rendered.items}
    for key, item in items.items():
        if key not in rendered.pending:
            items[key] = _as_told(item, owned.get(key, []), draft, state)
    for key, before in rendered.pending.items():
        known = before if before is not None else items.get(key)
        if known is not None:
            half = any(state[address].tainted for address in owned.get(key, []) if address in state)
            items[key] = _marked(known, TAINTED if half else UNFINISHED)
    return in_order(items.values())


def _as_told(item: Item, addresses: list[str], draft: Draft, state: Mapping[str, Resource]) -> Item:
    found = [state.get(address) for address in addresses]
    if any(resource is not None and resource.tainted for resource in found):
        return _marked(item, TAINTED)
    if any(resource is None for resource in found):
        return _marked(item, UNFINISHED)
    settings = dict(item.settings)
    for address in addresses:
        for watch in draft.watches.get(address, ()):
            value = _at(state[address].attributes, watch.path)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool) and not _alike(value, watch):
                try:
                    settings[watch.setting] = watch.read(value)
                except (TypeError, ValueError):  # of another type than the provider ever writes
                    return _marked(item, UNFINISHED)
    return item if settings == item.settings else replace(item, settings=settings)


def _alike(value: object, watch: Watch) -> bool:
    return str(value) == str(watch.want) or value == watch.want


def _at(attributes: object, path: str) -> object:
    """What stands at a path, None where nothing does."""
    there = attributes
    for part in path.split("."):
        if isinstance(there, list):
            there = there[int(part)] if int(part) < len(there) else None
        elif isinstance(there, dict):
            there = there.get(part)
        else:
            return None
    return there


def _marked(item: Item, why: str) -> Item:
    return replace(item, settings={**item.settings, INCOMPLETE: why})


def unmarked(item: Item) -> Item:
    """The item without the mark."""
    return replace(item, settings={name: value for name, value in item.settings.items() if name != INCOMPLETE})


@dataclass(frozen=True, slots=True)
class MarkedRules:
    """A target's rules, for items that may be marked: what is unfinished is finished by a step of its own."""

    of: Rules
    provider: str = field(default="terraform")

    def check(self, desired: Desired) -> None:
        self.of.check(desired)

    def settle(self, desired: Desired) -> Desired:
        return self.of.settle(desired)

    def change(self, before: Item, after: Item) -> Change:
        """As the target's rules say, but a marked item is never left as it is, and a half made machine is made anew."""
        mark = before.settings.get(INCOMPLETE)
        change = self.of.change(unmarked(before), unmarked(after))
        if mark is None:
            return change
        if mark == TAINTED and before.kind is Kind.MACHINE and change.effect is not Effect.REPLACE:
            return Change(Effect.REPLACE, change.item, f"{after.name} was half made, and is made anew")
        return Change(Effect.LIVE, change.item) if change.effect is Effect.NOTHING else change
