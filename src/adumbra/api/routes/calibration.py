"""Calibration: what measured use says of a network's VMs; by a file that comes with the request, or without one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, StrictBool, StrictFloat
from starlette.exceptions import HTTPException

from adumbra.api.access import Operator, Viewer, allowed
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName
from adumbra.api.context import At
from adumbra.api.queueing import queued, queued_with
from adumbra.api.shapes.calibration import CalibrationOut
from adumbra.api.shapes.common import Asked, Problem, instant
from adumbra.api.shapes.jobs import JobOut
from adumbra.schema.access import Role
from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.jobs import JobKind
from adumbra.service import calibrations, uploads
from adumbra.service.live_usage import LIVE

router = APIRouter(prefix="/networks/{name}/calibration", tags=["calibration"])

_TYPES = {
    "text/csv": ".csv", "application/vnd.apache.parquet": ".parquet", "application/gzip": ".gz", "application/zstd": ".zst",
    "application/octet-stream": "",
}  # fmt: skip
_MEASURED_ON = "On what it was measured: an instance type, or a core's speed in reference cores. Else the declared type."
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True, "description": "Measured use: CSV, plain or packed, or Parquet.",
        "content": {
            kind: {"schema": {"type": "string", "minLength": 1, **({} if kind == "text/csv" else {"format": "binary"})}}
            for kind in _TYPES
        },
    }
}  # fmt: skip
_BODY["requestBody"]["content"]["text/csv"]["example"] = (
    "vm,time,cpu_cores,memory_bytes\nweb-1,2026-01-31T12:00:00Z,0.8,2147483648\n"
)
MeasuredOn = Annotated[str | None, Field(max_length=64, description=_MEASURED_ON, examples=["m7i.large"])]


class FromTrafficIn(Asked):
    """How to learn from response times."""

    measured_on: MeasuredOn = None


class FromLiveIn(Asked):
    """How to learn from live readings."""

    update: StrictBool = Field(default=False, description="Go on from the last calibration with later readings.")
    train_share: StrictFloat = Field(default=calibrations.TRAIN_SHARE, ge=0.05, le=0.95)
    measured_on: MeasuredOn = None


class FromPrometheusIn(Asked):
    """A server that has what was measured."""

    url: str = Field(pattern=r"^https?://[^\s@]+$", max_length=1000, examples=["http://prometheus.example:9090"])
    update: StrictBool = Field(default=False, description="Go on from the last calibration with later use.")
    train_share: StrictFloat = Field(default=calibrations.TRAIN_SHARE, ge=0.05, le=0.95)
    measured_on: MeasuredOn = None


async def _uploaded(request: Request) -> tuple[bytes, str]:
    """The body, and what its file's name ends with. Raises HTTPException for what is no usage file."""
    kind = request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise HTTPException(415, f"measured use is one of {', '.join(_TYPES)}")
    return await request.body(), _TYPES[kind]


@router.get("", summary="The calibration that a network's emulated VMs follow")
def show(name: NetworkName, at: At, who: Viewer) -> CalibrationOut:
    kept = at.workspace.state.calibration(name)
    if kept is None or not kept.calibration["vms"]:
        raise NotFoundError(f"{name} was not calibrated: it follows its roles' priors", "POST what was measured to this route")
    told = dict(kept.calibration)
    return CalibrationOut(
        network=name, version=kept.version, created=instant(kept.created_ns), emulated=kept.emulated_ns,  # type: ignore[arg-type]
        usage=told["usage"], start=told["start_ns"], end=told["end_ns"], follows=told.get("follows"), vms=told["vms"],
        notes=told["notes"],
    )  # fmt: skip


@router.post(
    "", status_code=202, summary="Fit a network's VMs to measured use that comes with the request; a job", openapi_extra=_BODY,
    responses={415: {"model": Problem, "description": "It is no usage file"}},
)  # fmt: skip
def calibrate(
    name: NetworkName,
    at: At,
    who: Operator,
    change: Changing,
    response: Response,
    uploaded: Annotated[tuple[bytes, str], Depends(_uploaded)],
    *,
    update: Annotated[bool, Query(description="Go on from the last calibration with later use.")] = False,
    train_share: Annotated[
        float, Query(ge=0.05, le=0.95, description="The share of the time that is fitted when the error is told.")
    ] = calibrations.TRAIN_SHARE,
    measured_on: Annotated[str | None, Query(max_length=64, description=_MEASURED_ON)] = None,
    called: Annotated[str, Query(max_length=1000, description="What the file is called, in what is told of it.")] = "",
) -> JobOut:
    """The file is kept until the job ends, and no longer."""
    content, suffix = uploaded
    if not content:
        raise InputError("no use came with the request", "send a CSV or Parquet file as its body")
    kept: list[str] = []

    def ask() -> dict[str, Any]:
        kept.append(uploads.keep(at.workspace, content, suffix))
        return _asked(usage=kept[0], update=update, train_share=train_share, measured_on=measured_on, called=called)

    read = None
    try:
        queued_job = queued_with(change, response, name, JobKind.CALIBRATE, ask)
        read = queued_job.asked["usage"]
        return queued_job
    finally:
        for each in kept:
            if each != read:  # no job came of it, or another request with the same key came first
                uploads.drop(at.workspace, {"usage": each})


@router.post("/from-traffic", status_code=202, summary="Correct a network's VMs by observed response times; a job")
def calibrate_from_traffic(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: FromTrafficIn | None = None
) -> JobOut:
    """Where nothing was measured. A weak statement, and a wide one."""
    on = asked.measured_on if asked else None
    return queued(change, response, name, JobKind.CALIBRATE, _asked(from_traffic=True, measured_on=on))


@router.post("/from-prometheus", status_code=202, summary="Fit a network's VMs to what a Prometheus server has; a job")
def calibrate_from_prometheus(
    name: NetworkName, asked: FromPrometheusIn, at: At, who: Operator, change: Changing, response: Response
) -> JobOut:
    """For administrators: this server asks that address by itself."""
    allowed(who, Role.ADMIN, name)
    return queued(change, response, name, JobKind.CALIBRATE, _asked(**asked.model_dump()))


@router.post("/from-live", status_code=202, summary="Fit a network's VMs to what its real machines use; a job")
def calibrate_from_live(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: FromLiveIn | None = None
) -> JobOut:
    """By the live readings that are stored. A server does it by itself as well, now and then."""
    given = asked or FromLiveIn()
    return queued(change, response, name, JobKind.CALIBRATE, _asked(usage=LIVE, **given.model_dump()))


@router.delete("", status_code=202, summary="Take a network's VMs back to their roles' priors; a job")
def reset(name: NetworkName, at: At, who: Operator, change: Changing, response: Response) -> JobOut:
    return queued(change, response, name, JobKind.CALIBRATE, _asked(reset=True))


def _asked(
    usage: str | None = None, *, from_traffic: bool = False, update: bool = False, reset: bool = False,
    train_share: float = calibrations.TRAIN_SHARE, measured_on: str | None = None, url: str = "", called: str = "",
) -> dict[str, Any]:  # fmt: skip
    """See schema.jobs."""
    return {
        "usage": usage or url or None, "from_traffic": from_traffic, "update": update, "reset": reset,
        "train_share": train_share, "measured_on": measured_on, "called": called,
    }  # fmt: skip
