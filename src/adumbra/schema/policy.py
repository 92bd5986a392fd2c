"""What may be provisioned of a network: floors, caps, types, a budget, and what somebody must approve. No files, no clock."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adumbra.schema.errors import SpecError
from adumbra.schema.sizing import RESOURCES
from adumbra.schema.units import parse_price_per_hour, parse_share
from adumbra.schema.yamllines import Location, YamlError, read_document

ALL = "*"
"""The selector of all VMs."""
GRAINS: Mapping[str, float] = {"cpu_cores": 1.0, "memory_gb": 0.5, "bandwidth_mbps": 1.0, "storage_gb": 1.0}
"""The steps in which a size is raised or lowered."""
SMALLEST: Mapping[str, float] = {"cpu_cores": 1.0, "memory_gb": 0.5, "bandwidth_mbps": 1.0, "storage_gb": 8.0}
"""The smallest size of each resource that a VM boots and works with: no cap may lie below it."""
MAX_SELECTORS, MAX_TYPES, MAX_PROBLEMS = 10_000, 256, 100
_KIND = ("a policy", "`budget:`, `approval:` or `vms:`, as `adumbra policy set --help` shows")

Resource = Literal["cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb"]
Amount = Annotated[float, Field(gt=0, le=1e7, strict=True)]
Amounts = dict[Resource, Amount]
Price = Annotated[float, BeforeValidator(parse_price_per_hour)]
TypePattern = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9.*?\[\]!-]+$")]


class _Noun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Bounds(_Noun):
    """What the VMs of a selector may be: of each resource at least and at most so much; and which types, by name or glob."""

    floors: Amounts = Field(default_factory=dict)
    caps: Amounts = Field(default_factory=dict)
    types: Annotated[list[TypePattern], Field(min_length=1, max_length=MAX_TYPES)] | None = None


class Approval(_Noun):
    """The prices, in US dollars an hour, beyond which somebody must approve a plan: of all VMs, and of what they cost more."""

    above: Price | None = None
    increase: Price | None = None


class ProvisionPolicy(_Noun):
    """A network's policy. vms: selector (a VM, a VM group, or `*`) -> bounds, of which the most specific ones count.

    budget: US dollars an hour that all VMs may cost together; keep_above_use: no size is less than what is used of it, and
    use_margin more (a share).
    """

    vms: Annotated[dict[str, Bounds], Field(max_length=MAX_SELECTORS)] = Field(default_factory=dict)
    budget: Price | None = None
    approval: Approval = Field(default_factory=Approval)
    keep_above_use: Annotated[bool, Field(strict=True)] = True
    use_margin: Annotated[float, BeforeValidator(parse_share)] = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Plain data, prices in US dollars an hour: to be shown; `parse_policy` reads the text."""
        bounds = {name: {key: value for key, value in each.model_dump().items() if value} for name, each in self.vms.items()}
        return {
            "budget_per_hour": self.budget, "approval_above_per_hour": self.approval.above,
            "approval_increase_per_hour": self.approval.increase, "keep_above_use": self.keep_above_use,
            "use_margin": self.use_margin, "vms": bounds,
        }  # fmt: skip


NO_POLICY = ProvisionPolicy()
"""The policy of a network that has none of its own: nothing is bounded, and nothing shrinks below what is used."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What holds for one VM: of each resource the amount, and the selector that says so."""

    floors: Mapping[str, tuple[float, str]]
    caps: Mapping[str, tuple[float, str]]
    types: tuple[str, ...]
    types_of: str


def bounds_of(policy: ProvisionPolicy, vm: str, group: str) -> Merged:
    """The bounds of a VM: what its own entry says counts before its group's, and that before `*`, each resource by itself."""
    floors: dict[str, tuple[float, str]] = {}
    caps: dict[str, tuple[float, str]] = {}
    types, types_of = (), ""  # type: tuple[str, ...], str
    for selector in (ALL, group, vm):
        bounds = policy.vms.get(selector)
        if bounds is None:
            continue
        floors |= {name: (amount, selector) for name, amount in bounds.floors.items()}
        caps |= {name: (amount, selector) for name, amount in bounds.caps.items()}
        if bounds.types is not None:
            types, types_of = tuple(bounds.types), selector
    return Merged(floors, caps, types, types_of)


Check = Callable[[ProvisionPolicy], Iterable[tuple[Location, str]]]
"""A look at a whole policy: gives each problem, with its place and how to mend it."""


def parse_policy(text: str, file: str = "policy", further_check: Check | None = None) -> ProvisionPolicy:
    """Reads a policy from YAML or JSON text. `file` is what errors call it; `further_check` may find more problems.

    Raises SpecError with one line a problem: file, line, what, how to mend it.
    """
    try:
        document = read_document(text, *_KIND)
    except YamlError as problem:
        raise SpecError([f"{file}:{problem.line}: {problem}"]) from None
    try:
        policy = ProvisionPolicy.model_validate(document.value)
        found = chain(_cross_check(policy), further_check(policy) if further_check else ())
        problems = list(islice(found, MAX_PROBLEMS))
    except ValidationError as error:
        problems = [_explain(entry) for entry in error.errors(include_url=False)[:MAX_PROBLEMS]]
    if problems:
        raise SpecError([f"{file}:{document.line(where)}: {_path(where)}{what}" for where, what in problems])
    return policy


def _cross_check(policy: ProvisionPolicy) -> Iterator[tuple[Location, str]]:
    for selector, bounds in policy.vms.items():
        for name, cap in bounds.caps.items():
            floor = bounds.floors.get(name)
            if cap < SMALLEST[name]:
                yield (
                    ("vms", selector, "caps", name),
                    f"{cap:g} is less than any VM works with; give {SMALLEST[name]:g} or more",
                )
            if floor is not None and floor > cap:
                yield (
                    ("vms", selector, "floors", name),
                    f"the floor of {floor:g} is above the cap of {cap:g}; change one of them",
                )


def _path(where: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    return f"{text[:120]}: " if text else ""


def _explain(entry: Any) -> tuple[Location, str]:
    """A pydantic error in this project's words, at the place in the document that it speaks of."""
    where: Location = tuple(entry["loc"])
    kind, given = entry["type"], str(entry.get("input"))[:40]
    if where and where[-1] == "[key]":
        where = where[:-1]
        return where, f"unknown resource {str(where[-1])[:40]!r}{_hint(str(where[-1]), RESOURCES)}"
    if kind == "extra_forbidden":
        known: type[BaseModel] = Bounds if where[0] == "vms" else Approval if where[0] == "approval" else ProvisionPolicy
        return where, f"unknown key {str(where[-1])[:40]!r}{_hint(str(where[-1]), known.model_fields)}"
    if kind == "value_error":
        return where, str(entry["ctx"]["error"])
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return where, f"{given!r} is not a mapping of keys to values; see `adumbra policy set --help` for an example"
    return where, f"{given!r} is not possible here: {entry['msg'][0].lower()}{entry['msg'][1:]}; correct the value"


def _hint(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names[:8])}"
