"""Adumbra: sizes for the VMs of a virtual network before they boot, learned from the traffic meant for them.

Importing this loads no heavy library; the public names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adumbra.schema.version import __version__

if TYPE_CHECKING:
    from adumbra.schema.spec import NetworkSpec, parse_spec
    from adumbra.service.profiles import generate_resource_profile

__all__ = ["NetworkSpec", "__version__", "generate_resource_profile", "parse_spec"]

_HOMES = {
    "NetworkSpec": "adumbra.schema.spec",
    "parse_spec": "adumbra.schema.spec",
    "generate_resource_profile": "adumbra.service.profiles",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adumbra' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
