"""Several processes meter one source as one process does: the same intervals and accounts; and what becomes of failures."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import Frame, write
from tests.meter.stories import CLIENT, DB, SHOP, WEB, Talk, datagram
from tests.test_shadow import watch

from adumbra.decode.share import Share
from adumbra.metering import PacketMetering
from adumbra.schema.errors import SourceError
from adumbra.schema.records import Accounts, Intervals
from adumbra.schema.sources import CaptureSource
from adumbra.service.source_metering import CaptureTap, metered, prefixes_of
from adumbra.tap.protocol import Source
from adumbra.tap.replay import PcapReplay
from adumbra.workers import Job, Running, Workers, add_accounts, ready


def conversations() -> list[Frame]:
    """Some 60 clients, some of them scanning, and VMs that speak to each other, over a minute and a half."""
    frames: list[Frame] = []
    for k in range(60):
        client, begin = f"198.18.0.{k + 1}", k * 1.3
        talk = Talk(frames, client=client, port=20_000 + k, isn=k * 977).opens(begin, rtt=0.01 + k / 1000)
        talk.asks(begin + 0.5).replies(begin + 0.6 + k / 500).closes(begin + 1.0)
    for k in range(40):
        Talk(frames, client="203.0.113.9", server=f"10.20.3.{k + 1}", service=1000 + k, port=50_000 + k).syn(20 + k / 10)
    Talk(frames, client=WEB, server=DB, service=5432).opens(3).asks(4).replies(4.2).asks(70).replies(70.1)
    frames += [datagram(k * 0.9, CLIENT, f"10.20.3.{k}", sport=9000 + k) for k in range(90)]
    return sorted(frames, key=lambda frame: frame.time_ns)


def by_interval(intervals: list[Intervals]) -> dict[int, dict[str, np.ndarray]]:
    return {
        int(start): {name: values[row] for name, values in each.columns.items()} | {"one_sided": each.one_sided[row]}
        for each in intervals
        for row, start in enumerate(each.start_ns)
    }


def requests(intervals: list[Intervals]) -> list[tuple[int, int]]:
    pairs = [zip(each.requests.vm.tolist(), each.requests.time_ns.tolist(), strict=True) for each in intervals]
    return sorted(pair for each in pairs for pair in each)


def in_one(path: Path) -> tuple[list[Intervals], Accounts]:
    with PcapReplay(path) as source:
        metering = PacketMetering(watch(), source)
        return list(metering), metering.accounts()


def alike(one: list[Intervals], other: list[Intervals]) -> None:
    left, right = by_interval(one), by_interval(other)
    assert list(left) == list(right)
    for start, columns in left.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, right[start][name], err_msg=name)
    assert requests(one) == requests(other)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_share_a_capture_give_what_one_process_gives(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "a.pcap", conversations())
    one, told = in_one(path)
    with metered(watch(), CaptureSource(path), Running(time.time_ns), workers) as metering:
        several = list(metering)
        accounts = metering.accounts()
    assert sum(len(each) for each in one) > 80
    alike(one, several)
    assert accounts.scanners == told.scanners > 0
    assert accounts == told


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 4), workers=st.integers(2, 4))
def test_tallies_come_together_whenever_they_come(tmp_path_factory: pytest.TempPathFactory, cut: int, workers: int) -> None:
    """However far the workers are apart, an interval is given once all of them have closed it, and then whole."""
    path = write(tmp_path_factory.mktemp("a") / "a.pcap", conversations()[::cut])
    one, told = in_one(path)
    shares = [Share(worker, workers, prefixes_of(SHOP)) for worker in range(workers)]
    pending, accounts = [], []
    for share in shares:
        with PcapReplay(path) as source:
            part = PacketMetering(watch(), source, share)
            pending.append([tally for tallies in part.batches() for tally in tallies])
            accounts.append(part.accounts())
    last = max(int(tally.start_ns[-1]) for tallies in pending for tally in tallies)
    given_starts: list[int] = []
    for until in (0, last // 2, last, last + 10**12):
        for tally in ready(pending, [until] * workers):
            given_starts += tally.start_ns.tolist()
    assert given_starts == [int(start) for each in one for start in each.start_ns]
    assert add_accounts(accounts) == replace(told, losses=add_accounts(accounts).losses)


@dataclass(frozen=True)
class Broken:
    """A tap whose worker fails as it is told to."""

    how: str
    name: str = "broken"

    def open(self, running: Running) -> Source:
        if self.how == "refuses":
            raise SourceError("the cable is cut", "mend it")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.parametrize(
    ("how", "says"), [("refuses", "the cable is cut; mend it"), ("dies", "the process that metered broken died")]
)
def test_a_worker_that_fails_is_said_and_ends_the_others(tmp_path: Path, how: str, says: str) -> None:
    path = write(tmp_path / "a.pcap", conversations())
    jobs = [Job(CaptureTap(CaptureSource(path)), watch()), Job(Broken(how), watch())]
    with pytest.raises(SourceError, match=says), Workers(jobs, Running(time.time_ns)) as workers:
        for _ in workers:
            pass
    assert not any(process.is_alive() for process in workers.processes)


def test_a_worker_holds_no_capability(tmp_path: Path) -> None:
    """Its own status says so while it meters: a live source is opened by the parent, or before the drop."""
    path = write(tmp_path / "a.pcap", conversations())
    with Workers([Job(Held(path), watch())], Running(time.time_ns)) as workers:
        for _ in workers:
            pass
    status = (tmp_path / "status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(told[name], 16) == 0, name
    assert told["NoNewPrivs"] == "1"


@dataclass(frozen=True)
class Held:
    """A capture that notes, as it is read, what its process may do."""

    path: Path

    @property
    def name(self) -> str:
        return f"pcap:{self.path}"

    def open(self, running: Running) -> Source:
        return _Noting(self.path)


class _Noting(PcapReplay):
    def __iter__(self):
        (self.path.parent / "status").write_text(Path("/proc/self/status").read_text())
        yield from super().__iter__()
