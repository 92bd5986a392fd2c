"""Plans that pages show, each made on a thread of its own: a hypervisor that doesn't answer keeps no page waiting.

Pages that ask for the same plan at once share it. Threads end with the process, whether they were answered or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass

from adumbra.schema.errors import ConflictError
from adumbra.service import activations
from adumbra.service.pictures.plans import Diff, diff
from adumbra.service.workspace import Workspace

AT_ONCE = 3
"""Plans that are made at the same time by one provider; one that hangs has one of these places until it answers."""


@dataclass(frozen=True, slots=True)
class Question:
    """What would be done to a network by a provider: to make it real or, away, to take it away again. of: what is asked about;
    where it is another, so is the question."""

    network: str
    provider: str
    away: bool = False
    of: Hashable = None


class Planner:
    """Of one workspace. now: ns since the epoch."""

    def __init__(self, workspace: Workspace, now: Callable[[], int]) -> None:
        self._workspace, self._now = workspace, now
        self._lock = threading.Lock()
        self._going: dict[Question, Future[Diff]] = {}

    def ask(self, question: Question) -> Future[Diff]:
        """The plan, which comes later, or the AdumbraError for which there is none. Raises ConflictError where too many of
        that provider are being made."""
        with self._lock:
            going = self._going.get(question)
            if going is not None:
                return going
            if sum(each.provider == question.provider for each in self._going) >= AT_ONCE:
                raise ConflictError(
                    f"{question.provider} hasn't answered for {AT_ONCE} other plans yet", "plan again once it answers"
                )
            asked: Future[Diff] = Future()
            asked.set_running_or_notify_cancel()  # from here on nobody who only waits for it can cancel it
            self._going[question] = asked
        threading.Thread(target=self._answer, args=(question, asked), name="planning", daemon=True).start()
        return asked

    def _answer(self, question: Question, asked: Future[Diff]) -> None:
        found: Diff | BaseException
        try:
            found = self._planned(question)
        except BaseException as error:  # noqa: BLE001  whoever asked is told
            found = error
        with self._lock:
            del self._going[question]
        if isinstance(found, Diff):
            asked.set_result(found)
        else:
            asked.set_exception(found)

    def _planned(self, question: Question) -> Diff:
        act = activations.deactivate if question.away else activations.activate
        return diff(act(self._workspace, question.network, question.provider, self._now, dry_run=True).plan)
