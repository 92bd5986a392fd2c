"""The hand-over of a network's mirrors: to its VMs' ports once it is live, and back. Decides what; service.mirrors does it.

What stood before, and the ports, are kept in the plan that holds the ports' sink before anything is touched, so that a
hand-over that was killed is finished by the next start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adumbra.schema.errors import AdumbraError, ConflictError, InputError, NotFoundError
from adumbra.schema.jobs import Place, SourceRecord
from adumbra.schema.live import LivePort
from adumbra.schema.mirrors import Earlier, HandOver, Method, MirrorPlan, MirrorSpec, Scope, Standing
from adumbra.schema.state import MirrorRecord, MirrorState
from adumbra.service import mirrors
from adumbra.service.mirrors import ELSEWHERE, Status, Subject, Wanted
from adumbra.service.providers import active_provider, provider_of
from adumbra.service.workspace import Workspace

if TYPE_CHECKING:
    from adumbra.tap.mirror import Host


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How a network's traffic is mirrored now. ports: those that are; sink: where their copies go, "" where none do.

    observe: the source to observe, "" where that is another host's to say; followed: whether the server does; changed: whether
    anything was done; told: what should be known.
    """

    network: str
    ports: tuple[LivePort, ...] = ()
    sink: str = ""
    observe: str = ""
    followed: bool = False
    changed: bool = False
    told: tuple[str, ...] = ()


@dataclass
class _Work:
    """One hand-over that is at work: it holds the lock. told and changed grow."""

    workspace: Workspace
    host: Host
    about: Subject
    name: str
    now: Callable[[], int]
    rng: random.Random
    told: list[str]
    changed: bool = False

    def statuses(self, scope: Scope) -> list[Status]:
        """The network's mirrors of that scope in this network namespace."""
        found = mirrors.statuses(self.workspace, self.host, self.name, self.about, lambda spec: spec.scope is scope)
        return [each for each in found if each.look.detail != ELSEWHERE]

    def put_up(self, wanted: Wanted, found: Status | None) -> MirrorPlan:
        """The mirror that is asked for: the one that was found, if it will do."""
        if found is not None and mirrors.will_do(found, self.about, wanted):
            return found.plan
        done = mirrors.put_up(self.workspace, self.host, self.about, wanted, (self.now, self.rng))
        if done.changed:
            self.changed = True
            self.told += [f"{wanted.from_device}: {told}" for told in done.told]
        return done.plan

    def take_away(self, status: Status) -> None:
        mirrors.take_away(self.workspace, self.host, status.record, self.now)
        self.changed = True

    def keep(self, record: MirrorRecord, plan: MirrorPlan, state: MirrorState, message: str) -> None:
        self.workspace.state.mirrors.revise(record.id, plan.to_dict(), state, self.now(), message)


def is_handed_over(workspace: Workspace, name: str) -> bool:
    """Whether the shadow sees what passes the real VMs' ports."""
    return any(MirrorSpec.from_dict(record.plan["spec"]).scope is Scope.SINK for record in workspace.state.mirrors.of(name))


def ports_of(workspace: Workspace, name: str) -> tuple[LivePort, ...]:
    """The ports of the network's running VMs on this host, by the word of whoever made them. Raises ProvisionError."""
    provider = active_provider(workspace, name)
    if provider is None:
        return ()
    with provider_of(workspace, provider, name) as opened:
        return opened.ports(name)


def hand_over(
    workspace: Workspace, name: str, ports: Sequence[LivePort], now: Callable[[], int], rng: random.Random
) -> HandedOver:
    """Mirrors the VMs' ports, all to one sink, and takes away the mirrors whose traffic they carry; these are remembered.

    What the ports don't carry, donors' traffic and VMs without a port here, stays mirrored where it was. Again it changes only
    what isn't as it should be: a port that has come, gone, or was renamed. Without the privilege, or without a port on this
    host, nothing is changed, and that is told. Raises NotFoundError, ConflictError where another process is at it, MirrorError
    where the host refuses: the next start goes on then.
    """
    from adumbra.tap import mirror

    about = mirrors.subject_of(workspace, name)
    refused = _refused(workspace, name)
    if refused:
        return HandedOver(name, told=(refused,))
    with mirror.Host() as host, mirrors.one_at_a_time(workspace):
        work = _Work(workspace, host, about, name, now, rng, [])
        usable = _usable(work, ports)
        if not usable and not work.statuses(Scope.SINK):
            told = f"no VM of {name} has a port on this host that can be mirrored; its mirrors stay as they are"
            return HandedOver(name, told=(*work.told, told))
        sink = _begun(work, usable)
        mirrored = _mirror_ports(work, sink, usable)
        _leave_to_ports(work, sink, mirrored)
        followed = _follow(work, sink.observe, [each.observe for each in _kept(sink).earlier])
        _rest(work, sink)
    return HandedOver(name, mirrored, sink.sink, sink.observe, followed, work.changed, tuple(work.told))


def hand_back(workspace: Workspace, name: str, now: Callable[[], int], rng: random.Random) -> HandedOver:
    """Takes the ports' mirrors away, also of VMs that are gone, and puts the earlier mirrors back. Again it does nothing.

    A mirror that can't be put back is told, with the command that does it. Raises as hand_over does.
    """
    if not is_handed_over(workspace, name):
        return HandedOver(name)
    refused = _refused(workspace, name)
    if refused:
        return HandedOver(name, told=(refused,))
    from adumbra.tap import mirror

    about = mirrors.subject_of(workspace, name)
    with mirror.Host() as host, mirrors.one_at_a_time(workspace):
        work = _Work(workspace, host, about, name, now, rng, [])
        found = work.statuses(Scope.SINK)
        if not found:
            return HandedOver(name, told=(f"the ports of {name} were mirrored in another network namespace, and still are",))
        sink = found[0]
        devices = work.statuses(Scope.DEVICE)
        kept = _kept(sink.plan)
        plan = replace(sink.plan, hand_over=replace(kept, earlier=_with(kept.earlier, devices), ports=(), back=True))
        work.keep(sink.record, plan, MirrorState.INSTALLING, f"Puts the mirrors of {name} back.")
        for status in work.statuses(Scope.PORT):
            work.take_away(status)
        observed = [found for found in (_put_back(work, each) for each in _kept(plan).earlier) if found]
        work.take_away(work.statuses(Scope.SINK)[0])
        work.told.append(f"the VMs' ports of {name} are mirrored no more")
        texts = {source.source for source in _sources(work)}
        observe = next((each for each in observed if each in texts), next(iter(observed), ""))
        followed = _follow(work, observe, [plan.observe, *(each.observe for each in _kept(plan).earlier)])
    return HandedOver(name, (), "", observe, followed, changed=True, told=tuple(work.told))


def refresh(workspace: Workspace, name: str, now: Callable[[], int], rng: random.Random) -> HandedOver:
    """Hands over again, to the ports that there are now: for whoever looks after live networks. Raises ProvisionError too."""
    return hand_over(workspace, name, ports_of(workspace, name), now, rng)


def recover(workspace: Workspace, now_ns: int) -> tuple[str, ...]:
    """Finishes the hand-overs, either way, whose process died. Gives a sentence for each; raises nothing."""
    told = []
    for record in workspace.state.mirrors.of():
        if record.state is not MirrorState.INSTALLING or not record.plan.get("hand_over"):
            continue
        plan = MirrorPlan.from_dict(record.plan)
        if not mirrors.is_here(plan):
            continue
        name, rng = record.network, random.Random(now_ns)  # noqa: S311  names and marks, no secrets
        try:
            if _kept(plan).back:
                done = hand_back(workspace, name, lambda: now_ns, rng)
            else:
                done = hand_over(workspace, name, _kept(plan).ports, lambda: now_ns, rng)
        except (ConflictError, NotFoundError):  # another process is at it, or has just deleted the network
            continue
        except AdumbraError as error:
            told.append(f"the hand-over of the mirrors of {name} was interrupted, and is still to be finished: {error}")
            continue
        state = "finished now" if done.changed else "still to be finished"
        told.append(f"the hand-over of the mirrors of {name} was interrupted, and is {state}" + _joined(done.told))
    return tuple(told)


def _joined(told: Sequence[str]) -> str:
    return f" ({'; '.join(told)})" if told else ""


def _refused(workspace: Workspace, name: str) -> str:
    """Why nothing can be changed, with the command that would; "" where it can."""
    from adumbra.tap import mirror

    if mirror.may_administer():
        return ""
    command = f"{mirrors.as_root(workspace)} mirror handover {name}"
    return f"the mirrors of {name} stay as they are, as this user hasn't CAP_NET_ADMIN: run `{command}`"


def _kept(plan: MirrorPlan) -> HandOver:
    return plan.hand_over or HandOver()


def _usable(work: _Work, ports: Iterable[LivePort]) -> tuple[LivePort, ...]:
    """The ports that can be mirrored here, each device once; the others are told."""
    there = {device.name: device for device in work.host.devices()}
    usable: dict[str, LivePort] = {}
    for port in sorted(ports, key=lambda port: (port.vm, port.device)):
        if port.vm not in work.about.vms:
            work.told.append(f"{port.device} is the port of {port.vm}, which is no VM of {work.name}, and isn't mirrored")
        elif port.device not in there:
            work.told.append(f"{port.device}, the port of {port.vm}, isn't a device of this host, and isn't mirrored")
        else:
            usable.setdefault(port.device, port)
    return tuple(usable.values())


def _begun(work: _Work, ports: tuple[LivePort, ...]) -> MirrorPlan:
    """The plan of the sink: the one that stands, or one that is kept and carried out now. It says what is being done.

    Copies go where those of an earlier mirror went, so that whoever observes them sees the ports' without a change.
    """
    from adumbra.tap import mirror
    from adumbra.tap.mirrors.plan import sink_plan

    found = work.statuses(Scope.SINK)
    devices = work.statuses(Scope.DEVICE)
    known = _kept(found[0].plan) if found else HandOver()
    left = mirrors.at_ports(work.workspace, work.name)
    new = [status for status in devices if not left or status.plan.spec.left != left]
    kept = replace(known, ports=ports, earlier=_with(known.earlier, new), back=False)
    if found and found[0].look.standing is Standing.STANDS and found[0].record.state is MirrorState.INSTALLED and kept == known:
        return found[0].plan
    stands = found and found[0].look.standing is not Standing.GONE and found[0].plan.sink in _names(work)
    if stands:
        plan = replace(found[0].plan, hand_over=kept)
        plan = replace(plan, steps=tuple(dict.fromkeys((*plan.steps, *(e.pair for e in kept.earlier if e.pair)))))
    else:
        to_device, first = _chosen(work, kept.earlier)
        spec = MirrorSpec(work.name, work.about.id, "", to_device, Method.TC, (), Scope.SINK)
        alive = replace(kept, earlier=_living(work, first))
        plan = sink_plan(spec, work.host.state("", Method.TC), mirror.this_place(), alive, work.rng)
        plan = replace(plan, hand_over=kept)
    message = f"Hands the mirrors of {work.name} over to the ports of its VMs."
    if found:
        work.keep(found[0].record, plan, MirrorState.INSTALLING, message)
    else:
        work.workspace.state.mirrors.begin(work.name, plan.to_dict(), work.now())
    work.changed |= not stands
    for step in plan.steps:
        if work.host.look(step).standing is Standing.CHANGED:  # half made when a process died, or set down by somebody
            work.host.take_away(step)
    mirror.install(plan, work.host)
    return plan


def _with(earlier: tuple[Earlier, ...], found: Iterable[Status]) -> tuple[Earlier, ...]:
    """What stood before, and these mirrors of other devices too, as they were asked for."""
    known = {each.spec.from_device for each in earlier}
    new = (each.plan for each in found if each.plan.spec.from_device not in known)
    return (*earlier, *(Earlier(replace(plan.spec, members=(), left=()), plan.pair, plan.observe) for plan in new))


def _names(work: _Work) -> frozenset[str]:
    return frozenset(device.name for device in work.host.devices())


def _chosen(work: _Work, earlier: tuple[Earlier, ...]) -> tuple[str | None, tuple[Earlier, ...]]:
    """The device of somebody's own to send copies to (None: a pair of ours), and the earlier mirrors, the chosen one first.

    It is the one that the server observes, else the oldest, of those whose sink is there.
    """
    names, followed = _names(work), {source.source for source in _sources(work)}
    usable = [each for each in earlier if (each.spec.to_device or (each.pair.inner if each.pair else "")) in names]
    if not usable:
        return None, earlier
    first = next((each for each in usable if each.observe in followed), usable[0])
    return first.spec.to_device, (first, *(each for each in earlier if each is not first))


def _living(work: _Work, earlier: Iterable[Earlier]) -> tuple[Earlier, ...]:
    """The earlier mirrors, without the pairs of devices that are gone."""

    def living(each: Earlier) -> Earlier:
        gone = each.pair is not None and work.host.look(each.pair).standing is Standing.GONE
        return replace(each, pair=None) if gone else each

    return tuple(map(living, earlier))


def _mirror_ports(work: _Work, sink: MirrorPlan, ports: tuple[LivePort, ...]) -> tuple[LivePort, ...]:
    """Has each port mirrored to the sink, and takes away what belongs to ports that are gone. Gives those that are mirrored."""
    from adumbra.tap import mirror

    wanted = {port.device: port for port in ports}
    found: dict[str, Status] = {}
    for status in work.statuses(Scope.PORT):
        spec = status.plan.spec
        gone = mirror.is_gone(status.plan, work.host)
        found[spec.from_device] = status
        if gone or spec.from_device not in wanted or wanted[spec.from_device].vm != spec.vm:
            work.take_away(found.pop(spec.from_device))
            why = "is gone, and its mirror with it" if gone else "is its port no more, and isn't mirrored"
            work.told.append(f"{spec.from_device}, the port of {spec.vm}, {why}")
    mirrored = []
    for port in ports:
        try:
            work.put_up(Wanted(work.name, port.device, sink.sink, vm=port.vm), found.get(port.device))
        except AdumbraError as error:
            work.told.append(f"{port.device}, the port of {port.vm}, isn't mirrored: {error}")
            continue
        mirrored.append(port)
    return tuple(mirrored)


def _leave_to_ports(work: _Work, sink: MirrorPlan, mirrored: tuple[LivePort, ...]) -> None:
    """Takes the earlier mirrors away, or has them copy only what the ports don't."""
    left = mirrors.at_ports(work.workspace, work.name)
    without = sorted(work.about.vms.keys() - {port.vm for port in mirrored})
    why = [f"donors ({', '.join(work.about.donors)})"] if work.about.donors else []
    why += [f"VMs without a port here ({', '.join(without[:5])}{' and more' if len(without) > 5 else ''})"] if without else []
    there = {status.plan.spec.from_device: status for status in work.statuses(Scope.DEVICE)}
    for each in _kept(sink).earlier:
        device = each.spec.from_device
        if any(port.device == device for port in mirrored):
            continue
        status = there.get(device)
        if not why:
            if status is not None:
                work.take_away(status)
                work.told.append(f"the mirror of {device} is taken away: the VMs' ports carry its traffic")
            continue
        if _put_up_earlier(work, each, left, status) is not None and left:
            work.told.append(f"the mirror of {device} stays for what the VMs' ports don't carry: {' and '.join(why)}")


def _put_up_earlier(work: _Work, each: Earlier, left: tuple[str, ...], found: Status | None) -> str | None:
    """Has an earlier mirror stand, but for what is left to ports. Gives the source to observe; None, and tells, where it can't
    be."""
    spec = each.spec
    method = None if left and spec.method is Method.OVS else spec.method
    pairs = [step for status in work.statuses(Scope.SINK) for step in status.plan.steps]
    pair = each.pair if each.pair in pairs else None
    try:
        plan = work.put_up(Wanted(work.name, spec.from_device, spec.to_device, method, left=left, pair=pair), found)
    except AdumbraError as error:
        again = f"adumbra mirror install {work.name} --from {spec.from_device}"
        work.told.append(f"the mirror of {spec.from_device} can't be put back: {error}; run `{again}` when it can")
        return None
    return plan.observe


def _put_back(work: _Work, each: Earlier) -> str:
    found = _put_up_earlier(work, each, (), None)
    if found is not None:
        work.told.append(f"the mirror of {each.spec.from_device} is back")
    return found or ""


def _follow(work: _Work, observe: str, old: Sequence[str]) -> bool:
    """Whether the server observes what the copies come out of. Where it did so at a sink that is gone, it is told the new one;
    where there is none any more, that nothing is to be observed."""
    from adumbra.service import taps  # with the kinds of sources, which other commands need not load

    sources = _sources(work)
    if any(source.source == observe for source in sources):
        return True
    names = _names(work)
    dead = [s for s in sources if s.source in old and s.source.removeprefix("live:") not in names]
    for source in dead:
        taps.stop(work.workspace, work.name, source.id, work.now())
    if not dead or not observe:
        if observe:
            work.told.append(f"observe the copies: `adumbra observe {work.name} {observe}`")
        return False
    try:
        taps.ask_for(work.workspace, work.name, taps.Asked(observe, dead[0].options), None, work.now())
    except (InputError, ConflictError) as error:
        work.told.append(f"the server can't observe {observe}: {error}")
        return False
    work.told.append(f"the server observes {observe} now")
    return True


def _sources(work: _Work) -> list[SourceRecord]:
    """The sources that the server observes for the network."""
    found = work.workspace.state.sources.of(work.name)
    return [source for source in found if source.place is Place.SERVER and not source.state.over]


def _rest(work: _Work, sink: MirrorPlan) -> None:
    """Notes that the hand-over is done."""
    record = work.statuses(Scope.SINK)[0].record
    if record.state is not MirrorState.INSTALLED:
        ports = len(_kept(sink).ports)
        message = f"Mirrors {ports} port{'' if ports == 1 else 's'} of the VMs of {work.name} to {sink.sink}."
        work.workspace.state.mirrors.move(record.id, MirrorState.INSTALLED, work.now(), message)
        work.changed = True
