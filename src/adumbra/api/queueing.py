"""Work that takes longer than a request: queued as a job, once for each key, and the loops told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Response

from adumbra.api.acts import Change
from adumbra.api.shapes.jobs import JobOut
from adumbra.schema.jobs import JobKind, JobRecord
from adumbra.service import networks


def queued(change: Change, response: Response, name: str, kind: JobKind, asked: Mapping[str, Any]) -> JobOut:
    """Queues a job of a network, or finds the one that was queued under the same key. Raises NotFoundError, ConflictError."""
    return queued_with(change, response, name, kind, lambda: asked)


def queued_with(change: Change, response: Response, name: str, kind: JobKind, ask: Callable[[], Mapping[str, Any]]) -> JobOut:
    """The same; `ask` gives what is asked for, and is called only where the job is queued now."""
    server = change.server
    jobs = server.workspace.state.jobs
    networks.get(server.workspace, name)

    def add() -> JobRecord:
        return jobs.add(name, kind, ask(), change.who.name, server.now())

    made, _ = change.make_once(
        add, lambda subject: jobs.get(int(subject.partition("/")[2])), asked={"kind": kind.value},
        after=lambda job: {"job": job.id, "asked": dict(job.asked)}, network=name,
    )  # fmt: skip
    server.wake()
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return JobOut.model_validate(made)
