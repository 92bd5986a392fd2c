"""Sources of networks: asked for, registered by taps, listed with what they lost, stopped; and what a tap's shadow follows."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Changing
from adumbra.api.context import At
from adumbra.api.etags import IfNoneMatch, etag, holds
from adumbra.api.paging import DEFAULT_LIMIT, After, Limit, id_after, page
from adumbra.api.shapes.common import Page
from adumbra.api.shapes.sources import FollowedOut, HeardOut, Heartbeat, NewSource, SourceOut
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.service import taps

router = APIRouter(prefix="/networks/{name}", tags=["sources"])
Number = Annotated[int, Path(ge=1, lt=2**63, description="The source's number.")]


@router.post("/sources", status_code=201, summary="Have a source observed, or register a tap")
def add(name: str, asked: NewSource, at: At, who: Operator, change: Changing, response: Response) -> SourceOut:
    del who
    wanted = taps.Asked(asked.source, {"layer": asked.layer.value, "workers": asked.workers})
    tap = asked.instance, asked.host or change.origin
    if asked.place is Place.REMOTE:
        taps.make_room(at.workspace, name, asked.source, tap, at.now())

    def make() -> SourceRecord:
        if asked.place is Place.REMOTE:
            return taps.register(at.workspace, name, wanted, tap, at.now())
        return taps.ask_for(at.workspace, name, wanted, at.captures, at.now())

    made, _ = change.make_once(
        make, lambda subject: taps.of_network(at.workspace, name, int(subject.partition("/")[2])),
        asked=asked.model_dump(mode="json"), after=lambda source: {"id": source.id},
    )  # fmt: skip
    at.wake()
    response.headers["Location"] = f"/v1/networks/{name}/sources/{made.id}"
    return SourceOut.of(made)


@router.get("/sources", summary="List the sources of a network, newest first, with what they lost")
def listing(
    name: str,
    at: At,
    who: Viewer,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    state: Annotated[SourceState | None, Query(description="Only those in this state.")] = None,
) -> Page[SourceOut]:
    del who
    before = id_after(after)
    found = [
        each
        for each in at.workspace.state.sources.of(name)
        if state in {None, each.state} and (before is None or each.id < before)
    ]
    these, following = page(found[: limit + 1], limit, lambda record: record.id)
    counted = taps.duplicates(at.workspace, name)
    return Page(items=[SourceOut.of(each, counted.get(each.instance, 0)) for each in these], next=following)


@router.get("/sources/{number}", summary="Show a source")
def show(name: str, number: Number, at: At, who: Viewer) -> SourceOut:
    del who
    return _out(at, taps.of_network(at.workspace, name, number))


@router.post("/sources/{number}/stop", summary="Have a source observed no more")
def stop(name: str, number: Number, at: At, who: Operator, change: Changing) -> SourceOut:
    del who
    was = taps.of_network(at.workspace, name, number)
    stopped, _ = change.make_once(
        lambda: taps.stop(at.workspace, name, number, at.now()),
        lambda _: taps.of_network(at.workspace, name, number),
        before={"state": was.state.value}, after=lambda source: {"state": source.state.value},
    )  # fmt: skip
    at.wake()
    return _out(at, stopped)


@router.post("/sources/{number}/heartbeat", summary="Say how a tap does, and hear what it is to do")
def heartbeat(name: str, number: Number, told: Heartbeat, at: At, who: Operator) -> HeardOut:
    del who
    said = taps.Told(told.instance, told.process, told.accounts, told.trouble, told.ended)
    return HeardOut.model_validate(taps.hear(at.workspace, name, number, said, at.now()))


@router.get(
    "/shadow/followed", summary="What the network's shadow follows", responses={304: {"description": "It is as you know it"}}
)
def shadow(name: str, at: At, who: Viewer, response: Response, if_none_match: IfNoneMatch = None) -> FollowedOut:
    del who
    found = taps.followed(at.workspace, name)
    response.headers["ETag"] = etag(f"{found.spec_version}.{found.calibration_version}-{found.created_ns:x}")
    if holds(if_none_match, response.headers["ETag"]):
        return Response(status_code=304, headers=dict(response.headers))  # type: ignore[return-value]
    return FollowedOut.model_validate(found)


def _out(at: At, record: SourceRecord) -> SourceOut:
    counted = taps.duplicates(at.workspace, record.network) if record.instance else {}
    return SourceOut.of(record, counted.get(record.instance, 0))
