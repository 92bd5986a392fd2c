"""pcap files: every magic and byte order, whole and cut off anywhere."""

from __future__ import annotations

import os
import struct
from itertools import product
from pathlib import Path

import pytest
from tests.captures import PCAP_MAGICS, Frame, pcap, replayed, write

from adumbra.schema.errors import SourceError
from adumbra.tap.kernels import MAX_RECORD_BYTES
from adumbra.tap.replay import BATCH_FRAMES, PcapReplay, fingerprint

FRAMES = [
    Frame(1_700_000_000_123_456_789, b"first frame"),
    Frame(1_700_000_000_123_457_000, b"\x00\xff" * 30, length=1514),
    Frame(1_700_000_001_000_000_000, b""),
    Frame(1_700_000_001_999_999_999, bytes(range(256))),
]


def in_unit(frame: Frame, kind: str) -> Frame:
    unit_ns = 1 if kind == "ns" else 1000
    return Frame(frame.time_ns // unit_ns * unit_ns, frame.data, frame.wire, frame.link)


@pytest.mark.parametrize(("kind", "order", "link"), list(product(PCAP_MAGICS, "<>", (1, 101, 276))))
def test_every_magic_and_byte_order_gives_the_same_frames(tmp_path: Path, kind: str, order: str, link: int) -> None:
    found, losses = replayed(write(tmp_path / "a.pcap", pcap(FRAMES, kind, order, link)))
    want = [in_unit(frame, kind) for frame in FRAMES]
    assert [(f.time_ns, f.data, f.length, f.link) for f in found] == [(f.time_ns, f.data, f.length, link) for f in want]
    assert (losses.dropped, losses.unread_bytes, losses.ended) == (0, 0, "")


@pytest.mark.parametrize(("kind", "order"), [("us", "<"), ("ns", ">"), ("modified", "<")])
def test_cut_at_every_byte_it_gives_all_whole_frames_and_says_so(tmp_path: Path, kind: str, order: str) -> None:
    content = pcap(FRAMES, kind, order)
    header = 24 if kind == "modified" else 16
    ends = [24]
    for frame in FRAMES:
        ends.append(ends[-1] + header + len(frame.data))
    path = tmp_path / "cut.pcap"
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        if cut < 24:
            with (
                pytest.raises(SourceError, match="empty" if cut == 0 else "no capture|cut off in its header"),
                PcapReplay(path),
            ):
                pass
            continue
        with PcapReplay(path) as source:
            whole = sum(len(frames) for frames in source)
            losses = source.losses()
            assert source.progress() == 1.0
        assert whole == sum(end <= cut for end in ends[1:])
        assert losses.unread_bytes == cut - max(end for end in ends if end <= cut)
        assert bool(losses.ended) == (cut not in ends), cut
        if cut not in ends:
            assert losses.ended == "the capture is cut off in the middle of a packet"


def test_the_link_types_upper_bits_hold_other_things(tmp_path: Path) -> None:
    found, _ = replayed(write(tmp_path / "a.pcap", pcap(FRAMES[:1], link=0x5400_0000 | 113)))
    assert found[0].link == 113


@pytest.mark.parametrize(("version", "swapped"), [((2, 1), True), ((2, 3), True), ((2, 3), False), ((2, 4), False)])
def test_before_version_2_4_the_lengths_may_be_swapped(tmp_path: Path, version: tuple[int, int], swapped: bool) -> None:
    lengths = (1514, 5) if swapped else (5, 1514)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, *version, 0, 0, 65535, 1)
    path = write(tmp_path / "old.pcap", head + (struct.pack("<IIII", 7, 8, *lengths) + b"12345") * 2)
    found, losses = replayed(path)
    assert found == [Frame(7_000_008_000, b"12345", 1514)] * 2
    assert losses.ended == ""


def test_a_length_on_the_wire_below_the_captured_one_is_raised_to_it(tmp_path: Path) -> None:
    found, _ = replayed(write(tmp_path / "a.pcap", pcap([Frame(0, b"12345", length=2)])))
    assert found[0].length == 5


@pytest.mark.parametrize("claimed", [MAX_RECORD_BYTES + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_impossible_length_ends_it_there(tmp_path: Path, claimed: int) -> None:
    bad = struct.pack("<IIII", 1, 1, claimed, claimed) + b"x" * 100
    found, losses = replayed(write(tmp_path / "a.pcap", pcap(FRAMES) + bad))
    assert len(found) == len(FRAMES)
    assert losses.unread_bytes == len(bad)
    assert losses.ended == "a record of impossible length, so that nothing after it can be read"


def test_the_largest_record_is_read_whole(tmp_path: Path) -> None:
    frames = [Frame(1, b"a"), Frame(2, b"b" * MAX_RECORD_BYTES), Frame(3, b"c")]
    found, losses = replayed(write(tmp_path / "a.pcap", frames))
    assert [len(f.data) for f in found] == [1, MAX_RECORD_BYTES, 1]
    assert losses.ended == ""


def test_many_batches_and_buffers_keep_order_and_content(tmp_path: Path) -> None:
    frames = [Frame(i * 1000, i.to_bytes(4, "big") + b"." * (i % 997)) for i in range(2 * BATCH_FRAMES + 7)]
    path = write(tmp_path / "a.pcap", frames)
    assert path.stat().st_size > 2 * (4 << 20) - 100_000
    seen = [0.0]
    with PcapReplay(path) as source:
        for batch in source:
            assert 0 < len(batch) <= BATCH_FRAMES
            seen.append(source.progress() or 0.0)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    found, _ = replayed(path)
    assert [(f.time_ns, f.data) for f in found] == [(f.time_ns, f.data) for f in frames]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"", "holds no packets: the file is empty"),
        (b"\xd4", "is no capture: it is neither pcap nor pcapng"),
        (b"\xd4\xc3\xb2\xa1", "is cut off in its header"),
        (b"name: shop\n" * 100, "is no capture: it is neither pcap nor pcapng"),
        (b"\0" * 4096, "is no capture: it is neither pcap nor pcapng"),
        (pcap(FRAMES, version=(3, 0)), "is a pcap of version 3.0; convert it to version 2.4"),
    ],
)
def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path, content: bytes, want: str) -> None:
    path = write(tmp_path / "a.pcap", content)
    with pytest.raises(SourceError, match=want) as refused, PcapReplay(path):
        pass
    assert refused.value.exit_status == 2
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_a_missing_file_and_a_device_are_refused(tmp_path: Path) -> None:
    for path, want in (
        (tmp_path, "is a folder"),
        (tmp_path / "none", "is not there"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(SourceError, match=want), PcapReplay(path):
            pass
    with pytest.raises(SourceError, match="can't be read"), PcapReplay(tmp_path / ("n" * 300)):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcap", pcap(FRAMES))
    path.chmod(0)
    with (
        pytest.raises(SourceError, match="can't be read: Permission denied; check the path and its permissions"),
        PcapReplay(path),
    ):
        pass


def test_the_fingerprint_tells_other_content_and_length(tmp_path: Path) -> None:
    content = pcap(FRAMES)
    same = fingerprint(write(tmp_path / "a", content))
    assert fingerprint(write(tmp_path / "b", content)) == same
    assert fingerprint(write(tmp_path / "c", content[:-1])) != same
    assert fingerprint(write(tmp_path / "d", b"\0" + content[1:])) != same
    with pytest.raises(SourceError, match="can't be read"):
        fingerprint(tmp_path / "none")
