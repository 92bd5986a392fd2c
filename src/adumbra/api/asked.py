"""What routes are given in paths and queries, said once: names, times, numbers."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AwareDatetime, BeforeValidator

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_LATEST_NS = 2**63 - 1
_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

NetworkName = Annotated[str, Path(pattern=_NAME, description="The network's name.", examples=["shop"])]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="Which version.", examples=[1])]
JobNumber = Annotated[int, Path(ge=1, le=2**53, description="Which job.", examples=[1])]
PlanNumber = Annotated[int, Path(ge=1, le=2**53, description="Which plan.", examples=[1])]
VmNames = Annotated[
    list[Annotated[str, Query(pattern=_NAME)]],
    Query(alias="vm", max_length=1000, description="Only these VMs; may be given again.", examples=[["web-1"]]),
]


def _rfc3339(given: object) -> object:
    if not (isinstance(given, datetime) or (isinstance(given, str) and _MOMENT.fullmatch(given))):
        raise ValueError("give a time with its zone, such as 2026-01-31T12:00:00Z")
    return given


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
"""A time with its zone (RFC 3339)."""
Since = Annotated[Moment | None, Query(description="From this time on.", examples=["2026-01-31T12:00:00Z"])]
Until = Annotated[Moment | None, Query(description="Up to, but without, this time.", examples=["2026-01-31T13:00:00Z"])]


def ns_of(moment: datetime | None) -> int | None:
    """A time in ns since the epoch; those before it or after the year 2262 as the nearest that there is."""
    if moment is None:
        return None
    whole = round(moment.timestamp() * 1e6) * 1000
    return min(max(whole, 0), _LATEST_NS)
