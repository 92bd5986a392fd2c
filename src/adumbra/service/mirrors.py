"""Mirrors of a network's traffic on this host: installing, listing and removing them, also after a crash.

The whole plan is kept before anything is touched; whatever was interrupted is undone by that plan, and by nothing else.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adumbra.schema.errors import AdumbraError, ConflictError, InputError, MirrorError, MirrorUnsupportedError, StoreError
from adumbra.schema.mirrors import Clsact, Look, Method, MirrorPlan, MirrorSpec, Standing
from adumbra.schema.spec import NetworkSpec, parse_spec
from adumbra.schema.state import MirrorRecord, MirrorState
from adumbra.service.workspace import Workspace

if TYPE_CHECKING:
    from adumbra.tap.mirror import Host

ELSEWHERE = "it was installed in another network namespace"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mirror that is asked for; `to_device` None: a device of its own, `method` None: whatever suits the host."""

    network: str
    from_device: str
    to_device: str | None = None
    method: Method | None = None


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
class _Asked:
    """What is asked for, of a network with this number and these prefixes."""

    wanted: Wanted
    network_id: int
    prefixes: tuple[str, ...]


def install(workspace: Workspace, wanted: Wanted, now: Callable[[], int], rng: random.Random) -> Installed:
    """Mirrors what crosses a device to or from the network's CIDRs and its donors, in both directions.

    Again it changes nothing. Where what stands isn't what is asked for, that is removed first. Raises InputError or
    ConflictError for what can't be, MirrorError where the host refuses: nothing of the mirror is left then.
    """
    from adumbra.tap import mirror

    record = workspace.state.network(wanted.network)
    prefixes = prefixes_of(parse_spec(record.spec_text, record.name))
    asked = _Asked(wanted, record.id, prefixes)
    with mirror.Host() as host, _one_at_a_time(workspace):
        told = []
        for status in _statuses(workspace, wanted.network, host):
            if status.plan.spec.from_device != wanted.from_device or status.look.detail == ELSEWHERE:
                continue
            if _will_do(status, wanted, prefixes):
                return Installed(status.plan, changed=False, told=status.plan.notes)
            _may_change(workspace, f"install --from {wanted.from_device}", wanted.network)
            _plan(workspace, host, asked, random.Random(0))  # noqa: S311  refuses before what stands is removed
            _take_away(workspace, host, status.record, now)
            told.append(f"the mirror that was there was removed: {_why(status, prefixes)}")
        plan = _plan(workspace, host, asked, rng)
        _may_change(workspace, f"install --from {wanted.from_device}", wanted.network)
        try:
            plan = _carry_out(workspace, host, plan, now)
        except MirrorUnsupportedError as error:
            if wanted.method is not None or plan.spec.method is Method.NFT:
                raise
            told.append(str(error.what))
            plan = _plan(workspace, host, replace(asked, wanted=replace(wanted, method=Method.NFT)), rng)
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

    _may_change(workspace, "remove", name)
    with mirror.Host() as host, _one_at_a_time(workspace):
        there = {record.id for record in workspace.state.mirrors.of(name)}
        in_reach_first = sorted(records, key=lambda record: not _is_here(MirrorPlan.from_dict(record.plan)))
        return tuple(_take_away(workspace, host, record, now) for record in in_reach_first if record.id in there)


def listing(workspace: Workspace, name: str | None = None) -> tuple[Status, ...]:
    """The mirrors that are recorded, of one network or of all, each looked after. Touches nothing."""
    if not workspace.state.mirrors.of(name):
        return ()
    from adumbra.tap import mirror

    with mirror.Host() as host:
        return _statuses(workspace, name, host)


def recover(workspace: Workspace, now_ns: int) -> tuple[str, ...]:
    """Undoes what was interrupted in installing or removing a mirror. Gives a sentence for each; raises nothing.

    Where no mirror is recorded this is one look into the state store.
    """
    if all(record.state is MirrorState.INSTALLED for record in workspace.state.mirrors.of()):
        return ()
    from adumbra.tap import mirror

    told: list[str] = []
    try:
        with _one_at_a_time(workspace), mirror.Host() as host:
            interrupted = (each for each in workspace.state.mirrors.of() if each.state is not MirrorState.INSTALLED)
            told.extend(_finish(workspace, host, record, now_ns) for record in interrupted)
    except ConflictError:  # another process is at it
        return ()
    except AdumbraError as error:
        told.append(f"what was interrupted of a mirror is still to be undone: {error}")
    return tuple(told)


def prefixes_of(spec: NetworkSpec) -> tuple[str, ...]:
    """The prefixes whose traffic is the network's: its CIDRs, and where its donors stand today. Merged, in order."""
    from adumbra.tap.mirrors.plan import merged

    return merged([*spec.cidrs, *(donor.from_ for donor in spec.donors)])


def _finish(workspace: Workspace, host: Host, record: MirrorRecord, now_ns: int) -> str:
    device = record.plan["spec"]["from_device"]
    doing = "installation" if record.state is MirrorState.INSTALLING else "removal"
    begun = f"the {doing} of the mirror of {device} for {record.network} was interrupted"
    try:
        _take_away(workspace, host, record, lambda: now_ns)
    except AdumbraError as error:
        command = f"{_as_root(workspace)} mirror remove {record.network} --from {device}"
        return f"{begun}, and is still to be undone ({error.what}): run `{command}`"
    again = f"; run `adumbra mirror install {record.network} --from {device}` again" if doing == "installation" else ""
    return f"{begun}, and is {'undone' if doing == 'installation' else 'finished'} now{again}"


def _will_do(status: Status, wanted: Wanted, prefixes: tuple[str, ...]) -> bool:
    spec = status.plan.spec
    asked = wanted.to_device == spec.to_device and wanted.method in {None, spec.method} and prefixes == spec.prefixes
    return asked and status.record.state is MirrorState.INSTALLED and status.look.standing is Standing.STANDS


def _why(status: Status, prefixes: tuple[str, ...]) -> str:
    if status.plan.spec.prefixes != prefixes:
        return "the network's prefixes are others now"
    return status.look.detail or "another one was asked for"


def _plan(workspace: Workspace, host: Host, asked: _Asked, rng: random.Random) -> MirrorPlan:
    """A plan on what stands now. Touches nothing. Raises InputError, ConflictError or MirrorError."""
    from adumbra.tap import mirror
    from adumbra.tap.mirrors.plan import Others, choose_method, make_plan

    plans = [MirrorPlan.from_dict(record.plan) for record in workspace.state.mirrors.of()]
    here = [plan for plan in plans if plan.place == mirror.this_place()]
    clsact = frozenset(step.device.name for plan in here for step in plan.steps if isinstance(step, Clsact))
    others = Others(tuple((plan.spec.from_device, plan.sink) for plan in here), clsact)
    wanted = asked.wanted
    state = host.state(wanted.from_device, wanted.method)
    method = choose_method(wanted.method, state, asked.prefixes)
    spec = MirrorSpec(wanted.network, asked.network_id, wanted.from_device, wanted.to_device, method, asked.prefixes)
    return make_plan(spec, state, mirror.this_place(), others, rng)


def _carry_out(workspace: Workspace, host: Host, plan: MirrorPlan, now: Callable[[], int]) -> MirrorPlan:
    """Keeps the plan, then makes it stand. Where a step fails what was made is taken away again, and the error raised."""
    from adumbra.tap import mirror

    record = workspace.state.mirrors.begin(plan.spec.network, plan.to_dict(), now())
    try:
        mirror.install(plan, host)
    except AdumbraError:
        _take_away(workspace, host, record, now)
        raise
    message = f"Mirrors {plan.spec.from_device} to {plan.sink} by {plan.spec.method.value}."
    workspace.state.mirrors.move(record.id, MirrorState.INSTALLED, now(), message)
    return plan


def _take_away(workspace: Workspace, host: Host, record: MirrorRecord, now: Callable[[], int]) -> Removed:
    """Removes what stands of a mirror, then its record. Raises MirrorError where it is out of reach, or refused."""
    from adumbra.tap import mirror

    plan = MirrorPlan.from_dict(record.plan)
    device = plan.spec.from_device
    told: tuple[str, ...]
    if _is_here(plan):
        if record.state is not MirrorState.REMOVING:
            workspace.state.mirrors.move(record.id, MirrorState.REMOVING, now(), f"Removes the mirror of {device}.")
        told = mirror.remove(plan, host)
    elif mirror.still_there(plan.place):
        raise MirrorError(
            f"the mirror of {device} can't be removed from here: {ELSEWHERE}",
            f"run `adumbra mirror remove {record.network} --from {device}` there, as by `ip netns exec`",
        )
    else:
        told = ("its network namespace was gone already",)
    workspace.state.mirrors.forget(record.id, now(), f"Removed the mirror of {device}.")
    return Removed(plan, told)


def _is_here(plan: MirrorPlan) -> bool:
    """Whether the plan speaks of this namespace; after a restart, whose namespaces are new, it is taken to."""
    from adumbra.tap import mirror

    here = mirror.this_place()
    return plan.place.boot != here.boot or plan.place.namespace == here.namespace


def _statuses(workspace: Workspace, name: str | None, host: Host) -> tuple[Status, ...]:
    from adumbra.tap import mirror

    statuses = []
    prefixes = {}
    for record in workspace.state.mirrors.of(name):
        plan = MirrorPlan.from_dict(record.plan)
        if record.network not in prefixes:
            spec_text = workspace.state.network(record.network).spec_text
            prefixes[record.network] = prefixes_of(parse_spec(spec_text, record.network))
        if not _is_here(plan):
            there = mirror.still_there(plan.place)
            look = Look(Standing.UNKNOWN, ELSEWHERE) if there else Look(Standing.GONE, "its network namespace is gone")
        else:
            look = mirror.look(plan, host)
        if look.standing is Standing.STANDS and plan.spec.prefixes != prefixes[record.network]:
            look = replace(look, standing=Standing.CHANGED, detail="the network's prefixes are others now; install it again")
        if record.state is not MirrorState.INSTALLED and look.standing is Standing.STANDS:
            look = replace(look, standing=Standing.CHANGED, detail=f"it is {record.state.value}")
        statuses.append(Status(record, plan, look))
    return tuple(statuses)


def _may_change(workspace: Workspace, act: str, network: str) -> None:
    """Refuses before anything is kept or touched, and names the command that would do."""
    from adumbra.tap import mirror

    if not mirror.may_administer():
        verb, _, rest = act.partition(" ")
        command = f"{_as_root(workspace)} mirror {verb} {network} {rest}".rstrip()
        raise MirrorError(f"to {verb} a mirror takes CAP_NET_ADMIN, which this user hasn't", f"run `{command}`")


def _as_root(workspace: Workspace) -> str:
    """The command as root, of the same state; its URL may hold a password, and so is passed on unseen."""
    state = " --preserve-env=ADUMBRA_STATE" if workspace.storage.state else ""
    return f"sudo{state} env ADUMBRA_HOME={workspace.home.absolute()} adumbra"


@contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
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
