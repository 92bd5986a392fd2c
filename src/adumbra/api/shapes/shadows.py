"""What a shadow has seen, as it travels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool

from adumbra.api.shapes.common import Answer, Asked, Instant, small
from adumbra.schema.sizing import Confidence
from adumbra.schema.sources import MAX_CHARACTERS
from adumbra.schema.state import ObservationState


class ObservationOut(Answer):
    """One run of a source past a shadow."""

    id: int
    source: str = Field(examples=["pcap:shop.pcap"])
    state: ObservationState
    started: Instant = Field(validation_alias="started_ns")
    finished: Instant | None = Field(validation_alias="finished_ns")
    accounts: dict[str, Any] = Field(description="What came of it, and where every frame went; empty before it ends.")


class NewObservation(Asked):
    """A run of a source past a network's shadow on another host, once it is over. Its metrics come as batches."""

    source: str = Field(max_length=MAX_CHARACTERS, examples=["pcap:monday.pcap"])
    fingerprint: str = Field(default="", max_length=500, description="What tells the same source again.")
    failed: StrictBool = Field(default=False, description="It was stopped, or could not go on.")
    accounts: Annotated[dict[str, Any], AfterValidator(small)] = Field(
        default={}, description="What came of it, and where every frame went."
    )


class VmSeenOut(Answer):
    """A VM of the spec."""

    vm: str
    seen: bool = Field(description="Whether anything of it is stored.")
    confidence: Confidence | None = Field(description="How far its newest size may be trusted; null before there is one.")


class AccountsOut(Answer):
    """Packets, or records, of the newest observations together."""

    offered: int
    attributed: int = Field(description="To a VM of the network.")
    missed: int = Field(description="Lost before or while they were metered.")


class ShadowOut(Answer):
    """A network's shadow: what it has seen so far."""

    network: str
    created: Instant
    start: Instant | None = Field(description="Of the first interval that is stored; null: nothing is.")
    end: Instant | None = Field(description="Of the last.")
    learned_s: float
    confidence: Confidence | None = Field(description="The least of its VMs'; null before there is a profile.")
    vms: list[VmSeenOut]
    others: list[str] = Field(description="VMs of which something is stored, but that the spec has no more.")
    accounts: AccountsOut
    observations: list[ObservationOut] = Field(description="The newest.")
