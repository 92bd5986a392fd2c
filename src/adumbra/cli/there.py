"""The use cases at a server, through its API: the same records as here.py gives, so that the same is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from adumbra.cli.uses import Calibrating, Recalibrated

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.client import Client
    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.jobs import SourceRecord
    from adumbra.schema.records import Quantiles, Series
    from adumbra.schema.sizing import NetworkProfile
    from adumbra.schema.state import EventRecord, ObservationRecord, TrainingVersion
    from adumbra.service.activations import Activation
    from adumbra.service.generation import Generated, GenerateOptions
    from adumbra.service.learning import Found
    from adumbra.service.networks import Network
    from adumbra.service.observations import Observation, ObserveOptions, Progress
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
        raise NotImplementedError

    def sources(self, name: str) -> Sequence[SourceRecord]:
        return tuple(self._client.sources(name))

    def span(self, name: str) -> tuple[int, int] | None:
        return self._client.span(name)

    def metrics(self, name: str, query: Mapping[str, Any]) -> Series:
        return self._client.metrics(name, query)

    def generate(self, name: str, target: Path | IO[bytes], options: GenerateOptions, tell: Progress) -> Generated:
        from adumbra.service import generation

        generation.check_options(options)
        tell(0.0, "fitting the traffic model")
        learned = generation.learn_of(self._client.network(name), self._client, options.connections_per_s)
        return generation.write(learned, target, options, tell)

    def calibration(self, name: str) -> Recalibrated:
        found, stale = self._client.calibration(name)
        return Recalibrated(found, stale=stale)

    def calibrate(self, name: str, asked: Calibrating, tell: Progress) -> Recalibrated:
        job = self._client.calibrate(
            name, asked.usage, update=asked.update, measured_on=asked.measured_on, train_share=asked.train_share
        )
        return self._recalibrated(self._result(job, tell))

    def uncalibrate(self, name: str, tell: Progress) -> Recalibrated:
        raise NotImplementedError

    def what_if(self, name: str, question: Question, tell: Progress) -> Answers:
        from adumbra.service.whatif import Answers

        return Answers.from_dict(self._result(self._client.what_if(name, question), tell))

    def train(self, name: str, seed: int, tell: Progress) -> Found:
        from adumbra.service.learning import Found

        return Found.from_dict(self._result(self._client.train(name, seed), tell))

    def forecast(self, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
        return self._client.forecast(name, horizon_s)

    def profile(self, name: str, asked: Asked) -> NetworkProfile:
        return self._client.profile(name, asked)

    def by_hour(self, name: str, asked: Asked) -> Mapping[str, HourlySizes]:
        return self._client.by_hour(name, asked)

    def versions(self, name: str) -> Sequence[TrainingVersion]:
        return tuple(self._client.versions(name))

    def version(self, name: str, number: int) -> TrainingVersion:
        return self._client.version(name, number)

    def rollback(self, name: str, number: int | None) -> TrainingVersion:
        return self._client.rollback(name, number)

    def forget(self, name: str, number: int) -> TrainingVersion:
        return self._client.forget(name, number)

    def activate(self, name: str, provider: str, *, dry_run: bool, tell: Progress) -> Activation:
        raise NotImplementedError

    def deactivate(self, name: str, provider: str, *, dry_run: bool, tell: Progress) -> Activation:
        raise NotImplementedError

    def events(self, name: str | None, limit: int) -> Sequence[EventRecord]:
        return tuple(self._client.events(name, limit))
