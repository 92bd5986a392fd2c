"""What a job of each kind does, by the use case that the same command does it with. Knows no queue.

What a job is asked for, and what its result holds, stands at the top of schema/jobs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adumbra.schema.jobs import JobKind, JobRecord
from adumbra.schema.sizing import Risk
from adumbra.service.observations import Progress
from adumbra.service.workspace import Workspace

Now = Callable[[], int]


def perform(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    """Does what was asked for; gives its result. Raises what its use case raises."""
    return _DONE_BY[job.kind](workspace, job, now, progress)


def _train(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import learning

    seed = job.asked.get("seed")
    how = learning.How() if seed is None else learning.How(int(seed))
    trained = learning.train(workspace, job.network, now, progress, how)
    judged = trained.judged
    return {
        "network": job.network, "version": trained.version, "serves": judged is None or judged.serves,
        "judgement": judged.to_dict() if judged else None, "forgotten": list(trained.forgotten), **trained.training.summary(),
    }  # fmt: skip


def _profile(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import profiles

    progress(None, "sizing")
    risk = job.asked.get("risk")
    asked = profiles.Asked(
        job.asked.get("shortfall"), job.asked.get("horizon_s"), Risk.PER_VM if risk is None else Risk(risk)
    )  # fmt: skip
    sized = profiles.profile(workspace, job.network, now, asked)
    kept = workspace.state.profile(job.network)
    return {**sized.to_dict(), "version": kept.version if kept else None}


def _calibrate(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import calibrations, uploads

    name, asked = job.network, job.asked
    usage, measured_on, called = asked.get("usage"), asked.get("measured_on"), str(asked.get("called") or "")
    if asked.get("reset"):
        changed = calibrations.reset(workspace, name, now)
        rows = calibrations.reemulate(workspace, name, now, progress) if changed else 0
        return {"network": name, "vms": [], "rows": rows, "keeping": list(workspace.keeping) if changed else []}
    if asked.get("from_traffic") or usage is None:
        found = calibrations.from_traffic(workspace, name, now, progress, measured_on=measured_on)
    else:
        source = str(uploads.path(workspace, usage)) if uploads.is_kept(usage) else str(usage)
        if asked.get("update"):
            found = calibrations.update_from(workspace, name, source, now, progress, measured_on=measured_on, called=called)
        else:
            share = asked.get("train_share")
            found = calibrations.from_usage(
                workspace, name, source, now, progress, measured_on=measured_on, called=called,
                train_share=calibrations.TRAIN_SHARE if share is None else float(share),
            )  # fmt: skip
    rows = calibrations.reemulate(workspace, name, now, progress)
    return {**found.to_dict(), "rows": rows, "keeping": list(workspace.keeping)}


def _what_if(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service.whatif import Question, what_if

    del now
    asked = job.asked
    factor, last_s = asked.get("traffic"), asked.get("last_s")
    question = Question(
        1.0 if factor is None else float(factor), tuple(asked.get("vms") or ()), asked.get("type"), last_s,
        bool(asked.get("sweep")),
    )  # fmt: skip
    return {**what_if(workspace, job.network, question, progress).to_dict(), "last_s": last_s}


def _activate(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import activations, approvals

    progress(None, "planning, and carrying the plan out")
    if job.asked.get("plan") is not None:
        return approvals.approve(workspace, job.network, int(job.asked["plan"]), job.by, now).to_dict()
    by = job.by if job.asked.get("approve") else None
    return activations.activate(workspace, job.network, str(job.asked.get("provider")), now, approved_by=by).to_dict()


def _deactivate(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import activations

    progress(None, "planning, and carrying the plan out")
    return activations.deactivate(workspace, job.network, job.asked.get("provider"), now).to_dict()


def _rollback(workspace: Workspace, job: JobRecord, now: Now, progress: Progress) -> Mapping[str, Any]:
    from adumbra.service import rollbacks

    progress(None, "taking back what the plan has done")
    return rollbacks.rollback(workspace, job.network, now).to_dict()


_DONE_BY: Mapping[JobKind, Callable[[Workspace, JobRecord, Now, Progress], Mapping[str, Any]]] = {
    JobKind.TRAIN: _train,
    JobKind.PROFILE: _profile,
    JobKind.CALIBRATE: _calibrate,
    JobKind.WHATIF: _what_if,
    JobKind.ACTIVATE: _activate,
    JobKind.DEACTIVATE: _deactivate,
    JobKind.ROLLBACK: _rollback,
}
