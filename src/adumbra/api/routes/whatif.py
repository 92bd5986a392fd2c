"""What if: other traffic, other machines. At once where that is little work, else as a job."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from adumbra.api.access import Viewer
from adumbra.api.acts import Changing
from adumbra.api.answers import written
from adumbra.api.asked import NetworkName
from adumbra.api.context import At
from adumbra.api.queueing import queued
from adumbra.api.shapes.jobs import JobOut
from adumbra.api.shapes.whatif import AnswersOut, QuestionIn
from adumbra.schema.jobs import JobKind
from adumbra.service import whatif
from adumbra.service.whatif import Question

router = APIRouter(prefix="/networks/{name}/whatif", tags=["what-if"])

AT_ONCE_WORK = 120_000
"""How much is answered at once, in whatif.work_of's measure: about a second's work of one core."""
_AT_ONCE = threading.BoundedSemaphore(2)
_Prefer = Annotated[
    str | None, Header(alias="Prefer", max_length=200, description="`respond-async`: as a job in any case (RFC 7240).")
]


@router.post(
    "", summary="What VMs would need with other traffic, or on other machines", response_model=AnswersOut,
    responses={202: {"description": "It is more than a second's work: a job does it", "model": JobOut}},
)  # fmt: skip
def ask(
    name: NetworkName,
    asked: QuestionIn,
    at: At,
    who: Viewer,
    change: Changing,
    response: Response,
    prefer: _Prefer = None,
) -> Any:
    """Changes nothing."""
    question = Question(asked.traffic, tuple(asked.vms), asked.type, asked.last_s, asked.sweep)
    work = whatif.work_of(at.workspace, name, question)
    wants_job = asked.sweep or work > AT_ONCE_WORK or "respond-async" in (prefer or "").lower()
    if not wants_job and _AT_ONCE.acquire(blocking=False):
        try:
            found = whatif.what_if(at.workspace, name, question)
        finally:
            _AT_ONCE.release()
        return written(found.to_dict() | {"last_s": asked.last_s})
    job = queued(change, response, name, JobKind.WHATIF, asked.model_dump(mode="json"))
    return written(job.model_dump(mode="json"), {"Location": response.headers["Location"]}, 202)
