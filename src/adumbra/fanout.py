"""Many tasks of one kind, each on its own: worked on here one after another, or elsewhere at once (fanout_ray.py).

Where they are worked on changes no result: a task draws by a seed of its own, and sees nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

Progress = Callable[[float, str], None]
"""Is told the share done, 0 to 1, and what is being done."""

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[S, T, Progress], R]
"""What is done for each task: given what all share, the task, and whom to tell; it gives a result. A function of a module.

What is shared must not be written to (elsewhere its arrays can't be). What it is given and what it gives must be picklable.
Nothing may depend on what was done before it in the same process.
"""


class Fanout(Protocol):
    """Where tasks are worked on."""

    @property
    def width(self) -> int:
        """How many tasks are worked on at once."""

    def map(self, work: Work[S, T, R], shared: S, tasks: Mapping[str, T], progress: Progress) -> dict[str, R]:
        """What came of each task, by its name, in the order of `tasks`.

        `shared` goes to where the work is done once, however many tasks there are. The AdumbraError of a task is raised as
        it is, and the other tasks are given up; so they are by KeyboardInterrupt.
        """


@dataclass(frozen=True, slots=True)
class InProcess:
    """Works on one task after another in this process."""

    @property
    def width(self) -> int:
        return 1

    def map(self, work: Work[S, T, R], shared: S, tasks: Mapping[str, T], progress: Progress) -> dict[str, R]:
        done: dict[str, R] = {}
        for number, (name, task) in enumerate(tasks.items()):
            done[name] = work(shared, task, Part(progress, number / len(tasks), 1 / len(tasks)))
        return done


IN_PROCESS = InProcess()


@dataclass(frozen=True, slots=True)
class Part:
    """Progress of a part of the work, told as progress of the whole."""

    whole: Progress
    begin: float
    share: float

    def __call__(self, done: float, what: str) -> None:
        self.whole(self.begin + self.share * done, what)
