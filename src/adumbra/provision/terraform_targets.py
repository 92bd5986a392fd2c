"""Which targets the terraform provider has. A target is loaded when it is asked for."""

from __future__ import annotations

from adumbra.provision.terraform_document import Target
from adumbra.schema.errors import InputError

TARGETS = ("aws", "openstack", "libvirt")


def target_of(name: str, *, make_flavors: bool = True) -> Target:
    """The target of that name. make_flavors: OpenStack's flavors are made by size. Raises InputError."""
    if name == "aws":
        from adumbra.provision.terraform_aws import AWS

        return AWS
    if name == "openstack":
        from adumbra.provision.terraform_openstack import openstack

        return openstack(make_flavors)
    if name == "libvirt":
        from adumbra.provision.terraform_libvirt import LIBVIRT

        return LIBVIRT
    raise InputError(f"terraform has no target {name!r}", f"choose one of: {', '.join(TARGETS)}")
