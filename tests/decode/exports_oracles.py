"""What nfdump and tshark say of exporters' datagrams: totals of records, bytes and packets. Each where it can read them."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.captures import Frame, ethernet, ip, pcap, udp

needs_nfdump = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("nfcapd", "nfdump")), reason="nfdump is not installed: apt-get install nfdump"
)
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt-get install tshark")
needs_softflowd = pytest.mark.skipif(
    shutil.which("softflowd") is None, reason="softflowd is not installed: apt-get install softflowd"
)

PORT = 2055


NFDUMP_COLUMNS = ("ra", "sa", "da", "sp", "dp", "pr", "ibyt", "ipkt", "obyt", "opkt")


class Totals(NamedTuple):
    """Of all records: how many, bytes and packets."""

    records: int
    bytes: int
    packets: int


def exporter_address(number: int) -> str:
    """An address on loopback for each of many exporters."""
    return f"127.1.{number // 200}.{number % 200 + 1}"


def nfdump(exporters: Sequence[Sequence[bytes]], folder: Path) -> list[list[dict[str, str]]]:
    """What nfcapd keeps of datagrams that several exporters send to it, as nfdump prints it: columns of each record."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = folder / "nfcapd.log"
    command = ["nfcapd", "-p", str(port), "-b", "127.0.0.1", "-w", str(folder), "-t", "3600", "-I", "any"]
    with log.open("wb") as told, subprocess.Popen(command, stdout=told, stderr=told) as collector:
        try:
            _wait_for_log(log, b"Startup nfcapd", collector)
            for number, payloads in enumerate(exporters):
                _send(payloads, exporter_address(number), port)
        finally:
            collector.send_signal(signal.SIGTERM)
            collector.wait(timeout=20)
    kept: list[list[dict[str, str]]] = [[] for _ in exporters]
    numbers = {exporter_address(number): number for number in range(len(exporters))}
    for file in sorted(folder.glob("nfcapd.2*")):
        run = subprocess.run(["nfdump", "-r", str(file), "-N", "-6", "-o", "csv"], capture_output=True, text=True, check=True)
        names: list[str] = []
        for line in run.stdout.splitlines():
            values = line.split(",")
            if "sa" in values:
                names = values
            elif names and len(values) == len(names):
                row = dict(zip(names, values, strict=True))
                kept[numbers[row["ra"]]].append({name: row[name] for name in NFDUMP_COLUMNS})
    return kept


def _send(payloads: Sequence[bytes], address: str, port: int) -> None:
    """Sends datagrams, one after the other was read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind((address, 0))
        for payload in payloads:
            exporter.sendto(payload, ("127.0.0.1", port))
            _wait_until_read(port)


def _wait_for_log(log: Path, text: bytes, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while text not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _wait_until_read(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        queues = [fields[4].split(":")[1] for fields in lines if fields[1].endswith(f":{port:04X}")]
        if queues and not any(int(queue, 16) for queue in queues):
            return
        time.sleep(0.005)
    raise AssertionError("the collector reads nothing")


def tshark(
    exporters: Sequence[Sequence[bytes]], folder: Path, fields: Sequence[str], decode: str
) -> list[dict[str, list[str]]]:
    """What tshark finds in the datagrams of several exporters: the values of fields, of all of an exporter's records."""
    frames = [
        Frame(10**18, ethernet(ip(exporter_address(number), "192.0.2.2", 17, udp(PORT, PORT, payload))))
        for number, payloads in enumerate(exporters)
        for payload in payloads
    ]
    capture = folder / "exports.pcap"
    capture.write_bytes(pcap(frames, kind="ns"))
    command = ["tshark", "-n", "-2", "-r", str(capture), "-d", f"udp.port=={PORT},{decode}", "-T", "fields"]
    command += ["-E", "occurrence=a", "-E", "aggregator=,", "-e", "ip.src"]
    command += [part for field in fields for part in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, list[str]]] = [{field: [] for field in fields} for _ in exporters]
    numbers = {exporter_address(number): number for number in range(len(exporters))}
    for line in run.stdout.split("\n")[:-1]:
        source, *values = line.split("\t")
        here = found[numbers[source.split(",")[0]]]
        for field, value in zip(fields, values, strict=True):
            here[field] += [part for part in value.split(",") if part]
    return found
