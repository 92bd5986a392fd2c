"""What was learned of a network: train, list the versions, show one, let one serve, forget one."""

from __future__ import annotations

from fastapi import APIRouter, Response

from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Change, Changing
from adumbra.api.asked import NetworkName, VersionNumber
from adumbra.api.context import At
from adumbra.api.queueing import queued
from adumbra.api.shapes.jobs import JobOut
from adumbra.api.shapes.trainings import NewTrainingIn, TrainingOut
from adumbra.schema.jobs import JobKind
from adumbra.schema.state import TrainingVersion
from adumbra.service import models

router = APIRouter(prefix="/networks/{name}/trainings", tags=["trainings"])


@router.post("", status_code=202, summary="Train models of what the VMs use; a job")
def train(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: NewTrainingIn | None = None
) -> JobOut:
    """They serve unless they would have done worse than those before."""
    return queued(change, response, name, JobKind.TRAIN, {"seed": (asked or NewTrainingIn()).seed})


@router.get("", summary="The versions that are kept, newest first")
def listing(name: NetworkName, at: At, who: Viewer) -> list[TrainingOut]:
    return [TrainingOut.model_validate(each) for each in models.versions(at.workspace, name)]


@router.post("/rollback", summary="Let the newest earlier version serve that served before")
def rollback(name: NetworkName, at: At, who: Operator, change: Changing) -> TrainingOut:
    return _serve(name, None, at, change)


@router.get("/{version}", summary="Show a version")
def show(name: NetworkName, version: VersionNumber, at: At, who: Viewer) -> TrainingOut:
    return TrainingOut.model_validate(models.version(at.workspace, name, version))


@router.post("/{version}/serve", summary="Let a version serve")
def serve(name: NetworkName, version: VersionNumber, at: At, who: Operator, change: Changing) -> TrainingOut:
    return _serve(name, version, at, change)


@router.delete("/{version}", status_code=204, summary="Forget a version; not the one that serves")
def forget(name: NetworkName, version: VersionNumber, at: At, who: Operator, change: Changing) -> None:
    was = models.version(at.workspace, name, version)
    change.make(
        lambda: models.forget(at.workspace, name, version, at.now), asked={"version": version}, before={"serves": was.serves}
    )


def _serve(name: str, version: int | None, at: At, change: Change) -> TrainingOut:
    before = next((each.version for each in models.versions(at.workspace, name) if each.serves), None)

    def now_serving(_: str) -> TrainingVersion:
        return next(each for each in models.versions(at.workspace, name) if each.serves)

    made, _ = change.make_once(
        lambda: models.rollback(at.workspace, name, version, at.now), now_serving,
        asked={"version": version}, before={"serves": before}, after=lambda chosen: {"serves": chosen.version},
    )  # fmt: skip
    return TrainingOut.model_validate(made)
