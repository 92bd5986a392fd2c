"""Specs: is one right?"""

from __future__ import annotations

from fastapi import APIRouter

from adumbra.api.access import Viewer
from adumbra.api.context import At
from adumbra.api.routes.networks import vm_out
from adumbra.api.shapes.networks import NewNetwork, SpecChecked
from adumbra.schema.errors import SpecError
from adumbra.schema.spec import expand_vms, spec_to_dict
from adumbra.service import networks

router = APIRouter(prefix="/specs", tags=["networks"])


@router.post("/check", summary="Is this spec right? Makes nothing")
def check(asked: NewNetwork, at: At, who: Viewer) -> SpecChecked:
    try:
        spec = networks.check(asked.spec, "spec")
    except SpecError as error:
        return SpecChecked(valid=False, problems=list(error.problems))
    return SpecChecked(
        valid=True, network=spec.name, spec=spec_to_dict(spec), vms=[vm_out(vm) for vm in expand_vms(spec)]
    )  # fmt: skip
