"""Measured use from a real Prometheus server, whose past is written for the test; and servers that answer badly."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from tests.store.fake_http import Say, fake_server

from adumbra.schema.errors import InputError
from adumbra.service.usage_prometheus import is_url, read_prometheus

S = 1_000_000_000
KNOWN = {"web": "web", "10.0.0.5": "db", "fd00::5": "cache"}
SCRAPE_S, COUNT = 15, 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def past(start_s: int) -> str:
    """An hour of scrapes: web uses 0.5 of a core and then 1.5, db 0.25; iowait and idle are no use."""
    lines = ["# TYPE node_cpu_seconds_total counter"]
    for host, levels in (
        ("web:9100", (0.5, 1.5)),
        ("10.0.0.5:9100", (0.25, 0.25)),
        ("[fd00::5]:9100", (0.1, 0.1)),
        ("other:9100", (3, 3)),
    ):
        for mode, factor in (("user", 0.6), ("system", 0.4), ("idle", 7.0), ("iowait", 2.0)):
            total = 0.0
            for step in range(COUNT):
                lines.append(
                    f'node_cpu_seconds_total{{instance="{host}",cpu="0",mode="{mode}"}} {total} {start_s + step * SCRAPE_S}'
                )
                total += SCRAPE_S * levels[step >= COUNT // 2] * factor
    for name, value in (("MemTotal", 8e9), ("MemAvailable", 5e9)):
        lines.append(f"# TYPE node_memory_{name}_bytes gauge")
        lines += [
            f'node_memory_{name}_bytes{{instance="web:9100"}} {value} {start_s + step * SCRAPE_S}' for step in range(COUNT)
        ]
    return "\n".join([*lines, "# EOF"]) + "\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The URL of a Prometheus server, and when its past begins."""
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        pytest.skip("prometheus and promtool are not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    start_s = (int(time.time()) - 3 * 3600) // 60 * 60
    (folder / "past.txt").write_text(past(start_s))
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
    port = free_port()
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(150):
                try:
                    urllib.request.urlopen(f"{url}/-/ready", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.skip("Prometheus didn't start: " + (folder / "log").read_text()[-300:])
            yield url, start_s
        finally:
            process.terminate()
            process.wait(20)


def test_use_is_read_by_instance(server: tuple[str, int]) -> None:
    url, start_s = server
    usage = read_prometheus(url + "/", (start_s * S, (start_s + COUNT * SCRAPE_S) * S), KNOWN)
    vms = {vm.vm: vm for vm in usage.vms}
    assert set(vms) == {"web", "db", "cache"}
    assert "other" in " ".join(usage.notes)
    web = vms["web"]
    assert web.length_s == 60
    cores = web.columns["cpu_cores"]
    assert cores[5:25] == pytest.approx(np.full(20, 0.5), rel=0.02)
    assert cores[-15:-3] == pytest.approx(np.full(12, 1.5), rel=0.02)
    # a row stands for the time up to the next: what changed after half an hour shows in the row that begins there
    change = (web.time_ns / S - start_s).tolist()
    assert cores[change.index(COUNT // 2 * SCRAPE_S)] > 1.2 > 0.9 > cores[change.index(COUNT // 2 * SCRAPE_S - 60)]
    assert web.columns["memory_bytes"][3] == pytest.approx(3e9)
    assert np.isnan(vms["db"].columns["memory_bytes"]).all()
    assert vms["db"].columns["cpu_cores"][5] == pytest.approx(0.25, rel=0.02)


def test_a_time_of_which_nothing_is_there_is_told(server: tuple[str, int]) -> None:
    url, start_s = server
    with pytest.raises(InputError, match="no node_exporter metrics of the time"):
        read_prometheus(url, ((start_s - 90_000) * S, (start_s - 86_400) * S), KNOWN)


ANSWERS = [
    (200, b"<html>", "doesn't answer as Prometheus does"),
    (200, b'{"data": {"result": [{"metric": {}, "value": "x"}]}}', "doesn't answer as Prometheus does"),
    (200, b'{"data": {"result": [{"metric": 5, "value": [1, "9"]}]}}', "doesn't answer as Prometheus does"),
    (200, b'{"data": {"result": []}}', "no node_exporter metrics"),
    (200, b"[" * 100_000, "doesn't answer as Prometheus does"),
    (200, b'{"data": {"result": [{"metric": {}, "value": [1, ' + b"9" * 400 + b"]}]}}", "doesn't answer as Prometheus does"),
    (307, b"", "refused the query .HTTP 307"),
    (401, b"", "refused the query .HTTP 401"),
    (500, b"", "refused the query .HTTP 500"),
]


@pytest.mark.parametrize(("status", "body", "what"), ANSWERS)
def test_a_server_that_answers_badly_is_told_of(status: int, body: bytes, what: str) -> None:
    headers = {"Location": "http://127.0.0.1:1/"} if status == 307 else {}
    with fake_server(lambda _: Say(status, body, headers)) as fake, pytest.raises(InputError, match=what):
        read_prometheus(fake.url, (1_700_000_000 * S, 1_700_003_600 * S), KNOWN)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://user:secret@host",
        "http://host/?x=1",
        "http://:secret@host",
        "HTTP://user:secret@host",
        " http://user:secret@host",
        "http:/user:secret@host",
        "ftp://user:secret@host",
        "http://user:12/secret@host",
        "http://host\0",
        "http://[::1",
        "http://host:abc",
        "http://a host/",
        "http://host:99999",
    ],
)
def test_other_urls_are_refused_and_no_password_is_repeated(url: str) -> None:
    assert is_url(url), "read as a file its name would be repeated"
    with pytest.raises(InputError, match="the URL of the Prometheus server can't be used") as refused:
        read_prometheus(url, (0, S), KNOWN)
    assert "secret" not in str(refused.value)


def test_what_is_no_url_is_a_file() -> None:
    assert [is_url(each) for each in ("http://a", "HTTPS://a", "use.csv", "/data/12:00/use.csv")] == [True, True, False, False]
    with pytest.raises(InputError, match="can't be asked"):
        read_prometheus(f"http://127.0.0.1:{free_port()}", (0, S), KNOWN)


def test_a_server_that_doesnt_speak_http_is_told_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            with listening.accept()[0] as caller:
                caller.recv(1000)
                caller.sendall(b"no such thing\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match="can't be asked"):
            read_prometheus(f"http://127.0.0.1:{port}", (0, S), KNOWN)
        thread.join()
