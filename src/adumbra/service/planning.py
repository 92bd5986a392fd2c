"""What an activation would do now: the profile held to the policy, against what stands, with what it costs. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterable

from adumbra.profile.catalog import load_catalog
from adumbra.provision.desired import machine_prices, make_desired
from adumbra.provision.plan import make_plan
from adumbra.provision.policy import price_of, with_policy
from adumbra.provision.protocol import Provider
from adumbra.schema.errors import ConflictError
from adumbra.schema.plans import Actual, Desired, Item, Kind, Plan
from adumbra.schema.policy import NO_POLICY
from adumbra.schema.sizing import RESOURCES, NetworkProfile
from adumbra.schema.state import PlanState
from adumbra.service import networks, policies
from adumbra.service.workspace import Workspace


def activation(workspace: Workspace, name: str, provider: Provider) -> Plan:
    """The plan by which what the network's newest profile says, held to its policy, comes to stand at an opened provider.

    Raises ConflictError where there is no profile, it is of other VMs, or the policy can't hold; InputError where the provider
    can't make it; ProvisionError.
    """
    network = networks.get(workspace, name)
    profile = profile_of(workspace, name)
    actual = provider.actual(name)
    policy = policies.of(workspace, name)
    sized, notes = policies.held(profile, network.vms, policy, {})
    shrinking = _shrinking(sized, actual) if policy.keep_above_use else ()
    if shrinking:
        use = policies.measured_use(workspace, name, shrinking)
        sized, notes = policies.held(profile, network.vms, policy, use)
    desired = make_desired(network.spec, network.vms, sized)
    plan = make_plan(desired, actual, provider.rules, machine_prices(sized))
    return with_policy(plan, standing_price(workspace, actual), policy, notes)


def deactivation(workspace: Workspace, name: str, provider: Provider) -> Plan:
    """The plan that takes everything away, whatever the policy. Raises ProvisionError."""
    actual = provider.actual(name)
    plan = make_plan(Desired(name, ()), actual, provider.rules)
    return with_policy(plan, standing_price(workspace, actual), NO_POLICY)


def profile_of(workspace: Workspace, name: str) -> NetworkProfile:
    """The newest profile, of the VMs that the spec has now. Raises ConflictError where there is none."""
    kept = workspace.state.profile(name)
    if kept is None:
        raise ConflictError(f"{name} has no profile yet", f"run `adumbra train {name}` and `adumbra profile {name}` first")
    profile = NetworkProfile.from_dict(kept.profile)
    if {vm.vm for vm in profile.vms} != {vm.name for vm in networks.get(workspace, name).vms}:
        raise ConflictError(f"the profile of {name} is of other VMs than its spec", f"run `adumbra profile {name}` again")
    return profile


def standing_price(workspace: Workspace, actual: Actual) -> float | None:
    """What the machines that stand cost, in US dollars an hour: by their types or, where the provider keeps none, as the plan
    said that made them. None: not known."""
    machines = [item for item in actual.items if item.kind is Kind.MACHINE]
    if all(item.settings.get("type") is not None for item in machines):
        return price_of_items(machines)
    made = workspace.state.plans.newest(actual.network, (PlanState.DONE,))
    return None if made is None else Plan.from_dict(made.plan).price_per_hour


def price_of_items(items: Iterable[Item]) -> float | None:
    """What machines cost by their types, in US dollars an hour; None where one's price isn't known."""
    types = load_catalog().types
    named = [types.get(str(item.settings.get("type"))) for item in items if item.kind is Kind.MACHINE]
    return price_of(None if each is None else each.price_per_hour for each in named)


def _shrinking(profile: NetworkProfile, actual: Actual) -> tuple[str, ...]:
    """The VMs that would have less of something than they have now."""
    standing = {item.name: item.settings for item in actual.items if item.kind is Kind.MACHINE}
    return tuple(
        vm.vm for vm in profile.vms if any(getattr(vm, name) < standing.get(vm.vm, {}).get(name, 0) for name in RESOURCES)
    )
