"""Real servers for tests: started on free loopback ports in temporary folders, stopped when the tests are over.

Each can be stopped, killed and started again on the same port and data: outages are real ones.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server process of a test. `url`: where it listens. `answers`: whether it is ready."""

    command: list[str]
    folder: Path
    url: str
    answers: Callable[[], bool]
    user: int | None = None
    stops_by: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, user=self.user, group=self.user
            )
        until = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"{self.command[0]} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """As its administrator would: it may finish what it is doing."""
        self._end(self.stops_by)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(by)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return 200 <= answer.status < 300
    except (urllib.error.URLError, OSError):
        return False


def program(name: str, package: str, also: str = "") -> str:
    """Where a program is; skips the test where it isn't."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", also]))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def prometheus(folder: Path, *, out_of_order: str = "100y", admin: bool = True, config: str = "") -> Server:
    """A Prometheus that takes remote writes, also of the past; `config` is added to its configuration."""
    tsdb = f"storage: {{tsdb: {{out_of_order_time_window: {out_of_order}}}}}\n" if out_of_order else ""
    (folder / "prometheus.yml").write_text(f"global: {{scrape_interval: 1h}}\n{tsdb}{config}")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("prometheus", "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
        "--storage.tsdb.retention.time=100y", "--web.enable-remote-write-receiver", "--web.enable-lifecycle",
        f"--web.listen-address={url.removeprefix('http://')}", *(["--web.enable-admin-api"] if admin else []),
    ]  # fmt: skip
    return Server(command, folder, url, lambda: _ready(f"{url}/-/ready"))


def victoriametrics(folder: Path) -> Server:
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("victoria-metrics", "victoria-metrics"), "-storageDataPath=data", "-retentionPeriod=100y",
        "-dedup.minScrapeInterval=1ms", "-search.latencyOffset=0s", "-search.disableCache", "-memory.allowedBytes=512MB",
        f"-httpListenAddr={url.removeprefix('http://')}",
    ]  # fmt: skip
    return Server(command, folder, url, lambda: _ready(f"{url}/health"))


def influxdb(folder: Path, *, auth: bool = False) -> Server:
    """An InfluxDB 1.x that calls nobody; with auth, one that lets nobody in but who makes the first administrator."""
    port = free_port()
    (folder / "influxdb.conf").write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:{free_port()}"\n'
        f'[meta]\ndir = "{folder}/meta"\n[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\n'
        "query-log-enabled = false\nindex-version = \"tsi1\"\n"
        f'[http]\nbind-address = "127.0.0.1:{port}"\nlog-enabled = false\n'
        f"auth-enabled = {str(auth).lower()}\n[monitor]\nstore-enabled = false\n"
        "[logging]\nlevel = \"warn\"\n"
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return Server([program("influxd", "influxdb"), "-config", "influxdb.conf"], folder, url, lambda: _ready(f"{url}/ping"))


def postgresql(folder: Path) -> Server:
    """A PostgreSQL with a database `adumbra` that trusts whoever reaches it on loopback. It won't run as root: as nobody."""
    newest = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=Path("/nowhere"))
    postgres, initdb = program("postgres", "postgresql", str(newest)), program("initdb", "postgresql", str(newest))
    owner = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None
    if owner is not None:
        os.chown(folder, owner, owner)
    data, port = folder / "data", free_port()
    made = [initdb, "--auth=trust", "--username=adumbra", "--encoding=UTF8", "--locale=C", "--no-sync", str(data)]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, user=owner, group=owner)
    command = [
        postgres, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c",
        f"unix_socket_directories={folder}", "-c", "max_connections=50",
    ]  # fmt: skip
    return Server(
        command, folder, f"postgresql://adumbra@127.0.0.1:{port}/postgres", lambda: _pg_ready(port), owner, signal.SIGINT
    )


def _pg_ready(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user="adumbra", dbname="postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A folder that any user may pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix=f"adumbra-{name}-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)


def session(make: Callable[[Path], Server]) -> Iterator[str]:
    """For fixtures: the URL of a server that runs as long as the tests do."""
    with folder_of(make.__name__) as folder, running(make(folder)) as server:
        yield server.url
