"""Activations: turning a network's profile into what a provider makes, and taking it away again. Plans first, then acts.

A plan is recorded before its first step and each step's outcome before the next, so that a killed one is finished later.
"""

from __future__ import annotations

import fcntl
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from adumbra.provision.execute import execute
from adumbra.provision.protocol import Provider
from adumbra.schema.errors import AdumbraError, ConflictError, StoreError
from adumbra.schema.jobs import JobKind, JobState
from adumbra.schema.plans import Plan, StepOutcome
from adumbra.schema.state import NetworkState, PlanRecord, PlanState
from adumbra.service import handover, networks, planning
from adumbra.service.providers import active_provider, check_provider, provider_of, usual_provider
from adumbra.service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Activation:
    """A plan, whether it was carried out, and where its result is to be found. awaiting: its number, where somebody must
    approve it first; told: what should be known of the mirrors."""

    plan: Plan
    carried_out: bool
    place: str
    awaiting: int | None = None
    told: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_dict(), "carried_out": self.carried_out, "place": self.place, "awaiting": self.awaiting,
            "told": list(self.told),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Activation:
        """The activation that `to_dict` gave. Raises KeyError or ValueError for anything else."""
        told = tuple(plain.get("told", ()))
        return cls(Plan.from_dict(plain["plan"]), plain["carried_out"], plain["place"], plain.get("awaiting"), told)


def activate(
    workspace: Workspace, name: str, provider_name: str, now: Callable[[], int],
    *, dry_run: bool = False, approved_by: str | None = None,
) -> Activation:  # fmt: skip
    """Makes what the network's latest profile says, held to its policy, stand at a provider. A dry run plans, and touches
    nothing. A plan that must be approved is kept and waits (service.approvals), unless approved_by says who approves it.

    Raises ConflictError where there is no profile or another provider made it, InputError where there is no such provider,
    ProvisionError where a step fails.
    """
    check_provider(provider_name)
    networks.get(workspace, name)
    planning.profile_of(workspace, name)
    if not dry_run:
        _check_nowhere_else(workspace, name, provider_name)
    with _turn(workspace, name, dry_run), provider_of(workspace, provider_name, name) as provider:
        plan = planning.activation(workspace, name, provider)
        if dry_run:
            return Activation(plan, carried_out=False, place=provider.place)
        if plan.approval:
            record = _asked(workspace, plan, now)
            if approved_by is None:
                return Activation(plan, carried_out=False, place=provider.place, awaiting=record.id)
            approved = workspace.state.plans.approve(record.id, approved_by, now(), _begun(plan))
            told = carry_on(workspace, approved, provider, now)
        else:
            told = _carry_out(workspace, plan, provider, now, NetworkState.ACTIVE)
    return Activation(plan, carried_out=True, place=provider.place, told=told)


def _check_nowhere_else(workspace: Workspace, name: str, provider_name: str) -> None:
    """Raises ConflictError where the network stands, or half stands, at another provider."""
    made_by = active_provider(workspace, name)
    state = workspace.state.network(name).state
    if state in {NetworkState.ACTIVE, NetworkState.FAILED} and made_by not in {None, provider_name}:
        raise ConflictError(
            f"{name} is {state.value} at {made_by}, and can't be made by {provider_name} as well",
            f"run `adumbra deactivate {name} --provider {made_by}` first",
        )


def deactivate(
    workspace: Workspace, name: str, provider_name: str | None, now: Callable[[], int], *, dry_run: bool = False
) -> Activation:
    """Takes away what an activation made; the shadow and all that was learned stay. provider_name None: whoever made it.

    Raises InputError where no such provider, ProvisionError where a step fails.
    """
    networks.get(workspace, name)
    provider_name = provider_name or usual_provider(workspace, name)
    check_provider(provider_name)
    with _turn(workspace, name, dry_run), provider_of(workspace, provider_name, name) as provider:
        plan = planning.deactivation(workspace, name, provider)
        told: tuple[str, ...] = ()
        if not dry_run:
            ready = NetworkState.READY if workspace.state.profile(name) else NetworkState.SHADOWING
            told = _carry_out(workspace, plan, provider, now, ready)
    return Activation(plan, not dry_run, provider.place, told=told)


def finish_plans(workspace: Workspace, now_ns: int, owned: Callable[[str], bool] = lambda _: True) -> tuple[str, ...]:
    """Finishes the plans whose process died, of networks that are owned, and gives these. One that another process works at is
    left to it; one that somebody cancelled is failed, and stays as far as it came."""
    finished = []
    for record in workspace.state.plans.open():
        if not owned(record.network):
            continue
        try:
            with one_at_a_time(workspace, record.network):
                if record.id not in {each.id for each in workspace.state.plans.open()}:
                    continue  # the process that had the lock finished it
                if _was_cancelled(workspace, record):
                    moved = NetworkState.FAILED, "the job that carried out its plan was cancelled"
                    workspace.state.plans.finish(record.id, PlanState.FAILED, now_ns, moved)
                    continue
                with provider_of(workspace, str(record.plan["provider"]), record.network) as provider:
                    carry_on(workspace, record, provider, lambda: now_ns)
        except ConflictError:
            continue
        except AdumbraError:  # recorded: the plan is failed, and running the act again goes on from what stands
            continue
        finished.append(record.network)
    return tuple(finished)


def _was_cancelled(workspace: Workspace, record: PlanRecord) -> bool:
    """Whether the job that worked at a plan was cancelled: what was done until then stays, and nothing more is to be."""
    return any(
        job.kind in {JobKind.ACTIVATE, JobKind.DEACTIVATE, JobKind.ROLLBACK}
        and job.state is JobState.CANCELLED
        and (job.started_ns or math.inf) <= (record.decided_ns or record.created_ns) <= (job.finished_ns or 0)
        for job in workspace.state.jobs.of(record.network)
    )


def _carry_out(
    workspace: Workspace, plan: Plan, provider: Provider, now: Callable[[], int], aim: NetworkState
) -> tuple[str, ...]:
    """Records a plan and performs it, so that the network comes to the state `aim`."""
    state = workspace.state.network(plan.network).state
    if plan.empty:
        if state is not aim:
            workspace.state.set_network_state(plan.network, aim, now(), "all that the plan asks for stands as it should")
        return _move_mirrors(workspace, plan.network, provider, aim, now)
    record = workspace.state.plans.begin(plan.network, plan.to_dict() | {"aim": aim.value}, now(), _begun(plan))
    return carry_on(workspace, record, provider, now)


def _asked(workspace: Workspace, plan: Plan, now: Callable[[], int]) -> PlanRecord:
    """The plan as it waits for approval: the one that waits already, where it is the same."""
    waiting = workspace.state.plans.newest(plan.network, (PlanState.AWAITING,))
    if waiting is not None and same(Plan.from_dict(waiting.plan), plan):
        return waiting
    told = plan.to_dict() | {"aim": NetworkState.ACTIVE.value}
    return workspace.state.plans.ask(plan.network, told, now(), plan.approval)


def same(one: Plan, other: Plan) -> bool:
    """Whether two plans would do the same for the same price."""

    def told(plan: Plan) -> str:
        return json.dumps({**plan.to_dict(), "notes": None, "approval": None}, sort_keys=True)

    return told(one) == told(other)


def _begun(plan: Plan) -> str:
    return f"a plan of {len(plan.steps)} steps began"


def carry_on(workspace: Workspace, record: PlanRecord, provider: Provider, now: Callable[[], int]) -> tuple[str, ...]:
    """Performs what isn't done yet of a recorded plan, within `one_at_a_time`, and moves the mirrors. Raises ProvisionError
    where a step fails. Gives what should be known of the mirrors."""
    plan, aim = Plan.from_dict(record.plan), NetworkState(str(record.plan["aim"]))
    done = frozenset(step.index for step in record.steps if step.outcome["done"])

    def keep(index: int, outcome: StepOutcome) -> None:
        workspace.state.plans.record_step(record.id, index, asdict(outcome), now())

    try:
        execute(plan, provider, keep, done)
    except AdumbraError as error:
        workspace.state.plans.finish(record.id, PlanState.FAILED, now(), (NetworkState.FAILED, str(error)))
        raise
    told = _move_mirrors(workspace, plan.network, provider, aim, now)
    moved = aim, f"all {len(plan.steps)} steps of the plan are done"
    workspace.state.plans.finish(record.id, PlanState.DONE, now(), moved, record.plan.get("undoes"))
    return told


def _move_mirrors(
    workspace: Workspace, name: str, provider: Provider, aim: NetworkState, now: Callable[[], int]
) -> tuple[str, ...]:
    """Has the shadow see what passes the real VMs' ports once they stand, and what it saw before once they don't. What can't
    be done is told: the VMs stand all the same."""
    rng = random.Random(now())  # noqa: S311  names and marks, no secrets
    try:
        if aim is not NetworkState.ACTIVE:
            return handover.hand_back(workspace, name, now, rng).told
        ports = provider.ports(name)
        if not ports:
            return ()
        done = handover.hand_over(workspace, name, ports, now, rng)
    except AdumbraError as error:
        return (f"the mirrors of {name} stay as they are ({error.what}): run `adumbra mirror handover {name}`",)
    seen = f"the shadow sees what passes the ports of {len(done.ports)} VMs, at {done.observe or done.sink}"
    return (*((seen,) if done.ports else ()), *done.told)


def _turn(workspace: Workspace, network: str, dry_run: bool) -> AbstractContextManager[None]:
    """The network's lock for those who act. A dry run, which may wait long for its provider, keeps nobody from acting."""
    return nullcontext() if dry_run else one_at_a_time(workspace, network)


@contextmanager
def one_at_a_time(workspace: Workspace, network: str) -> Iterator[None]:
    """Holds a network's lock, which the system lets go of when the process dies. Raises ConflictError where it is held."""
    folder = workspace.home / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{network}.lock").open("w")
    except OSError as error:
        raise StoreError(f"the lock of {network} can't be taken ({error.strerror})", "make the folder writable") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"another process is activating or deactivating {network}", "wait until it ends") from None
        yield
