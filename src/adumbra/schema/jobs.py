"""Work that takes longer than a request, and the sources that a server observes for a network. Nouns only.

Times are ns since the epoch. Mappings are plain JSON data.

What a job's `asked` holds, by its kind; every key is there, null where nothing was said:

    train        {"seed": 1}
    profile      {"shortfall": 0.01, "horizon_s": 604800, "risk": "per-vm"}     null: the spec's target; a week
    calibrate    {"usage": "uploads/3f….csv", "from_traffic": false, "update": false, "reset": false, "train_share": 0.333,
                  "measured_on": null, "called": "use.csv"}
                     usage: a file in the workspace's folder, a Prometheus server's URL, or "live:" for the live readings;
                     null with from_traffic or reset, which goes back to the priors. The file is the job's own: whoever ends
                     the job drops it (service.uploads).
    whatif       {"traffic": 2.0, "vms": ["web-1"], "type": "m7i.large", "last_s": 86400, "sweep": false}
                     vms: [] for all; type: null for the declared; last_s: null for all that is stored
    activate     {"provider": "terraform"}, and "approve": true where whoever asks approves the plan in the same act; or
                  {"plan": 7}: the plan of that number, which waited for approval and has it now
    deactivate   {"provider": null}; null: whoever made it
    rollback     {}

What `result` holds once it is done: what the same command gives by `--output json`.

    train        {"network", "version", "serves", "judgement", "forgotten", and the training's summary}
    profile      the profile (DESIGN.md section 6), and "version"
    calibrate    {"version", and the calibration; "rows": how many stored rows were emulated anew; "keeping": the stores
                     that keep what was written first; with reset no version, and no VM}
    whatif       service.whatif.Answers.to_dict(), and "last_s"
    activate, deactivate, rollback    service.activations.Activation.to_dict()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class JobKind(StrEnum):
    """What is worked on."""

    TRAIN = "train"
    PROFILE = "profile"
    CALIBRATE = "calibrate"
    WHATIF = "whatif"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    ROLLBACK = "rollback"


class JobState(StrEnum):
    """How far it is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A piece of work. asked: what was asked for; share: how much of it is done, 0 to 1, None where that isn't known; doing:
    what is being done; result: what came of it; trouble: why it failed, in one line. attempts: how often it was begun: one
    whose process died is begun again. process: who works at it."""

    id: int
    network: str
    kind: JobKind
    asked: Mapping[str, Any]
    state: JobState
    share: float | None
    doing: str
    result: Mapping[str, Any] | None
    trouble: str
    attempts: int
    process: str
    by: str
    created_ns: int
    started_ns: int | None
    finished_ns: int | None


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs are asked for, newest first. networks: of these only, None for all; kinds, states: () for all."""

    networks: tuple[str, ...] | None = None
    kinds: tuple[JobKind, ...] = ()
    states: tuple[JobState, ...] = ()
    before_id: int | None = None
    limit: int = 100


class Place(StrEnum):
    """Where a source is tapped."""

    SERVER = "server"  # by a process that the server starts and looks after
    REMOTE = "remote"  # by `adumbra tap` on another host


class SourceState(StrEnum):
    """What becomes of a source."""

    WAITING = "waiting"  # to be begun, or begun again after it failed
    RUNNING = "running"
    SILENT = "silent"  # a tap on another host that says nothing any more; it runs again once it is heard
    DONE = "done"  # a file, to its end
    STOPPED = "stopped"  # because somebody asked for it
    FAILED = "failed"  # for good: trying again won't help

    @property
    def over(self) -> bool:
        return self in {SourceState.DONE, SourceState.STOPPED, SourceState.FAILED}


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A source that is to be observed for a network.

    source: as its user names it (schema.sources); options: layer, workers; instance: the tap that has it, a random word,
    "" for none; process: which process that is; seen_ns: when it last said something; restarts: how often it was begun again;
    accounts: where everything went, as it last said; trouble: what went wrong last, or what is to be known.
    """

    id: int
    network: str
    source: str
    options: Mapping[str, Any]
    place: Place
    state: SourceState
    instance: str
    process: str
    host: str
    restarts: int
    trouble: str
    accounts: Mapping[str, Any]
    created_ns: int
    seen_ns: int | None
    next_ns: int | None
