"""OpenTofu/Terraform JSON, whatever the target: a document from items, and the items back from a document.

Pure: the same items give the same document. Reads and writes no file, holds no credentials.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adumbra.provision.plan import Key, in_order
from adumbra.provision.protocol import Rules
from adumbra.schema.plans import Item, Kind

COMMENT = "//"
FORMAT = 2
_OLD_FORMAT = 1  # had no other target than AWS, and a region for its place

_IDENTIFIER = re.compile(r"[a-z][a-z0-9-]*")

Body = dict[str, Any]
Renderer = Callable[["Draft", Item], None]


class NotOursError(ValueError):
    """A document that this module did not render, or that was changed since."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One attribute that the tool's state tells of a resource, and the setting of its item that it must agree with.

    path: where it stands in the resource, such as root_block_device.0.volume_size; want: its value; read: the setting's value
    for another one. Where the state has no such attribute nothing is known, and nothing is said.
    """

    path: str
    want: object
    setting: str
    read: Callable[[Any], object] = lambda value: value


@dataclass(slots=True)
class Draft:
    """A document in the making. `resources`: type -> label -> body; `owners`: a resource's address -> the items it is for."""

    items: Mapping[Key, Item]
    resources: dict[str, dict[str, Body]] = field(default_factory=dict)
    data: dict[str, dict[str, Body]] = field(default_factory=dict)
    owners: dict[str, list[Key]] = field(default_factory=dict)
    watches: dict[str, tuple[Watch, ...]] = field(default_factory=dict)
    owner: Key = ("", "")

    def add(self, type: str, name: str, body: Body, *watches: Watch) -> None:
        """A resource of the item that is being rendered. Several items may share one, with the same body."""
        self.resources.setdefault(type, {})[name] = body
        self.owners.setdefault(f"{type}.{name}", []).append(self.owner)
        if watches:
            self.watches[f"{type}.{name}"] = watches

    def look_up(self, type: str, name: str, body: Body) -> None:
        """Something that stands already, and is only looked up."""
        self.data.setdefault(type, {})[name] = body


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents lead: what can stand there, how each kind of item is said, and how the provider is set up.

    providers: name -> source and version; place: what names one place there ("region") and the one taken where none is given;
    frame: (place, items) -> the sections variable, provider and output; precious: types whose destruction loses data;
    notes: what is not held as desired, in sentences; undo: (place) -> the command that takes away what was applied by hand.
    """

    name: str
    rules: Rules
    providers: Mapping[str, Mapping[str, str]]
    place: tuple[str, str]
    renderers: Mapping[Kind, Renderer]
    frame: Callable[[str, Sequence[Item]], Body]
    precious: frozenset[str]
    undo: Callable[[str], str]
    notes: Callable[[Sequence[Item]], tuple[str, ...]] = lambda _: ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a document says of itself: the network, the target, its place there, and the items that it was rendered from.

    pending: what changed since the tool last applied it, as it was before (None: not there); former: resources of earlier
    documents that the tool may have made, address -> the item they were made for.
    """

    network: str
    target: str
    place: str
    items: tuple[Item, ...]
    pending: Mapping[Key, Item | None] = field(default_factory=dict)
    former: Mapping[str, Key] = field(default_factory=dict)


def draft_of(target: Target, items: Sequence[Item]) -> Draft:
    """All resources of these items, which must be able to stand together."""
    ordered = in_order(items)
    draft = Draft({item.key: item for item in ordered})
    for item in ordered:
        draft.owner = item.key
        target.renderers[item.kind](draft, item)
    return draft


def render(target: Target, rendered: Rendered) -> dict[str, Any]:
    """The document of what is said in `rendered`. Strings in it are Terraform templates."""
    ordered = in_order(rendered.items)
    draft = draft_of(target, ordered)
    document: dict[str, Any] = {
        COMMENT: _about(target, rendered, ordered),
        "terraform": {"required_version": ">= 1.5", "required_providers": dict(target.providers)},
        **target.frame(rendered.place, ordered),
        "data": draft.data,
        "resource": draft.resources,
    }
    order = (COMMENT, "terraform", "variable", "provider", "data", "resource", "output")
    document = {key: document[key] for key in order if document.get(key)}
    document[COMMENT]["sha256"] = _digest(document)
    return document


def read(document: object) -> Rendered:
    """What a document says of itself. Raises NotOursError where it isn't ours, or was changed by hand."""
    about = document.get(COMMENT) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(about, dict) or about.get("made_by") != "adumbra":
        raise NotOursError("it was not written by adumbra")
    if about.get("format") not in {_OLD_FORMAT, FORMAT}:
        raise NotOursError(f"it has format {about.get('format')!r}, and this version of adumbra knows format {FORMAT}")
    if about.get("sha256") != _digest(document):
        raise NotOursError("it was changed by hand since adumbra wrote it")
    items = tuple(_item(entry) for entry in about["items"])
    if about["format"] == _OLD_FORMAT:
        return Rendered(about["network"], "aws", about["region"], items)
    pending = {
        (entry["kind"], entry["name"]): None if entry["settings"] is None else _item(entry)
        for entry in about.get("pending", [])
    }
    former = {address: (kind, name) for address, kind, name in about.get("former", [])}
    return Rendered(about["network"], about["target"], about["place"], items, pending, former)


def _item(entry: Mapping[str, Any]) -> Item:
    return Item(Kind(entry["kind"]), entry["name"], entry["settings"])


def layout(document: Mapping[str, Any]) -> str:
    """The document as text to read, indented by two. The same as json.dumps(document, indent=2), but much faster again."""
    sections = []
    for name, section in document.items():
        if name in {"resource", "data"}:
            kinds = [f"    {json.dumps(kind)}: {_braced(named, 6)}" for kind, named in section.items()]
            sections.append(f"  {json.dumps(name)}: {{\n{_joined(kinds)}\n  }}")
        elif name == COMMENT:
            parts = [
                f"    {json.dumps(key)}: {_laid_out(_compact(part), 4)}" for key, part in section.items() if key != "items"
            ]
            items = _joined(f"      {_laid_out(_compact(item), 6)}" for item in section["items"])
            parts.append(f'    "items": [\n{items}\n    ]' if items else '    "items": []')
            sections.append(f"  {json.dumps(name)}: {{\n{_joined(parts)}\n  }}")
        else:
            sections.append(f"  {json.dumps(name)}: {_laid_out(_compact(section), 2)}")
    return f"{{\n{_joined(sections)}\n}}\n"


def _braced(named: Mapping[str, Body], depth: int) -> str:
    entries = (f"{' ' * depth}{json.dumps(name)}: {_laid_out(_compact(body), depth)}" for name, body in named.items())
    return f"{{\n{_joined(entries)}\n{' ' * (depth - 2)}}}"


def _joined(parts: Iterable[str]) -> str:
    return ",\n".join(parts)


def _compact(part: object) -> str:
    return json.dumps(part, separators=(",", ":"))


@functools.lru_cache(maxsize=16_384)
def _laid_out(compact: str, depth: int) -> str:
    """A part of a document, indented. Remembered, as each step writes the whole document with one part changed."""
    return json.dumps(json.loads(compact), indent=2).replace("\n", "\n" + " " * depth)


def label(name: str) -> str:
    """A name as a Terraform identifier, unique a name: names of a spec as they are, others spelt out with a digest."""
    if _IDENTIFIER.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return f"x_{plain[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def text(plain: str) -> str:
    """A string that Terraform takes as it is, whatever template marks stand in it."""
    return plain.replace("${", "$${").replace("%{", "%%{")


def variable(description: str, default: str | None = None) -> Body:
    """A variable of type string; without a default it has to be given, as TF_VAR_name."""
    return {"type": "string", **({} if default is None else {"default": default}), "description": description}


LET_GO_FIRST = {"create_before_destroy": True}
"""For what users move off while they stand, such as firewalls: without it the tool destroys it before they have moved."""


def outputs(private: Mapping[str, object], public: Mapping[str, object]) -> Body:
    """The addresses by machine, where there are any."""
    return {
        name: {"description": f"The {name.replace('_', ' ')} by machine.", "value": addresses}
        for name, addresses in (("private_addresses", private), ("public_addresses", public))
        if addresses
    }


def _about(target: Target, rendered: Rendered, items: Sequence[Item]) -> Body:
    notes = target.notes(items)
    pending = [
        {"kind": kind, "name": name, "settings": before.settings if before is not None else None}
        for (kind, name), before in sorted(rendered.pending.items())
    ]
    former = [[address, *key] for address, key in sorted(rendered.former.items())]
    return {
        "made_by": "adumbra",
        "format": FORMAT,
        "about": (
            f"Written by `adumbra activate {rendered.network} --provider terraform`. Don't edit: change the network's spec "
            "and activate again. Other .tf files may stand beside this one. Apply with `tofu init && tofu apply`, or terraform."
        ),
        **({"notes": list(notes)} if notes else {}),
        "network": rendered.network,
        "target": rendered.target,
        "place": rendered.place,
        "sha256": "",
        "items": [{"kind": item.kind.value, "name": item.name, "settings": item.settings} for item in items],
        **({"pending": pending} if pending else {}),
        **({"former": former} if former else {}),
    }


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document without its digest, whatever its spacing and the order of its keys."""
    about = {key: value for key, value in document[COMMENT].items() if key != "sha256"}
    plain = json.dumps({**document, COMMENT: about}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
