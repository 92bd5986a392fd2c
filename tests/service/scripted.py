"""A provider at the edge whose machines' counters are written down beforehand: what a hypervisor would tell, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Self

import numpy as np

from adumbra.provision.aws_rules import AwsRules
from adumbra.schema.errors import ProvisionError
from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Actual, Step, StepOutcome
from adumbra.schema.records import NANOSECONDS, Floats

HEADER = 14


class Scripted:
    """Gives one moment's readings after the other; then the last again and again. An error in the script is raised."""

    def __init__(self, moments: Iterable[tuple[MachineReading, ...] | Exception]) -> None:
        self.moments = list(moments)
        self.opened = self.closed = self.asked = 0

    rules = AwsRules("scripted")
    place = "a script"

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed += 1

    def actual(self, network: str) -> Actual:
        return Actual(network, ())

    def perform(self, step: Step) -> StepOutcome:
        raise ProvisionError("a script makes nothing", "")

    def usage(self, network: str) -> tuple[MachineReading, ...]:
        found = self.moments[min(self.asked, len(self.moments) - 1)]
        self.asked += 1
        if isinstance(found, Exception):
            raise found
        return found

    def ports(self, network: str) -> tuple[LivePort, ...]:
        return ()


def moments(
    start_s: float, cores: Mapping[str, Floats], every_s: float = 1.0,
    more: Callable[[str, int], dict[str, object]] = lambda *_: {},
) -> list[tuple[MachineReading, ...]]:  # fmt: skip
    """Readings of machines that use so many cores, step by step (float64[T]); one reading more than there are steps."""
    used = {vm: np.concatenate([[0.0], np.cumsum(values) * every_s]) for vm, values in cores.items()}
    steps = len(next(iter(used.values())))
    return [
        tuple(
            MachineReading(
                vm, round((start_s + t * every_s) * NANOSECONDS), "run-1", round(float(total[t]) * NANOSECONDS), 2.0,
                **{"memory_bytes": 2**31, "storage_bytes": 5 * 2**30, **more(vm, t)},
            )
            for vm, total in used.items()
        )
        for t in range(steps)
    ]  # fmt: skip
