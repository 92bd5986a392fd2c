"""Events as they travel."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from adumbra.api.shapes.common import Answer, Instant


class EventOut(Answer):
    """Something that happened."""

    id: int
    time: Instant = Field(validation_alias="time_ns")
    network: str | None = Field(description="Its name, which may be that of a network since deleted; null: of no network.")
    kind: str = Field(examples=["network.created"])
    message: str
    data: dict[str, Any]
