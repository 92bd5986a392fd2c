"""Policies of networks: read, checked, kept; and a profile's sizes held to one, types chosen again by the catalogue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.forecast.series import COLUMNS, panel
from adumbra.profile.catalog import Choices, load_catalog
from adumbra.provision.policy import Choose, Offer, Sized, Use, allowed, hold
from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.policy import ALL, NO_POLICY, ProvisionPolicy, parse_policy
from adumbra.schema.records import NANOSECONDS, Origin, SeriesQuery
from adumbra.schema.sizing import RESOURCES, NetworkProfile, SizingPolicy, VmProfile
from adumbra.schema.spec import Vm
from adumbra.schema.state import PolicyRecord
from adumbra.schema.yamllines import Location
from adumbra.service import networks
from adumbra.service.charts import Wanted, fitting_step_s
from adumbra.service.texts import read_text
from adumbra.service.workspace import Workspace

MAX_BYTES = 1024 * 1024
USE_S, USE_STEPS, USE_LEVEL = 86_400.0, 1_440, 0.99
"""What counts as used: this level of the last so many seconds of what was measured, in about so many steps."""
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A network's policy, as its user wrote it and as it was read."""

    record: PolicyRecord
    policy: ProvisionPolicy

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.record.network, "version": self.record.version, **self.policy.to_dict()}


def read_file(path: Path) -> str:
    """The text of a policy file. Raises InputError where it can't be read or can't be one."""
    try:
        return read_text(path, "a policy", "a page", MAX_BYTES)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8", "write the policy as YAML or JSON") from None


def check(text: str, file: str, vms: Sequence[Vm] | None = None) -> ProvisionPolicy:
    """Is this policy right, its types known, and its selectors, where `vms` are given? Raises SpecError, a line a problem."""
    return parse_policy(text, file, functools.partial(_problems, vms=vms))


def put(
    workspace: Workspace, name: str, text: str, now: Callable[[], int], *, file: str = "policy", was: int | None = None
) -> KeptPolicy:  # fmt: skip
    """Gives a network a policy, which its next plans are held to.

    Raises SpecError, and PreconditionError where the version that holds isn't `was` (None: any; 0: none).
    """
    policy = check(text, file, networks.get(workspace, name).vms)
    return KeptPolicy(workspace.state.policies.save(name, text, now(), was), policy)


def shown(workspace: Workspace, name: str) -> KeptPolicy:
    """The policy that a network has. Raises NotFoundError where it has none."""
    kept = workspace.state.policies.newest(name)
    if kept is None:
        raise NotFoundError(f"{name} has no policy", f"give it one: adumbra policy set {name} FILE")
    return KeptPolicy(kept, check(kept.text, f"the policy of {name}"))


def clear(workspace: Workspace, name: str, now: Callable[[], int]) -> KeptPolicy:
    """Takes a network's policy away, and gives it. Raises NotFoundError where it has none."""
    gone = shown(workspace, name)
    workspace.state.policies.save(name, "", now())
    return gone


def of(workspace: Workspace, name: str) -> ProvisionPolicy:
    """What holds for a network: its policy, or that of those which have none."""
    kept = workspace.state.policies.newest(name)
    return NO_POLICY if kept is None else check(kept.text, f"the policy of {name}")


def held(
    profile: NetworkProfile, vms: Sequence[Vm], policy: ProvisionPolicy, use: Use
) -> tuple[NetworkProfile, Mapping[str, tuple[str, ...]]]:
    """A profile held to a policy, and why what changed did, by VM. use: as measured_use gives it.

    Raises InputError and ConflictError as provision.policy.hold does.
    """
    declared = {vm.name: vm for vm in vms}
    sized = [
        Sized(vm.vm, declared[vm.vm].group, {name: getattr(vm, name) for name in RESOURCES}, vm.type, vm.price_per_hour)
        for vm in profile.vms
    ]
    found = hold(sized, policy, use, _chooser({vm.name: vm.type for vm in vms}))
    held_vms = tuple(
        _profiled(vm, each, found.notes.get(vm.vm, ())) for vm, each in zip(profile.vms, found.vms, strict=True)
    )  # fmt: skip
    return replace(profile, vms=held_vms), found.notes


def measured_use(workspace: Workspace, name: str, vms: Sequence[str]) -> Use:
    """What the real machines were measured to use: VM -> resource -> the USE_LEVEL point of the last day that is stored, in the
    resource's unit. Nothing for what was never measured."""
    span = workspace.metrics.span(name, Origin.LIVE)
    stored = set(workspace.metrics.vms(name)) if span is not None else set()
    vms = [vm for vm in vms if vm in stored]
    if span is None or not vms:
        return {}
    interval_s = networks.get(workspace, name).spec.interval
    start_ns = max(span[0], span[1] - round(USE_S * NANOSECONDS))
    step_s = fitting_step_s(interval_s, span[1] - start_ns, Wanted(COLUMNS, points=USE_STEPS))
    query = SeriesQuery(name, COLUMNS, tuple(vms), start_ns, span[1], step_s, Origin.LIVE)
    series = workspace.metrics.read(query)
    use: dict[str, dict[str, float]] = {vm: {} for vm in series.vms}
    for resource in RESOURCES:
        for vm, row in zip(series.vms, panel(series, resource).values, strict=True):
            known = row[~np.isnan(row)]
            if known.size:
                use[vm][resource] = float(np.quantile(known, USE_LEVEL, method="higher"))
    return use


def _profiled(vm: VmProfile, each: Sized, notes: tuple[str, ...]) -> VmProfile:
    if not notes:
        return vm
    whole: dict[str, Any] = {
        name: float(amount) if name == "memory_gb" else round(amount) for name, amount in each.sizes.items()
    }
    reasons = (*vm.reasons, *(f"policy: {said}" for said in notes))
    return replace(vm, **whole, type=each.type, price_per_hour=each.price_per_hour, reasons=reasons)


def _chooser(declared: Mapping[str, str | None]) -> Choose:
    """Picks the cheapest type of the architecture that a VM has, or was declared with; of another only where the policy allows
    none of that. declared: VM -> type."""
    catalog = load_catalog()

    @functools.cache
    def choices(arch: str | None, patterns: tuple[str, ...]) -> Choices:
        names = matching(patterns)
        if patterns and not names:
            return Choices.of(())
        return catalog.choices(SizingPolicy(arch=arch, allowed_types=names))

    def choose(each: Sized, patterns: tuple[str, ...]) -> Offer | None:
        known = catalog.types.get(each.type or declared.get(each.vm) or "")
        found = choices(known.arch if known else None, patterns)
        if not found.types and patterns:
            found = choices(None, patterns)
        pick = found.cheapest(each.sizes)
        return None if pick is None else Offer(pick.name, pick.price_per_hour)

    return choose


def matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The types of the catalogue that names or globs allow. One that gives but a share of its cores must be named whole."""
    types = load_catalog().types.values()
    globs = [each for each in patterns if _GLOB & set(each)]
    return tuple(
        each.name for each in types if each.name in patterns or (not each.burstable and allowed(each.name, globs))
    )  # fmt: skip


def _problems(policy: ProvisionPolicy, vms: Sequence[Vm] | None) -> Iterator[tuple[Location, str]]:
    known = None if vms is None else {ALL, *(vm.name for vm in vms), *(vm.group for vm in vms)}
    for selector, bounds in policy.vms.items():
        if known is not None and selector not in known:
            groups = ", ".join(dict.fromkeys(vm.group for vm in vms or ()))
            yield ("vms", selector), f"there is no such VM or VM group; there are: {groups[:200]}, and * for all"
        for number, pattern in enumerate(bounds.types or ()):
            if _GLOB & set(pattern):
                if not matching([pattern]):
                    yield (
                        ("vms", selector, "types", number),
                        f"no type matches {pattern!r}; burstable and flex types must be named whole, such as t3.large",
                    )
                continue
            try:
                load_catalog().type(pattern)
            except InputError as error:
                yield ("vms", selector, "types", number), str(error)
