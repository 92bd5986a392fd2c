"""Forecasts: calibrated quantiles of what VMs will use."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from adumbra.api.access import Viewer
from adumbra.api.answers import written
from adumbra.api.asked import NetworkName, VmNames
from adumbra.api.context import At
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.profiles import ForecastOut
from adumbra.schema.errors import NotFoundError
from adumbra.schema.records import Quantiles
from adumbra.schema.sizing import RESOURCE_UNITS, RESOURCES
from adumbra.service import learning

router = APIRouter(prefix="/networks/{name}/forecast", tags=["forecasts"])
_Resource = Annotated[str, Field(pattern=f"^({'|'.join(RESOURCES)})$", json_schema_extra={"enum": list(RESOURCES)})]


@router.get("", summary="What a network's VMs will use", response_model=ForecastOut)
def show(
    name: NetworkName,
    at: At,
    who: Viewer,
    *,
    horizon_s: Annotated[
        float, Query(ge=1, le=learning.MAX_HORIZON_S, description="How far to look.", examples=[86_400])
    ] = 86_400.0,
    resources: Annotated[
        list[_Resource], Query(alias="resource", max_length=len(RESOURCES), description="Only these; may be given again.")
    ] = [],  # noqa: B006
    vms: VmNames = [],  # noqa: B006
) -> Any:
    """From the end of what is stored, by the models that serve."""
    version, found = learning.foreseen(at.workspace, name, horizon_s)
    chosen = {resource: each for resource, each in found.items() if not resources or resource in resources}
    told = {resource: _of(each, vms, name) for resource, each in chosen.items()}
    return written({"network": name, "version": version, "horizon_s": horizon_s, "resources": told})


def _of(found: Quantiles, vms: list[str], name: str) -> dict[str, Any]:
    missing = [vm for vm in vms if vm not in found.vms]
    if missing:
        raise NotFoundError(f"{name} has no forecast of a VM {missing[0]!r}", f"there are: {', '.join(found.vms[:8])}")
    return {
        "unit": RESOURCE_UNITS[found.resource], "start": instant(found.start_ns), "step_s": found.step_s,
        "steps": found.values.shape[1], "levels": list(found.levels),
        "vms": {vm: np.ascontiguousarray(found.values[row]) for row, vm in enumerate(found.vms) if not vms or vm in vms},
    }  # fmt: skip
