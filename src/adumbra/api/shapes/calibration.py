"""Calibrations as they travel."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from adumbra.api.shapes.common import Answer, Instant


class CalibrationOut(Answer):
    """What measured use said of a network's VMs."""

    network: str
    version: int = Field(description="Counts the network's calibrations from 1.")
    created: Instant
    emulated: Instant | None = Field(description="When all that is stored had been emulated by it; null: not yet.")
    usage: str = Field(description="What it was learned from.")
    start: Instant
    end: Instant
    follows: int | None = Field(description="The calibration that it goes on from.")
    vms: list[dict[str, Any]] = Field(description="Of each VM, its fits by resource, and why others were refused.")
    notes: list[str]
