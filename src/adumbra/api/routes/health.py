"""Whether the server lives, and whether it can do its work. For whoever asks, so they tell nothing else."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from adumbra.api.context import At
from adumbra.api.problems import problem
from adumbra.api.shapes.common import Problem
from adumbra.api.shapes.health import Alive, Ready
from adumbra.schema.errors import AdumbraError

router = APIRouter(tags=["health"])
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "It can't do its work now"}}


@router.get("/healthz", summary="Does the server answer?")
def healthz() -> Alive:
    return Alive()


@router.get("/readyz", summary="Can the server do its work? Its state store answers, and its loops run", responses=_NOT_READY)
def readyz(at: At) -> Ready:
    try:
        at.workspace.state.newest_event()
    except AdumbraError:
        return problem(503, "not-ready", "the state store does not answer", "the server's log tells more")  # type: ignore[return-value]
    if not at.ready():
        return problem(503, "not-ready", "the loops do not run", "the server's log tells more")  # type: ignore[return-value]
    return Ready()
