"""The network spec: what a user declares, checked as a whole, and the VMs it stands for. No files, no clock."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import chain, islice
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from adumbra.schema.addresses import AddressBlock, Prefix, parse_block, parse_prefix
from adumbra.schema.errors import SpecError
from adumbra.schema.units import format_duration, parse_duration_s, parse_rate_bps, parse_share
from adumbra.schema.yamllines import Location, YamlError, read_document

MAX_VMS = 100_000
MAX_PROBLEMS = 100
_MAX_SECONDS = 1e9
_MAX_BITS_PER_SECOND = 1e15
INTERNET = "internet"
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{str(value)[:40]!r} can't be a name; use 1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"
        )
    return value


def _blocks(value: object) -> list[AddressBlock]:
    entries = value if isinstance(value, list) else [value]
    return [entry if isinstance(entry, AddressBlock) else parse_block(entry) for entry in entries]


def _within(value: float, least: float, most: float) -> float:
    if value <= 0:
        raise ValueError("it must be above zero; give a larger value")
    if not least <= value <= most:
        raise ValueError(f"it is too {'small' if value < least else 'large'} to be meant; check the number and its unit")
    return value


Name = Annotated[str, BeforeValidator(_name)]
Cidr = Annotated[Prefix, BeforeValidator(parse_prefix), PlainSerializer(str)]
Blocks = Annotated[list[AddressBlock], BeforeValidator(_blocks), PlainSerializer(lambda bs: [str(b) for b in bs])]
Seconds = Annotated[float, BeforeValidator(lambda text: _within(parse_duration_s(text), 1e-9, _MAX_SECONDS))]
BitsPerSecond = Annotated[float, BeforeValidator(lambda text: _within(parse_rate_bps(text), 1.0, _MAX_BITS_PER_SECOND))]
Share = Annotated[float, BeforeValidator(parse_share)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


class _Noun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class Subnet(_Noun):
    """A part of the network's address space in which VMs stand."""

    name: Name
    cidr: Cidr


class Link(_Noun):
    """The path between two subnets, or a subnet and the internet: round trip in seconds, capacity in bits a second."""

    between: Annotated[list[Name], Field(min_length=2, max_length=2)]
    rtt: Seconds
    bandwidth: BitsPerSecond


class Resources(_Noun):
    """What a VM is declared to need, where no instance type says it."""

    cpu_cores: Annotated[float, Field(gt=0, le=4096, strict=True)]
    memory_gb: Annotated[float, Field(gt=0, le=65536, strict=True)]
    bandwidth_mbps: Annotated[float, Field(gt=0, le=1e7, strict=True)] | None = None
    storage_gb: Annotated[float, Field(gt=0, le=1e7, strict=True)] | None = None


class VmSpec(_Noun):
    """`count` VMs alike: in one subnet, of one role, with one declared size."""

    name: Name
    count: Annotated[int, Field(ge=1, le=MAX_VMS, strict=True)] = 1
    subnet: Name
    addresses: Blocks = Field(default_factory=list)
    role: Name = "generic"
    type: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    resources: Resources | None = None
    ports: Annotated[list[Port], Field(max_length=1024)] = Field(default_factory=list)


class Donor(_Noun):
    """An existing service's addresses, and the new addresses that they stand in for, one to one."""

    from_: Annotated[Cidr, Field(alias="from")]
    to: Cidr


class Targets(_Noun):
    """What the user asks for: the share of time a VM may be short, latency in seconds, loss as a share."""

    shortfall: Share = 0.01
    latency_p99: Seconds | None = None
    loss: Share | None = None


class NetworkSpec(_Noun):
    """A virtual network as its user declares it (DESIGN.md section 4)."""

    name: Name
    cidrs: Annotated[list[Cidr], Field(min_length=1, max_length=1024)]
    subnets: Annotated[list[Subnet], Field(min_length=1, max_length=4096)]
    links: Annotated[list[Link], Field(max_length=65536)] = Field(default_factory=list)
    vms: Annotated[list[VmSpec], Field(min_length=1, max_length=MAX_VMS)]
    donors: Annotated[list[Donor], Field(max_length=4096)] = Field(default_factory=list)
    targets: Targets = Field(default_factory=Targets)
    interval: Seconds = 1.0

    def subnet(self, name: str) -> Subnet:
        """The subnet of that name. Raises KeyError."""
        for subnet in self.subnets:
            if subnet.name == name:
                return subnet
        raise KeyError(name)

    @property
    def interval_ns(self) -> int:
        return round(self.interval * 1e9)


class Vm(_Noun):
    """One intended VM of a network, with every address that is its own."""

    name: str
    group: str
    subnet: str
    role: str
    addresses: tuple[AddressBlock, ...]
    type: str | None
    resources: Resources | None
    ports: tuple[int, ...]

    @property
    def declared(self) -> str:
        """The size that the spec declares, in words; - for none."""
        size = [f"{self.resources.cpu_cores:g} cores, {self.resources.memory_gb:g} GB"] if self.resources is not None else []
        return " ".join([*([self.type] if self.type else []), *size]) or "-"


Check = Callable[["NetworkSpec"], Iterable[tuple[Location, str]]]
"""A look at a whole spec: gives each problem, with its place and how to mend it."""


def parse_spec(text: str, file: str = "spec", further_check: Check | None = None) -> NetworkSpec:
    """Reads a spec from YAML or JSON text. `file` is what errors call it; `further_check` may find more problems.

    Raises SpecError with one line a problem, of at most MAX_PROBLEMS: file, line, what, how to mend it.
    """
    try:
        document = read_document(text)
    except YamlError as problem:
        raise SpecError([f"{file}:{problem.line}: {problem}"]) from None
    try:
        spec = NetworkSpec.model_validate(document.value)
        found = chain(_cross_check(spec), further_check(spec) if further_check else ())
        problems = list(islice(found, MAX_PROBLEMS))
    except ValidationError as error:
        problems = [_explain(entry) for entry in error.errors(include_url=False)[:MAX_PROBLEMS]]
    if problems:
        raise SpecError([f"{file}:{document.line(where)}: {_path(where)}{what}" for where, what in problems])
    return spec


def spec_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """The spec as plain data that `parse_spec` would read back to the same spec (as JSON)."""
    plain = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for link in plain.get("links", []):
        link["rtt"], link["bandwidth"] = _exactly(link["rtt"], 9, "ns"), _exactly(link["bandwidth"], 0, "bps")
    targets = plain.get("targets", {})
    for key in ("shortfall", "loss"):
        if key in targets:
            targets[key] = _exactly(targets[key], 2, "%")
    if "latency_p99" in targets:
        targets["latency_p99"] = _exactly(targets["latency_p99"], 9, "ns")
    if "interval" in plain:
        plain["interval"] = _exactly(plain["interval"], 9, "ns")
    return plain


def _exactly(value: float, digits: int, unit: str) -> str:
    """A number of base units, written out in a unit that is 10^digits times smaller."""
    number = f"{Decimal(repr(value)).scaleb(digits):f}"
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{unit}"


def expand_vms(spec: NetworkSpec) -> tuple[Vm, ...]:
    """The VMs that a spec stands for, in its order, every address settled.

    A VM of count 1 owns all that its `addresses` say. Where count is larger they are a pool that is dealt out one each.
    Without `addresses` a VM takes the next free one of its subnet, from the 11th on (the 5th in a small subnet, the
    2nd in one of four), as the first few are reserved in most clouds. Raises ValueError where a subnet has too few.
    """
    claimed = _claimed(spec)
    free = {subnet.name: _free_addresses(subnet, claimed[subnet.cidr.version]) for subnet in spec.subnets}
    vms = []
    for group in spec.vms:
        dealt = _deal(group.addresses) if group.addresses else free[group.subnet]
        for number in range(1, group.count + 1):
            if group.addresses and group.count == 1:
                own = tuple(group.addresses)
            else:
                block = next(dealt, None)
                if block is None:
                    raise ValueError(f"there are more VMs than addresses: {group.count} VMs, {number - 1} addresses")
                own = (block,)
            vms.append(
                Vm(
                    name=group.name if group.count == 1 else f"{group.name}-{number}",
                    group=group.name, subnet=group.subnet, role=group.role, addresses=own,
                    type=group.type, resources=group.resources, ports=tuple(group.ports),
                )
            )  # fmt: skip
    return tuple(vms)


def _deal(blocks: list[AddressBlock]) -> Iterator[AddressBlock]:
    for block in blocks:
        for number in range(block.first, block.last + 1):
            yield AddressBlock(block.version, number, number)


def _claimed(spec: NetworkSpec) -> dict[int, list[AddressBlock]]:
    """The blocks that VMs declare, by IP version, in order."""
    blocks = sorted((b for g in spec.vms for b in g.addresses), key=lambda b: b.first)
    return {version: [b for b in blocks if b.version == version] for version in (4, 6)}


def _free_addresses(subnet: Subnet, claimed: list[AddressBlock]) -> Iterator[AddressBlock]:
    whole = AddressBlock.of_prefix(subnet.cidr)
    number = whole.first + (10 if whole.count >= 32 else 4 if whole.count >= 8 else 1 if whole.count >= 4 else 0)
    while number < whole.last or (number == whole.last and whole.count <= 2):
        at = bisect_right(claimed, number, key=lambda block: block.first) - 1
        if at >= 0 and claimed[at].last >= number:
            number = claimed[at].last + 1
            continue
        yield AddressBlock(subnet.cidr.version, number, number)
        number += 1


def _cross_check(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    """What no single field shows: overlaps, addresses out of place, names twice or nowhere."""
    total = sum(group.count for group in spec.vms)
    if total > MAX_VMS:  # the other checks would take as long as there are VMs
        yield ("vms",), f"there are {total} VMs, and {MAX_VMS} is the most; split the network"
        return
    yield from _check_space(spec)
    yield from _check_names(spec)
    yield from _check_addresses(spec)
    yield from _check_donors(spec)
    if not 0.1 <= spec.interval <= 3600 or round(spec.interval_ns % 1_000_000):
        yield (
            ("interval",),
            (
                f"an interval of {format_duration(spec.interval)} is not possible; "
                "give whole milliseconds from 100ms to 1h, such as 1s"
            ),
        )
    if not 0 < spec.targets.shortfall <= 0.5:
        yield ("targets", "shortfall"), "a shortfall can't be 0% or above 50%; give the share of time to accept, such as 1%"


def _overlaps(blocks: list[tuple[AddressBlock, Location]]) -> Iterator[tuple[AddressBlock, Location, AddressBlock]]:
    """Each block that overlaps one before it in address order: the later, where it stands, the earlier."""
    blocks = sorted(blocks, key=lambda item: (item[0].version, item[0].first, -item[0].last))
    reach: AddressBlock | None = None
    for block, where in blocks:
        if reach is not None and reach.version == block.version and block.first <= reach.last:
            yield block, where, reach
        if reach is None or reach.version != block.version or block.last > reach.last:
            reach = block


def _check_space(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    cidrs = [(AddressBlock.of_prefix(cidr), ("cidrs", i)) for i, cidr in enumerate(spec.cidrs)]
    subnets = [(AddressBlock.of_prefix(s.cidr), ("subnets", i, "cidr")) for i, s in enumerate(spec.subnets)]
    for block, where, other in _overlaps(list(cidrs)):
        yield where, f"{block} overlaps {other}; remove one of them, or make them disjoint"
    for block, where, other in _overlaps(list(subnets)):
        yield where, f"{block} overlaps the subnet {other}; make the subnets disjoint"
    for block, place in subnets:
        if not any(cidr.contains(block) for cidr, _ in cidrs):
            known = ", ".join(str(cidr) for cidr in spec.cidrs)
            yield place, f"{block} lies outside the network's CIDRs ({known}); choose one within, or add its CIDR"


def _check_names(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    subnets: set[str] = set()
    for i, subnet in enumerate(spec.subnets):
        if subnet.name in subnets:
            yield ("subnets", i, "name"), f"there are two subnets named {subnet.name!r}; rename one"
        if subnet.name == INTERNET:
            yield ("subnets", i, "name"), f"{INTERNET!r} is the name of the outside; rename the subnet"
        subnets.add(subnet.name)
    names: dict[str, str] = {}
    for i, group in enumerate(spec.vms):
        if group.subnet not in subnets:
            yield ("vms", i, "subnet"), f"there is no subnet {group.subnet!r}{_hint(group.subnet, subnets)}"
        many = (f"{group.name}-{k}" for k in range(1, group.count + 1))
        for name in many if group.count > 1 else (group.name,):
            if name in names:
                yield ("vms", i, "name"), f"two VMs would be named {name!r}, here and in {names[name]!r}; rename one"
                break
            names[name] = group.name
    pairs: set[frozenset[str]] = set()
    for i, link in enumerate(spec.links):
        for k, end in enumerate(link.between):
            if end != INTERNET and end not in subnets:
                yield ("links", i, "between", k), f"there is no subnet {end!r}{_hint(end, subnets | {INTERNET})}"
        pair = frozenset(link.between)
        if len(pair) == 1:
            yield ("links", i, "between"), f"a link joins two different places, not {link.between[0]!r} twice; name the other"
        elif pair in pairs:
            yield ("links", i, "between"), f"{' and '.join(link.between)} are linked twice; keep one of the links"
        pairs.add(pair)


def _check_addresses(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    cidr_of = {subnet.name: AddressBlock.of_prefix(subnet.cidr) for subnet in spec.subnets}
    claimed: list[tuple[AddressBlock, Location]] = []
    sound = True
    for i, group in enumerate(spec.vms):
        home = cidr_of.get(group.subnet)
        for k, block in enumerate(group.addresses):
            claimed.append((block, ("vms", i, "addresses", k)))
            if home is not None and not home.contains(block):
                sound = False
                yield (
                    ("vms", i, "addresses", k),
                    (f"{block} lies outside the subnet {group.subnet} ({home}); choose addresses within it"),
                )
        room = sum(block.count for block in group.addresses)
        if group.addresses and room < group.count:
            sound = False
            yield (
                ("vms", i, "addresses"),
                (f"there are more VMs than addresses: {group.count} VMs, {room} addresses; add addresses or lower the count"),
            )
    for block, where, other in _overlaps(claimed):
        yield where, f"{block} is given out already by {other}; give each VM addresses of its own"
    if sound and set(cidr_of) >= {group.subnet for group in spec.vms}:
        declared, needed = _claimed(spec), Counter[str]()
        for group in spec.vms:
            needed[group.subnet] += 0 if group.addresses else group.count
        for subnet in spec.subnets:
            wanted = needed[subnet.name]
            room = sum(1 for _ in islice(_free_addresses(subnet, declared[subnet.cidr.version]), wanted))
            if room < wanted:
                at = next(i for i, g in enumerate(spec.vms) if g.subnet == subnet.name and not g.addresses)
                yield (
                    ("vms", at, "count"),
                    (
                        f"there are more VMs than addresses: {wanted} VMs need one in {subnet.cidr}, which has {room} free; "
                        "enlarge the subnet or lower the count"
                    ),
                )


def _check_donors(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    space = [AddressBlock.of_prefix(cidr) for cidr in spec.cidrs]
    for i, donor in enumerate(spec.donors):
        old, new = AddressBlock.of_prefix(donor.from_), AddressBlock.of_prefix(donor.to)
        if old.version != new.version or old.count != new.count:
            yield ("donors", i), f"{old} and {new} differ in size; map prefixes of one length and version"
        if not any(cidr.contains(new) for cidr in space):
            yield ("donors", i, "to"), f"{new} lies outside the network's CIDRs; map onto addresses of the network"
        if any(cidr.overlaps(old) for cidr in space):
            yield ("donors", i, "from"), f"{old} overlaps the network's own CIDRs; a donor's addresses are the old ones"
    froms = [(AddressBlock.of_prefix(d.from_), ("donors", i, "from")) for i, d in enumerate(spec.donors)]
    for block, where, other in _overlaps(list(froms)):
        yield where, f"{block} overlaps the donor {other}; give each old address one new one"


def _hint(word: str, known: set[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known)[:8])}"


def _path(where: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    return f"{text}: " if text else ""


def _explain(entry: Any) -> tuple[Location, str]:
    """A pydantic error in this project's words, at the place in the document that it speaks of."""
    where: Location = tuple(entry["loc"])
    kind, given = entry["type"], str(entry.get("input"))[:40]
    if kind == "missing":
        return where[:-1], f"the key {where[-1]!r} is missing; add it"
    if kind == "extra_forbidden":
        return where, f"unknown key {str(where[-1])[:40]!r}{_hint(str(where[-1]), _known_keys(where))}"
    if kind == "value_error":
        return where, str(entry["ctx"]["error"])
    if kind in {"model_type", "model_attributes_type"}:
        return where, f"{given!r} is not a mapping of keys to values; see `adumbra check --help` for an example"
    return where, f"{given!r} is not possible here: {entry['msg'][0].lower()}{entry['msg'][1:]}; correct the value"


def _known_keys(where: Location) -> set[str]:
    models: dict[str, type[BaseModel]] = {
        "subnets": Subnet, "links": Link, "vms": VmSpec, "donors": Donor, "targets": Targets, "resources": Resources,
    }  # fmt: skip
    parents = [part for part in where[:-1] if part in models]
    model = models[str(parents[-1])] if parents else NetworkSpec
    return {field.alias or name for name, field in model.model_fields.items()}


__all__ = [
    "INTERNET", "AddressBlock", "Donor", "Link", "NetworkSpec", "Resources", "Subnet", "Targets", "Vm", "VmSpec",
    "expand_vms", "parse_spec", "spec_to_dict",
]  # fmt: skip
