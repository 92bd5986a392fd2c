"""Metrics as they travel between Adumbras: what is said beside the bytes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictFloat, StrictInt

from adumbra.api.shapes.common import Answer, Asked
from adumbra.schema.jobs import SourceState
from adumbra.schema.records import Origin

_Named = Annotated[str, Field(max_length=200)]


class BatchOut(Answer):
    """What became of a batch."""

    replaced: int = Field(description="Rows (VMs x intervals) that replaced what was stored.")
    duplicates: int = Field(default=0, description="Rows left out, as another tap had told of them with traffic in both.")
    trouble: str = Field(default="", description="That in words.")
    state: SourceState | None = Field(default=None, description="Of the source; a tap whose source is stopped ends.")


class DeletedOut(Answer):
    """What was removed."""

    deleted: int = Field(description="Rows (VMs x intervals).")


class SeriesAsked(Asked):
    """Which columns of which VMs, and when. Times are ns since the epoch."""

    columns: list[_Named] = Field(max_length=1_000, examples=[["rx_bytes", "cpu_seconds"]])
    vms: list[_Named] = Field(default_factory=list, max_length=100_000, description="None: all.")
    start_ns: StrictInt | None = Field(None, ge=-(2**62), le=2**62)
    end_ns: StrictInt | None = Field(None, ge=-(2**62), le=2**62)
    step_s: StrictFloat | None = Field(None, allow_inf_nan=False, description="The grid; none: the stored interval.")
    origin: Origin = Origin.SHADOW


class StoredOut(Answer):
    """What is stored of a network."""

    vms: list[str]
    start_ns: int | None = Field(
        description="The beginning of the first interval, ns since the epoch; null: nothing is stored."
    )
    end_ns: int | None


class StoreOut(Answer):
    """What the server's metric store can do."""

    version: str = Field(description="Of Adumbra.")
    replaces: bool = Field(description="What is written last stands in place of what was there.")
    deletes: bool
