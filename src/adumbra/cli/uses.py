"""What commands ask for: the use cases, as they are called here, whoever does them. Types only; see here.py and there.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.jobs import SourceRecord
    from adumbra.schema.records import Quantiles, Series
    from adumbra.schema.sizing import NetworkProfile
    from adumbra.schema.state import EventRecord, ObservationRecord, TrainingVersion
    from adumbra.service.activations import Activation
    from adumbra.service.calibrations import Calibrated
    from adumbra.service.generation import Generated, GenerateOptions
    from adumbra.service.learning import Found
    from adumbra.service.live import ByHand, Comparison
    from adumbra.service.networks import Network
    from adumbra.service.observations import Observation, ObserveOptions, Progress
    from adumbra.service.profiles import Asked
    from adumbra.service.whatif import Answers, Question

Now = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Calibrating:
    """How to calibrate. usage: measured use, a file or a Prometheus URL; None: from the traffic; update: to go on from the last
    calibration; train_share: of the time that is fitted when the error is told; measured_on: see service.measured_on."""

    usage: str | None
    update: bool = False
    measured_on: str | None = None
    train_share: float = 1 / 3


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What became of a network's calibration. found: the one that it follows, None: its roles' priors; rows: how many of what
    is stored were emulated anew; keeping: the stores that keep what was written first; stale: what is stored was not yet
    emulated by it."""

    found: Calibrated | None
    rows: int = 0
    keeping: tuple[str, ...] = ()
    stale: bool = False


class Uses(Protocol):
    """The use cases. Each raises what its function of service/ does, and StoreError."""

    def create(self, text: str, file: str) -> Network: ...
    def networks(self) -> Sequence[Network]: ...
    def network(self, name: str) -> Network: ...
    def observations(self, name: str) -> Sequence[ObservationRecord]: ...
    def update(self, text: str, file: str) -> Network: ...

    def delete(self, name: str, *, force: bool) -> Sequence[str]:
        """Sentences on what is still there of it."""
        ...

    def observe(self, name: str, source: str, options: ObserveOptions, tell: Progress) -> Observation: ...

    def sources(self, name: str) -> Sequence[SourceRecord]:
        """Those that a server observes for a network, newest first."""
        ...

    def span(self, name: str) -> tuple[int, int] | None: ...
    def metrics(self, name: str, query: Mapping[str, Any]) -> Series: ...
    def generate(self, name: str, target: Path | IO[bytes], options: GenerateOptions, tell: Progress) -> Generated: ...

    def calibration(self, name: str) -> Recalibrated: ...
    def calibrate(self, name: str, asked: Calibrating, tell: Progress) -> Recalibrated: ...
    def uncalibrate(self, name: str, tell: Progress) -> Recalibrated: ...

    def what_if(self, name: str, question: Question, tell: Progress) -> Answers: ...

    def train(self, name: str, seed: int, tell: Progress) -> Found: ...
    def forecast(self, name: str, horizon_s: float) -> Mapping[str, Quantiles]: ...
    def profile(self, name: str, asked: Asked) -> NetworkProfile: ...
    def by_hour(self, name: str, asked: Asked) -> Mapping[str, HourlySizes]: ...

    def versions(self, name: str) -> Sequence[TrainingVersion]: ...
    def version(self, name: str, number: int) -> TrainingVersion: ...
    def rollback(self, name: str, number: int | None) -> TrainingVersion: ...
    def forget(self, name: str, number: int) -> TrainingVersion: ...

    def activate(self, name: str, provider: str, *, dry_run: bool, tell: Progress) -> Activation: ...
    def deactivate(self, name: str, provider: str | None, *, dry_run: bool, tell: Progress) -> Activation: ...
    def compare(self, name: str, last_s: float, step_s: float | None) -> Comparison: ...
    def read_live(self, name: str, by_hand: ByHand) -> int:
        """How many intervals were stored."""
        ...

    def events(self, name: str | None, limit: int) -> Sequence[EventRecord]:
        """The newest, newest first."""
        ...
