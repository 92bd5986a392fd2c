"""Policies as they travel."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from adumbra.api.shapes.common import Answer, Asked, Instant

POLICY_EXAMPLE = """budget: $2/h
approval: {above: $1/h}
vms:
  "*": {types: [m7i.*], caps: {cpu_cores: 16}}
"""


class NewPolicy(Asked):
    """A policy that a network's next plans are held to."""

    policy: str = Field(
        description="The policy, YAML or JSON.", min_length=1, max_length=1024 * 1024, examples=[POLICY_EXAMPLE]
    )


class PolicyOut(Answer):
    """A network's policy."""

    network: str
    version: int = Field(description="Counts the network's policies from 1. The ETag of its changes.")
    created: Instant
    text: str = Field(description="As it was given.")
    budget_per_hour: float | None = Field(description="What all VMs may cost together, US dollars.")
    approval_above_per_hour: float | None
    approval_increase_per_hour: float | None
    keep_above_use: bool
    use_margin: float
    vms: dict[str, dict[str, Any]] = Field(description="VM, VM group or * -> floors, caps and types.")
