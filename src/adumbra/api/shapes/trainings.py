"""What was learned, as it travels."""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictInt

from adumbra.api.shapes.common import Answer, Asked, Instant


class NewTrainingIn(Asked):
    """A training that is asked for."""

    seed: StrictInt = Field(default=1, ge=0, le=2**32 - 1, description="What is drawn by chance follows from it.", examples=[1])


class TrainingOut(Answer):
    """A version of a network's models."""

    network: str
    version: int
    serves: bool = Field(description="Whether forecasts and sizes come from it.")
    created: Instant = Field(validation_alias="created_ns")
    served: Instant | None = Field(validation_alias="served_ns", description="When it last began to serve; null: never.")
    bytes: int = Field(validation_alias="artifact_bytes", description="How large the models are.")
    origin: dict[str, Any] | None = Field(description="What it was learned from, and by what.")
    judgement: dict[str, Any] | None = Field(description="How it did beside the version that served, and why it serves or not.")
    summary: dict[str, Any] = Field(description="Which model serves each resource, why, and its scores on held-out time.")
