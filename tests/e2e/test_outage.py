"""A store's server stops for a while under load, and our process is killed twice meanwhile; then all go on.

Every interval that was acknowledged is in the server then, once, with its values. The servers are real, and are asked in their
own words. `--outage-s 60` has them stopped for a minute in place of some seconds.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests import servers
from tests.e2e.outage_writer import COLUMNS, EPOCH_S, NETWORK, VMS, value

from adumbra.schema.metrics import BY_NAME, Rollup

Exported = dict[tuple[str, str], list[tuple[int, float]]]
"""(VM, column) -> its samples as they are in the server: ms since the epoch, value."""


class Writer:
    """A process that writes, and what it said was acknowledged."""

    def __init__(self, home: Path, url: str, first: int) -> None:
        script = Path(__file__).with_name("outage_writer.py")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(script), str(home), url, str(first)]
        self._errors = (home.parent / "errors").open("a")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        self.acknowledged: list[int] = []
        self.left: queue.Queue[str] = queue.Queue()
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("left"):
                self.left.put(line.strip())
            elif line.endswith("\n"):
                self.acknowledged.append(int(line))

    def writes(self, seconds: float) -> None:
        """Lets it write for so long, from its first acknowledgement on."""
        until = time.monotonic() + 60.0
        while not self.acknowledged:
            assert self.process.poll() is None, (Path(self._errors.name)).read_text()
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self._ended(-signal.SIGKILL)

    def end(self) -> str:
        """Has it end in good order; what it says still waits."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        left = self.left.get(timeout=90)
        self._ended(0)
        return left

    def _ended(self, status: int) -> None:
        ended = self.process.wait(timeout=30)
        self._listening.join()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            assert pipe is not None
            pipe.close()
        assert ended == status


@dataclass
class Outage:
    """What came of one. uncertain: intervals that may have been acknowledged when their process was killed."""

    acknowledged: set[int] = field(default_factory=set)
    uncertain: set[int] = field(default_factory=set)
    left: str = ""
    said: str = ""
    samples: Exported = field(default_factory=dict)


def undergo(make: Callable[[Path], servers.Server], url: str, export: Callable[[str], Exported], outage_s: float) -> Outage:
    """An outage of one store, from beginning to end."""
    found = Outage()
    with servers.folder_of("outage") as folder, servers.running(make(folder)) as server:
        home = folder / "home"
        home.mkdir()

        def killed(writer: Writer) -> Writer:
            writer.kill()
            found.acknowledged.update(writer.acknowledged)
            found.uncertain.add(writer.acknowledged[-1] + 1)
            return Writer(home, url.format(server.url), writer.acknowledged[-1] + 2)

        writer = Writer(home, url.format(server.url), 0)
        try:
            writer.writes(1.5)
            server.stop()
            writer.writes(outage_s / 3)
            writer = killed(writer)
            writer.writes(outage_s / 3)
            writer = killed(writer)
            writer.writes(outage_s / 3)
            server.start()
            writer.writes(1.5)
            found.left = writer.end()
            found.acknowledged.update(writer.acknowledged)
        except BaseException:
            writer.kill()
            raise
        finally:
            found.said = (folder / "errors").read_text()
        found.samples = export(server.url)
    return found


def from_prometheus(url: str) -> Exported:
    """By an instant query with a range selector, which gives the samples themselves."""
    asked = {"query": f'{{network="{NETWORK}"}}[100d]', "time": str(EPOCH_S + 86_400)}
    answer = httpx.post(f"{url}/api/v1/query", data=asked, timeout=60).raise_for_status().json()
    found: Exported = {}
    for series in answer["data"]["result"]:
        _put(found, series["metric"], [(round(float(at) * 1000), float(got)) for at, got in series["values"]])
    return found


def from_victoriametrics(url: str) -> Exported:
    """By its export, once it shows what it took."""
    httpx.get(f"{url}/internal/force_flush").raise_for_status()
    answer = httpx.get(f"{url}/api/v1/export", params={"match[]": f'{{network="{NETWORK}"}}'}, timeout=60).raise_for_status()
    found: Exported = {}
    for line in answer.text.splitlines():
        series = json.loads(line)
        _put(found, series["metric"], list(zip(series["timestamps"], series["values"], strict=True)))
    return found


def _put(found: Exported, labels: Mapping[str, str], samples: list[tuple[int, float]]) -> None:
    """A series of a column; in the server's unit, seconds, times are by a thousandth of the catalogue's."""
    columns = {BY_NAME[column].prometheus: column for column in COLUMNS}
    column = columns.get(labels["__name__"])
    if column is None:
        return
    assert (labels["vm"], column) not in found, "one series a VM and metric"
    found[labels["vm"], column] = [(at, got * (1000 if "_ms_" in column else 1)) for at, got in samples]


def from_influxdb(url: str) -> Exported:
    """By InfluxQL; times are the intervals' ends, as the other servers have them."""
    asked = {"db": "adumbra", "epoch": "ms", "q": f"SELECT * FROM adumbra_vm WHERE network='{NETWORK}' GROUP BY vm"}
    answer = httpx.post(f"{url}/query", data=asked, timeout=60).raise_for_status().json()
    found: Exported = {}
    for series in answer["results"][0]["series"]:
        for row in series["values"]:
            told: dict[str, Any] = dict(zip(series["columns"], row, strict=True))
            for column in COLUMNS:
                if told.get(column) is not None:
                    found.setdefault((series["tags"]["vm"], column), []).append((told["time"] + 1000, float(told[column])))
    return found


KINDS: Mapping[str, tuple[Callable[[Path], servers.Server], str, Callable[[str], Exported]]] = {
    "prometheus": (servers.prometheus, "prometheus+{}", from_prometheus),
    "victoriametrics": (servers.victoriametrics, "victoriametrics+{}", from_victoriametrics),
    "influxdb": (servers.influxdb, "influxdb+{}/adumbra", from_influxdb),
}


@pytest.fixture(scope="module")
def outages(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Outage]]:
    """All of them at one time, as they take a while."""
    for name, package in (("prometheus",) * 2, ("victoria-metrics",) * 2, ("influxd", "influxdb")):
        servers.program(name, package)
    outage_s = float(request.config.getoption("--outage-s"))
    with ThreadPoolExecutor(len(KINDS)) as pool:
        under_way = {kind: pool.submit(undergo, *how, outage_s) for kind, how in KINDS.items()}
        yield {kind: each.result() for kind, each in under_way.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_acknowledged_interval_is_there_once_with_its_values(outages: Mapping[str, Outage], kind: str) -> None:
    outage = outages[kind]
    assert outage.left == "left", "nothing waits, and nothing was refused"
    assert len(outage.acknowledged) > 100
    assert outage.samples.keys() == {(vm, column) for vm in VMS for column in COLUMNS}
    for place, vm in enumerate(VMS):
        for column in COLUMNS:
            times = [at for at, _ in outage.samples[vm, column]]
            assert len(set(times)) == len(times), "a sample is there twice"
            got = counted(outage.samples[vm, column], totals=kind != "influxdb" and BY_NAME[column].rollup is Rollup.SUM)
            assert outage.acknowledged <= got.keys() <= outage.acknowledged | outage.uncertain
            want = np.array([value(column, number)[place] for number in got])
            # VictoriaMetrics keeps so many decimal digits of a total with a fraction, and no more.
            lost = 0.0 if BY_NAME[column].whole else 2e-12 * max(got for _, got in outage.samples[vm, column])
            np.testing.assert_allclose([*got.values()], want, rtol=1e-12, atol=lost, err_msg=f"{vm} {column}")


def counted(samples: list[tuple[int, float]], *, totals: bool) -> dict[int, float]:
    """Interval -> its value: of totals the difference to the sample before, which may be the base that is told after a gap."""
    samples = sorted(samples)
    before = [0.0, *(got for _, got in samples[:-1])] if totals else [0.0] * len(samples)
    ends = {at // 1000 - EPOCH_S - 1: got - was for (at, got), was in zip(samples, before, strict=True) if at % 1000 == 0}
    assert all(at % 1000 in ({0, 1} if totals else {0}) for at, _ in samples)
    return ends
