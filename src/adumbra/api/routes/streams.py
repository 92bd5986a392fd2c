"""Live: what is new of a network, and how far a job is, as server-sent events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from adumbra.api.access import Known, Viewer, allowed
from adumbra.api.asked import JobNumber, NetworkName, VmNames
from adumbra.api.context import At, Server
from adumbra.api.events_stream import EventStream, Follower, Message, Streams
from adumbra.api.problems import problem
from adumbra.api.routes.jobs import job_of
from adumbra.api.routes.metrics import Columns, chosen_columns, metrics_out
from adumbra.api.shapes.events import EventOut
from adumbra.api.shapes.jobs import JobOut
from adumbra.schema.access import Principal, Role
from adumbra.schema.errors import AccessError, UnknownNetworkError
from adumbra.schema.jobs import JobQuery, JobRecord, JobState
from adumbra.schema.records import NANOSECONDS, Origin, SeriesQuery
from adumbra.schema.state import EventQuery, NetworkRecord
from adumbra.service import access, charts, networks

router = APIRouter(tags=["live"])

BACK_NS = 600 * NANOSECONDS
"""How far back whoever comes again is told metrics."""
MAX_VMS = 200
"""Of how many VMs a stream tells metrics where none are named."""
_OVER = "over"
_ID = re.compile(r"(\d{1,19})\.(\d{1,19})")
_LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=100, description="Where it was left off.")]
_EVENT = {  # of each event, as it comes
    "type": "object", "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "description": "Send it as Last-Event-ID to go on from here."},
        "event": {"type": "string", "enum": ["network", "metrics", "event", "job", "problem"]},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "As the routes of these tell it."},
    },
}  # fmt: skip
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}},
}


@router.get(
    "/networks/{name}/stream", summary="What is new of a network: metrics, events, jobs, its state", responses=_STREAM,
    response_class=EventStream,
)  # fmt: skip
def follow_network(
    name: NetworkName,
    at: At,
    who: Viewer,
    request: Request,
    *,
    vms: VmNames = [],  # noqa: B006
    columns: Columns = [],  # noqa: B006
    last_event_id: _LastEventId = None,
) -> Any:
    """Events `network`, `metrics` (each interval once it is stored), `event`, `job`, `problem`. With Last-Event-ID it goes on
    from there, up to ten minutes back. It ends by itself now and then: come again."""
    network = networks.get(at.workspace, name)
    charts.stored_vms(at.workspace, network, tuple(vms))
    follower = _OfNetwork(at, name, tuple(vms), chosen_columns(columns))
    follower.begin(_ID.fullmatch(last_event_id or ""))
    return _followed(request, _Held(at, who, name, follower))


@router.get(
    "/jobs/{number}/stream", summary="How far a job is, until it is over",
    responses=_STREAM | {204: {"description": "It was told to be over already"}}, response_class=EventStream,
)  # fmt: skip
def follow_job(number: JobNumber, at: At, who: Known, request: Request, last_event_id: _LastEventId = None) -> Any:
    """Events `job`, and `problem`. Whoever comes again after it was over is answered 204."""
    found = job_of(at, who, number, Role.VIEWER)
    if found.state.over and last_event_id == _OVER:
        return Response(status_code=204)
    return _followed(request, _Held(at, who, found.network, _OfJob(at, number)))


def _followed(request: Request, follower: _Held) -> Any:
    streams: Streams = request.app.state.streams
    return streams.follow(follower, follower.who.mark) or problem(
        503, "busy", f"{streams.share} streams of yours, or {streams.most} in all, are open already",
        "end one of them, or try again later",
    )  # fmt: skip


@dataclass(slots=True)
class _Held:
    """Follows what another does, for as long as whoever asked may look at that network by their token or sign-in."""

    at: Server
    who: Principal
    network: str
    other: Follower

    @property
    def pause_s(self) -> float:
        return self.other.pause_s

    def look(self) -> tuple[Sequence[Message], bool]:
        now = access.now_of(self.at.workspace, self.who, self.at.now())
        if now is None:
            raise AccessError("your token or sign-in is over", "come again with one that holds")
        allowed(now, Role.VIEWER, self.network)
        try:
            return self.other.look()
        except UnknownNetworkError as error:
            raise error if now.sees(None) else error.discreet() from None


@dataclass(slots=True)
class _OfJob:
    """Follows a job."""

    at: Server
    number: int
    told: JobRecord | None = None
    pause_s: float = 0.25

    def look(self) -> tuple[Sequence[Message], bool]:
        found = self.at.workspace.state.jobs.get(self.number)
        if found == self.told:
            return [], False
        self.told = found
        return [_job(found, _OVER if found.state.over else "")], found.state.over


@dataclass(slots=True)
class _OfNetwork:
    """Follows a network. metrics_ns: the end of the intervals that were told; event: the newest event that was."""

    at: Server
    name: str
    vms: tuple[str, ...]
    columns: tuple[str, ...]
    metrics_ns: int | None = None
    event: int = 0
    network: NetworkRecord | None = None
    jobs: dict[int, JobRecord] = field(default_factory=dict)
    pause_s: float = 1.0

    def begin(self, left_off: re.Match[str] | None) -> None:
        """Goes on from where it was left off; else tells the newest interval, and the events from now on."""
        if left_off is not None:
            self.metrics_ns, self.event = int(left_off[1]), min(int(left_off[2]), 2**63 - 1)
        else:
            self.event = self.at.workspace.state.newest_event()

    def look(self) -> tuple[Sequence[Message], bool]:
        messages = [*self._state(), *self._metrics(), *self._events(), *self._jobs()]
        return messages, False

    @property
    def _id(self) -> str:
        return f"{self.metrics_ns or 0}.{self.event}"

    def _state(self) -> list[Message]:
        found = self.at.workspace.state.network(self.name)
        if self.network is not None and (found.state, found.version) == (self.network.state, self.network.version):
            return []
        self.network = found
        return [Message("network", {"name": found.name, "state": found.state.value, "version": found.version}, self._id)]

    def _metrics(self) -> list[Message]:
        metrics = self.at.workspace.metrics
        span = metrics.span(self.name)
        if span is None or (self.metrics_ns is not None and span[1] <= self.metrics_ns):
            return []
        stored = metrics.vms(self.name)
        vms = tuple(vm for vm in self.vms if vm in stored) if self.vms else stored[:MAX_VMS]
        if not vms:
            return []
        if self.metrics_ns is None:
            network = networks.get(self.at.workspace, self.name)
            series = charts.newest(self.at.workspace, network, vms, span[1], charts.Wanted(self.columns))
        else:
            start_ns = max(self.metrics_ns, span[1] - BACK_NS)
            series = metrics.read(SeriesQuery(self.name, self.columns, vms, start_ns, span[1]))
        self.metrics_ns = span[1]
        return [Message("metrics", metrics_out(series, Origin.SHADOW), self._id)] if series.steps else []

    def _events(self) -> list[Message]:
        told = []
        for each in self.at.workspace.state.events_of(EventQuery((self.name,), after_id=self.event)):
            self.event = each.id
            told.append(Message("event", EventOut.model_validate(each).model_dump(mode="json"), self._id))
        return told

    def _jobs(self) -> list[Message]:
        """Those that are open and differ from what was told, and those that were open and are over."""
        jobs = self.at.workspace.state.jobs
        now = {job.id: job for job in jobs.listing(JobQuery((self.name,), states=(JobState.QUEUED, JobState.RUNNING)))}
        ended = [jobs.get(number) for number in self.jobs if number not in now]
        changed = [job for job in now.values() if self.jobs.get(job.id) != job]
        self.jobs = now
        return [_job(job, self._id) for job in (*ended, *changed)]


def _job(record: JobRecord, id: str) -> Message:
    return Message("job", JobOut.model_validate(record).model_dump(mode="json"), id)
