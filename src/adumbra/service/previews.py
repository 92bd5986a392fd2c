"""Answers to questions that are asked again and again while somebody looks: sizes at another dial, more traffic, a forecast.

Keeps nothing but a bounded memory of its own; an answer is good until what it came from changes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adumbra.schema.records import NANOSECONDS, Quantiles
from adumbra.schema.sizing import NetworkProfile
from adumbra.service import learning, profiles
from adumbra.service.pictures.networks import understood
from adumbra.service.whatif import Answers, Question, what_if
from adumbra.service.workspace import Workspace

T = TypeVar("T")
MAX_VMS = 200
"""VMs that `traffic` looks at: of larger networks, the first of the spec."""
KEPT = 256
"""Answers that are remembered, of all networks together."""
VM_INTERVALS = 4_000
"""VMs times intervals that a slider's answer looks at, so that it comes within a second: 4 VMs over 1,000 intervals."""
WHOLE_UP_TO, LEAST_SHARE = 5.0, 0.25
"""Up to which factor all of them are looked at; and which share of them is at least, whatever the factor."""


@dataclass(slots=True)
class Previews:
    """Of one workspace. Threads may share it."""

    workspace: Workspace
    _kept: OrderedDict[tuple[Any, ...], Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sizes(self, name: str, shortfall: float) -> NetworkProfile:
        """The sizes at that dial. Raises InputError as profiles.sized does."""
        return self._once(
            ("sizes", *self._state_of(name), shortfall),
            lambda: profiles.sized(self.workspace, name, profiles.Asked(shortfall)),
        )

    def traffic(self, name: str, factor: float) -> Answers:
        """What the declared machines would show with so many times the traffic, over the last part of what is stored.

        Raises InputError, TooLittleDataError.
        """
        record = self.workspace.state.network(name)
        _, vms = understood(record.spec_text, name)
        some = tuple(vm.name for vm in vms[:MAX_VMS]) if len(vms) > MAX_VMS else ()
        question = Question(factor, some, last_s=self.looks_back_s(name, factor), bounds=False)
        return self._once(("traffic", *self._state_of(name), factor), lambda: what_if(self.workspace, name, question))

    def looks_back_s(self, name: str, factor: float = 1.0) -> float:
        """Over how much of the stored time `traffic` looks: less where there are many times the requests to follow."""
        record = self.workspace.state.network(name)
        spec, vms = understood(record.spec_text, name)
        intervals = VM_INTERVALS * max(LEAST_SHARE, min(1.0, WHOLE_UP_TO / factor))
        return max(spec.interval, min(86_400.0, intervals / max(1, min(len(vms), MAX_VMS)) * spec.interval))

    def forecast(self, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
        """What is expected over the horizon. Raises InputError where nothing was trained."""
        return self._once(
            ("forecast", *self._state_of(name), horizon_s), lambda: learning.forecast(self.workspace, name, horizon_s)
        )

    def _state_of(self, name: str) -> tuple[Any, ...]:
        """What answers about a network come from: its spec, what serves, what was calibrated, and what is stored, to the tenth
        of its length that is new: a slider that waits for each second's data would never answer from memory."""
        state = self.workspace.state
        span = self.workspace.metrics.span(name)
        serving = next((each.version for each in state.trainings(name) if each.serves), None)
        calibrated = state.calibration(name)
        grain = max(NANOSECONDS, (span[1] - span[0]) // 10) if span else 1
        until = None if span is None else (span[0], span[1] // grain)
        return name, state.network(name).version, serving, calibrated.version if calibrated else None, until

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made
