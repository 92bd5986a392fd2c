"""Compressed captures: as written by their tools, in pieces, cut off, damaged, and made to explode."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import zstandard
from tests.captures import Frame, pcap, pcapng, replayed, write

from adumbra.schema.errors import SourceError
from adumbra.tap.replay import PcapReplay

FRAMES = [Frame(k * 1_000_000, bytes([k % 256]) * (k % 90), k % 90 + 7) for k in range(300)]
CONTENT = pcap(FRAMES, "ns")


def zstd(content: bytes, **settings: object) -> bytes:
    return zstandard.ZstdCompressor(**settings).compress(content)  # type: ignore[arg-type]


def skippable(content: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A53, len(content)) + content


def stream(content: bytes) -> bytes:
    """A zstd frame that doesn't say how large its content is."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(CONTENT, mtime=0),
        gzip.compress(CONTENT[:100], mtime=0) + gzip.compress(CONTENT[100:], mtime=0),
        b"".join(gzip.compress(CONTENT[k : k + 999], mtime=0) for k in range(0, len(CONTENT), 999)),
        gzip.compress(CONTENT, mtime=0) + b"\0" * 5000,
        gzip.compress(CONTENT, mtime=0) + b"\0" * 200_000,
        gzip.compress(b"", mtime=0) + gzip.compress(CONTENT, mtime=0),
        zstd(CONTENT),
        zstd(CONTENT, write_checksum=True),
        stream(CONTENT),
        zstd(CONTENT[:100]) + zstd(CONTENT[100:]),
        b"".join(zstd(CONTENT[k : k + 999]) for k in range(0, len(CONTENT), 999)),
        skippable(b"notes") + zstd(CONTENT[:100]) + skippable(b"x" * 10_000) + zstd(CONTENT[100:]) + skippable(b""),
    ],
)
def test_every_way_of_packing_gives_the_same_frames(tmp_path: Path, packed: bytes) -> None:
    found, losses = replayed(write(tmp_path / "a", packed))
    assert found == FRAMES
    assert (losses.unread_bytes, losses.ended) == (0, "")


@pytest.mark.parametrize(
    ("tool", "more"), [("gzip", ["-9"]), ("zstd", ["-19"]), ("zstd", ["--long=27"]), ("zstd", ["-1", "-T2"])]
)
def test_what_the_tools_themselves_write(tmp_path: Path, tool: str, more: list[str]) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    path = write(tmp_path / "a.pcapng", pcapng(FRAMES))
    packed = subprocess.run([tool, *more, "-c", str(path)], capture_output=True, check=True).stdout
    found, losses = replayed(write(tmp_path / "b", packed))
    assert (found, losses.ended) == (FRAMES, "")


def unzip_prefix(packed: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(packed)


def unzstd_prefix(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


@pytest.mark.parametrize(
    ("packed", "prefix", "word"),
    [(gzip.compress(CONTENT, mtime=0), unzip_prefix, "gzip"), (zstd(CONTENT), unzstd_prefix, "zstd")],
)
def test_cut_at_every_byte_all_that_can_be_unpacked_is_given(tmp_path: Path, packed: bytes, prefix, word: str) -> None:
    ends = [24]
    for frame in FRAMES:
        ends.append(ends[-1] + 16 + len(frame.data))
    path = tmp_path / "cut"
    for cut in range(1, len(packed) + 1):
        path.write_bytes(packed[:cut])
        readable = len(prefix(packed[:cut])) if cut >= 4 else 0
        if readable < 24:
            with pytest.raises(SourceError, match=r"cut off|no capture"), PcapReplay(path):
                pass
            continue
        with PcapReplay(path) as source:
            assert sum(len(frames) for frames in source) == sum(end <= readable for end in ends[1:])
            losses = source.losses()
            assert source.progress() == 1.0
        assert losses.unread_bytes == readable - max(end for end in ends if end <= readable)
        assert losses.ended == ("" if cut == len(packed) else f"the {word} data is cut off")


@pytest.mark.parametrize("packed", [gzip.compress(CONTENT, mtime=0), zstd(CONTENT, write_checksum=True)])
def test_damaged_at_every_byte_it_never_fails_otherwise(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "damaged"
    for at in range(len(packed)):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :])
        try:
            found, losses = replayed(path)
        except SourceError:
            continue
        assert losses.ended or len(found) == len(FRAMES)


def test_garbage_behind_the_end_is_told(tmp_path: Path) -> None:
    for packed, want in ((gzip.compress(CONTENT), "the gzip data is damaged"), (zstd(CONTENT), "the zstd data is damaged")):
        found, losses = replayed(write(tmp_path / "a", packed + b"garbage that is no member"))
        assert found == FRAMES
        assert losses.ended.startswith(want)


def test_a_window_above_the_bound_is_refused(tmp_path: Path) -> None:
    vast = bytes.fromhex("28b52ffd") + bytes([0x00, 0xA8]) + b"\x01\x00\x00"  # a window of 2 GiB
    with pytest.raises(SourceError, match="damaged, or needs a window above 128 MiB"), PcapReplay(write(tmp_path / "a", vast)):
        pass


_MEASURE = """
import resource, sys
from pathlib import Path
from adumbra.tap.replay import PcapReplay
def peak_mb():  # of this process alone: ru_maxrss also remembers its parent's
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) / 1024
with PcapReplay(Path(sys.argv[1])) as source:
    for first in source:
        break
before = peak_mb()
with PcapReplay(Path(sys.argv[2])) as source:
    frames = sum(len(batch) for batch in source)
    print(frames, source.losses().ended or "-", round(peak_mb() - before), sep="|")
"""


def bomb_of_repeats(blocks: int) -> bytes:
    """A zstd frame whose every 4 bytes become 128 KiB of zeros, behind a pcap header."""
    head = CONTENT[:24]
    repeat = struct.pack("<I", (131072 << 3) | (1 << 1))[:3] + b"\0"
    raw = struct.pack("<I", len(head) << 3)[:3] + head
    return bytes.fromhex("28b52ffd") + bytes([0x00, 0x58]) + raw + repeat * blocks + b"\x01\x00\x00"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zstd of repeats"])
def test_a_bomb_stays_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    zeros_mb = 512
    if kind == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        packed = (
            packer.compress(CONTENT[:24])
            + b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(zeros_mb))
            + packer.flush()
        )
    elif kind == "zstd":
        coder = zstandard.ZstdCompressor(level=3).compressobj()
        packed = (
            coder.compress(CONTENT[:24]) + b"".join(coder.compress(b"\0" * (1 << 20)) for _ in range(zeros_mb)) + coder.flush()
        )
    else:
        packed = bomb_of_repeats(zeros_mb * 8)
    assert len(packed) < 2 << 20
    small, bomb = write(tmp_path / "small", CONTENT), write(tmp_path / "bomb", packed)
    command = [sys.executable, "-c", _MEASURE, str(small), str(bomb)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    frames, ended, more_mb = run.stdout.strip().split("|")
    assert int(frames) == zeros_mb * (1 << 20) // 16  # zeros are records of no bytes
    assert ended == "-"
    assert int(more_mb) < 300
