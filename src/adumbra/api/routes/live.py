"""The live network: what was predicted against what was measured."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from adumbra.api.access import Viewer
from adumbra.api.answers import written
from adumbra.api.asked import NetworkName, Since, ns_of
from adumbra.api.context import At
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.live import LiveOut
from adumbra.service import live

router = APIRouter(prefix="/networks/{name}/live", tags=["live"])


@router.get("", summary="What was predicted of a network's VMs against what was measured", response_model=LiveOut)
def show(
    name: NetworkName,
    at: At,
    who: Viewer,
    *,
    last_s: Annotated[
        float, Query(ge=live.LEAST_LAST_S, le=live.MOST_LAST_S, description="How much of what was measured, from its end.")
    ] = live.LAST_S,
    step_s: Annotated[
        float | None, Query(ge=0.1, le=86_400, description="The step on which both are compared. Else what suits.")
    ] = None,
    since: Since = None,
) -> Any:
    """Steps in which one of them isn't known are gaps, and counted."""
    found = live.compare(at.workspace, name, last_s, step_s, since_ns=ns_of(since))
    told = found.to_dict()
    for each in ("start", "end", "learned_until"):
        time_ns = told.pop(f"{each}_ns")
        told[each] = None if time_ns is None else instant(time_ns)
    return written(told)
