"""Follows a job until it is over: by the events that its server sends, or else by asking now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from adumbra.client import records
from adumbra.client.asking import Asker, Request
from adumbra.schema.errors import AdumbraError, ServerError
from adumbra.schema.jobs import JobRecord, JobState
from adumbra.schema.problems import error_of_plain

Progress = Callable[[float | None, str], None]
MOST_LINE = 4 * 2**20
_STREAMS = 3
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0


def follow(asker: Asker, job: JobRecord, tell: Progress = lambda *_: None) -> JobRecord:
    """The job as it is once it is over, `tell` being told meanwhile. Raises its trouble where it failed, or was cancelled."""
    left, pause_s = _STREAMS, _FIRST_PAUSE_S
    while not job.state.over:
        tell(job.share, job.doing)
        if left > 0:
            left -= 1
            job = _streamed(asker, job, tell)
            continue
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _MOST_PAUSE_S)
        job = read(asker, job.id)
    return _ended_well(job)


def read(asker: Asker, number: int) -> JobRecord:
    """A job as it is now."""
    return records.told(job_of, asker.get(f"/jobs/{number}"))


def job_of(answer: Any) -> JobRecord:
    """A job of an answer."""
    return records.record(JobRecord, answer, process="")


def _streamed(asker: Asker, job: JobRecord, tell: Progress) -> JobRecord:
    """The job as the last event told of it, or as it is now; whatever ends the events."""
    wanted = Request("GET", f"/jobs/{job.id}/stream", accept="text/event-stream", headers={"Cache-Control": "no-store"})
    try:
        with asker.stream(wanted) as lines:
            for kind, data in events(lines):
                if kind != "job":
                    continue
                job = records.told(job_of, data)
                if job.state.over:
                    return job
                tell(job.share, job.doing)
    except ServerError:
        pass  # it is asked instead
    return read(asker, job.id)


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The kind and data of each event of a stream (WHATWG HTML, 9.2), its data being JSON. Comments keep it alive only.

    Raises ServerError for data that is none, or too long.
    """
    kind, told, size = "message", list[str](), 0
    for line in lines:
        if not line:
            if told:
                yield kind, _json("\n".join(told))
            kind, told, size = "message", [], 0
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            told.append(value)
            size += len(value)
            if size > MOST_LINE:
                raise ServerError("the server sends an event that is too long", "is it an Adumbra server?")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ServerError("the server sends an event that is no JSON", "is it an Adumbra server?") from None


def _ended_well(job: JobRecord) -> JobRecord:
    if job.state is JobState.DONE:
        return job
    if job.state is JobState.CANCELLED:
        raise AdumbraError(
            f"job {job.id}, {job.kind.value} of {job.network}, was cancelled", "ask for it again if it is wanted"
        )
    try:
        error = error_of_plain((job.result or {})["problem"])
    except (KeyError, TypeError, ValueError):
        error = AdumbraError(job.trouble or f"job {job.id} failed")
    raise error
