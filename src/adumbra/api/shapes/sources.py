"""Sources and their taps as they travel."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictInt

from adumbra.api.shapes.common import Answer, Asked, Instant, small
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.schema.sources import MAX_CHARACTERS, Layer

_LOSSES = ("late", "untracked", "transport_unread", "uncounted", "evicted_attempts", "evicted_sources")
Instance = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$", examples=["kZ3vX8qLw1s"])]


class NewSource(Asked):
    """A source to be observed. By the server, or, place `remote`, by the tap that registers it."""

    source: str = Field(max_length=MAX_CHARACTERS, examples=["live:eth0", "vxlan:4789", "pcap:monday.pcap"])
    place: Place = Place.SERVER
    layer: Layer = Layer.AUTO
    workers: StrictInt = Field(default=1, ge=1, le=64, description="Processes that share a capture or a live interface.")
    instance: Instance = Field(default="", description="Of a tap: its word for itself.")
    host: str = Field(default="", max_length=253, pattern=r"^[A-Za-z0-9._-]*$", description="Of a tap: where it runs.")


class Heartbeat(Asked):
    """What a tap says of itself, every few seconds."""

    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    process: str = Field(default="", max_length=500)
    accounts: Annotated[dict[str, Any], AfterValidator(small)] | None = Field(
        default=None, description="Where everything went that the source gave."
    )
    trouble: str = Field(default="", max_length=2_000)
    ended: SourceState | None = Field(default=None, description="What became of the source; none while it goes on.")


class HeardOut(Answer):
    """What a tap is told in turn."""

    state: SourceState = Field(description="What is to become of the source; a tap whose source is stopped ends.")
    spec_version: int = Field(description="Of the spec that its shadow is to follow.")
    calibration_version: int = Field(description="Of the calibration that it is to follow; 0 for none.")
    trouble: str


class SourceOut(Answer):
    """A source, and what its tap says of it."""

    id: int
    network: str
    source: str
    options: dict[str, Any]
    place: Place
    state: SourceState
    instance: str
    host: str
    restarts: int
    trouble: str = Field(description="What went wrong last, or is to be known.")
    accounts: dict[str, Any] = Field(description="Where everything went that the source gave.")
    losses: dict[str, int] = Field(description="What of it was lost or could not be metered, where anything was.")
    duplicates: int = Field(description="Rows (VMs x intervals) left out, as another tap had told of them.")
    created: Instant
    seen: Instant | None = Field(description="When its tap last said something.")
    next: Instant | None = Field(description="When it is begun again; null unless it waits for that.")

    @classmethod
    def of(cls, record: SourceRecord, duplicates: int = 0) -> SourceOut:
        """The answer for a record."""
        return cls(
            id=record.id, network=record.network, source=record.source, options=dict(record.options), place=record.place,
            state=record.state, instance=record.instance, host=record.host, restarts=record.restarts, trouble=record.trouble,
            accounts=dict(record.accounts), losses=_losses(record.accounts), duplicates=duplicates,
            created=record.created_ns, seen=record.seen_ns, next=record.next_ns,  # type: ignore[arg-type]
        )  # fmt: skip


class FollowedOut(Answer):
    """What the shadow of a network follows."""

    spec_version: int
    calibration_version: int = Field(description="0 for none.")
    spec: dict[str, Any]
    calibration: dict[str, Any] | None = Field(description="What measured use said of the VMs; null: their roles' priors hold.")


def _losses(accounts: Any) -> dict[str, int]:
    own = accounts.get("losses", {})
    told = {**(own if isinstance(own, dict) else {}), **{name: accounts.get(name) for name in _LOSSES}}
    return {name: count for name, count in told.items() if isinstance(count, int) and count}
