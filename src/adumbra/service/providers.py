"""Which providers there are, and how each is opened for a network of a workspace. A driver is loaded when it is used."""

from __future__ import annotations

import time

from adumbra.provision.protocol import Provider
from adumbra.schema.errors import InputError
from adumbra.schema.plans import PROVIDERS
from adumbra.schema.state import PlanState
from adumbra.service.workspace import Workspace
from adumbra.settings import load_libvirt_settings


def check_provider(provider: str) -> None:
    """Raises InputError where there is no such provider."""
    if provider not in PROVIDERS:
        raise InputError(f"there is no provider {provider!r}", f"choose one of: {', '.join(PROVIDERS)}")


def provider_of(workspace: Workspace, provider: str, network: str) -> Provider:
    """The provider of that name for a network; it touches nothing until it is opened by `with`. Raises InputError."""
    check_provider(provider)
    if provider == "libvirt":
        from adumbra.provision.libvirt import LibvirtProvider

        created_ns = workspace.state.network(network).created_ns
        return LibvirtProvider(load_libvirt_settings(), network, str(created_ns), time.time_ns)
    from adumbra.provision.terraform import TerraformProvider

    return TerraformProvider(workspace.provider_folder(provider, network))


def active_provider(workspace: Workspace, network: str) -> str | None:
    """By whom the network was activated last, or began to be; None where that never was."""
    newest = workspace.state.plans.newest(network, [state for state in PlanState if state.carried_out])
    return str(newest.plan["provider"]) if newest is not None else None
