"""Streams: who follows a network or a job is told what is new, can come again, and keeps no server from stopping."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.api import lives
from tests.api.serving import Serving, served

from adumbra.api.context import Care
from adumbra.api.events_stream import Streams
from adumbra.schema.jobs import JobKind, JobState

MOST = 3


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home"), care=Care(streams=MOST, stream_s=60.0)) as running:
        running.make("shop")
        yield running


@contextmanager
def following(client: httpx.Client, path: str, last: str = "", **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a stream as they come: event, id, data."""
    headers = {"Last-Event-ID": last} if last else {}
    with client.stream("GET", path, params=params, headers=headers) as answer:
        assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
        yield _messages(answer.iter_lines())


def _messages(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    told: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and not line.startswith(":"):
            told[name] = json.loads(value) if name == "data" else value
        elif "event" in told:
            yield told
            told = {}
        else:
            told = {}


def until(messages: Iterator[dict[str, Any]], event: str) -> dict[str, Any]:
    return next(each for each in messages if each["event"] == event)


def no_streams(serving: Serving) -> bool:
    return _waited(lambda: serving.viewer().get("/v1/networks/shop").status_code == 200 and _open(serving) == 0)


def _open(serving: Serving) -> int:
    return serving.streams.open


def _waited(holds: Any) -> bool:
    end = time.monotonic() + 10
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_network_is_followed_and_gone_on_from_where_it_was_left(serving: Serving) -> None:
    viewer = serving.viewer("shop")
    with following(viewer, "/v1/networks/shop/stream", column="requests") as messages:
        first = next(messages)
        assert (first["event"], first["data"]["state"]) == ("network", "shadowing")
        lives.observe(serving, "shop", steps=2)
        metrics = until(messages, "metrics")
        assert metrics["data"]["steps"] in {1, 2}
        assert metrics["data"]["columns"]["requests"]["provenance"] == "inferred"
    lives.observe(serving, "shop", lives.START_S + 2, steps=3)
    with following(viewer, "/v1/networks/shop/stream", metrics["id"], column="requests", vm="db") as messages:
        later = until(messages, "metrics")["data"]
        assert later["steps"] == 3
        assert list(later["vms"]) == ["db"]
        assert until(messages, "event")["data"]["kind"].startswith("observation.")
    assert no_streams(serving)


def test_a_job_is_followed_until_it_is_over(serving: Serving) -> None:
    jobs = serving.workspace.state.jobs
    job = jobs.add("shop", JobKind.TRAIN, {"seed": 1}, "somebody", serving.server.now())
    with following(serving.viewer("shop"), f"/v1/jobs/{job.id}/stream") as messages:
        assert next(messages)["data"]["state"] == "queued"
        jobs.take(job.id, serving.server.now())
        assert next(messages)["data"]["state"] == "running"
        jobs.tell(job.id, 0.5, "half of it")
        assert next(messages)["data"]["share"] == 0.5
        jobs.finish(job.id, JobState.DONE, serving.server.now(), {"version": 1})
        last = next(messages)
        assert (last["data"]["state"], last["id"]) == ("done", "over")
        assert list(messages) == []
    again = serving.viewer("shop").get(f"/v1/jobs/{job.id}/stream", headers={"Last-Event-ID": "over"})
    assert again.status_code == 204
    assert serving.viewer("other").get(f"/v1/jobs/{job.id}/stream").status_code == 404


def test_whoever_follows_a_network_sees_its_jobs_and_its_end(serving: Serving) -> None:
    serving.make("mall")
    with following(serving.viewer("mall"), "/v1/networks/mall/stream") as messages:
        next(messages)
        job = serving.operator("mall").post("/v1/networks/mall/trainings").json()
        assert until(messages, "job")["data"]["id"] == job["id"]
        serving.operator("mall").post(f"/v1/jobs/{job['id']}/cancel")
        assert until(messages, "job")["data"]["state"] == "cancelled"
        serving.operator("mall").delete("/v1/networks/mall")
        assert until(messages, "problem")["data"]["status"] == 404
        assert list(messages) == []


def test_there_are_only_so_many_and_those_that_end_make_room(serving: Serving) -> None:
    path, viewer = "/v1/networks/shop/stream", serving.viewer()
    with following(viewer, path), following(viewer, path):
        with following(viewer, path):
            busy = viewer.get(path)
            assert (busy.status_code, busy.json()["type"]) == (503, "urn:adumbra:problem:busy")
        assert _waited(lambda: _open(serving) == MOST - 1)
        with following(viewer, path) as messages:
            assert next(messages)["event"] == "network"
    assert no_streams(serving)


def test_a_server_stops_promptly_though_somebody_follows(tmp_path_factory: pytest.TempPathFactory) -> None:
    ended = threading.Event()

    def follow(client: httpx.Client) -> None:
        with following(client, "/v1/networks/shop/stream") as messages:
            list(messages)
        ended.set()

    with served(tmp_path_factory.mktemp("home")) as running:
        running.make("shop")
        thread = threading.Thread(target=follow, args=(running.viewer(),))
        thread.start()
        assert _waited(lambda: running.streams.open == 1)
        began = time.monotonic()
        running.stop()
        assert ended.wait(5)
        assert time.monotonic() - began < 5
        thread.join()


def test_a_stream_ends_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    with served(tmp_path_factory.mktemp("home"), care=Care(stream_s=0.2)) as running:
        running.make("shop")
        with following(running.viewer(), "/v1/networks/shop/stream") as messages:
            assert [each["event"] for each in messages] == ["network"]


def test_one_client_has_a_share_of_them() -> None:
    streams = Streams(40, 1.0)
    follower: Any = None
    theirs = [streams.follow(follower, "token:1") for _ in range(streams.share)]
    assert all(theirs)
    assert streams.follow(follower, "token:1") is None
    assert streams.follow(follower, "token:2") is not None
    streams.left("token:1")
    assert streams.follow(follower, "token:1") is not None
