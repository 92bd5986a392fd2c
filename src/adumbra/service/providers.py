"""Which providers there are, and how each is opened for a network of a workspace. A driver is loaded when it is used."""

from __future__ import annotations

import time
from pathlib import Path

from adumbra.provision.protocol import Provider
from adumbra.schema.errors import InputError
from adumbra.schema.plans import PROVIDERS
from adumbra.schema.state import PlanState
from adumbra.service.workspace import Workspace
from adumbra.settings import (
    ProvisionSettings,
    TerraformApply,
    TerraformFlavors,
    load_libvirt_settings,
    load_provision_settings,
)


def check_provider(provider: str) -> None:
    """Raises InputError where there is no such provider."""
    if provider not in PROVIDERS:
        raise InputError(f"there is no provider {provider!r}", f"choose one of: {', '.join(PROVIDERS)}")


def provider_of(workspace: Workspace, provider: str, network: str) -> Provider:
    """The provider of that name for a network; it touches nothing until it is opened by `with`. Raises InputError."""
    check_provider(provider)
    if provider == "libvirt":
        return _libvirt(network, str(workspace.state.network(network).created_ns))
    return _terraform(workspace.provider_folder(provider, network), load_provision_settings())


def _libvirt(network: str, owner: str) -> Provider:
    from adumbra.provision.libvirt import LibvirtProvider

    return LibvirtProvider(load_libvirt_settings(), network, owner, time.time_ns)


def _terraform(folder: Path, given: ProvisionSettings) -> Provider:
    from adumbra.provision.terraform import TerraformProvider
    from adumbra.provision.terraform_targets import target_of
    from adumbra.provision.terraform_tool import Tool, find_program

    target = target_of(given.terraform_target.value, make_flavors=given.terraform_flavors is TerraformFlavors.MADE)
    if given.terraform_apply is TerraformApply.NEVER:
        return TerraformProvider(folder, target, given.terraform_place)
    tool = Tool(find_program(), folder, given.terraform_timeout)
    return TerraformProvider(folder, target, given.terraform_place, tool, given.terraform_apply is TerraformApply.APPLY)


def active_provider(workspace: Workspace, network: str) -> str | None:
    """By whom the network was activated last, or began to be; None where that never was."""
    newest = workspace.state.plans.newest(network, [state for state in PlanState if state.carried_out])
    return str(newest.plan["provider"]) if newest is not None else None


def usual_provider(workspace: Workspace, network: str) -> str:
    """Who is meant where nobody says who: by whom the network was activated last, else the first there is."""
    return active_provider(workspace, network) or PROVIDERS[0]
