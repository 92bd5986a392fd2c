"""What is kept of a network: itself, its shadow, observations, trainings, profiles, plans and events. Nouns only.

Times are ns since the epoch. Mappings are plain JSON data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class NetworkState(StrEnum):
    """Where a network stands in its life."""

    SHADOWING = "shadowing"  # its shadow watches; no profile yet
    READY = "ready"  # it has a profile to activate
    ACTIVATING = "activating"
    ACTIVE = "active"  # its VMs stand
    FAILED = "failed"  # an act on it failed; running the act again goes on from there
    DELETING = "deleting"


class ObservationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # its process died without a word


class PlanState(StrEnum):
    AWAITING = "awaiting"  # somebody must approve it; nothing of it is carried out before
    REJECTED = "rejected"  # it won't be carried out: somebody said so, or another plan took its place
    EXECUTING = "executing"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"  # what it had done was taken back

    @property
    def carried_out(self) -> bool:
        """Whether any of it was carried out, or may have been."""
        return self not in {PlanState.AWAITING, PlanState.REJECTED}


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network as its user declared it last. `version` counts its specs from 1.

    spec_json: the spec as JSON says it, which is read sooner than its text; "" where that isn't known.
    """

    id: int
    name: str
    spec_text: str
    version: int
    state: NetworkState
    created_ns: int
    updated_ns: int
    spec_json: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class NetworkVersion:
    """A spec that a network had before, from created_ns until it was replaced."""

    version: int
    spec_text: str
    created_ns: int
    replaced_ns: int


@dataclass(frozen=True, slots=True)
class Tallies:
    """How many there are. networks: by (state,); sources: by (place, state); jobs: by (kind, state)."""

    networks: Mapping[tuple[str, ...], int]
    sources: Mapping[tuple[str, ...], int]
    jobs: Mapping[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """A network's shadow. It is made with the network, in the same transaction, and goes with it."""

    id: int
    network: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class ObservationRecord:
    """One run of a source past a network's shadow. `fingerprint` tells the same source again; `accounts` where all went."""

    id: int
    network: str
    source: str
    fingerprint: str
    state: ObservationState
    accounts: Mapping[str, Any]
    started_ns: int
    finished_ns: int | None


@dataclass(frozen=True, slots=True)
class NewTraining:
    """A training that is to be kept. summary: what to show of it; artifact: the models, as bytes; origin: what it was learned
    from and by what; judgement: how it did beside the version that served, and why it serves now, or doesn't (None: nothing
    is known of that). serves: whether it is to serve; against: the version that served when this was decided, None: none.
    """

    summary: Mapping[str, Any]
    artifact: bytes = field(repr=False)
    origin: Mapping[str, Any] | None = None
    judgement: Mapping[str, Any] | None = None
    serves: bool = True
    against: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingVersion:
    """One of a network's trainings, without its models. `version` counts them from 1, and no number is given twice.

    serves: whether forecasts and sizes come from it, which is so of one of them; served_ns: when it last began to, None:
    never. origin, judgement: as in NewTraining; None in one that was kept before these were.
    """

    network: str
    version: int
    summary: Mapping[str, Any]
    origin: Mapping[str, Any] | None
    judgement: Mapping[str, Any] | None
    created_ns: int
    served_ns: int | None
    serves: bool
    artifact_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingRecord(TrainingVersion):
    """The same, with its models."""

    artifact: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SavedTraining:
    """A training as it is kept now, and the versions that went as it came."""

    kept: TrainingVersion
    forgotten: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """What measured use said of a network's VMs (schema.calibration.Calibration as plain data; of no VM: back to the priors).

    `version` counts its calibrations from 1; emulated_ns: when all that is stored had been emulated by it, None: not yet.
    """

    network: str
    version: int
    calibration: Mapping[str, Any]
    created_ns: int
    emulated_ns: int | None


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """A resource profile of a network. `version` counts its profiles from 1."""

    network: str
    version: int
    profile: Mapping[str, Any]
    created_ns: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What came of one attempt at a plan's step `index`. A step that was tried again has several, in order."""

    index: int
    outcome: Mapping[str, Any]
    recorded_ns: int


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan that is, was or may be carried out, and the outcomes of its steps in the order in which they came.

    decided_by: who approved or rejected it, and decided_ns: when; None where nobody had to, or nobody has yet.
    """

    id: int
    network: str
    state: PlanState
    plan: Mapping[str, Any]
    steps: tuple[StepRecord, ...]
    created_ns: int
    finished_ns: int | None
    decided_by: str | None = None
    decided_ns: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A network's policy, as its user wrote it. `version` counts its policies from 1, those that were cleared too."""

    network: str
    version: int
    text: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened. `network` is a name, which may be that of a network since deleted; None: of no network."""

    id: int
    time_ns: int
    network: str | None
    kind: str
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkQuery:
    """Which networks are asked for, by name. names: of these only, None for all; after: those whose names come later."""

    names: tuple[str, ...] | None = None
    state: NetworkState | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events are asked for, newest first. networks: of these only, None for all and those of no network; kinds: of these,
    where "job" is "job.done" too, () for all; before_id, after_id: those older or newer than that one, and with after_id
    the oldest first.
    """

    networks: tuple[str, ...] | None = None
    kinds: tuple[str, ...] = ()
    since_ns: int | None = None
    before_id: int | None = None
    after_id: int | None = None
    limit: int = 100


class MirrorState(StrEnum):
    INSTALLING = "installing"  # its plan is kept, and any part of it may stand
    INSTALLED = "installed"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class MirrorRecord:
    """A mirror on this host. `plan` is a schema.mirrors.MirrorPlan as plain data, kept before anything was touched."""

    id: int
    network: str
    state: MirrorState
    plan: Mapping[str, Any]
    created_ns: int
    updated_ns: int
