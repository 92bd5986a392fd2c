"""The use cases at a server, through its API: the same records as here.py gives, so that the same is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from adumbra.cli.output import say
from adumbra.cli.uses import Calibrating, Recalibrated

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.client import Client
    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.jobs import JobRecord, SourceRecord
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


class There:
    """The use cases over an opened client. What needs this host (sources, files) is done here."""

    def __init__(self, client: Client, now: Callable[[], int]) -> None:
        self._client, self._now = client, now

    def create(self, text: str, file: str) -> Network:
        from adumbra.service import networks

        networks.check(text, file)  # here it is told by the file's own name and lines
        return self._client.create_network(text)

    def networks(self) -> Sequence[Network]:
        return tuple(self._client.networks())

    def network(self, name: str) -> Network:
        return self._client.network(name)

    def observations(self, name: str) -> Sequence[ObservationRecord]:
        return tuple(self._client.observations(name))

    def update(self, text: str, file: str) -> Network:
        from adumbra.service import networks

        return self._client.update_network(networks.check(text, file).name, text)

    def delete(self, name: str, *, force: bool) -> Sequence[str]:
        self._client.delete_network(name, force=force)
        return ()

    def observe(self, name: str, source: str, options: ObserveOptions, tell: Progress) -> Observation:
        from adumbra.client.observing import Kept, observe
        from adumbra.settings import load_settings

        settings = load_settings()
        kept = Kept(settings.home, round(settings.spool_gb * 1e9), settings.drain_s, say)
        return observe(self._client, name, source, self._now, tell, options=options, kept=kept)

    def sources(self, name: str) -> Sequence[SourceRecord]:
        return tuple(self._client.sources(name))

    def span(self, name: str) -> tuple[int, int] | None:
        return self._client.span(name)

    def metrics(self, name: str, query: Mapping[str, Any]) -> Series:
        self._client.network(name)  # it is there
        return self._client.metrics(name, **query)

    def generate(self, name: str, target: Path | IO[bytes], options: GenerateOptions, tell: Progress) -> Generated:
        from adumbra.service import generation

        generation.check_options(options)
        tell(0.0, "fitting the traffic model")
        learned = generation.learn_of(self._client.network(name), self._client, options.connections_per_s)
        return generation.write(learned, target, options, tell)

    def calibration(self, name: str) -> Recalibrated:
        found = self._client.calibration(name)
        return Recalibrated(None) if found is None else Recalibrated(found[0], stale=not found[1])

    def calibrate(self, name: str, asked: Calibrating, tell: Progress) -> Recalibrated:
        if asked.usage is None:
            job = self._client.calibrate_from_traffic(name, asked.measured_on)
        else:
            share = None if asked.update else asked.train_share
            job = self._client.calibrate(
                name, asked.usage, update=asked.update, train_share=share, measured_on=asked.measured_on
            )
        return _recalibrated(self._result(job, tell))

    def uncalibrate(self, name: str, tell: Progress) -> Recalibrated:
        return _recalibrated(self._result(self._client.reset_calibration(name), tell))

    def what_if(self, name: str, question: Question, tell: Progress) -> Answers:
        from adumbra.service import whatif

        whatif.check(question)
        return self._client.what_if(name, question, tell)

    def train(self, name: str, seed: int, tell: Progress) -> Found:
        from adumbra.client import records
        from adumbra.service.learning import Found

        return records.told(Found.from_dict, self._result(self._client.train(name, seed), tell))

    def forecast(self, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
        from adumbra.service import learning

        learning.check_horizon(horizon_s)
        return self._client.forecast(name, horizon_s)

    def profile(self, name: str, asked: Asked) -> NetworkProfile:
        from adumbra.service import profiles

        profiles.check(asked)
        return self._client.make_profile(name, asked)

    def by_hour(self, name: str, asked: Asked) -> Mapping[str, HourlySizes]:
        from adumbra.service import profiles

        profiles.check(asked)
        return self._client.by_hour(name, asked.shortfall)

    def versions(self, name: str) -> Sequence[TrainingVersion]:
        return tuple(self._client.versions(name))

    def version(self, name: str, number: int) -> TrainingVersion:
        return self._client.version(name, number)

    def rollback(self, name: str, number: int | None) -> TrainingVersion:
        return self._client.rollback(name, number)

    def forget(self, name: str, number: int) -> TrainingVersion:
        gone = self._client.version(name, number)
        self._client.forget(name, number)
        return gone

    def policy(self, name: str) -> KeptPolicy:
        return self._client.policy(name)

    def set_policy(self, name: str, text: str, file: str) -> KeptPolicy:
        from adumbra.service import policies

        policies.check(text, file, self._client.network(name).vms)  # here it is told by the file's own name and lines
        return self._client.set_policy(name, text)

    def clear_policy(self, name: str) -> KeptPolicy:
        gone = self._client.policy(name)
        self._client.clear_policy(name)
        return gone

    def plan(self, name: str, number: int | None) -> PlanRecord:
        return self._client.kept_plan(name, number)

    def approve(self, name: str, number: int | None, tell: Progress) -> Activation:
        from adumbra.service.activations import Activation

        return Activation.from_dict(self._result(self._client.approve(name, self._waiting(name, number)), tell))

    def reject(self, name: str, number: int | None) -> PlanRecord:
        return self._client.reject(name, self._waiting(name, number))

    def undo_plan(self, name: str, *, dry_run: bool, tell: Progress) -> Activation:
        from adumbra.service.activations import Activation

        if dry_run:
            return self._client.plan(name, rollback=True)
        return Activation.from_dict(self._result(self._client.undo_plan(name), tell))

    def _waiting(self, name: str, number: int | None) -> int:
        """The plan of that number or, where none is given, the one that waits for approval."""
        from adumbra.schema.state import PlanState
        from adumbra.service.approvals import none_waits

        if number is not None:
            return number
        for each in self._client.plans(name):
            if each.state is PlanState.AWAITING:
                return each.id
        raise none_waits(name)

    def activate(self, name: str, provider: str, *, dry_run: bool, approve: bool, tell: Progress) -> Activation:
        def act(name: str, provider: str) -> JobRecord:
            return self._client.activate(name, provider, approve=approve)

        return self._acted(name, provider, tell, act, dry_run=dry_run)

    def deactivate(self, name: str, provider: str | None, *, dry_run: bool, tell: Progress) -> Activation:
        return self._acted(name, provider, tell, self._client.deactivate, dry_run=dry_run)

    def compare(self, name: str, last_s: float, step_s: float | None) -> Comparison:
        from adumbra.service import live

        live.check(last_s, step_s)
        return self._client.live(name, last_s, step_s)

    def read_live(self, name: str, by_hand: ByHand) -> int:
        from adumbra.schema.errors import InputError

        del by_hand
        raise InputError(
            f"--read reads by this host's own workspace, and the server reads {name} by itself",
            f"run `adumbra live {name}`; ADUMBRA_SERVE_WATCH_EVERY of the server says how often it reads",
        )

    def events(self, name: str | None, limit: int) -> Sequence[EventRecord]:
        return tuple(self._client.events(name, limit))

    def _acted(
        self, name: str, provider: str | None, tell: Progress, act: Callable[..., JobRecord], *, dry_run: bool
    ) -> Activation:
        from adumbra.service import activations
        from adumbra.service.providers import check_provider

        if provider is not None:
            check_provider(provider)
        if dry_run:
            return self._client.plan(name, provider, deactivate=act == self._client.deactivate)
        return activations.Activation.from_dict(self._result(act(name, provider), tell))

    def _result(self, job: JobRecord, tell: Progress) -> Mapping[str, Any]:
        """What came of a job. Whoever stops waiting for it stops it as well, unless it makes VMs."""
        from adumbra.schema.errors import AdumbraError, ServerError
        from adumbra.schema.jobs import JobKind

        try:
            done = self._client.follow(job, tell)
        except KeyboardInterrupt:
            if job.kind in {JobKind.ACTIVATE, JobKind.DEACTIVATE, JobKind.ROLLBACK}:
                say(f"job {job.id} goes on at the server: adumbra events {job.network}")
                raise
            with suppress(AdumbraError):
                self._client.cancel(job)
            raise
        if done.result is None:
            raise ServerError(f"job {job.id} has no result", "give server and client the same version")
        return done.result


def _recalibrated(result: Mapping[str, Any]) -> Recalibrated:
    """What became of a calibration, of its job's result."""
    from adumbra.client import records
    from adumbra.service.calibrations import Calibrated

    def read(told: Mapping[str, Any]) -> Recalibrated:
        rest = {name: value for name, value in told.items() if name not in {"rows", "keeping"}}
        found = Calibrated.from_dict(rest) if rest.get("version") is not None else None
        return Recalibrated(found, int(told["rows"]), tuple(told["keeping"]))

    return records.told(read, result)
