"""A namespace that stands for a host with real VMs: a bridge for each subnet, routed by it, and namespaces as VMs and a client.

The host's end of each VM's cable is its port, as the tap device of a real one: what leaves it goes into the VM.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import forked
from tests.netns.mirror_host import standing
from tests.netns.spaces import Spaces

SPEC = """\
name: shop
cidrs: [10.20.0.0/16, "2001:db8:20::/48"]
subnets:
  - {name: web, cidr: 10.20.1.0/24}
  - {name: data, cidr: 10.20.2.0/24}
  - {name: six, cidr: "2001:db8:20:1::/64"}
  - {name: seven, cidr: "2001:db8:20:2::/64"}
vms:
  - {name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, type: m7i.large}
  - {name: db, subnet: data, addresses: [10.20.2.10], role: postgresql, type: m7i.large}
  - {name: six, count: 2, subnet: six, addresses: "2001:db8:20:1::10-2001:db8:20:1::11", role: web, type: m7i.large}
  - {name: seven, subnet: seven, addresses: ["2001:db8:20:2::10"], role: web, type: m7i.large}
"""
DONORS = "donors: [{from: 192.168.7.0/24, to: 10.20.1.0/24}]\n"
ADDRESS = {
    "web-1": "10.20.1.10", "web-2": "10.20.1.11", "db": "10.20.2.10",
    "six-1": "2001:db8:20:1::10", "six-2": "2001:db8:20:1::11", "seven": "2001:db8:20:2::10",
}  # fmt: skip
VMS = tuple(ADDRESS)
CLIENT = {4: "198.51.100.2", 6: "2001:db8:ff::2"}
_BRIDGE = {"web-1": "br1", "web-2": "br1", "db": "br2", "six-1": "br3", "six-2": "br3", "seven": "br4"}
_GATEWAY = {"br1": "10.20.1.1/24", "br2": "10.20.2.1/24", "br3": "2001:db8:20:1::1/64", "br4": "2001:db8:20:2::1/64"}

_ECHO = """
import asyncio, socket, sys
class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, where): self.transport.sendto(data, where)
async def tcp(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    loop = asyncio.get_running_loop()
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", 7))
    await loop.create_datagram_endpoint(Udp, sock=udp)
    await asyncio.start_server(tcp, None, 7)
    print("ready", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
_ASK = """
import os, socket, sys, time
address, count, size, broadcast = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
back = 0
with socket.socket(family, socket.SOCK_DGRAM) as udp:
    udp.settimeout(5)
    for n in range(count):
        mark = os.urandom(8) + bytes(n % 200)
        udp.sendto(mark, (address, 7))
        back += udp.recv(65536) == mark
    if broadcast:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for n in range(3):
            udp.sendto(os.urandom(8), (broadcast, 9))
            time.sleep(0.02)
whole = 0
if size:
    with socket.create_connection((address, 7), timeout=10) as tcp:
        sent = os.urandom(size)
        for at in range(0, size, 20000):
            tcp.sendall(sent[at:at + 20000])
            left = len(sent[at:at + 20000])
            while left:
                left -= len(tcp.recv(left))
        whole = size
print(back, whole)
"""
TALKS = [
    ("web-1", "web-2"), ("web-1", "db"), ("db", "web-2"), ("web-2", "client"), ("client", "web-1"), ("client", "db"),
    ("six-1", "six-2"), ("six-2", "seven"), ("seven", "client"), ("client", "six-1"),
]  # fmt: skip
"""Who asks whom: within a subnet, across two, to the outside and from it."""


@dataclass
class LiveHost:
    """The namespaces, and the folder of the Adumbra that runs on the host."""

    net: Spaces
    home: Path

    def shell(self, script: str, space: str = "host") -> str:
        return self.net.run(space, "sh", "-ec", script)

    def adumbra(self, *arguments: str, status: int = 0) -> str:
        run = forked.run("adumbra", *arguments, namespace=self.net.real("host"), timeout=120)
        assert run.returncode == status, run.stdout + run.stderr
        assert "Traceback" not in run.stderr
        return str(run.stdout) + str(run.stderr)

    def mirrors(self) -> list[dict[str, Any]]:
        run = forked.run("adumbra", "mirror", "list", "--output", "json", namespace=self.net.real("host"), timeout=120)
        return list(json.loads(run.stdout))

    def ports(self) -> dict[str, str]:
        return {vm: f"p{vm}" for vm in VMS}

    def stands(self) -> dict[str, Any]:
        """As `standing`, without what is another at each making: marks, and numbers that the kernel gives out."""
        return settled(standing(self._told))

    def _told(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.net.real("host"), *command], capture_output=True, text=True, check=check, timeout=60
        )

    def plug(self, vm: str, *, device: str = "") -> None:
        """Starts a VM: its port is made, and joins its subnet's bridge."""
        port, bridge, address = device or f"p{vm}", _BRIDGE[vm], ADDRESS[vm]
        six = ":" in address
        gateway = f"{address.rpartition('::')[0]}::1" if six else f"{address.rpartition('.')[0]}.1"
        self.shell(
            f"ip link add {port} type veth peer name eth0 netns {self.net.real(vm)}\nip link set {port} master {bridge} up\n"
        )
        own = f"{address}/64 dev eth0 nodad" if six else f"{address}/24 dev eth0 broadcast +"
        self.shell(f"ip link set eth0 up; ip addr add {own}; ip route add default via {gateway}", vm)

    def talk(self, talks: list[tuple[str, str]] | None = None, count: int = 20, size: int = 60_000) -> None:
        """Has each ask the other, by datagrams and a connection; every byte must come back."""
        for asker, asked in talks or TALKS:
            version = 6 if ":" in ADDRESS.get(asker, ADDRESS.get(asked, "")) else 4
            address = ADDRESS.get(asked) or CLIENT[version]
            broadcast = "10.20.1.255" if asker == "web-1" else ""
            said = self.net.run(asker, sys.executable, "-c", _ASK, address, str(count), str(size), broadcast)
            assert said.split() == [str(count), str(size)], (asker, asked, said)

    @contextmanager
    def captured(self, folder: Path, sink: str, vms: tuple[str, ...] = VMS) -> Iterator[dict[str, Path]]:
        """What tcpdump sees meanwhile of UDP and TCP inside each of the VMs and at the sink ("sink")."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: folder / f"{name}.pcap" for name in (*vms, "sink")}
        running = []
        for name, file in files.items():
            space, device = ("host", sink) if name == "sink" else (name, "eth0")
            options = ("-n", "-U", "-p", "--immediate-mode", "-B", "8192", "-w", str(file))
            child = self.net.start(space, "tcpdump", "-i", device, *options, "udp or tcp", stderr=subprocess.PIPE)
            assert child.stderr is not None
            assert b"listening" in child.stderr.readline()
            running.append(child)
        yield files
        time.sleep(0.5)  # what tcpdump hasn't read by its end is in no file
        for child in running:
            child.send_signal(signal.SIGINT)
            _, told = child.communicate(timeout=10)
            assert b"0 packets dropped by kernel" in told, told


@contextmanager
def live_host(folder: Path, donors: str = "") -> Iterator[LiveHost]:
    """The host with all its VMs, echoing, and the network "shop" created; all is removed at the end."""
    with Spaces("host", *VMS, "client") as net:
        host = LiveHost(net, folder / "home")
        for name in ("host", *VMS, "client"):
            net.run(name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0")
        bridges = "".join(
            f"ip link add {name} type bridge ageing_time 0 mcast_snooping 0 forward_delay 0; ip link set {name} up\n"
            f"ip addr add {address} dev {name} {'nodad' if ':' in address else ''}\n"
            for name, address in _GATEWAY.items()
        )
        host.shell(f"{bridges}sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        host_has, client_has = (["198.51.100.1/24", "2001:db8:ff::1/64"], [f"{CLIENT[4]}/24", f"{CLIENT[6]}/64"])
        net.veth(("host", "up0"), ("client", "c0"), host_has, client_has)
        host.shell("ip route add default via 198.51.100.1; ip route add default via 2001:db8:ff::1", "client")
        for vm in VMS:
            host.plug(vm)
        spec = folder / "shop.yaml"
        spec.write_text(SPEC + donors)
        host.adumbra("network", "create", str(spec))
        for name in (*VMS, "client"):
            child = net.start(name, sys.executable, "-c", _ECHO, stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.stdout.close()
        yield host


def settled(found: dict[str, Any]) -> dict[str, Any]:
    """What stands, without marks of ours that are random, and without the numbers that the kernel gives out in turn."""
    ours = {"devices": sorted((name, alias, mtu, flags) for name, _, alias, mtu, flags in found["devices"])}
    text = json.dumps({key: value for key, value in found.items() if key != "devices"})
    text = re.sub(r"cookie [0-9a-f]+", "cookie", text)
    text = re.sub(r"adumbra [0-9a-f]{16}", "adumbra", text)
    text = re.sub(r"(index|ref|bind|\\\"handle\\\":) [0-9]+", r"\1", text)
    return dict(json.loads(text)) | ours


def packets(file: Path) -> Counter[bytes]:
    """The UDP and TCP packets of a capture, by what no hop changes: addresses, ports, identification, numbers and payload."""
    data = file.read_bytes()
    found: Counter[bytes] = Counter()
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack_from("=I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        found[_essence(frame[14:])] += 1
    return found


def _essence(packet: bytes) -> bytes:
    if packet[0] >> 4 == 4:
        head, protocol = (packet[0] & 15) * 4, packet[9]
        total = struct.unpack_from(">H", packet, 2)[0] or len(packet)
        ends, behind = packet[4:6] + packet[12:20], packet[head:total]
    else:
        protocol, behind = packet[6], packet[40 : 40 + (struct.unpack_from(">H", packet, 4)[0] or len(packet))]
        ends = packet[8:40]
    checksum = 6 if protocol == 17 else 16
    return ends + behind[:checksum] + behind[checksum + 2 :]


def missing() -> str:
    """The tools that aren't there."""
    return ", ".join(tool for tool in ("ip", "tc", "tcpdump", "tshark", "nft") if shutil.which(tool) is None)
