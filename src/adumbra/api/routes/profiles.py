"""Resource profiles: the newest, earlier ones, a new one; sizes by the hour of the week."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Changing
from adumbra.api.answers import unless_known, written
from adumbra.api.asked import NetworkName, VersionNumber
from adumbra.api.context import At
from adumbra.api.etags import IfNoneMatch, etag
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.profiles import DIAL, ByHourOut, ProfileAsked, ProfileOut, ProfileRow
from adumbra.schema.errors import NotFoundError
from adumbra.schema.sizing import RESOURCE_UNITS, Risk
from adumbra.schema.state import ProfileRecord
from adumbra.service import profiles

router = APIRouter(prefix="/networks/{name}", tags=["profiles"])
_KNOWN: dict[int | str, dict[str, Any]] = {304: {"description": "It is as you know it"}}


@router.get("/profile", summary="The newest profile of a network", response_model=ProfileOut, responses=_KNOWN)
def show(name: NetworkName, at: At, who: Viewer, if_none_match: IfNoneMatch = None) -> Any:
    found = at.workspace.state.profile(name)
    if found is None:
        raise NotFoundError(f"{name} has no profile yet", "train it, then POST to this route to make one")
    return unless_known(profile_out(found), _tag(found), if_none_match)


@router.post(
    "/profile", status_code=201, summary="Make a profile of the models that serve, and keep it", response_model=ProfileOut
)
def make(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: ProfileAsked | None = None
) -> Any:
    given = asked or ProfileAsked()
    wanted = profiles.Asked(given.shortfall, given.horizon_s, given.risk)
    made, _ = change.make_once(
        lambda: profiles.kept(at.workspace, name, at.now, wanted)[1],
        lambda subject: _version(at.workspace.state.profiles(name), name, int(subject.rpartition("/")[2])),
        asked=given.model_dump(mode="json"), after=lambda record: {"version": record.version},
    )  # fmt: skip
    return written(profile_out(made), {"ETag": _tag(made), "Location": f"/v1/networks/{name}/profiles/{made.version}"}, 201)


@router.get("/profile/by-hour", summary="Sizes for each hour of the week to come", response_model=ByHourOut)
def by_hour(
    name: NetworkName,
    at: At,
    who: Viewer,
    shortfall: Annotated[float | None, Query(gt=0, le=0.5, description=DIAL)] = None,
) -> Any:
    """Of what throttles: CPU and bandwidth. Needs a week of what was observed."""
    asked = profiles.Asked(shortfall)
    found = profiles.by_hour(at.workspace, name, asked)
    resources = {resource: each.to_dict() | {"unit": RESOURCE_UNITS[resource]} for resource, each in found.items()}
    return written({"network": name, "shortfall": profiles.shortfall_of(at.workspace, name, asked), "resources": resources})


@router.get("/profiles", summary="The profiles that are kept, newest first")
def listing(name: NetworkName, at: At, who: Viewer) -> list[ProfileRow]:
    return [_row(each) for each in at.workspace.state.profiles(name)]


@router.get("/profiles/{version}", summary="A profile that is kept", response_model=ProfileOut, responses=_KNOWN)
def show_version(name: NetworkName, version: VersionNumber, at: At, who: Viewer, if_none_match: IfNoneMatch = None) -> Any:
    found = _version(at.workspace.state.profiles(name), name, version)
    return unless_known(profile_out(found), _tag(found), if_none_match)


def _version(kept: tuple[ProfileRecord, ...], name: str, version: int) -> ProfileRecord:
    for each in kept:
        if each.version == version:
            return each
    told = ", ".join(str(each.version) for each in kept)
    raise NotFoundError(f"{name} has no profile {version}", f"kept are {told}" if told else "it has none yet")


def profile_out(record: ProfileRecord) -> dict[str, Any]:
    """ProfileOut as plain data."""
    told = {"version": record.version, "created": instant(record.created_ns), "risk": Risk.PER_VM.value}
    return {**told, **record.profile}


def _tag(record: ProfileRecord) -> str:
    """A network that was deleted and made again begins to count anew: the time tells them apart."""
    return etag(f"{record.version}-{record.created_ns:x}")


def _row(record: ProfileRecord) -> ProfileRow:
    profile = record.profile
    prices = [vm["price_per_hour"] for vm in profile["vms"]]
    return ProfileRow(
        version=record.version, created=instant(record.created_ns), horizon_s=profile["horizon_s"],
        shortfall=profile["shortfall"], risk=Risk(profile.get("risk", Risk.PER_VM)), learned_s=profile["learned_s"],
        model=profile["model"], vms=len(prices), price_per_hour=None if None in prices else sum(prices),
    )  # fmt: skip
