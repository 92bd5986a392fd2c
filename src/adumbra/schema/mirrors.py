"""Mirrors on this host: what is asked for, what the host has, and the complete steps between. Nouns only.

A step names every priority, handle, table and device; nothing is chosen while it is carried out or taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from adumbra.schema.live import LivePort

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


class Scope(StrEnum):
    """What of a device's traffic a mirror copies."""

    DEVICE = "device"  # what crosses it to or from the network's prefixes, both ways
    PORT = "port"  # of a VM's port: what goes to the VM, and what the VM sends to none of the network's VMs
    SINK = "sink"  # nothing: it holds the device that the copies of a network's ports are sent to


class End(StrEnum):
    """An end of a packet."""

    TO = "to"
    FROM = "from"


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
    """What is asked for. `to_device` None: a device of its own is made. `prefixes` are the network's and its donors', or, at a
    port, those of its VM.

    `vm`: whose port it is. `members`: the addresses of all of the network's VMs. `left`: of a device, the addresses of the VMs
    whose packets are copied at their ports, and so not here.
    """

    network: str
    network_id: int
    from_device: str
    to_device: str | None
    method: Method
    prefixes: tuple[str, ...]
    scope: Scope = Scope.DEVICE
    vm: str = ""
    members: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MirrorSpec:
        """The spec that was written down, maybe before there were scopes. Raises KeyError, TypeError or ValueError."""
        lists = {key: tuple(plain.get(key, ())) for key in ("prefixes", "members", "left")}
        return cls(**{**plain, "method": Method(plain["method"]), "scope": Scope(plain.get("scope", Scope.DEVICE)), **lists})


@dataclass(frozen=True, slots=True)
class Pick:
    """Packets in one direction of a device to (or from) these prefixes, unless their other end is in `unless`."""

    hook: Hook
    end: End
    prefixes: tuple[str, ...]
    unless: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Pick:
        return cls(Hook(plain["hook"]), End(plain["end"]), tuple(plain["prefixes"]), tuple(plain["unless"]))


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
    """A table of nftables, family netdev, with a chain for each hook. It is made and deleted as a whole.

    It copies what is to or from the prefixes, each packet once; or, where there are `picks`, these.
    """

    do: ClassVar[str] = "nft"
    name: str
    device: DeviceRef
    sink: str
    hooks: tuple[Hook, ...]
    prefixes: tuple[str, ...]
    owner: str
    picks: tuple[Pick, ...] = ()


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
class Earlier:
    """A mirror that stood before the ports took over, its pair of devices if it had one, and what was observed of it."""

    spec: MirrorSpec
    pair: VethPair | None
    observe: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """What the VMs' ports took over, and from which mirrors. `back`: they are being put back."""

    ports: tuple[LivePort, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    back: bool = False

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> HandOver:
        earlier = tuple(
            Earlier(MirrorSpec.from_dict(each["spec"]), VethPair(**each["pair"]) if each["pair"] else None, each["observe"])
            for each in plain["earlier"]
        )
        return cls(tuple(LivePort(**port) for port in plain["ports"]), earlier, plain["back"])


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """The steps that make a mirror, in order; it is taken away by undoing them from the last to the first.

    `sink` is the device that copies are sent to, `observe` the source to observe ("" where that is another host's to say).
    `hand_over`: of the plan that holds the sink of a network's ports.
    """

    spec: MirrorSpec
    place: Place
    sink: str
    observe: str
    steps: tuple[MirrorStep, ...]
    notes: tuple[str, ...] = ()
    hand_over: HandOver | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        plain = asdict(self)
        plain["steps"] = [{"do": step.do, **asdict(step)} for step in self.steps]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MirrorPlan:
        """The plan that `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        hand_over = plain.get("hand_over")
        return cls(
            spec=MirrorSpec.from_dict(plain["spec"]),
            place=Place(**plain["place"]),
            sink=plain["sink"],
            observe=plain["observe"],
            steps=tuple(_step(step) for step in plain["steps"]),
            notes=tuple(plain["notes"]),
            hand_over=HandOver.from_dict(hand_over) if hand_over else None,
        )

    @property
    def pair(self) -> VethPair | None:
        """The pair of devices that was made for it, if one was."""
        return next((step for step in self.steps if isinstance(step, VethPair)), None)

    @property
    def device(self) -> DeviceRef | None:
        """The mirrored device as it was planned for; None where no step holds on to it."""
        return next((step.device for step in self.steps if isinstance(step, Clsact | Classifier | NftTable)), None)


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
            hooks, picks = tuple(map(Hook, values["hooks"])), tuple(map(Pick.from_dict, values.get("picks", ())))
            return NftTable(**values | {"hooks": hooks, "prefixes": tuple(values["prefixes"]), "picks": picks})
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
