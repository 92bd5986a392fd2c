"""A worker: `python -m adumbra.daemon.work JOB`. Takes a job, does it, says how far it is and how it ended.

Ended by a signal it leaves no word: whoever began it queues the job again. Exit status: 0 also where the job failed, which
its record tells; 75 where trying again may help (sysexits.h, EX_TEMPFAIL).
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace

import structlog

from adumbra.schema.errors import AdumbraError, NotFoundError, StoreBusyError, StoreUnavailableError
from adumbra.schema.jobs import JobRecord, JobState
from adumbra.service import uploads
from adumbra.service.jobs import perform
from adumbra.service.opening import storage_of
from adumbra.service.workspace import Workspace
from adumbra.settings import load_settings
from adumbra.store.processes import this_process
from adumbra.telemetry import set_up_log

AGAIN = 75
NICENESS = 5
TELL_EVERY_S = 0.5


class _NotWantedError(Exception):
    """The job was cancelled, or given to another."""


class _Telling:
    """Notes how far a job is, now and then. Raises _NotWantedError where it isn't this worker's any more."""

    def __init__(self, workspace: Workspace, job: JobRecord) -> None:
        self._jobs, self._job = workspace.state.jobs, job
        self._told_s = 0.0

    def __call__(self, share: float | None, doing: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        if not self._jobs.tell(self._job.id, share, doing):
            raise _NotWantedError


def work(workspace: Workspace, number: int) -> int:
    """Does that job, if it waits. Gives the exit status."""
    job = workspace.state.jobs.take(number, time.time_ns())
    if job is None:
        return 0
    log = structlog.get_logger(__name__).bind(job=number, network=job.network, kind=job.kind.value)
    state, result, trouble = JobState.DONE, None, ""
    try:
        result = perform(workspace, job, time.time_ns, _Telling(workspace, job))
    except _NotWantedError:
        return 0
    except (StoreBusyError, StoreUnavailableError) as error:
        log.warning("can't be done now", trouble=str(error))
        return AGAIN
    except AdumbraError as error:
        state, trouble = JobState.FAILED, str(error)
    except MemoryError:
        state, trouble = JobState.FAILED, "it takes more memory than there is; ask for less, or give the server more"
    except Exception:
        log.exception("failed by a fault of its own")
        state, trouble = JobState.FAILED, "it failed by a fault of the program; the server's log tells more"
    with suppress(NotFoundError):  # its network is gone
        workspace.state.jobs.finish(number, state, time.time_ns(), result, trouble, process=this_process())
    uploads.drop(workspace, job.asked)
    return 0


def main() -> int:
    """Works in the workspace that the environment names."""
    os.nice(NICENESS)  # whoever asks the server something waits for an answer, and nobody for this
    settings = load_settings()
    set_up_log(settings.log_level, settings.log_format)
    with Workspace(settings.home, replace(storage_of(settings), direct=True)) as workspace:
        return work(workspace, int(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
