"""Blocks of a ring, made up as the kernel makes them or as it never would: every frame is found, and nothing beyond is read."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adumbra.tap.ring_kernels import CORRUPT, DONE, FULL, walk_block

MAC_AT = 82
FILLER = 0xEE


@dataclass(frozen=True)
class Taken:
    """A frame as a ring holds it: bytes, its length on the wire, when it was taken."""

    data: bytes
    length: int
    time_ns: int


def header(ahead: int, frame: Taken) -> bytes:
    """struct tpacket3_hdr (linux/if_packet.h), with a VLAN tag that counts for nothing."""
    seconds, nanoseconds = divmod(frame.time_ns, 10**9)
    fixed = struct.pack("=6I2H", ahead, seconds, nanoseconds, len(frame.data), frame.length, 0x51, MAC_AT, MAC_AT + 14)
    return fixed + struct.pack("=2I2H8x", 7, 100, 0x8100, 0)


def block(
    frames: list[Taken], size: int = 1 << 16, *, offset: int = 48, count: int | None = None, used: int | None = None
) -> bytes:
    """A block of the ring: struct tpacket_block_desc, then the frames, each aligned to 8."""
    body = b""
    for i, frame in enumerate(frames):
        room = (MAC_AT + len(frame.data) + 7) // 8 * 8
        head = header(room if i < len(frames) - 1 else 0, frame)
        body += (head.ljust(MAC_AT, b"\0") + frame.data).ljust(room, b"\0")
    fixed = struct.pack("=6IQ4I", 1, 48, 1, len(frames), offset, offset + len(body), 9, 1, 2, 3, 4)
    return (fixed.ljust(offset, b"\0") + body).ljust(size, bytes([FILLER]))


def walked(data: bytes, start: int, size: int, room: int) -> tuple[list[Taken], int, int]:
    """All that is found in a block, in pieces of `room` frames: the frames, the last state, and how many were left."""
    ring = np.frombuffer(data, np.uint8)
    ring.flags.writeable = False
    columns = [np.zeros(room, np.int64) for _ in range(4)]
    frames: list[Taken] = []
    at = left = 0
    for _ in range(len(data)):  # each step goes on by a frame at least
        found, at, left, state = walk_block(ring, start, size, at, left, 0, *columns)
        for offset, captured, length, time_ns in zip(*(column[:found].tolist() for column in columns), strict=True):
            assert start <= offset <= offset + captured <= start + size
            frames.append(Taken(data[offset : offset + captured], length, time_ns))
        if state != FULL:
            return frames, state, left
    raise AssertionError("the walk doesn't end")


taken = st.builds(Taken, st.binary(max_size=120), st.integers(120, 70_000), st.integers(0, 2**31 * 10**9))


@settings(deadline=None)
@given(st.lists(taken, max_size=30), st.integers(1, 12), st.integers(0, 3), st.sampled_from([48, 56, 120]))
def test_every_frame_of_a_block_is_found(frames: list[Taken], room: int, number: int, offset: int) -> None:
    size = 1 << 14
    ring = bytes([FILLER]) * (number * size) + block(frames, size, offset=offset) + bytes([FILLER]) * size
    assert walked(ring, number * size, size, room) == (frames, DONE, 0)


GOOD = [Taken(b"first" * 4, 1514, 5), Taken(b"second" * 3, 60_000, 6), Taken(b"third", 5, 7)]
STEP = (MAC_AT + 20 + 7) // 8 * 8


def spoilt(at: int, value: int, width: int = 4) -> bytes:
    made = bytearray(block(GOOD, 1 << 12))
    made[at : at + width] = value.to_bytes(width, "little")
    return bytes(made)


@pytest.mark.parametrize(
    ("data", "want", "left"),
    [
        (spoilt(12, 0), [], 0),  # no packets
        (spoilt(16, 0), [], 3),  # the first stands in the block's header
        (spoilt(16, 4090), [], 3),  # or beyond the block
        (spoilt(16, 2**32 - 8), [], 3),
        (spoilt(20, 60), [], 3),  # the block is shorter than its first frame's header
        (spoilt(20, 48 + STEP + 20), GOOD[:1], 2),
        (spoilt(48, 0), [], 3),  # no next frame, though there are more
        (spoilt(48, 40), [], 3),  # the next stands within this one's header
        (spoilt(48, 2**32 - 8), [], 3),  # or far behind
        (spoilt(48 + STEP, 0), GOOD[:1], 2),
        (spoilt(48 + 12, 2**32 - 1), [], 3),  # captured more than there is
        (spoilt(48 + 12, 500), [], 3),
        (spoilt(48 + 24, 0, 2), [], 3),  # the frame begins in its own header
        (spoilt(48 + 24, 0xFFFF, 2), [], 3),
        (spoilt(12, 2), GOOD[:2], 0),  # fewer than there are: as told
        (spoilt(12, 4), GOOD[:2], 2),  # more than there are: the third has no next
        (spoilt(20, 2**32 - 1), GOOD, 0),  # a length beyond the block: the block's own counts
    ],
)
def test_what_no_kernel_writes_ends_the_block(data: bytes, want: list[Taken], left: int) -> None:
    frames, state, rest = walked(data, 0, len(data), 2)
    assert frames == want
    assert rest == left
    assert (state == CORRUPT) == (left > 0)


spoils = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(taken, max_size=5), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.integers(1, 4)
)
@example([Taken(b"", 0, 0)], [(16, 0)], 1)
def test_spoilt_blocks_never_lead_beyond_themselves(frames: list[Taken], spoils: list[tuple[int, int]], room: int) -> None:
    size = 1 << 11
    made = bytearray(block(frames, size)[:size])
    for at, value in spoils:
        made[at] = value
    found, state, _ = walked(bytes(size) + bytes(made) + bytes(size), size, size, room)
    assert state in (DONE, CORRUPT)
    assert len(found) <= size // 48


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=48, max_size=600), st.integers(1, 3))
def test_random_bytes_are_no_block(data: bytes, room: int) -> None:
    walked(data, 0, len(data), room)


@pytest.mark.parametrize(("start", "size"), [(-1, 64), (0, 47), (32, 128), (100, 64)])
def test_blocks_outside_the_ring_are_refused(start: int, size: int) -> None:
    column = np.zeros(1, np.int64)
    assert walk_block(np.zeros(128, np.uint8), start, size, 0, 0, 0, column, column, column, column)[3] == CORRUPT


def test_frames_longer_than_the_mtu_and_cut_ones_keep_their_length() -> None:
    frames, _, _ = walked(block([Taken(b"x" * 20, 65_550, 1), Taken(b"y" * 20, 7, 2)]), 0, 1 << 16, 8)
    assert [frame.length for frame in frames] == [65_550, 20]  # never less than what is there
