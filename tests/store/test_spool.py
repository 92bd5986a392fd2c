"""The spool keeps what was appended, once and in order: through kills, damaged bytes, full disks, processes side by side."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.store.spool_process import BOUND_BYTES, payload

from adumbra.schema.errors import StoreError
from adumbra.store import spool_lane
from adumbra.store.files import write_all
from adumbra.store.spool import Spool, survey
from adumbra.store.spool_records import RECORD_BYTES, SEGMENT_BYTES, record

KILLS = 15


def drained(spool: Spool) -> list[bytes]:
    read = []
    while (found := spool.peek()) is not None:
        read.append(found.payload)
        spool.acknowledge()
    return read


def die(spool: Spool) -> None:
    """Leaves a spool as a killed process does: its locks go, and nothing is tidied up."""
    for lane in spool._held():
        os.close(lane._lock)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("lane-*/*.segment"))


class TestOrder:
    def test_what_is_appended_is_read_in_order_and_once(self, tmp_path: Path) -> None:
        with Spool(tmp_path / "spool") as spool:
            spool.append(b"a")
            spool.append(b"b", b"", b"c")
            assert [spool.peek().payload for _ in range(2)] == [b"a", b"a"]  # type: ignore[union-attr]
            assert spool.waiting().records == 4
            assert drained(spool) == [b"a", b"b", b"", b"c"]
            assert spool.peek() is None
        assert list((tmp_path / "spool").iterdir()) == []

    def test_the_next_process_goes_on_before_its_own(self, tmp_path: Path) -> None:
        with Spool(tmp_path) as spool:
            spool.append(b"a", b"b")
            spool.peek()
            spool.acknowledge()
        with Spool(tmp_path) as spool:
            spool.append(b"c")
            assert drained(spool) == [b"b", b"c"]

    def test_a_lane_whose_process_lives_is_left_alone(self, tmp_path: Path) -> None:
        with Spool(tmp_path) as one:
            one.append(b"one")
            with Spool(tmp_path) as other:
                other.append(b"other")
                assert (survey(tmp_path)[0].records, survey(tmp_path)[0].held) == (2, 2)
                assert drained(other) == [b"other"]
            assert drained(one) == [b"one"]

    def test_lanes_of_dead_processes_are_adopted_oldest_first(self, tmp_path: Path) -> None:
        for name in (b"1", b"2", b"3"):
            dead = Spool(tmp_path)
            dead._own = spool_lane.Lane.create(tmp_path)  # without adopting what is there, as they all lived at one time
            dead.append(name)
            die(dead)
        with Spool(tmp_path) as spool:
            spool.append(b"4")
            assert drained(spool) == [b"1", b"2", b"3", b"4"]

    def test_a_running_process_adopts_those_that_ended_meanwhile(self, tmp_path: Path) -> None:
        with Spool(tmp_path) as spool:
            with Spool(tmp_path) as other:
                other.append(b"left")
            assert spool.peek() is None
            assert spool.adopt() == 1
            assert drained(spool) == [b"left"]

    def test_a_gap_is_told_where_something_is_missing_and_at_the_beginning(self, tmp_path: Path) -> None:
        def gaps(spool: Spool) -> list[bool]:
            told = []
            while (found := spool.peek()) is not None:
                told.append(found.after_gap)
                spool.acknowledge()
            return told

        with Spool(tmp_path) as spool:
            spool.append(*(b"%d" % n for n in range(4)))
            (path,) = segments(tmp_path)
            raw = bytearray(path.read_bytes())
            raw[raw.index(b"2", SEGMENT_BYTES + 2 * (RECORD_BYTES + 1) + RECORD_BYTES)] ^= 1
            path.write_bytes(raw)
            assert gaps(spool) == [True, False, True]
            assert spool.counts().damaged == 1

    def test_threads_append_together_and_each_keeps_its_order(self, tmp_path: Path) -> None:
        with Spool(tmp_path) as spool:

            def append(name: int) -> None:
                for number in range(50):
                    spool.append(b"%d %d" % (name, number))

            threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
            for thread in threads:
                thread.start()
            read: list[bytes] = []
            while any(thread.is_alive() for thread in threads) or spool.waiting().records:
                read += drained(spool)
            for thread in threads:
                thread.join()
        for name in range(4):
            assert [each for each in read if each.startswith(b"%d " % name)] == [b"%d %d" % (name, n) for n in range(50)]


class TestBounds:
    def test_the_oldest_go_and_are_counted_for_good(self, tmp_path: Path) -> None:
        records = [b"%04d" % n + bytes(996) for n in range(300)]
        with Spool(tmp_path, 100_000) as spool:
            for each in records:
                spool.append(each)
                assert sum(path.stat().st_size for path in segments(tmp_path)) <= 100_000
            kept = drained(spool)
            dropped = spool.counts()
        assert 50 < len(kept) < 100
        assert kept == records[-len(kept) :]
        assert dropped.dropped == 300 - len(kept)
        with Spool(tmp_path) as spool:
            assert spool.counts() == dropped
        assert survey(tmp_path)[1] == dropped

    def test_what_is_larger_than_the_bound_is_counted_and_costs_nothing_else(self, tmp_path: Path) -> None:
        with Spool(tmp_path, 100_000) as spool:
            spool.append(b"small")
            spool.append(bytes(200_000))
            assert (drained(spool), spool.counts().dropped) == ([b"small"], 1)

    def test_what_is_given_up_while_it_is_sent_is_not_counted_where_it_arrived(self, tmp_path: Path) -> None:
        with Spool(tmp_path, 50_000) as spool:
            spool.append(b"first")
            spool.peek()
            for _ in range(20):
                spool.append(bytes(10_000))
            lost = spool.counts().dropped
            spool.acknowledge()
            assert spool.counts().dropped == lost - 1
            assert len(drained(spool)) + lost == 21

    def test_segments_go_as_they_are_read(self, tmp_path: Path) -> None:
        with Spool(tmp_path, 1 << 20) as spool:
            for _ in range(40):
                spool.append(bytes(20_000))
            before = len(segments(tmp_path))
            for _ in range(30):
                spool.peek()
                spool.acknowledge()
            assert before > 8
            assert len(segments(tmp_path)) < before / 2

    def test_a_full_disk_is_a_bound_reached_early(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        room = 60_000

        def write(file: int, content: bytes) -> None:
            free = room - sum(path.stat().st_size for path in segments(tmp_path))
            write_all(file, content[: max(free, 0)])
            if free < len(content):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(spool_lane, "write_all", write)
        with Spool(tmp_path, 100_000) as spool:
            for number in range(100):
                spool.append(b"%03d" % number + bytes(2000))
            read = drained(spool)
            assert [int(each[:3]) for each in read] == list(range(100 - len(read), 100))
            assert spool.counts().dropped == 100 - len(read) > 50
            room = 0
            with pytest.raises(StoreError, match=r"could not write to the spool .*: the disk is full; free some space"):
                spool.append(b"more")
            room = 60_000
            spool.append(b"again")
            assert drained(spool) == [b"again"]

    @pytest.mark.root
    def test_a_disk_that_is_really_full(self, tmp_path: Path) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("can't mount a tmpfs here")
        try:
            with Spool(tmp_path / "spool", 10 << 20) as spool:
                for number in range(200):
                    spool.append(b"%03d" % number + random.Random(number).randbytes(20_000))
                read = drained(spool)
                assert [int(each[:3]) for each in read] == list(range(200 - len(read), 200))
                assert len(read) + spool.counts().dropped == 200
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)


class TestDamage:
    def test_any_one_byte_costs_one_record_at_most(self, tmp_path: Path) -> None:
        """Every byte of a small spool, one after the other."""
        whole = [b"first", b"", b"third record", b"4"]
        with Spool(tmp_path / "whole") as spool:
            spool.append(*whole)
        (path,) = segments(tmp_path / "whole")
        for place in range(path.stat().st_size):
            folder = tmp_path / "damaged"
            shutil.copytree(tmp_path / "whole", folder)
            copy = folder / path.relative_to(tmp_path / "whole")
            raw = bytearray(copy.read_bytes())
            raw[place] ^= 0x41
            copy.write_bytes(raw)
            with Spool(folder) as spool:
                read, counts = drained(spool), spool.counts()
            missing = [each for each in whole if each not in read]
            assert read == [each for each in whole if each in read]
            assert len(missing) == counts.damaged + counts.torn == (0 if place < SEGMENT_BYTES else 1), place
            shutil.rmtree(folder)

    @pytest.mark.parametrize("kept", range(0, 70, 3))
    def test_a_torn_tail_is_cut_wherever_it_is_torn(self, tmp_path: Path, kept: int) -> None:
        with Spool(tmp_path) as spool:
            spool.append(b"a" * 10, b"b" * 10)
        (path,) = segments(tmp_path)
        whole = SEGMENT_BYTES + RECORD_BYTES + 10
        os.truncate(path, kept)
        with Spool(tmp_path) as spool:
            spool.append(b"c")
            assert drained(spool) == [*([b"a" * 10] if kept >= whole else []), b"c"]

    def test_a_record_within_a_record_is_not_taken_for_one(self, tmp_path: Path) -> None:
        with Spool(tmp_path) as spool:
            spool.append(b"before", record(b"within", 1, 0, 0) * 3, b"after")
        (path,) = segments(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[SEGMENT_BYTES + RECORD_BYTES + len(b"before") + 5] ^= 0xFF  # the header of the one that holds them
        path.write_bytes(raw)
        with Spool(tmp_path) as spool:
            assert (drained(spool), spool.counts().damaged) == ([b"before", b"after"], 1)

    def test_without_its_cursor_records_come_again(self, tmp_path: Path) -> None:
        for damage in (None, b"", b"00000000 {}", b"rubbish \xff", json.dumps({"number": 2}).encode()):
            with Spool(tmp_path) as spool:
                spool.append(b"a", b"b", b"c")
                spool.peek()
                spool.acknowledge()
            (cursor,) = tmp_path.glob("lane-*/cursor")
            cursor.unlink() if damage is None else cursor.write_bytes(damage)
            with Spool(tmp_path) as spool:
                assert (drained(spool), spool.counts().damaged) == ([b"a", b"b", b"c"], 0)

    def test_a_missing_segment_is_counted(self, tmp_path: Path) -> None:
        with Spool(tmp_path, 1 << 16) as spool:
            for number in range(20):
                spool.append(b"%02d" % number + bytes(2000))
            spool.peek()
            spool.acknowledge()
        paths = segments(tmp_path)
        gone = paths[2]
        gone.unlink()
        with Spool(tmp_path) as spool:
            read = [int(each[:2]) for each in drained(spool)]
            lost = sorted(set(range(1, 20)) - set(read))
            assert lost == list(range(int(gone.stem), int(paths[3].stem)))
            assert spool.counts().damaged == len(lost) > 0

    def test_a_spool_of_a_newer_format_is_left_for_a_newer_version(self, tmp_path: Path, monkeypatch: Any) -> None:
        with monkeypatch.context() as newer, Spool(tmp_path) as spool:
            newer.setattr("adumbra.store.spool_records.FORMAT", 9)
            spool.append(b"new")
        with Spool(tmp_path) as spool:
            assert drained(spool) == []
            spool.append(b"old")
            assert drained(spool) == [b"old"]
        assert len(segments(tmp_path)) == 1


def killed(folder: Path, first: int, save_every: int, lines: int, after_s: float) -> list[tuple[str, int]]:
    """What a process said of its spool until it was killed, so long after so many lines."""
    command = [sys.executable, str(Path(__file__).with_name("spool_process.py")), str(folder), str(first), str(save_every)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "open 0\n"
    begun = [process.stdout.readline() for _ in range(lines)]
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    with process.stdout:
        said = process.stdout.read()  # unlike communicate() with what was read ahead
    assert process.wait(timeout=20) == -signal.SIGKILL
    whole = [line.split() for line in (*begun, *said.splitlines(keepends=True)) if line.endswith("\n")]
    return [(kind, int(number)) for kind, number in whole]


@pytest.mark.parametrize("save_every", [1, 16])
def test_a_killed_process_leaves_every_acknowledged_record_once_and_in_order(tmp_path: Path, save_every: int) -> None:
    chance = random.Random(save_every)
    acknowledged: set[int] = set()
    read: list[int] = []
    for round_ in range(KILLS):
        said = killed(tmp_path, 1_000_000 * round_, save_every, chance.randrange(60), chance.uniform(0.0, 0.01))
        acknowledged |= {number for kind, number in said if kind == "a"}
        came = [number for kind, number in said if kind == "r"]
        again = sum(number in read[-save_every:] for number in came)
        assert came[:again] == read[len(read) - again :], "only the last ones, of which the disk had not been told, come again"
        read += came[again:]
    with Spool(tmp_path, BOUND_BYTES) as spool:
        for raw in drained(spool):
            number = int.from_bytes(raw[:8], "little")
            assert raw == payload(number)
            if number not in read[-save_every:]:
                read.append(number)
        counts = spool.counts()
    assert read == sorted(set(read))
    assert len(acknowledged) > 5 * KILLS
    lost, unasked = acknowledged - set(read), set(read) - acknowledged
    assert len(unasked) <= KILLS, "more than the one that was being appended"
    assert (counts.dropped, counts.damaged, lost) == (0, 0, set())


class SpoolMachine(RuleBasedStateMachine):
    """Processes that append, read, end and are killed, on a disk that fails and forgets; and what must be there then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.appended: list[int] = []
        self.read: list[int] = []
        self.refused = self.flips = self.torn = 0
        self.failing: list[int] = []
        self._write = spool_lane.write_all
        spool_lane.write_all = self._write_or_fail

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            spool_lane.write_all = self._write
            die(self.spool)
            shutil.rmtree(self.folder)

    def _write_or_fail(self, file: int, content: bytes) -> None:
        if self.failing:
            self._write(file, content[: len(content) // 2])
            raise OSError(self.failing.pop(), "refused")
        self._write(file, content)

    @initialize(bound=st.sampled_from([30_000, 1 << 20]))
    def begin(self, bound: int) -> None:
        self.bound = bound
        self.spool = Spool(self.folder, bound).__enter__()

    @rule(sizes=st.lists(st.sampled_from([0, 10, 1000, 6000]), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        numbers = range(len(self.appended), len(self.appended) + len(sizes))
        try:
            self.spool.append(*(b"%08d" % number + bytes(size) for number, size in zip(numbers, sizes, strict=True)))
        except StoreError:
            return
        self.appended += numbers

    @rule(often=st.integers(1, 5), refused=st.booleans())
    def take(self, often: int, refused: bool) -> None:
        for _ in range(often):
            found = self.spool.peek()
            if found is None:
                return
            self.read.append(int(found.payload[:8]))
            self.spool.acknowledge(refused=refused)
            self.refused += refused

    @rule()
    def end(self) -> None:
        self.spool.__exit__()
        self.spool = Spool(self.folder, self.bound).__enter__()

    @rule(tail=st.integers(0, 60))
    def kill(self, tail: int) -> None:
        """A kill may leave the beginning of a record that was being written."""
        die(self.spool)
        own = self.spool._own
        if own is not None and own._writing is not None and tail:
            last = own._segments[-1]
            whole = record(b"never acknowledged" * 3, own._end, last.first, last.size)
            with (own.folder / f"{last.first:020d}.segment").open("ab") as file:
                file.write(whole[: min(tail, len(whole) - 1)])
            self.torn += 1
        self.spool = Spool(self.folder, self.bound).__enter__()

    @precondition(lambda self: segments(self.folder))
    @rule(which=st.integers(0), place=st.integers(0), mask=st.integers(1, 255))
    def damage(self, which: int, place: int, mask: int) -> None:
        paths = segments(self.folder)
        path = paths[which % len(paths)]
        raw = bytearray(path.read_bytes())
        raw[place % len(raw)] ^= mask
        with path.open("r+b") as file:
            file.write(raw)
        self.flips += 1

    @rule(number=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def fail_next_write(self, number: int) -> None:
        self.failing = [number]

    @invariant()
    def what_was_read_is_in_order_and_was_appended(self) -> None:
        assert self.read == sorted(set(self.read))
        assert set(self.read) <= set(self.appended)

    def _drain(self) -> None:
        self.failing = []
        self.end()
        while (found := self.spool.peek()) is not None:
            self.read.append(int(found.payload[:8]))
            self.spool.acknowledge()
        self.what_was_read_is_in_order_and_was_appended()
        counts = self.spool.counts()
        assert counts.refused == self.refused
        missing = len(self.appended) - len(self.read)
        by_damage = missing - counts.dropped
        assert 0 <= by_damage <= self.flips, "a damaged byte costs one record at most"
        assert counts.damaged <= by_damage
        assert counts.damaged == by_damage or counts.torn, "what is missing is counted, or was cut with a torn tail"
        assert counts.torn <= self.torn + self.flips
        if not self.flips:
            assert (counts.damaged, missing) == (0, counts.dropped)


SpoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpoolOfAnyHistory = SpoolMachine.TestCase
