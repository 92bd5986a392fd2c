"""The use cases in the workspace on this host. Each method is its function of service/, with the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from adumbra.cli.uses import Calibrating, Recalibrated

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.fanout import Fanout
    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.jobs import SourceRecord
    from adumbra.schema.records import Quantiles, Series
    from adumbra.schema.sizing import NetworkProfile
    from adumbra.schema.state import EventRecord, ObservationRecord, PlanRecord, TrainingVersion
    from adumbra.service.activations import Activation
    from adumbra.service.generation import Generated, GenerateOptions
    from adumbra.service.learning import Found
    from adumbra.service.live import ByHand, Comparison
    from adumbra.service.networks import Network
    from adumbra.service.observations import Observation, ObserveOptions, Progress
    from adumbra.service.policies import KeptPolicy
    from adumbra.service.profiles import Asked
    from adumbra.service.whatif import Answers, Question
    from adumbra.service.workspace import Workspace


class Here:
    """The use cases over an opened workspace. fanout: where tasks are worked on. Modules are loaded by the first use."""

    def __init__(self, workspace: Workspace, now: Callable[[], int], fanout: Fanout) -> None:
        self._workspace, self._now, self._fanout = workspace, now, fanout

    def create(self, text: str, file: str) -> Network:
        from adumbra.service import networks

        return networks.create(self._workspace, text, file, self._now())

    def networks(self) -> Sequence[Network]:
        from adumbra.service import networks

        return networks.listing(self._workspace)

    def network(self, name: str) -> Network:
        from adumbra.service import networks

        return networks.get(self._workspace, name)

    def observations(self, name: str) -> Sequence[ObservationRecord]:
        return self._workspace.state.observations(name)

    def update(self, text: str, file: str) -> Network:
        from adumbra.service import networks

        return networks.update(self._workspace, text, file, self._now())

    def delete(self, name: str, *, force: bool) -> Sequence[str]:
        from adumbra.service import networks

        networks.delete(self._workspace, name, self._now(), force=force)
        return self._workspace.left_by_deletion(name)

    def observe(self, name: str, source: str, options: ObserveOptions, tell: Progress) -> Observation:
        from adumbra.service import observations

        return observations.observe(self._workspace, name, source, self._now, tell, options=options)

    def sources(self, name: str) -> Sequence[SourceRecord]:
        return self._workspace.state.sources.of(name)

    def span(self, name: str) -> tuple[int, int] | None:
        return self._workspace.metrics.span(name)

    def metrics(self, name: str, query: Mapping[str, Any]) -> Series:
        from adumbra.service import observations

        return observations.metrics(self._workspace, name, query)

    def generate(self, name: str, target: Path | IO[bytes], options: GenerateOptions, tell: Progress) -> Generated:
        from adumbra.service import generation

        return generation.generate(self._workspace, name, target, options, tell)

    def calibration(self, name: str) -> Recalibrated:
        from adumbra.service import calibrations

        found = calibrations.shown(self._workspace, name)
        return Recalibrated(found, stale=found is not None and calibrations.is_stale(self._workspace, name))

    def calibrate(self, name: str, asked: Calibrating, tell: Progress) -> Recalibrated:
        from adumbra.service import calibrations

        opened, now, on = self._workspace, self._now, asked.measured_on
        if asked.usage is None:
            found = calibrations.from_traffic(opened, name, now, tell, measured_on=on)
        elif asked.update:
            found = calibrations.update_from(opened, name, asked.usage, now, tell, measured_on=on)
        else:
            found = calibrations.from_usage(
                opened, name, asked.usage, now, tell, train_share=asked.train_share, measured_on=on
            )  # fmt: skip
        rows = calibrations.reemulate(opened, name, now, tell)
        return Recalibrated(found, rows, opened.keeping)

    def uncalibrate(self, name: str, tell: Progress) -> Recalibrated:
        from adumbra.service import calibrations

        if not calibrations.reset(self._workspace, name, self._now):
            return Recalibrated(None)
        return Recalibrated(
            None, calibrations.reemulate(self._workspace, name, self._now, tell), self._workspace.keeping
        )  # fmt: skip

    def what_if(self, name: str, question: Question, tell: Progress) -> Answers:
        from adumbra.service.whatif import what_if

        return what_if(self._workspace, name, question, tell, self._fanout)

    def train(self, name: str, seed: int, tell: Progress) -> Found:
        from adumbra.service import learning

        return learning.train(self._workspace, name, self._now, tell, learning.How(seed, self._fanout)).found()

    def forecast(self, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
        from adumbra.service import learning

        return learning.forecast(self._workspace, name, horizon_s)

    def profile(self, name: str, asked: Asked) -> NetworkProfile:
        from adumbra.service import profiles

        return profiles.profile(self._workspace, name, self._now, asked)

    def by_hour(self, name: str, asked: Asked) -> Mapping[str, HourlySizes]:
        from adumbra.service import profiles

        return profiles.by_hour(self._workspace, name, asked)

    def versions(self, name: str) -> Sequence[TrainingVersion]:
        from adumbra.service import models

        return models.versions(self._workspace, name)

    def version(self, name: str, number: int) -> TrainingVersion:
        from adumbra.service import models

        return models.version(self._workspace, name, number)

    def rollback(self, name: str, number: int | None) -> TrainingVersion:
        from adumbra.service import models

        return models.rollback(self._workspace, name, number, self._now)

    def forget(self, name: str, number: int) -> TrainingVersion:
        from adumbra.service import models

        return models.forget(self._workspace, name, number, self._now)

    def policy(self, name: str) -> KeptPolicy:
        from adumbra.service import policies

        return policies.shown(self._workspace, name)

    def set_policy(self, name: str, text: str, file: str) -> KeptPolicy:
        from adumbra.service import policies

        return policies.put(self._workspace, name, text, self._now, file=file)

    def clear_policy(self, name: str) -> KeptPolicy:
        from adumbra.service import policies

        return policies.clear(self._workspace, name, self._now)

    def plan(self, name: str, number: int | None) -> PlanRecord:
        from adumbra.service import approvals

        return approvals.newest(self._workspace, name, number)

    def approve(self, name: str, number: int | None, tell: Progress) -> Activation:
        from adumbra.service import approvals
        from adumbra.service.access import local_user

        del tell
        return approvals.approve(self._workspace, name, number, local_user().name, self._now)

    def reject(self, name: str, number: int | None) -> PlanRecord:
        from adumbra.service import approvals
        from adumbra.service.access import local_user

        return approvals.reject(self._workspace, name, number, local_user().name, self._now)

    def undo_plan(self, name: str, *, dry_run: bool, tell: Progress) -> Activation:
        from adumbra.service import rollbacks

        del tell
        return rollbacks.rollback(self._workspace, name, self._now, dry_run=dry_run)

    def activate(self, name: str, provider: str, *, dry_run: bool, approve: bool, tell: Progress) -> Activation:
        from adumbra.service import activations
        from adumbra.service.access import local_user

        del tell
        by = local_user().name if approve else None
        return activations.activate(self._workspace, name, provider, self._now, dry_run=dry_run, approved_by=by)

    def deactivate(self, name: str, provider: str | None, *, dry_run: bool, tell: Progress) -> Activation:
        from adumbra.service import activations

        del tell
        return activations.deactivate(self._workspace, name, provider, self._now, dry_run=dry_run)

    def compare(self, name: str, last_s: float, step_s: float | None) -> Comparison:
        from adumbra.service import live

        return live.compare(self._workspace, name, last_s, step_s)

    def read_live(self, name: str, by_hand: ByHand) -> int:
        from adumbra.service import live

        return live.read_for(self._workspace, name, by_hand)

    def events(self, name: str | None, limit: int) -> Sequence[EventRecord]:
        return self._workspace.state.events(name, limit=limit)
