"""A server with the API and the console, on a free port; and hands that do what is queued, in place of the daemon."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn

from adumbra.api.app import make_app
from adumbra.api.context import Server
from adumbra.console.app import add_console
from adumbra.console.context import Console
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import JobKind, JobRecord, JobState, SourceRecord, SourceState
from adumbra.service import activations, learning, observations, profiles
from adumbra.service.workspace import Workspace


@dataclass
class Hands:
    """Observes sources and works at jobs, one at a time, until told to stop."""

    workspace: Workspace
    woken: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        while not self.over.is_set():
            for source in self.workspace.state.sources.open():
                self._observe(source)
            for job in self.workspace.state.jobs.open():
                self._perform(job)
            self.woken.wait(1.0)
            self.woken.clear()

    def _observe(self, source: SourceRecord) -> None:
        sources = self.workspace.state.sources
        sources.move(source.id, SourceState.RUNNING, time.time_ns(), f"{source.source} is observed.")
        try:
            seen = observations.observe(self.workspace, source.network, source.source, time.time_ns)
        except AdumbraError as error:
            sources.move(source.id, SourceState.FAILED, time.time_ns(), str(error), trouble=str(error))
        else:
            sources.move(source.id, SourceState.DONE, time.time_ns(), f"{source.source} is done.", accounts=seen.to_dict())

    def _perform(self, job: JobRecord) -> None:
        jobs = self.workspace.state.jobs
        if jobs.take(job.id, time.time_ns()) is None:
            return

        def tell(share: float | None, doing: str) -> None:
            jobs.tell(job.id, share, doing)

        try:
            if job.kind is JobKind.TRAIN:
                learning.train(self.workspace, job.network, time.time_ns, tell)
            elif job.kind is JobKind.PROFILE:
                profiles.profile(self.workspace, job.network, time.time_ns, profiles.Asked(job.asked.get("shortfall")))
            elif job.kind is JobKind.ACTIVATE:
                activations.activate(self.workspace, job.network, str(job.asked["provider"]), time.time_ns)
        except AdumbraError as error:
            jobs.finish(job.id, JobState.FAILED, time.time_ns(), trouble=str(error))
        else:
            jobs.finish(job.id, JobState.DONE, time.time_ns(), {})


@contextlib.contextmanager
def served(workspace: Workspace, port: int = 0, **more: object) -> Iterator[tuple[str, Console]]:
    """The server's address, and its console."""
    hands = Hands(workspace)
    console = Console(workspace, time.time_ns, hands.woken.set, **more)  # type: ignore[arg-type]
    app = make_app(Server(workspace, time.time_ns))
    add_console(app, console)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", ws="websockets-sansio"))
    threads = [threading.Thread(target=each, daemon=True) for each in (server.run, hands.work)]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started:
            if time.monotonic() > until or not threads[0].is_alive():
                raise RuntimeError("the server didn't start")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", console
    finally:
        hands.over.set()
        hands.woken.set()
        server.should_exit = True
        for thread in threads:
            thread.join(60)
