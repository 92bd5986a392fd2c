"""A network's shadow: what it has seen, and from which sources."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName
from adumbra.api.context import At
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.shadows import AccountsOut, NewObservation, ObservationOut, ShadowOut, VmSeenOut
from adumbra.schema.errors import NotFoundError
from adumbra.schema.state import ObservationRecord, ObservationState
from adumbra.service import networks, shadows

router = APIRouter(prefix="/networks/{name}", tags=["shadows"])


@router.get("/shadow", summary="What a network's shadow has seen so far")
def show(name: NetworkName, at: At, who: Viewer) -> ShadowOut:
    found = shadows.seen(at.workspace, name)
    start_ns, end_ns = found.span or (None, None)
    return ShadowOut(
        network=name, created=instant(found.record.created_ns), start=start_ns, end=end_ns,  # type: ignore[arg-type]
        learned_s=found.learned_s, confidence=found.confidence, vms=[VmSeenOut.model_validate(vm) for vm in found.vms],
        others=list(found.others), accounts=AccountsOut.model_validate(found),
        observations=[ObservationOut.model_validate(each) for each in found.observations],
    )  # fmt: skip


@router.get("/observations", summary="The runs of sources past a network's shadow, newest first")
def observations(
    name: NetworkName, at: At, who: Viewer, limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100
) -> list[ObservationOut]:
    networks.get(at.workspace, name)
    return [ObservationOut.model_validate(each) for each in at.workspace.state.observations(name, limit)]


@router.post("/observations", status_code=201, summary="Note a run of a source past the network's shadow on another host")
def note(name: NetworkName, asked: NewObservation, at: At, who: Operator, change: Changing) -> ObservationOut:
    """Once it is over; its metrics were shipped as batches."""
    state = at.workspace.state
    outcome = ObservationState.FAILED if asked.failed else ObservationState.DONE

    def keep() -> ObservationRecord:
        begun = state.begin_observation(name, asked.source, asked.fingerprint, at.now())
        return state.finish_observation(begun.id, outcome, asked.accounts, at.now())

    def again(subject: str) -> ObservationRecord:
        number = int(subject.partition("/")[2])
        found = next((each for each in state.observations(name) if each.id == number), None)
        if found is None:
            raise NotFoundError(f"{name} has no observation {number} any more", "newer ones took its place")
        return found

    made, _ = change.make_once(keep, again, asked={"source": asked.source})
    return ObservationOut.model_validate(made)
