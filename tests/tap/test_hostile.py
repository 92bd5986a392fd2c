"""Captures made to break the reader: whatever the bytes, it gives frames that lie within them, or refuses in one line."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import SHARED, block, corpus, enhanced, interface, needs_shared, obsolete, pcap, section, simple, statistics

from adumbra.schema.errors import SourceError
from adumbra.tap.replay import PcapReplay

words = st.one_of(
    st.sampled_from([0, 1, 4, 8, 12, 16, 28, 31, 32, 60, 0xFFFF, 1 << 20, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)
word_soup = st.lists(words, max_size=60).map(lambda numbers: struct.pack(f"<{len(numbers)}I", *numbers))
orders = st.sampled_from("<>")
data = st.binary(max_size=40)
faces = st.integers(0, 3)
ticks = st.integers(0, (1 << 64) - 1)
resolutions = st.one_of(st.none(), st.integers(0, 255))


def maybe(values: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), values)


@st.composite
def some_block(draw: st.DrawFn) -> bytes:
    order = draw(orders)
    made = [
        lambda: section(order),
        lambda: interface(
            draw(st.sampled_from([0, 1, 101, 999])), draw(st.sampled_from([0, 7, 65535])), draw(resolutions),
            draw(st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1))), order,
        ),
        lambda: enhanced(draw(ticks), draw(data), draw(faces), draw(maybe(words)), draw(maybe(ticks)), order),
        lambda: simple(draw(data), draw(maybe(words)), order),
        lambda: obsolete(draw(ticks), draw(data), draw(faces), draw(st.integers(0, 0xFFFF)), order),
        lambda: statistics(draw(faces), draw(ticks), draw(maybe(ticks)), order),
        lambda: block(draw(words), draw(st.binary(max_size=80)), order),
        lambda: draw(word_soup),
    ]  # fmt: skip
    content = draw(st.sampled_from(made))()
    if content and draw(st.integers(0, 4)) == 0:  # one byte flipped
        at = draw(st.integers(0, len(content) - 1))
        content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    return content


def read_soundly(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        refused = _read(Path(file.name), len(content))
        assert "\n" not in refused


def _read(path: Path, size: int) -> str:
    try:
        with PcapReplay(path) as source:
            given_bytes = 0
            for frames in source:
                assert len(frames) > 0
                assert (frames.offset >= 0).all()
                assert (frames.offset + frames.captured <= len(frames.data)).all()
                assert (frames.captured >= 0).all()
                assert (frames.length >= frames.captured).all()
                assert ((frames.time_ns >= 0) & (frames.time_ns <= 1 << 62)).all()
                given_bytes += int(frames.captured.sum())
            losses = source.losses()
            assert source.progress() is not None
    except SourceError as error:
        return str(error)
    assert given_bytes + losses.unread_bytes <= size
    assert losses.ended or losses.unread_bytes == 0
    assert losses.dropped >= 0
    return ""


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["us", "ns", "modified"]), orders, st.one_of(st.binary(max_size=300), word_soup))
def test_any_bytes_behind_a_pcap_header(kind: str, order: str, soup: bytes) -> None:
    read_soundly(pcap([], kind, order) + soup)


@settings(max_examples=500, deadline=None)
@given(orders, st.lists(some_block(), max_size=12))
def test_any_blocks_behind_a_pcapng_section(order: str, blocks: list[bytes]) -> None:
    read_soundly(section(order) + b"".join(blocks))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\n\r\r\n"]), st.binary(max_size=200))
def test_any_bytes_at_all(start: bytes, soup: bytes) -> None:
    read_soundly(start + soup)


@needs_shared
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_real_captures_with_bytes_changed(drawn: st.DataObject) -> None:
    path = drawn.draw(st.sampled_from([p for p in corpus() if p.stat().st_size < 20_000]))
    content = bytearray(path.read_bytes())
    for _ in range(drawn.draw(st.integers(1, 8))):
        content[drawn.draw(st.integers(0, len(content) - 1))] = drawn.draw(st.integers(0, 255))
    read_soundly(bytes(content))


@needs_shared
def test_the_corpora_hold_what_they_held() -> None:
    assert len(list((SHARED / "tcpdump-tests").iterdir())) == 830


def test_a_file_that_shrinks_while_it_is_read_ends_as_if_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    record = struct.pack("<IIII", 1, 1, 1000, 1000) + b"x" * 1000
    path.write_bytes(pcap([]) + record * 20_000)
    with PcapReplay(path) as source:
        frames = iter(source)
        first = len(next(frames))
        with path.open("r+b") as file:
            file.truncate(12_000_500)
        total = first + sum(len(batch) for batch in frames)
        assert first < total < 20_000
        assert source.losses().ended
        assert source.progress() == pytest.approx(12_000_500 / (24 + len(record) * 20_000))
