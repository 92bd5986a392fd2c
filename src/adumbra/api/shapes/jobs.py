"""Jobs as they travel."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from adumbra.api.shapes.common import Answer, Instant
from adumbra.schema.jobs import JobKind, JobState


class JobOut(Answer):
    """Work that takes longer than a request."""

    id: int
    network: str
    kind: JobKind
    state: JobState
    asked: dict[str, Any]
    share: float | None = Field(description="How much of it is done, 0 to 1; null where that isn't known.")
    doing: str = Field(description="What is being done.")
    result: dict[str, Any] | None = Field(description="What came of it, once it is done.")
    trouble: str = Field(description="Why it failed, and what to do.")
    attempts: int
    by: str
    created: Instant = Field(validation_alias="created_ns")
    started: Instant | None = Field(validation_alias="started_ns")
    finished: Instant | None = Field(validation_alias="finished_ns")
