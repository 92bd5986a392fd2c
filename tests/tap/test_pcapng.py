"""pcapng files: sections, interfaces, resolutions, drops and every kind of packet block."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from tests.captures import (
    Frame,
    block,
    enhanced,
    ethernet,
    interface,
    ip,
    obsolete,
    pcapng,
    replayed,
    section,
    simple,
    statistics,
    udp,
    write,
)
from tests.tshark import needs_tshark

from adumbra.schema.errors import SourceError
from adumbra.tap.replay import PcapReplay

PACKET = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2)))
NOW_US = 1_700_000_000_123_456


def blocks(order: str) -> list[bytes]:
    """A file with all that is known and some that is not."""
    return [
        section(order),
        block(0x0BAD, b"nobody knows this", order),
        interface(1, resolution=6, order=order),
        enhanced(NOW_US, PACKET, order=order),
        interface(101, snap=20, order=order),
        enhanced(NOW_US + 1, PACKET[14:], face=1, length=999, dropped=3, order=order),
        simple(b"0123456789abc", length=13, order=order),
        obsolete(NOW_US + 2, PACKET, dropped=2, order=order),
        obsolete(NOW_US + 3, PACKET, order=order),
        statistics(0, order=order),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_packet_block_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    found, losses = replayed(write(tmp_path / "a.pcapng", b"".join(blocks(order))))
    assert found == [
        Frame(NOW_US * 1000, PACKET, len(PACKET), 1),
        Frame((NOW_US + 1) * 1000, PACKET[14:], 999, 101),
        Frame((NOW_US + 1) * 1000, b"0123456789abc", 13, 1),  # it has no time: that of the one before stands
        Frame((NOW_US + 2) * 1000, PACKET, len(PACKET), 1),
        Frame((NOW_US + 3) * 1000, PACKET, len(PACKET), 1),
    ]
    assert (losses.dropped, losses.unread_bytes, losses.ended) == (5, 0, "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_cut_at_every_byte_it_gives_all_whole_frames_and_says_so(tmp_path: Path, order: str) -> None:
    parts = blocks(order)
    content, ends, whole_at = b"".join(parts), [0], [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
        kind = struct.unpack(order + "I", part[:4])[0]
        whole_at.append(whole_at[-1] + (kind in {2, 3, 6}))
    path = tmp_path / "cut.pcapng"
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
        before = max(i for i, end in enumerate(ends) if end <= cut)
        assert whole == whole_at[before]
        assert losses.unread_bytes == cut - ends[before]
        assert losses.ended == ("" if cut in ends else "the capture is cut off in the middle of a packet"), cut


def test_a_section_begins_anew_with_its_own_byte_order_and_interfaces(tmp_path: Path) -> None:
    parts = [
        section("<"), interface(1), interface(113), enhanced(5, b"a", face=1),
        section(">"), interface(101, order=">"), enhanced(6, b"b", order=">"),
        section("<"), interface(276, resolution=3), enhanced(7, b"c"),
    ]  # fmt: skip
    found, losses = replayed(write(tmp_path / "a.pcapng", b"".join(parts)))
    assert found == [Frame(5000, b"a", 1, 113), Frame(6000, b"b", 1, 101), Frame(7_000_000, b"c", 1, 276)]
    assert losses.ended == ""
    orphan = b"".join([*parts, section("<"), enhanced(8, b"d")])
    found, losses = replayed(write(tmp_path / "b.pcapng", orphan))
    assert len(found) == 3
    assert losses.ended.startswith("a record of impossible length")


@pytest.mark.parametrize(
    ("resolution", "offset_s", "ticks", "want_ns"),
    [
        (None, None, 1_700_000_000_000_001, 1_700_000_000_000_001_000),
        (0, None, 1_700_000_000, 1_700_000_000_000_000_000),
        (3, None, 1_700_000_000_001, 1_700_000_000_001_000_000),
        (6, 3600, 1_700_000_000_000_001, 1_700_003_600_000_001_000),
        (6, -3600, 1_700_000_000_000_001, 1_699_996_400_000_001_000),
        (9, None, 1_700_000_000_000_000_001, 1_700_000_000_000_000_001),
        (12, 1_700_000_000, 1_234_567_891_234, 1_700_000_001_234_567_891),
        (0x80, None, 1_700_000_000, 1_700_000_000_000_000_000),
        (0x80 | 10, None, 1_700_000_000 << 10 | 1023, 1_700_000_000_999_023_437),
        (0x80 | 20, None, 1_700_000_000 << 20 | 1, 1_700_000_000_000_000_953),
        (0x80 | 32, None, 1_700_000_000 << 32 | 0xFFFFFFFF, 1_700_000_000_999_999_999),
        (0x80 | 33, None, 1_700_000_000 << 33 | 0x1_8000_0001, 1_700_000_000_750_000_000),
        (0x80 | 63, 1_700_000_000, (1 << 63) + (1 << 62) - 1, 1_700_000_001_499_999_999),
        (0x80 | 64, 1_700_000_000, (1 << 64) - 1, 1_700_000_000_999_999_999),
        (0x80 | 127, 1_700_000_000, (1 << 64) - 1, 1_700_000_000_000_000_000),
        (6, None, (1 << 64) - 1, 1 << 62),  # held at the year 2116
        (6, -(1 << 62), 1_700_000_000_000_000, 0),  # and at 1970
    ],
)
def test_times_of_every_resolution_and_offset(
    tmp_path: Path, resolution: int | None, offset_s: int | None, ticks: int, want_ns: int
) -> None:
    content = section() + interface(resolution=resolution, offset_s=offset_s) + enhanced(ticks, PACKET)
    found, _ = replayed(write(tmp_path / "a.pcapng", content))
    if want_ns == 1 << 62:
        assert abs(found[0].time_ns - want_ns) < 10**9
    else:
        assert found[0].time_ns == want_ns


@needs_tshark
@pytest.mark.parametrize("resolution", [None, 0, 2, 3, 6, 7, 9, 0x80, 0x80 | 7, 0x80 | 10, 0x80 | 20, 0x80 | 30])
@pytest.mark.parametrize("offset_s", [None, 7200, -7200])
def test_times_are_those_that_tshark_reads(tmp_path: Path, resolution: int | None, offset_s: int | None) -> None:
    per_second = 10**6 if resolution is None else 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    ticks = [1_700_000_000 * per_second + k * per_second // 7 for k in range(20)]
    content = section() + interface(resolution=resolution, offset_s=offset_s) + b"".join(enhanced(t, PACKET) for t in ticks)
    path = write(tmp_path / "a.pcapng", content)
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
    rows = [
        row.split("\t") for row in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    ]
    found, _ = replayed(path)
    seconds = [row[0].split(".") for row in rows]
    theirs = [int(whole) * 10**9 + int(part.ljust(9, "0")) for whole, part in seconds]
    assert [f.time_ns for f in found] == theirs
    assert [[str(len(f.data)), str(f.length)] for f in found] == [row[1:] for row in rows]


@pytest.mark.parametrize(
    ("told", "want"),
    [
        ([enhanced(1, b"a", dropped=3), enhanced(2, b"a", dropped=4), enhanced(3, b"a")], 7),
        ([statistics(0, dropped=5)], 5),
        ([statistics(0, dropped=5), statistics(0, dropped=9)], 9),  # each tells of all since the beginning
        ([statistics(0, dropped=5), statistics(1, dropped=2, dropped_by_system=1)], 8),
        ([enhanced(1, b"a", dropped=5), statistics(0, dropped=5)], 5),  # both tell of the same
        ([enhanced(1, b"a", dropped=2), statistics(0, dropped=5)], 5),
        ([enhanced(1, b"a", dropped=(7 << 32) + 1)], 1),  # above 4 billion between two packets isn't believed
        ([statistics(0, dropped=1 << 63), statistics(7, dropped=4)], 0),  # broken, and of no interface
        ([statistics(0, dropped=5), section(), interface(), statistics(0, dropped=2)], 7),
        ([obsolete(1, b"a", dropped=6), obsolete(2, b"a", dropped=0xFFFF)], 6),
    ],
)
def test_what_the_capturing_side_reports_lost(tmp_path: Path, told: list[bytes], want: int) -> None:
    content = section() + interface() + interface() + b"".join(told)
    _, losses = replayed(write(tmp_path / "a.pcapng", content))
    assert (losses.dropped, losses.ended) == (want, "")


def test_a_simple_block_is_cut_at_the_interfaces_snap_length(tmp_path: Path) -> None:
    content = section() + interface(snap=4) + simple(b"0123", length=900) + simple(b"01", length=2)
    found, _ = replayed(write(tmp_path / "a.pcapng", content))
    assert found == [Frame(0, b"0123", 900, 1), Frame(0, b"01", 2, 1)]


def test_large_blocks_that_hold_no_packet_are_passed_over(tmp_path: Path) -> None:
    secrets = block(0x0A, b"k" * (5 << 20))
    found, losses = replayed(write(tmp_path / "a.pcapng", section() + secrets + interface() + enhanced(1, b"a")))
    assert (len(found), losses.ended) == (1, "")


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<III", 6, 8, 8),  # shorter than a block can be
        struct.pack("<III", 6, 13, 13) + b"....",  # not a multiple of 4
        struct.pack("<II", 6, 1 << 30) + b"." * 64,  # longer than any
        struct.pack("<II", 6, 32) + b"\0" * 20 + struct.pack("<I", 36),  # its two lengths differ
        struct.pack("<II", 6, 28) + b"\0" * 16 + struct.pack("<I", 28),  # no room for its own header
        enhanced(1, b"a", face=9),  # of an interface that nobody described
        block(6, struct.pack("<IIIII", 0, 0, 0, 5000, 5000) + b"abcd"),  # claims more than the block holds
        block(3, struct.pack("<I", 5000) + b"abcd"),
        block(0x0A0D0D0A, b"\0" * 16),  # a section of no known byte order
        struct.pack("<III", 0x0A0D0D0A, 4, 0x1A2B3C4D) + b"\0" * 16,
    ],
)
def test_a_damaged_block_ends_it_there(tmp_path: Path, bad: bytes) -> None:
    good = section() + interface() + enhanced(1, b"a")
    found, losses = replayed(write(tmp_path / "a.pcapng", good + bad + enhanced(2, b"b")))
    assert len(found) == 1
    assert losses.ended == "a record of impossible length, so that nothing after it can be read"
    assert losses.unread_bytes == len(bad) + len(enhanced(2, b"b"))


def test_many_interfaces_take_no_more_than_their_share_of_time(tmp_path: Path) -> None:
    content = section() + interface(101) * 65_535 + interface(113) + enhanced(1, b"a", face=65_535)
    found, losses = replayed(write(tmp_path / "a.pcapng", content))
    assert (found[0].link, losses.ended) == (113, "")
    found, losses = replayed(write(tmp_path / "b.pcapng", section() + interface() * 65_600 + enhanced(1, b"a", face=65_536)))
    assert not found
    assert losses.ended


def test_a_pcapng_of_one_section_reads_back(tmp_path: Path) -> None:
    frames = [Frame(k * 1_000_003, bytes([k]) * k, k + 5) for k in range(200)]
    assert replayed(write(tmp_path / "a.pcapng", pcapng(frames)))[0] == frames
