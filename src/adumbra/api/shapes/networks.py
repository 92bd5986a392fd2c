"""Networks as they travel."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from adumbra.api.shapes.common import Answer, Asked, Instant, Name
from adumbra.schema.state import NetworkState

SPEC_EXAMPLE = """name: shop
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, ports: [80]}]
"""


class NewNetwork(Asked):
    """A network to be created, or a spec to take the place of another."""

    spec: str = Field(description="The spec, YAML or JSON.", max_length=16 * 1024 * 1024, examples=[SPEC_EXAMPLE])


class VmOut(Answer):
    """A VM of a network."""

    name: str
    subnet: str
    role: str | None
    addresses: list[str]
    declared: str = Field(description="The size that the spec declares, in words; - for none.")


class NetworkOut(Answer):
    """A network."""

    name: Name
    state: NetworkState
    version: int = Field(description="Counts its specs from 1. The ETag of its updates.")
    created: Instant
    updated: Instant
    spec: dict[str, Any]
    vms: list[VmOut]


class SpecChecked(Answer):
    """Whether a spec is right, and the network that it would make."""

    valid: bool
    problems: list[str] = Field(default=[], description="One line each: where, what, how to mend it.")
    network: Name | None = None
    spec: dict[str, Any] | None = None
    vms: list[VmOut] = Field(default_factory=list)


class NetworkVersionOut(Answer):
    """A spec that a network has, or had."""

    version: int
    created: Instant
    replaced: Instant | None = Field(description="null: it is the present one.")
    spec_text: str = Field(description="As it was given.")


class NetworkRow(Answer):
    """A network in a list."""

    name: Name
    state: NetworkState
    version: int
    vms: int
    cidrs: list[str]
    created: Instant
    updated: Instant
    spec: dict[str, Any] | None = Field(default=None, description="Where it was asked for.")
