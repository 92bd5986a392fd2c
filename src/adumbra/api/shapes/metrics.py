"""Metrics as they travel: columns on a regular grid, each with its unit and how it was come by."""

from __future__ import annotations

from pydantic import Field

from adumbra.api.shapes.common import Answer, Instant
from adumbra.schema.metrics import Provenance, Rollup
from adumbra.schema.records import Origin


class ColumnOut(Answer):
    """What a column is."""

    unit: str = Field(examples=["bytes"])
    provenance: Provenance = Field(description="How its values were come by.")
    one_sided_provenance: Provenance = Field(description="The same, of steps in which only one side of the traffic was seen.")
    rollup: Rollup = Field(description="How the values of several intervals become that of a step.")
    help: str


class MetricsOut(Answer):
    """Metrics of VMs: step k begins `k` times `step_s` seconds after `start`. null: not known, a gap."""

    network: str
    origin: Origin = Field(description="Of the emulated VMs, or of the real ones.")
    start: Instant
    step_s: float = Field(examples=[1.0])
    steps: int
    columns: dict[str, ColumnOut]
    vms: dict[str, dict[str, list[float | None]]] = Field(description="VM, then column, then a value a step.")
    one_sided: dict[str, list[float | None]] = Field(
        description="Of each VM, the share of each step in which only one side was seen."
    )
