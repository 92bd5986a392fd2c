"""What tshark says of the innermost packet of each frame, by the tunnels that we decode: the oracle of tunnels' tests."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.captures import Frame, enhanced, interface, section

FIELDS = (
    "frame.number", "frame.protocols", "ip.src", "ip.dst", "ip.len", "ipv6.src", "ipv6.dst", "ipv6.plen", "tcp.srcport",
    "tcp.dstport", "udp.srcport", "udp.dstport", "ip.frag_offset", "frame.len",
)  # fmt: skip
_THROUGH = {
    "eth", "ethertype", "vlan", "ip", "ipv6", "udp", "gre", "vxlan", "geneve", "erspan", "ieee8021ad", "sll", "raw", "null",
    "mpls", "llc", "pppoes", "ppp", "ipv6.hopopts", "ipv6.routing", "ipv6.dstopts", "ipv6.fraghdr", "tcp",
}  # fmt: skip


@dataclass(frozen=True)
class Innermost:
    """The innermost packet of a frame: addresses, IP bytes, ports (0 where there are none), and tshark's own list of layers."""

    src: int
    dst: int
    version: int
    ip_bytes: int
    ports: tuple[int, int]
    layers: str


def innermost(frames: Sequence[Frame], folder: Path) -> dict[int, Innermost]:
    """By frame, from 0, the innermost IP packet of those frames that have one. Writes them to one capture, of many links."""
    links = sorted({frame.link for frame in frames})
    blocks = [section(), *(interface(link, resolution=9) for link in links)]
    blocks += [enhanced(f.time_ns, f.data, links.index(f.link), f.wire) for f in frames]
    capture = folder / "all.pcapng"
    capture.write_bytes(b"".join(blocks))
    command = ["tshark", "-n", "-r", str(capture), "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    command += ["-d", "udp.port==8472,vxlan", "-o", "ip.tso_support:TRUE", "-T", "fields", "-E", "occurrence=a"]
    command += ["-E", "aggregator=,", *(part for name in FIELDS for part in ("-e", name))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {}
    for line in run.stdout.splitlines():
        told = dict(zip(FIELDS, line.split("\t"), strict=True))
        packet = _innermost(told)
        if packet is not None:
            found[int(told["frame.number"]) - 1] = packet
    return found


def _innermost(told: dict[str, str]) -> Innermost | None:
    counts = {"ip": 0, "ipv6": 0, "udp": 0, "tcp": 0}
    version, transport, reached = "", "", []
    for layer in told["frame.protocols"].split(":"):
        if layer not in _THROUGH:
            break
        reached.append(layer)
        if layer in {"ip", "ipv6"}:
            version, transport = layer, ""
        elif layer in {"udp", "tcp"}:
            transport = layer
        elif layer == "eth":
            version, transport = "", ""  # a frame: what it holds is yet to come
        if layer in counts:
            counts[layer] += 1
    if not version:
        return None
    which = counts[version] - 1
    values = {name: text.split(",") for name, text in told.items()}
    if any(len(values[f"{version}.{name}"]) <= which or not values[f"{version}.{name}"][which] for name in ("src", "dst")):
        return None  # the header is cut
    src, dst = (ipaddress.ip_address(values[f"{version}.{end}"][which]) for end in ("src", "dst"))
    ip_bytes = int(values["ip.len"][which]) if version == "ip" else int(values["ipv6.plen"][which]) + 40
    ports = (0, 0)
    if transport and len(values[f"{transport}.dstport"]) >= counts[transport] and values[f"{transport}.dstport"][0]:
        names = (f"{transport}.srcport", f"{transport}.dstport")
        ports = tuple(int(values[name][counts[transport] - 1]) for name in names)
    return Innermost(int(src), int(dst), src.version, ip_bytes, ports, ":".join(reached))
