"""A server that is killed at random moments while changes are asked of it: none acknowledged is lost, none is done twice.

ADUMBRA_TEST_KILLS says how often it is killed: 100 for the promise in full, fewer by default.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.daemon.running import SPEC, ServerProcess, alive, ending

from adumbra.schema.jobs import JobKind
from adumbra.service.workspace import Workspace

KILLS = int(os.environ.get("ADUMBRA_TEST_KILLS", "20"))
LONGEST_S = 240.0
OURS = frozenset({"created", "updated", "deleted"})


@dataclass(frozen=True)
class Change:
    """A change that is asked for until it is acknowledged, always with the same key."""

    key: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    good: frozenset[int] = frozenset({200, 201, 202, 204})


def script() -> Iterator[Change]:
    """Networks created, given other specs, jobs queued and cancelled, tokens made, networks deleted: without end."""
    for number in range(1_000_000):
        name, path = f"net-{number}", f"/v1/networks/net-{number}"
        yield Change(f"{name}-create", "POST", "/v1/networks", {"spec": SPEC.format(name=name, shortfall=1)})
        for shortfall in (2, 3):
            body = {"spec": SPEC.format(name=name, shortfall=shortfall)}
            yield Change(f"{name}-update-{shortfall}", "PUT", path, body)
        yield Change(f"{name}-token", "POST", "/v1/tokens", {"name": f"of-{name}", "role": "viewer", "networks": [name]})
        if number % 4 == 1:
            yield Change(f"{name}-train", "POST", f"{path}/trainings", {})
        if number % 3 == 2:
            yield Change(f"{name}-delete", "DELETE", path, good=frozenset({204, 404}))


@dataclass
class Asking:
    """Somebody who asks for the script's changes, one after the other, and again where no answer came."""

    server: ServerProcess
    rng: random.Random
    acknowledged: list[Change] = field(default_factory=list)
    repeated: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    trouble: list[str] = field(default_factory=list)

    def run(self) -> None:
        changes = script()
        with self.server.client(20.0) as client:
            while not self.over.is_set():
                self._ask(client, next(changes))

    def _ask(self, client: httpx.Client, change: Change) -> None:
        tries = 0
        while True:
            try:
                answer = client.request(change.method, change.path, json=change.body, headers={"Idempotency-Key": change.key})
            except (httpx.TransportError, httpx.InvalidURL):
                tries += 1
                time.sleep(0.01)
                continue
            if answer.status_code in {429, 503}:  # later
                time.sleep(0.02)
                continue
            if answer.status_code not in change.good:
                self.trouble.append(f"{change.key}: {answer.status_code} {answer.text[:300]}")
            self.acknowledged.append(change)
            self.repeated += tries > 0
            return


def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(tmp_path: Path) -> None:
    rng = random.Random(7)
    server = ServerProcess(tmp_path / "home", {"ADUMBRA_SERVE_JOBS": "0"})
    server.make_token()
    server.start()
    server.port = int(server.url.rsplit(":", 1)[1])
    asking = Asking(server, rng)
    asker = threading.Thread(target=asking.run)
    with ending(server):
        asker.start()
        began_s = time.monotonic()
        for _ in range(KILLS):
            before = len(asking.acknowledged)
            time.sleep(rng.uniform(0.0, 0.4))  # of a life; some end before it answers
            if rng.random() < 0.8:  # most live to do something
                limit_s = time.monotonic() + 20.0
                while len(asking.acknowledged) == before and time.monotonic() < limit_s and not asking.trouble:
                    time.sleep(rng.uniform(0.0, 0.03))
            assert alive(server.number), server.said()[-3000:]
            server.kill()
            server.begin()
            if asking.trouble or time.monotonic() - began_s > LONGEST_S:
                break
        took_s = time.monotonic() - began_s
        asking.over.set()
        asker.join(60.0)
        server._listens()
        server.ready()
        server.stop()
    assert not asking.trouble
    assert took_s < LONGEST_S, "it took too long to be killed so often"
    assert server.starts == KILLS + 1
    told = f"{KILLS} kills in {took_s:.0f} s, {len(asking.acknowledged)} changes, {asking.repeated} of them asked for again\n"
    sys.stdout.write(told)
    check(tmp_path / "home", asking.acknowledged)


def check(home: Path, acknowledged: list[Change]) -> None:
    """What was acknowledged stands, once."""
    done = Counter(change.key for change in acknowledged)
    assert set(done.values()) == {1}
    deleted = {change.path.rsplit("/", 1)[1] for change in acknowledged if change.method == "DELETE"}
    created = {change.key.removesuffix("-create") for change in acknowledged if change.key.endswith("-create")}
    with Workspace(home) as workspace:
        state = workspace.state
        assert {record.name for record in state.networks()} == created - deleted
        acts = [act for first in pages(lambda before: state.access.acts(None, 1_000, before)) for act in first]
        tokens = Counter(token.name for token in state.access.tokens())
        for name in created:
            kinds = Counter(event.kind for event in state.events(name, limit=1_000))
            told = {change.key for change in acknowledged if change.key.startswith(f"{name}-")}
            updates = sum(1 for key in told if "-update-" in key)
            assert kinds["network.created"] == 1
            assert kinds["network.updated"] == updates
            assert kinds["network.deleted"] == (name in deleted)
            assert tokens[f"of-{name}"] == (f"{name}-token" in told)
            done_acts = Counter(act.what for act in acts if act.network == name)
            assert done_acts["POST /v1/networks"] == 1
            assert done_acts["PUT /v1/networks/{name}"] == updates
            if name not in deleted:
                assert state.network(name).version == 1 + updates
                asked = [job for job in state.jobs.of(name) if job.kind is JobKind.TRAIN]
                assert len(asked) == (f"{name}-train" in told)


def pages(read: Any) -> Iterator[Any]:
    """Pages of records with numbers, until there are none."""
    before = None
    while found := read(before):
        yield found
        before = found[-1].id
