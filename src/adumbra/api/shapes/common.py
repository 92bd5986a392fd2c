"""What many answers have in common: pages, problems, times."""

from __future__ import annotations

import json
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from adumbra.schema.units import format_time

T = TypeVar("T")
_ACCOUNTS_BYTES = 65_536


def instant(time_ns: int) -> str:
    """A time of the stores as JSON tells it: RFC 3339, UTC, with as many decimals as it needs: nothing of it is lost."""
    return format_time(time_ns)


Instant = Annotated[
    str,
    BeforeValidator(lambda told: instant(told) if isinstance(told, int) else told),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000000001Z"]}),
]
"""A time; a record's ns since the epoch are taken for one."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", examples=["shop"])]
"""A network's name."""


class Answer(BaseModel):
    """What is answered. Built from records, or from plain data."""

    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """What is asked for. A field that isn't known is refused, so that a slip of the pen isn't silently ignored.

    Numbers and truths are to be strict types: else `false` would be taken for 0, and "1" for 1.
    """

    model_config = ConfigDict(extra="forbid")


def small(told: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for plain data that is larger than what is told of a source."""
    if len(json.dumps(told)) > _ACCOUNTS_BYTES:
        raise ValueError(f"accounts of more than {_ACCOUNTS_BYTES:,} bytes are not taken")
    return told


class Page(Answer, Generic[T]):
    """Some of many. next: what to give as `after` for those that follow, none at the end."""

    items: list[T]
    next: str | None = Field(default=None, description="Give it as `after` for the next page; absent at the end.")


class Problem(BaseModel):
    """What went wrong (RFC 9457), and what to do about it."""

    type: str = Field("about:blank", examples=["urn:adumbra:problem:not-found"])
    title: str = Field(examples=["there is no network 'shpo'"])
    status: int = Field(examples=[404])
    detail: str = Field(default="", description="What to do next.", examples=["did you mean 'shop'? there are: shop"])
    problems: list[str] = Field(default_factory=list, description="Each problem of a spec or request, one line each.")
