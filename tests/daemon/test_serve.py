"""`adumbra serve` as people run it: its first token, its health, its metrics page, its children, its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.daemon.running import SPEC, ServerProcess, alive, ending, until

_TOKEN = re.compile(r"^adu_[A-Za-z0-9_-]{43}$", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has begun for the first time, and its administrator's token by its first one."""
    made = ServerProcess(tmp_path_factory.mktemp("serve") / "home", {"ADUMBRA_SERVE_TRAIN_EVERY": "24h"})
    with ending(made):
        made.start()
        made.ready()
        yield made


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    until(lambda: bool(_TOKEN.search(server.said())), 20.0, "the first token")
    (first,) = _TOKEN.findall(server.said())
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {first}"}, trust_env=False, timeout=60.0) as once:
        answer = once.post("/v1/tokens", json={"name": "admin", "role": "admin"})
        assert answer.status_code == 201, answer.text
        server.token = answer.json()["secret"]
        assert once.get("/v1/networks").status_code == 401  # it served once
    with server.client(60.0) as found:
        yield found


def test_a_first_start_prints_its_token_on_standard_error_alone(server: ServerProcess, client: httpx.Client) -> None:
    assert client.get("/v1/networks").status_code == 200
    assert "adu_" not in server._out.read_text()
    assert server._out.read_text() == f"listening on {server.url}\n"


def test_a_second_server_on_the_home_is_refused(server: ServerProcess) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "adumbra", "serve", "--port", "0"], env={**os.environ, "ADUMBRA_HOME": str(server.home)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert f"another server runs on {server.home}" in run.stderr
    assert f"process {server.number}" in run.stderr


def test_it_tells_of_itself_to_this_host_and_to_others_by_a_token(server: ServerProcess, client: httpx.Client) -> None:
    client.get("/v1/networks/nothing-of-that-name")
    page = httpx.get(f"{server.url}/metrics", trust_env=False, timeout=60.0)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'adumbra_loop_up{loop="jobs"} 1.0' in page.text
    asked = r'adumbra_http_requests_total\{method="GET",route="[^"]*/networks/\{name\}",status="404"\} 1\.0'
    assert re.search(asked, page.text), page.text[-3000:]
    assert "nothing-of-that-name" not in page.text
    assert re.search(r'adumbra_http_request_seconds_bucket\{le="\+Inf",method="GET",route=', page.text)
    assert "process_resident_memory_bytes" in page.text
    assert "adumbra_readings_failed_total 0.0" in page.text
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    assert httpx.get(f"{server.url}/metrics", headers=forwarded, trust_env=False, timeout=60.0).status_code == 401
    assert client.get("/metrics", headers=forwarded).status_code == 200


def test_a_job_is_worked_off_by_a_process_of_its_own(server: ServerProcess, client: httpx.Client) -> None:
    """It reads the metrics through the API, as the server has their file."""
    assert client.post("/v1/networks", json={"spec": SPEC.format(name="shop", shortfall=1)}).status_code == 201
    answer = client.post("/v1/networks/shop/trainings", json={})
    assert answer.status_code == 202
    number = answer.json()["id"]

    def over() -> bool:
        return client.get(f"/v1/jobs/{number}").json()["state"] in {"done", "failed"}

    until(over, 180.0, "the job's end")
    found = client.get(f"/v1/jobs/{number}").json()
    assert found["state"] == "failed"
    assert "nothing of shop was observed yet" in found["trouble"]
    assert found["attempts"] == 1


def test_a_source_that_can_not_be_observed_is_given_up_with_its_reason(client: httpx.Client) -> None:
    client.post("/v1/networks", json={"spec": SPEC.format(name="taps", shortfall=1)})
    answer = client.post("/v1/networks/taps/sources", json={"source": "live:no-such-device"})
    assert answer.status_code == 201, answer.text
    number = answer.json()["id"]

    def over() -> bool:
        return client.get(f"/v1/networks/taps/sources/{number}").json()["state"] == "failed"

    until(over, 180.0, "giving up")
    assert "no-such-device" in client.get(f"/v1/networks/taps/sources/{number}").json()["trouble"]


def test_no_secret_is_logged(server: ServerProcess, client: httpx.Client) -> None:
    said = server.said()
    assert len(_TOKEN.findall(said)) == 1  # the first one, once
    assert server.token not in said
    assert "adi_" not in said


def test_it_ends_in_good_order_and_the_next_one_makes_no_token(server: ServerProcess, client: httpx.Client) -> None:
    server.stop()
    assert "Traceback" not in server.said()
    server.start()
    server.ready()
    with server.client() as again:
        assert again.get("/v1/networks/shop").status_code == 200
    assert len(_TOKEN.findall(server.said())) == 1


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home")
    with ending(server):
        server.make_token()
        server.start()
        server.ready()
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)
        until(lambda: not alive(server.number), 20.0, "the end")


def test_the_command_itself_ends_with_status_0(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "adumbra", "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "ADUMBRA_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(90.0) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "without TLS"),
        (["--host", "no-such-host.invalid"], "no address"),
        (["--tls-cert", "/nowhere"], "no key"),
    ],
)
def test_what_can_not_be_bound_is_refused(tmp_path: Path, arguments: list[str], told: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "adumbra", "serve", "--port", "0", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "ADUMBRA_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert run.returncode == 2
    assert told in run.stderr
