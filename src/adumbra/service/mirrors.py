"""Mirrors of a network's traffic on this host: installing, listing and removing them, also after a crash.

The whole plan is kept before anything is touched; whatever was interrupted is undone by that plan, and by nothing else.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adumbra.schema.addresses import AddressBlock, Prefix, address_of, parse_prefix
from adumbra.schema.errors import AdumbraError, ConflictError, InputError, MirrorError, MirrorUnsupportedError, StoreError
from adumbra.schema.mirrors import Clsact, Look, Method, MirrorPlan, MirrorSpec, Place, Scope, Standing, VethPair
from adumbra.schema.spec import NetworkSpec, expand_vms, parse_spec
from adumbra.schema.state import MirrorRecord, MirrorState
from adumbra.service.workspace import Workspace

if TYPE_CHECKING:
    from adumbra.tap.mirror import Host

ELSEWHERE = "it was installed in another network namespace"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mirror that is asked for; `to_device` None: a device of its own, `method` None: whatever suits the host.

    `vm`: the device is this VM's port, "" for another device; `left`: addresses of the VMs that are mirrored at their ports;
    `pair`: the devices that were made for it before, and stand.
    """

    network: str
    from_device: str
    to_device: str | None = None
    method: Method | None = None
    vm: str = ""
    left: tuple[str, ...] = ()
    pair: VethPair | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """A mirror that stands, whether anything had to be done for it, and what should be known of it."""

    plan: MirrorPlan
    changed: bool
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """A mirror that is recorded, and what was found of it."""

    record: MirrorRecord
    plan: MirrorPlan
    look: Look


@dataclass(frozen=True, slots=True)
class Removed:
    """A mirror that was removed, and what of it wasn't as it should have been."""

    plan: MirrorPlan
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a network's mirrors are about: its number, its prefixes with its donors', and its VMs' addresses, by VM and all."""

    id: int
    prefixes: tuple[str, ...]
    vms: Mapping[str, tuple[str, ...]]
    members: tuple[str, ...]
    donors: tuple[str, ...]

    def spec(self, wanted: Wanted, method: Method) -> MirrorSpec:
        """What is asked for, in full. Raises InputError where the network has no such VM."""
        plain = MirrorSpec(wanted.network, self.id, wanted.from_device, wanted.to_device, method, self.prefixes)
        if not wanted.vm:
            return replace(plain, members=self.members, left=wanted.left) if wanted.left else plain
        own = self.vms.get(wanted.vm)
        if own is None:
            raise InputError(f"{wanted.network} has no VM {wanted.vm}", f"see `adumbra network show {wanted.network}`")
        return replace(plain, prefixes=own, scope=Scope.PORT, vm=wanted.vm, members=self.members)


def install(workspace: Workspace, wanted: Wanted, now: Callable[[], int], rng: random.Random) -> Installed:
    """Mirrors what crosses a device to or from the network's CIDRs and its donors, in both directions.

    Again it changes nothing. Where what stands isn't what is asked for, that is removed first. Raises InputError or
    ConflictError for what can't be, MirrorError where the host refuses: nothing of the mirror is left then.
    """
    from adumbra.tap import mirror

    about = subject_of(workspace, wanted.network)
    with mirror.Host() as host, one_at_a_time(workspace):
        _check_no_port(workspace, wanted)
        return put_up(workspace, host, about, replace(wanted, left=at_ports(workspace, wanted.network)), (now, rng))


def put_up(
    workspace: Workspace, host: Host, about: Subject, wanted: Wanted, time_and_chance: tuple[Callable[[], int], random.Random]
) -> Installed:
    """As `install`, for whoever has the lock. A mirror of the same device that isn't what is asked for is removed first."""
    now, rng = time_and_chance
    act = f"handover {wanted.network}" if wanted.vm else f"install {wanted.network} --from {wanted.from_device}"
    told = []
    for status in statuses(workspace, host, wanted.network, about, lambda spec: spec.from_device == wanted.from_device):
        if status.look.detail == ELSEWHERE:
            continue
        if will_do(status, about, wanted):
            return Installed(status.plan, changed=False, told=status.plan.notes)
        may_change(workspace, act)
        _plan(workspace, host, about, wanted, random.Random(0))  # noqa: S311  refuses before what stands is removed
        take_away(workspace, host, status.record, now)
        told.append(f"the mirror that was there was removed: {_why(status, about)}")
    plan = _plan(workspace, host, about, wanted, rng)
    may_change(workspace, act)
    try:
        plan = _carry_out(workspace, host, plan, now)
    except MirrorUnsupportedError as error:
        if wanted.method is not None or plan.spec.method is Method.NFT:
            raise
        told.append(str(error.what))
        plan = _plan(workspace, host, about, replace(wanted, method=Method.NFT), rng)
        plan = _carry_out(workspace, host, plan, now)
    return Installed(plan, changed=True, told=(*told, *plan.notes))


def remove(workspace: Workspace, name: str, now: Callable[[], int], from_device: str | None = None) -> tuple[Removed, ...]:
    """Removes the network's mirrors, or that of one device: exactly what was installed. What is gone already is told.

    Raises InputError where there is no mirror of that device, MirrorError where the host refuses.
    """
    records = workspace.state.mirrors.of(name)
    if from_device is not None:
        known = [str(record.plan["spec"]["from_device"]) for record in records]
        records = tuple(r for r in records if r.plan["spec"]["from_device"] == from_device)
        if not records:
            raise InputError(f"{name} has no mirror of {from_device}", f"there are: {', '.join(known) or 'none'}")
    if not records:
        return ()
    from adumbra.tap import mirror

    may_change(workspace, f"remove {name}")
    with mirror.Host() as host, one_at_a_time(workspace):
        there = {record.id for record in workspace.state.mirrors.of(name)}

        def turn(record: MirrorRecord) -> tuple[bool, bool]:
            """Those in reach first, and those that send to a sink before what holds it."""
            plan = MirrorPlan.from_dict(record.plan)
            return not is_here(plan), plan.spec.scope is Scope.SINK

        return tuple(take_away(workspace, host, record, now) for record in sorted(records, key=turn) if record.id in there)


def listing(workspace: Workspace, name: str | None = None) -> tuple[Status, ...]:
    """The mirrors that are recorded, of one network or of all, each looked after. Touches nothing."""
    if not workspace.state.mirrors.of(name):
        return ()
    from adumbra.tap import mirror

    with mirror.Host() as host:
        return statuses(workspace, host, name)


def recover(workspace: Workspace, now_ns: int) -> tuple[str, ...]:
    """Undoes what was interrupted in installing or removing a mirror. Gives a sentence for each; raises nothing.

    Where no mirror is recorded this is one look into the state store. A hand-over as a whole is finished by service.handover.
    """
    if not _interrupted(workspace):
        return ()
    from adumbra.tap import mirror

    told: list[str] = []
    try:
        with one_at_a_time(workspace), mirror.Host() as host:
            told.extend(_finish(workspace, host, record, now_ns) for record in _interrupted(workspace))
    except ConflictError:  # another process is at it
        return ()
    except AdumbraError as error:
        told.append(f"what was interrupted of a mirror is still to be undone: {error}")
    return tuple(told)


def _interrupted(workspace: Workspace) -> list[MirrorRecord]:
    """Mirrors that were half made or half removed. The sink of ports that is being worked at isn't among them."""
    found = [record for record in workspace.state.mirrors.of() if record.state is not MirrorState.INSTALLED]
    return [record for record in found if record.state is MirrorState.REMOVING or not record.plan.get("hand_over")]


def subject_of(workspace: Workspace, name: str) -> Subject:
    """What the mirrors of a network are about. Raises NotFoundError."""
    record = workspace.state.network(name)
    spec = parse_spec(record.spec_text, name)
    vms = {vm.name: addresses_of(vm.addresses) for vm in expand_vms(spec)}
    blocks = (prefix for vm in expand_vms(spec) for block in vm.addresses for prefix in _prefixes(block))
    return Subject(record.id, prefixes_of(spec), vms, _merged(blocks), tuple(str(donor.from_) for donor in spec.donors))


def addresses_of(blocks: tuple[AddressBlock, ...]) -> tuple[str, ...]:
    """The addresses of a VM as prefixes, merged, in order."""
    return _merged(prefix for block in blocks for prefix in _prefixes(block))


def _prefixes(block: AddressBlock) -> Iterator[Prefix]:
    first, last = address_of(block.version, block.first), address_of(block.version, block.last)
    return iter(ipaddress.summarize_address_range(first, last))


def at_ports(workspace: Workspace, name: str) -> tuple[str, ...]:
    """The addresses of the VMs of a network that are mirrored at their ports in this network namespace."""
    installed = [r.plan for r in workspace.state.mirrors.of(name) if r.state is MirrorState.INSTALLED]
    ports = [MirrorSpec.from_dict(plan["spec"]) for plan in installed if _at(Place(**plan["place"]))]
    return _merged(parse_prefix(text) for spec in ports if spec.scope is Scope.PORT for text in spec.prefixes)


def _check_no_port(workspace: Workspace, wanted: Wanted) -> None:
    """Raises ConflictError where the device is mirrored as a VM's port."""
    for record in workspace.state.mirrors.of(wanted.network):
        spec = MirrorSpec.from_dict(record.plan["spec"])
        if spec.scope is Scope.PORT and spec.from_device == wanted.from_device:
            raise ConflictError(
                f"{spec.from_device} is the port of {spec.vm}, and is mirrored as that", "leave it at that, or mirror another"
            )


def _merged(prefixes: Iterable[Prefix]) -> tuple[str, ...]:
    from adumbra.tap.mirrors.picks import merged

    return merged(prefixes)


def prefixes_of(spec: NetworkSpec) -> tuple[str, ...]:
    """The prefixes whose traffic is the network's: its CIDRs, and where its donors stand today. Merged, in order."""
    return _merged([*spec.cidrs, *(donor.from_ for donor in spec.donors)])


def _finish(workspace: Workspace, host: Host, record: MirrorRecord, now_ns: int) -> str:
    spec = MirrorSpec.from_dict(record.plan["spec"])
    doing = "installation" if record.state is MirrorState.INSTALLING else "removal"
    what = spec.from_device or f"the ports of {record.network}"
    begun = f"the {doing} of the mirror of {what} for {record.network} was interrupted"
    try:
        take_away(workspace, host, record, lambda: now_ns)
    except AdumbraError as error:
        only = f" --from {spec.from_device}" if spec.from_device else ""
        command = f"{as_root(workspace)} mirror remove {record.network}{only}"
        return f"{begun}, and is still to be undone ({error.what}): run `{command}`"
    if doing == "removal":
        return f"{begun}, and is finished now"
    if spec.vm and any(each.plan.get("hand_over") for each in _in_state(workspace, record.network, MirrorState.INSTALLING)):
        return f"{begun}, and is undone now"  # the hand-over as a whole is finished next
    again = f"handover {record.network}" if spec.vm else f"install {record.network} --from {spec.from_device}"
    return f"{begun}, and is undone now; run `adumbra mirror {again}` again"


def _in_state(workspace: Workspace, name: str, state: MirrorState) -> list[MirrorRecord]:
    return [record for record in workspace.state.mirrors.of(name) if record.state is state]


def will_do(status: Status, about: Subject, wanted: Wanted) -> bool:
    """Whether a mirror is what is asked for, and stands. Raises InputError where the network has no such VM."""
    spec = about.spec(wanted, status.plan.spec.method)
    same = status.plan.spec == spec and wanted.method in {None, spec.method}
    return same and status.record.state is MirrorState.INSTALLED and status.look.standing is Standing.STANDS


def _why(status: Status, about: Subject) -> str:
    if not _is_about(status.plan.spec, about):
        return "the network's prefixes are others now"
    return status.look.detail or "another one was asked for"


def _is_about(spec: MirrorSpec, about: Subject) -> bool:
    """Whether a mirror was planned for the addresses that its network has now."""
    match spec.scope:
        case Scope.SINK:
            return True
        case Scope.PORT:
            return spec.prefixes == about.vms.get(spec.vm) and spec.members == about.members
    return spec.prefixes == about.prefixes and (not spec.left or spec.members == about.members)


def _plan(workspace: Workspace, host: Host, about: Subject, wanted: Wanted, rng: random.Random) -> MirrorPlan:
    """A plan on what stands now. Touches nothing. Raises InputError, ConflictError or MirrorError."""
    from adumbra.tap import mirror
    from adumbra.tap.mirrors.picks import picks_of
    from adumbra.tap.mirrors.plan import Others, choose_method, make_plan

    here = [record for record in workspace.state.mirrors.of() if Place(**record.plan["place"]) == mirror.this_place()]
    clsact = frozenset(str(step["device"]["name"]) for record in here for step in _steps(record, Clsact.do))
    sinks = ((str(record.plan["spec"]["from_device"]), str(record.plan["sink"])) for record in here)
    others = Others(tuple((device, sink) for device, sink in sinks if device), clsact, wanted.pair)
    state = host.state(wanted.from_device, wanted.method)
    method = choose_method(wanted.method, state, picks_of(about.spec(wanted, Method.TC)))
    return make_plan(about.spec(wanted, method), state, mirror.this_place(), others, rng)


def _steps(record: MirrorRecord, do: str) -> list[Mapping[str, Any]]:
    """The steps of a kind in a recorded plan, as they were written down: the rules beside them are many."""
    return [step for step in record.plan["steps"] if step["do"] == do]


def _carry_out(workspace: Workspace, host: Host, plan: MirrorPlan, now: Callable[[], int]) -> MirrorPlan:
    """Keeps the plan, then makes it stand. Where a step fails what was made is taken away again, and the error raised."""
    from adumbra.tap import mirror

    record = workspace.state.mirrors.begin(plan.spec.network, plan.to_dict(), now())
    try:
        mirror.install(plan, host)
    except AdumbraError:
        take_away(workspace, host, record, now)
        raise
    what = f"{plan.spec.from_device}, the port of {plan.spec.vm}," if plan.spec.vm else plan.spec.from_device
    message = f"Mirrors {what} to {plan.sink} by {plan.spec.method.value}."
    workspace.state.mirrors.move(record.id, MirrorState.INSTALLED, now(), message)
    return plan


def take_away(workspace: Workspace, host: Host, record: MirrorRecord, now: Callable[[], int]) -> Removed:
    """Removes what stands of a mirror, then its record. Raises MirrorError where it is out of reach, or refused.

    A pair of devices that another mirror's plan holds as well stays for that one.
    """
    from adumbra.tap import mirror

    plan = MirrorPlan.from_dict(record.plan)
    what = plan.spec.from_device or "the ports"
    told: tuple[str, ...]
    if is_here(plan):
        if record.state is not MirrorState.REMOVING:
            workspace.state.mirrors.move(record.id, MirrorState.REMOVING, now(), f"Removes the mirror of {what}.")
        others = (each for each in workspace.state.mirrors.of(record.network) if each.id != record.id and plan.pair)
        held = {step["inner_mac"] for each in others for step in _steps(each, VethPair.do)}
        own = tuple(step for step in plan.steps if not isinstance(step, VethPair) or step.inner_mac not in held)
        told = mirror.remove(replace(plan, steps=own), host)
    elif mirror.still_there(plan.place):
        only = f" --from {plan.spec.from_device}" if plan.spec.from_device else ""
        raise MirrorError(
            f"the mirror of {what} can't be removed from here: {ELSEWHERE}",
            f"run `adumbra mirror remove {record.network}{only}` there, as by `ip netns exec`",
        )
    else:
        told = ("its network namespace was gone already",)
    workspace.state.mirrors.forget(record.id, now(), f"Removed the mirror of {what}.")
    return Removed(plan, told)


def is_here(plan: MirrorPlan) -> bool:
    """Whether the plan speaks of this namespace; after a restart, whose namespaces are new, it is taken to."""
    return _at(plan.place)


def _at(place: Place) -> bool:
    from adumbra.tap import mirror

    here = mirror.this_place()
    return place.boot != here.boot or place.namespace == here.namespace


def statuses(
    workspace: Workspace,
    host: Host,
    name: str | None = None,
    about: Subject | None = None,
    which: Callable[[MirrorSpec], bool] = lambda _: True,
) -> tuple[Status, ...]:
    """The mirrors that are recorded, of one network or of all, each looked after. about: what those of that one network are
    about, where it is known; which: those that are asked for.
    """
    from adumbra.tap import mirror

    found = []
    known = {} if name is None or about is None else {name: about}
    for record in workspace.state.mirrors.of(name):
        if not which(MirrorSpec.from_dict(record.plan["spec"])):
            continue
        plan = MirrorPlan.from_dict(record.plan)
        if record.network not in known:
            known[record.network] = subject_of(workspace, record.network)
        if not is_here(plan):
            there = mirror.still_there(plan.place)
            look = Look(Standing.UNKNOWN, ELSEWHERE) if there else Look(Standing.GONE, "its network namespace is gone")
        else:
            look = mirror.look(plan, host)
        if look.standing is Standing.STANDS and not _is_about(plan.spec, known[record.network]):
            again = "hand over again" if plan.spec.vm else "install it again"
            look = replace(look, standing=Standing.CHANGED, detail=f"the network's prefixes are others now; {again}")
        if record.state is not MirrorState.INSTALLED and look.standing is Standing.STANDS:
            look = replace(look, standing=Standing.CHANGED, detail=f"it is {record.state.value}")
        found.append(Status(record, plan, look))
    return tuple(found)


def may_change(workspace: Workspace, act: str) -> None:
    """Refuses before anything is kept or touched, and names the command that would do. act: verb, network, options."""
    from adumbra.tap import mirror

    if not mirror.may_administer():
        verb = act.partition(" ")[0]
        doing = "hand mirrors over" if verb == "handover" else f"{verb} a mirror"
        raise MirrorError(f"to {doing} takes CAP_NET_ADMIN, which this user hasn't", f"run `{as_root(workspace)} mirror {act}`")


def as_root(workspace: Workspace) -> str:
    """The command as root, of the same state; its URL may hold a password, and so is passed on unseen."""
    state = " --preserve-env=ADUMBRA_STATE" if workspace.storage.state else ""
    return f"sudo{state} env ADUMBRA_HOME={workspace.home.absolute()} adumbra"


@contextmanager
def one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Holds the lock of this workspace's mirrors, which the system lets go of when the process dies. Raises ConflictError."""
    try:
        folder = os.open(workspace.home, os.O_RDONLY)
    except OSError as error:
        raise StoreError(
            f"{workspace.home} can't be opened ({error.strerror})", "give this user the right to read it"
        ) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("another process is installing or removing mirrors", "wait until it ends") from None
        yield
    finally:
        os.close(folder)
