"""Real captures of every kind: the replay gives as many frames as capinfos counts, at the times that tshark reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.captures import SHARED, corpus, needs_shared, replayed
from tests.tshark import needs_tshark


@needs_shared
@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed: apt-get install tshark")
def test_frames_of_every_capture_as_capinfos_counts_them() -> None:
    files = corpus()
    # It refuses some captures, whose link types it doesn't know; those are only read here.
    run = subprocess.run(["capinfos", "-T", "-M", "-r", "-c", *map(str, files)], capture_output=True, text=True, check=False)
    counts = dict(row.split("\t") for row in run.stdout.splitlines())
    assert len(counts) > 880
    differ = {}
    for path in files:
        frames, losses = replayed(path)
        if str(path) in counts and (str(len(frames)) != counts[str(path)] or losses.ended):
            differ[path.name] = (len(frames), counts[str(path)], losses)
        assert len(frames) > 0 or path.name.startswith("empty"), path
    assert not differ


@needs_shared
@needs_tshark
@pytest.mark.parametrize(
    "name",
    ["libtrace/100_packetsns.pcap", "libtrace/100_packets.pcapng", "libtrace/sll.pcap.gz",
     "tcpdump-tests/OSPFv2_Capture_FINAL.pcapng", "Synchrophasor.pcap"],
)  # fmt: skip
def test_times_and_lengths_as_tshark_reads_them(name: str) -> None:
    path: Path = SHARED / name
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "frame.cap_len",
        "-e",
        "frame.len",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = []
    for row in run.stdout.splitlines():
        time, captured, length = row.split("\t")
        seconds, _, fraction = time.partition(".")
        theirs.append((int(seconds) * 10**9 + int(fraction.ljust(9, "0")), int(captured), int(length)))
    frames, _ = replayed(path)
    assert [(f.time_ns, len(f.data), f.length) for f in frames] == theirs
