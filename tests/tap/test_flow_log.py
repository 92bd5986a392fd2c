"""Flow log files: whole lines whatever the compression and the cut, numbered, bounded; what is no log of lines is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.schema.errors import SourceError
from adumbra.tap import flow_log
from adumbra.tap.flow_log import FlowLogFile

PACKED = {"plain": bytes, "gzip": gzip.compress, "zstd": lambda data: zstandard.ZstdCompressor().compress(data)}


def read(path: Path, content: bytes) -> tuple[list[bytes], FlowLogFile]:
    path.write_bytes(content)
    lines: list[bytes] = []
    with FlowLogFile(path) as log:
        for batch in log:
            assert batch.first_line == len(lines) + 1
            lines += batch.lines
        assert log.progress() == 1.0
    return lines, log


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb", [b"a", b"b"]),
        (b"\n\na\n", [b"", b"", b"a"]),
        (b"\n".join(b"line %d" % k for k in range(20_000)), [b"line %d" % k for k in range(20_000)]),
        (b"x" * 3_000_000 + b"\ny", [b"x" * 3_000_000, b"y"]),
    ],
)
def test_lines_are_whole(tmp_path: Path, packing: str, content: bytes, want: list[bytes]) -> None:
    lines, log = read(tmp_path / "log", PACKED[packing](content))
    assert lines == want
    assert log.losses() == type(log.losses())()
    assert log.name == f"flowlog:{tmp_path / 'log'}"


def test_the_line_in_which_a_compressed_file_is_cut_off_is_not_given(tmp_path: Path) -> None:
    content = b"\n".join(b"line %d of many" % (k * 7919) for k in range(50_000))
    packed = gzip.compress(content)
    lines, log = read(tmp_path / "log.gz", packed[: len(packed) // 2])
    given_bytes = sum(len(line) + 1 for line in lines)
    assert content.startswith(b"\n".join(lines) + b"\n")
    assert 0 < given_bytes < len(content)
    assert log.losses().ended == "the gzip data is cut off"


def test_a_line_that_is_too_long_is_passed_over_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_log, "MAX_LINE_BYTES", 1 << 20)
    long = b"x" * ((1 << 20) + 1)
    lines, log = read(tmp_path / "log", b"a\n" + long + b"\nb\n" + b"y" * (1 << 20) + b"\n" + long)
    assert lines == [b"a", b"", b"b", b"y" * (1 << 20), b""]
    assert (log.losses().dropped, log.losses().unread_bytes) == (2, 2 * len(long))
    assert log.losses().ended == "2 lines longer than 1 MiB were passed over"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no flows: the file is empty"),
        (b"PAR1\x15\x04", "is Parquet, not a flow log in text"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "is a capture"),
        (b"\xff\xfea\0", "is UTF-16 text"),
    ],
)
def test_what_holds_no_lines_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=why), FlowLogFile(path):
        pass


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not there"), FlowLogFile(tmp_path / "none"):
        pass


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), min_size=1, max_size=30))
def test_any_lines_come_back(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    if content and not content.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04")):
        got, _ = read(tmp_path_factory.mktemp("log") / "log", b"#\n" + content)
        assert got == [b"#", *(lines if lines[-1] else lines[:-1])]
