"""`adumbra generate` as a user meets it, and what others make of its captures: tshark, capinfos, tcpreplay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests import forked
from tests.netns.spaces import Spaces, needs
from tests.tshark import needs_tshark

SPEC = """\
name: lab
cidrs: [10.9.0.0/16, "2001:db8:9::/48"]
subnets:
  - {name: front, cidr: 10.9.1.0/24}
  - {name: back, cidr: 10.9.2.0/24}
  - {name: six, cidr: "2001:db8:9:1::/64"}
links:
  - {between: [front, internet], rtt: 20ms, bandwidth: 1Gbps}
  - {between: [front, back], rtt: 200us, bandwidth: 10Gbps}
vms:
  - {name: web, count: 2, subnet: front, role: web, ports: [80, 443]}
  - {name: db, subnet: back, role: postgresql, ports: [5432]}
  - {name: six, subnet: six, role: app, ports: [443]}
"""
RATE = ("--connections-per-s", "60")
COUNTS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "requests",
)  # fmt: skip
BAD = "tcp.analysis.flags || _ws.malformed || _ws.expert.severity >= warning || tcp.checksum.status == 0"
BAD += " || ip.checksum.status == 0"


def adumbra(home: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}
    run = forked.run("adumbra", *arguments, env=environment, text=False)
    assert run.returncode == status, run.stdout[-2000:].decode(errors="replace") + run.stderr.decode()
    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "lab.yaml").write_text(SPEC)
    adumbra(folder, "network", "create", str(folder / "lab.yaml"))
    return folder


@pytest.fixture(scope="module")
def made(home: Path) -> tuple[Path, dict[str, Any]]:
    """Ten seconds of the lab's traffic, and what the command says of it."""
    path = home / "lab.pcap"
    run = adumbra(home, "generate", "lab", str(path), *RATE, "--duration", "10s", "--seed", "4", "--output", "json")
    assert run.stderr == b""
    return path, json.loads(run.stdout)


@needs_tshark
@pytest.mark.parametrize("cut", [False, True])
def test_tshark_has_nothing_to_say_against_it(home: Path, made: tuple[Path, dict[str, Any]], cut: bool) -> None:
    path, told = made
    if cut:
        path = home / "cut.pcap"
        run = adumbra(home, "generate", "lab", str(path), *RATE, "--duration", "10s", "--cut", "--output", "json")
        told = json.loads(run.stdout)
    command = ["tshark", "-n", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    assert _lines([*command, "-Y", BAD]) == []
    assert len(_lines(command)) == told["packets"]
    if not cut:
        complete = _lines([*command, "-T", "fields", "-e", "tcp.stream", "-Y", "tcp.flags.fin == 1 && tcp.len == 0"])
        begun = _lines([*command, "-T", "fields", "-e", "tcp.stream", "-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0"])
        assert set(begun) == set(complete)
        assert len(begun) == len(set(begun))


@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed: apt-get install wireshark-common")
def test_capinfos_finds_it_in_order(made: tuple[Path, dict[str, Any]]) -> None:
    text = "\n".join(_lines(["capinfos", "-M", "-o", "-c", "-E", "-t", str(made[0])]))
    assert "True" in text
    assert "nsecpcap" in text
    assert "ether" in text
    assert str(made[1]["packets"]) in text.replace(",", "")


def _lines(command: list[str]) -> list[str]:
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return run.stdout.splitlines()


def test_observing_it_gives_what_the_command_said(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    path, told = made
    (home / "again.yaml").write_text(SPEC.replace("name: lab", "name: again", 1))
    adumbra(home, "network", "create", str(home / "again.yaml"))
    adumbra(home, "observe", "again", f"pcap:{path}")
    rows = json.loads(adumbra(home, "metrics", "again", "--output", "json").stdout)["rows"]
    for vm, counts in told["counts"].items():
        assert {name: sum(row[name] for row in rows if row["vm"] == vm) for name in COUNTS} == counts
    assert sum(row["retransmitted_packets"] + row["duplicate_acks"] for row in rows) == 0


@pytest.mark.root
@needs("tcpreplay", "tcpdump")
def test_tcpreplay_sends_all_of_it(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    path, told = made
    with Spaces("from", "to") as net:
        net.veth(("from", "a0"), ("to", "b0"))
        said = net.run("from", "tcpreplay", "--intf1=a0", "--pps=20000", str(path), timeout_s=60)
        (link,) = json.loads(net.run("to", "ip", "-s", "-j", "link", "show", "dev", "b0"))
    assert f"Successful packets:        {told['packets']}" in said
    assert "Failed packets:            0" in said
    assert link["stats64"]["rx"]["packets"] == told["packets"]
    assert link["stats64"]["rx"]["bytes"] == told["bytes"] - 16 * told["packets"]  # without the records' headers


def test_standard_output_and_zstd_hold_the_same_bytes(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    import zstandard

    options = (*RATE, "--duration", "10s", "--seed", "4")
    run = adumbra(home, "generate", "lab", "-", *options)
    assert run.stdout == made[0].read_bytes()
    assert b"packets" in run.stderr
    packed = home / "lab.pcap.zst"
    adumbra(home, "generate", "lab", str(packed), *options)
    with packed.open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file).read() == run.stdout
    assert packed.stat().st_size < len(run.stdout) // 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing of lab was observed yet, so there is no rate to generate at; run `adumbra observe lab"),
        ((*RATE, "--traffic", "2x"), "give one of them"),
        (("--duration", "0.0001s", *RATE), "give one from 1ms to 30d"),
        (("--duration", "ten", *RATE), "--duration: 'ten' has no unit"),
        (("--start", "yesterday", *RATE), "--start: "),
        (("--connections-per-s", "-1"), "out of range"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(home: Path, arguments: tuple[str, ...], says: str) -> None:
    run = adumbra(home, "generate", "lab", str(home / "no.pcap"), *arguments, status=1 if not arguments else 2)
    assert says in run.stderr.decode()
    assert not list(home.glob("*no.pcap*"))


def test_a_place_that_cannot_be_written_is_told(home: Path) -> None:
    run = adumbra(home, "generate", "lab", str(home / "nowhere" / "x.pcap"), *RATE, status=2)
    assert b"can't be written" in run.stderr
    run = adumbra(home, "generate", "lab", str(home), *RATE, status=2)
    assert b"is a folder" in run.stderr
