"""Exports in files: captures of every link and IP version, bare messages; what is given, turned away and lost adds up."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import IPV4, IPV6, SYN, Frame, ethernet, ip, pcap, pcapng, replayed, tcp, udp, write
from tests.tap.test_collector import IPFIX, SFLOW, V5, V9

from adumbra.schema.errors import SourceError
from adumbra.schema.records import Losses
from adumbra.schema.sources import Export, ExportFileSource
from adumbra.tap.flows import ExportReplay, split_messages

FLOWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flows"
needs_flows = pytest.mark.skipif(not FLOWS.is_dir(), reason="the flow records of ../shared are not there")
TEMPLATES = IPFIX[:2] + struct.pack(">H", 24) + IPFIX[4:] + struct.pack(">HHHH", 2, 8, 256, 0)


def replay(path: Path, export: Export = Export.NETFLOW) -> tuple[list[tuple[bytes, str, int]], Losses]:
    found: list[tuple[bytes, str, int]] = []
    with ExportReplay(ExportFileSource(export, path)) as source:
        for batch in source:
            assert len(batch)
            assert batch.complete_to_ns == 0
            assert (batch.offset >= 0).all()
            assert (batch.offset + batch.size <= len(batch.data)).all()
            rows = zip(batch.offset.tolist(), batch.size.tolist(), batch.exporter, batch.time_ns.tolist(), strict=True)
            found += [(batch.data[at : at + size].tobytes(), name, time_ns) for at, size, name, time_ns in rows]
        assert source.progress() == 1.0
        return found, source.losses()


def packet(payload: bytes, dport: int = 2055, src: str = "10.0.0.1", sport: int = 40_000) -> bytes:
    return ip(src, "2001:db8::2" if ":" in src else "10.0.0.2", 17, udp(sport, dport, payload))


def tagged(body: bytes, *tags: int) -> bytes:
    kind = IPV6 if body[0] >> 4 == 6 else IPV4
    stack = b"".join(struct.pack(">HH", tag, 7) for tag in tags)
    return bytes(12) + stack + struct.pack(">H", kind) + body


def with_extensions(payload: bytes) -> bytes:
    rest = bytes([60, 0]) + bytes(6) + bytes([51, 1]) + bytes(14) + bytes([17, 1]) + bytes(10) + udp(40_000, 2055, payload)
    return ip("2001:db8::1", "2001:db8::2", 0, rest)


def fragment(payload: bytes, parts: int) -> bytes:
    whole = bytearray(packet(payload))
    whole[6:8] = parts.to_bytes(2, "big")
    return bytes(whole)


FOUR, SIX = packet(V9), packet(V9, src="2001:db8::1")


@pytest.mark.parametrize(
    ("link", "frame", "want"),
    [
        (1, ethernet(FOUR), "10.0.0.1"),
        (1, ethernet(SIX), "2001:db8::1"),
        (1, tagged(FOUR, 0x8100), "10.0.0.1"),
        (1, tagged(FOUR, 0x88A8, 0x8100), "10.0.0.1"),
        (1, tagged(FOUR, *[0x8100] * 5), None),
        (1, ethernet(with_extensions(V9)), "2001:db8::1"),
        (1, ethernet(ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, SYN, payload=V9))), None),
        (101, FOUR, "10.0.0.1"),
        (229, SIX, "2001:db8::1"),
        (0, struct.pack("<I", 2) + FOUR, "10.0.0.1"),
        (113, bytes(14) + b"\x08\x00" + FOUR, "10.0.0.1"),
        (276, b"\x86\xdd" + bytes(18) + SIX, "2001:db8::1"),
        (147, FOUR, None),
    ],
)  # fmt: skip
def test_links_and_headers(tmp_path: Path, link: int, frame: bytes, want: str | None) -> None:
    found, losses = replay(write(tmp_path / "x.pcap", pcap([Frame(1_700_000_000_000_001_000, frame)], link=link)))
    assert found == ([(V9, want, 1_700_000_000_000_001_000)] if want else [])
    assert losses == Losses(filtered=0 if want else 1)


@pytest.mark.parametrize(
    ("payload", "port", "export", "wanted"),
    [
        (V5, 2055, Export.NETFLOW, True), (V5, 7777, Export.NETFLOW, True), (V9, 7777, Export.NETFLOW, True),
        (IPFIX, 4739, Export.NETFLOW, True), (TEMPLATES, 7777, Export.NETFLOW, True), (SFLOW, 6343, Export.SFLOW, True),
        (SFLOW, 7777, Export.SFLOW, True), (SFLOW, 6343, Export.NETFLOW, False), (V5, 2055, Export.SFLOW, False),
        (V5[:30], 2055, Export.NETFLOW, True),  # damaged, but on its port: the decoder counts it
        (V5[:30], 7777, Export.NETFLOW, False),
        (b"\0\x09\1\0\0\1\0\0\0\0\0\0\3www\2ex\0\0\1\0\1", 53, Export.NETFLOW, False),  # a DNS query with the identifier 9
        (b"\0\x0a\1\0\0\1\0\0\0\0\0\0\3www\2ex\0\0\1\0\1", 53, Export.NETFLOW, False),
        (b"", 2055, Export.NETFLOW, False),
    ],
)  # fmt: skip
def test_what_passes_for_an_export(tmp_path: Path, payload: bytes, port: int, export: Export, wanted: bool) -> None:
    found, losses = replay(write(tmp_path / "x.pcap", [Frame(5, ethernet(packet(payload, port)))]), export)
    assert [payload for payload, _, _ in found] == [payload] * wanted
    assert losses == Losses(filtered=1 - wanted)


def test_fragmented_exports_are_counted_lost_once(tmp_path: Path) -> None:
    frames = [Frame(1, ethernet(fragment(V9 * 40, 0x2000)[:500])), Frame(2, ethernet(fragment(bytes(400), 0x2040)))]
    frames += [Frame(3, ethernet(fragment(bytes(100), 0x0080))), Frame(4, ethernet(FOUR))]
    found, losses = replay(write(tmp_path / "x.pcap", frames))
    assert len(found) == 1
    assert losses == Losses(dropped=1, filtered=2)


def test_a_capture_that_cuts_packets_gives_what_it_has(tmp_path: Path) -> None:
    cut = Frame(1, ethernet(packet(V5 + bytes(48)))).cut(14 + 28 + 60)
    found, _ = replay(write(tmp_path / "x.pcap", [cut]))
    assert [payload for payload, _, _ in found] == [V5[:60]]


def test_ipfix_sessions_in_a_capture_are_told_apart_by_port(tmp_path: Path) -> None:
    frames = [Frame(n, ethernet(packet(payload, 4739, sport=sport))) for n, (payload, sport) in
              enumerate([(IPFIX, 1000), (IPFIX, 1001), (V9, 1002)])]  # fmt: skip
    found, _ = replay(write(tmp_path / "x.pcapng", pcapng(frames)))
    assert [name for _, name, _ in found] == ["10.0.0.1:1000", "10.0.0.1:1001", "10.0.0.1"]


@pytest.mark.parametrize(
    ("content", "export", "want", "losses"),
    [
        (V9, Export.NETFLOW, [V9], Losses()),
        (gzip.compress(V9, mtime=0), Export.NETFLOW, [V9], Losses()),
        (IPFIX + TEMPLATES, Export.NETFLOW, [IPFIX, TEMPLATES], Losses()),
        (TEMPLATES * 9000, Export.NETFLOW, [TEMPLATES] * 9000, Losses()),
        (V5 * 3, Export.NETFLOW, [V5] * 3, Losses()),
        (SFLOW, Export.SFLOW, [SFLOW], Losses()),
        (IPFIX + TEMPLATES[:20], Export.NETFLOW, [IPFIX, TEMPLATES[:20]], Losses()),  # damaged: the decoder counts it
        (IPFIX + b"\0\x0a\0", Export.NETFLOW, [IPFIX], Losses(unread_bytes=3, ended="what follows is no whole message")),
        (TEMPLATES[:20], Export.NETFLOW, [TEMPLATES[:20]], Losses()),
        (V9 + bytes(70_000), Export.NETFLOW, [], Losses(unread_bytes=70_028, ended="what follows is no whole message")),
    ],
)  # fmt: skip
def test_bare_messages(tmp_path: Path, content: bytes, export: Export, want: list[bytes], losses: Losses) -> None:
    path = tmp_path / "messages.dat"
    path.write_bytes(content)
    found, told = replay(path, export)
    assert [payload for payload, _, _ in found] == want
    assert {name for _, name, _ in found} <= {"messages.dat"}
    assert told == losses
    own = path.stat().st_mtime_ns if export is Export.SFLOW else 1_700_000_000 * 10**9
    assert {time_ns for _, _, time_ns in found} <= {own}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no packets: the file is empty"),
        (b"neither", "is no capture"),
        (SFLOW, "begins as sflow does; write sflow:"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says):
        replay(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="not there"):
        replay(Path("/nowhere/at.all"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_messages_never_overlap_nor_leave_the_content(content: bytes, ended: bool) -> None:
    found, used = split_messages(content, ended=ended)
    at = 0
    for offset, size in found:
        assert offset == at
        assert size > 0
        at += size
    assert at == used <= len(content)


layers = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda body, soup: ethernet(body + soup), st.sampled_from([FOUR, SIX, with_extensions(V9)]), st.binary(max_size=9)
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(layers, st.integers(0, 90), st.integers(0, 255)), max_size=6), st.sampled_from([0, 1, 101, 113, 276]))
def test_hostile_frames_are_all_accounted_for(drawn: list[tuple[bytes, int, int]], link: int) -> None:
    frames = []
    for data, at, value in drawn:
        changed = bytearray(data)
        if at < len(changed):
            changed[at] = value
        frames.append(Frame(1, bytes(changed[: len(changed) - value % 7])))
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        file.write(pcap(frames, link=link))
        file.flush()
        found, losses = replay(Path(file.name))
    assert len(found) + losses.filtered + losses.dropped == len(frames)


@needs_flows
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_every_capture_of_exports_gives_what_tshark_finds(tmp_path: Path) -> None:
    """Each capture by itself gives what tshark, which takes half a second to start, finds in all of them put together."""
    paths = sorted((FLOWS / "akvorado").glob("*.pcap"))
    frames = [frame for path in paths for frame in replayed(path)[0]]
    assert {frame.link for frame in frames} == {1}
    fields = ["-e", "udp.payload", "-e", "ip.src", "-e", "udp.srcport"]
    asked = ["tshark", "-r", str(write(tmp_path / "all.pcapng", pcapng(frames))), "-T", "fields", "-E", "occurrence=f", *fields]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    told = [line.split("\t") for line in lines]
    assert len(told) == len(frames) > 30
    want = {
        Export.NETFLOW: [(p, f"{src}:{port}" if p.startswith("000a") else src) for p, src, port in told if p[:4] != "0000"],
        Export.SFLOW: [(p, src) for p, src, _ in told if p[:4] == "0000"],
    }
    for export, expected in want.items():
        found = [row for path in paths for row in replay(path, export)[0]]
        assert [(payload.hex(), name) for payload, name, _ in found] == expected
        assert sum(replay(path, export)[1].filtered for path in paths) == len(frames) - len(expected)


@needs_flows
def test_every_bare_message_is_read_whole() -> None:
    paths = sorted((FLOWS / "logstash-dat").glob("*.dat"))
    assert len(paths) > 50
    for path in paths:
        found, losses = replay(path)
        assert b"".join(payload for payload, _, _ in found) == path.read_bytes(), path.name
        assert losses == Losses()
    several = {path.name: len(replay(path)[0]) for path in paths if path.name in {"ipfix.dat", "netflow5.dat"}}
    assert several == {"ipfix.dat": 3, "netflow5.dat": 12}
