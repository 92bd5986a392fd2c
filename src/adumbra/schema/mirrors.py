"""Mirrors on this host: what is asked for, what the host has, and the complete steps between. Nouns only.

A step names every priority, handle, table and device; nothing is chosen while it is carried out or taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

ETHERNET, LOOPBACK = 1, 772
"""Link types (linux/if_arp.h) whose frames begin with an Ethernet header."""


class Method(StrEnum):
    """What copies the packets."""

    TC = "tc"  # clsact, u32 and mirred
    NFT = "nft"  # nftables' dup, at the ingress and egress hooks
    OVS = "ovs"  # a mirror of Open vSwitch


class Hook(StrEnum):
    """The direction of a device: what comes in from the wire, or what goes out to it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Standing(StrEnum):
    """Whether what was installed is still there."""

    STANDS = "stands"
    CHANGED = "changed"  # a part is missing or isn't as it was made
    GONE = "gone"
    UNKNOWN = "unknown"  # can't be looked at from here


@dataclass(frozen=True, slots=True)
class Device:
    """A network device. `lower` is the device below it or, of a veth, its other end ("" where there is none here);
    `remote` the other end of a tunnel; `master` the bridge or bond that it is a port of.
    """

    name: str
    index: int
    kind: str = ""
    link_type: int = ETHERNET
    mac: str = ""
    mtu: int = 1500
    lower: str = ""
    remote: str = ""
    master: str = ""

    @property
    def has_ethernet(self) -> bool:
        return self.link_type in {ETHERNET, LOOPBACK}


@dataclass(frozen=True, slots=True)
class DeviceRef:
    """A device as it was when it was planned for, so that it is found again under another name."""

    name: str
    index: int
    mac: str


@dataclass(frozen=True, slots=True)
class HostState:
    """What stands on the host before a mirror is planned.

    `qdisc` is what hangs on the mirrored device's hooks: "clsact", "ingress" or "". `priorities` and `hash_tables` are
    those in use there by u32 and other filters. `bridge` is the Open vSwitch bridge of which the device is a port, and
    `bridge_ports` are that bridge's. `methods` are those that this host has the means for.
    """

    devices: tuple[Device, ...]
    qdisc: str = ""
    priorities: frozenset[int] = frozenset()
    hash_tables: frozenset[int] = frozenset()
    nft_tables: frozenset[str] = frozenset()
    bridge: str = ""
    bridge_ports: frozenset[str] = frozenset()
    ovs_mirrors: frozenset[str] = frozenset()
    methods: frozenset[Method] = frozenset(Method)

    def device(self, name: str) -> Device | None:
        return next((device for device in self.devices if device.name == name), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mirror was installed: the running of the kernel (its boot) and the network namespace."""

    boot: str
    namespace: str


@dataclass(frozen=True, slots=True)
class MirrorSpec:
    """What is asked for. `to_device` None: a device of its own is made. `prefixes` are the network's and its donors'."""

    network: str
    network_id: int
    from_device: str
    to_device: str | None
    method: Method
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VethPair:
    """A pair of devices joined to each other: packets sent into `inner` come out of `outer`, which is observed.

    The MAC addresses tell the pair from one of the same name that others made.
    """

    do: ClassVar[str] = "veth"
    inner: str
    outer: str
    inner_mac: str
    outer_mac: str
    mtu: int
    alias: str


@dataclass(frozen=True, slots=True)
class Clsact:
    """The qdisc to which filters of both directions are attached. `shared`: another mirror of ours may have made it."""

    do: ClassVar[str] = "clsact"
    device: DeviceRef
    shared: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One node of a u32 filter: in hash table `table` (0 is the root), number `node`. All `keys` must match, each
    (value, mask, offset in bytes from the network header). It leads to the table `link`, or, where that is 0, mirrors.
    """

    table: int
    node: int
    keys: tuple[tuple[int, int, int], ...]
    link: int = 0


@dataclass(frozen=True, slots=True)
class Classifier:
    """All u32 rules of one direction and ethertype, under a priority that is theirs alone, with their hash tables."""

    do: ClassVar[str] = "u32"
    device: DeviceRef
    hook: Hook
    protocol: int
    priority: int
    sink: str
    cookie: str
    tables: tuple[int, ...]
    rules: tuple[Rule, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table of nftables, family netdev, with a chain for each hook. It is made and deleted as a whole."""

    do: ClassVar[str] = "nft"
    name: str
    device: DeviceRef
    sink: str
    hooks: tuple[Hook, ...]
    prefixes: tuple[str, ...]
    owner: str


@dataclass(frozen=True, slots=True)
class OvsMirror:
    """A Mirror row of Open vSwitch: all that enters and leaves `port` is sent to `output`. `adds_output`: that device
    becomes a port of the bridge for it. `owner` is the tag in external_ids by which it is found again.
    """

    do: ClassVar[str] = "ovs"
    bridge: str
    name: str
    port: str
    output: str
    adds_output: bool
    owner: str


MirrorStep = VethPair | Clsact | Classifier | NftTable | OvsMirror


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """The steps that make a mirror, in order; it is taken away by undoing them from the last to the first.

    `sink` is the device that copies are sent to, `observe` the source to observe ("" where that is another host's to say).
    """

    spec: MirrorSpec
    place: Place
    sink: str
    observe: str
    steps: tuple[MirrorStep, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        plain = asdict(self)
        plain["steps"] = [{"do": step.do, **asdict(step)} for step in self.steps]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MirrorPlan:
        """The plan that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        spec = dict(plain["spec"])
        return cls(
            spec=MirrorSpec(**spec | {"method": Method(spec["method"]), "prefixes": tuple(spec["prefixes"])}),
            place=Place(**plain["place"]),
            sink=plain["sink"],
            observe=plain["observe"],
            steps=tuple(_step(step) for step in plain["steps"]),
            notes=tuple(plain["notes"]),
        )


def _step(plain: Mapping[str, Any]) -> MirrorStep:
    values = {key: value for key, value in plain.items() if key != "do"}
    if "device" in values:
        values["device"] = DeviceRef(**values["device"])
    match plain["do"]:
        case VethPair.do:
            return VethPair(**values)
        case Clsact.do:
            return Clsact(**values)
        case Classifier.do:
            rules = tuple(Rule(r["table"], r["node"], tuple(map(tuple, r["keys"])), r["link"]) for r in values["rules"])
            return Classifier(**values | {"hook": Hook(values["hook"]), "tables": tuple(values["tables"]), "rules": rules})
        case NftTable.do:
            hooks = tuple(map(Hook, values["hooks"]))
            return NftTable(**values | {"hooks": hooks, "prefixes": tuple(values["prefixes"])})
        case OvsMirror.do:
            return OvsMirror(**values)
    raise ValueError(f"there is no step {plain['do']!r}")


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of a step or of a whole mirror. Counts are None where nothing counts them."""

    standing: Standing
    detail: str = ""
    packets: int | None = None
    bytes: int | None = None
