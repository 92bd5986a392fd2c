"""What a network's shadow has seen so far: for how long, of which VMs, from which sources, and how far that may be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adumbra.schema.records import NANOSECONDS
from adumbra.schema.sizing import Confidence
from adumbra.schema.state import ObservationRecord, ShadowRecord
from adumbra.service import networks
from adumbra.service.workspace import Workspace

SHOWN_OBSERVATIONS = 20
_ORDER = (Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)


@dataclass(frozen=True, slots=True)
class VmSeen:
    """A VM of the spec. seen: whether anything of it is stored; confidence: of its newest size, None before there is one."""

    vm: str
    seen: bool
    confidence: Confidence | None


@dataclass(frozen=True, slots=True)
class ShadowSeen:
    """What a shadow has seen. span: ns since the epoch, None: nothing; learned_s: how long; offered, attributed, missed:
    packets, or records, of the observations that are shown, the newest; confidence: the least of its VMs'.
    """

    record: ShadowRecord
    span: tuple[int, int] | None
    vms: tuple[VmSeen, ...]
    others: tuple[str, ...]
    observations: tuple[ObservationRecord, ...]
    offered: int
    attributed: int
    missed: int
    confidence: Confidence | None

    @property
    def learned_s(self) -> float:
        return 0.0 if self.span is None else (self.span[1] - self.span[0]) / NANOSECONDS


def seen(workspace: Workspace, name: str) -> ShadowSeen:
    """What the network's shadow has seen. Raises NotFoundError."""
    network = networks.get(workspace, name)
    state, stored = workspace.state, workspace.metrics.vms(name)
    profile = state.profile(name)
    trusted = {} if profile is None else {vm["vm"]: Confidence(vm["confidence"]) for vm in profile.profile["vms"]}
    there, names = set(stored), [vm.name for vm in network.vms]
    vms = tuple(VmSeen(vm, vm in there, trusted.get(vm)) for vm in names)
    newest = state.observations(name, SHOWN_OBSERVATIONS)
    accounts = [accounts_of(each) for each in newest]
    told = [vm.confidence for vm in vms if vm.confidence is not None]
    return ShadowSeen(
        state.shadow(name), workspace.metrics.span(name) if stored else None, vms,
        tuple(vm for vm in stored if vm not in set(names)), newest,
        sum(_count(each, "offered") for each in accounts), sum(_count(each, "attributed") for each in accounts),
        sum(_missed(each) for each in accounts), min(told, key=_ORDER.index, default=None),
    )  # fmt: skip


def accounts_of(observation: ObservationRecord) -> Mapping[str, Any]:
    """Where its frames went (schema.records.Accounts as plain data); nothing before it ended."""
    found = observation.accounts.get("accounts")
    return found if isinstance(found, Mapping) else {}


def _count(accounts: Mapping[str, Any], of: str) -> int:
    return int(accounts.get(of) or 0)


def _missed(accounts: Mapping[str, Any]) -> int:
    """What was lost before or while it was metered."""
    losses = accounts.get("losses")
    dropped = _count(losses, "dropped") if isinstance(losses, Mapping) else 0
    return dropped + _count(accounts, "late") + _count(accounts, "untracked")
