"""What a mirror copies, and that it copies it once: real frames over a real device, in a namespace of their own."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import pytest
from tests.netns.mirror_host import Host, host, needed, space

pytestmark = [pytest.mark.root, needed]

IPV4, IPV6, VLAN, QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
IN4, IN4_TOO, DONOR, OUT4 = "10.20.1.10", "10.20.255.1", "192.168.7.9", "198.51.100.7"
IN6, OUT6 = "2001:db8:20::7", "2001:db8:21::7"


def frame(source: str, destination: str, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet frame with a UDP packet, behind VLAN tags (ethertype, tag control information)."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    payload = struct.pack(">HHHH", 1000, 2000, 12, 0) + b"mark"
    if a.version == 4:
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0, a.packed, b.packed)
    else:
        packet = struct.pack(">IHBB16s16s", 6 << 28, len(payload), 17, 64, a.packed, b.packed)
    tagged = b"".join(struct.pack(">HH", kind, information) for kind, information in tags)
    return (
        bytes.fromhex("020000000002020000000001")
        + tagged
        + struct.pack(">H", IPV4 if a.version == 4 else IPV6)
        + packet
        + payload
    )


EACH = {
    "to the network": (frame(OUT4, IN4), 1),
    "from the network": (frame(IN4, OUT4), 1),
    "within the network": (frame(IN4, IN4_TOO), 1),
    "to a donor": (frame(OUT4, DONOR), 1),
    "from a donor to the network": (frame(DONOR, IN4), 1),
    "IPv6 to the network": (frame(OUT6, IN6), 1),
    "IPv6 from the network": (frame(IN6, OUT6), 1),
    "another's": (frame(OUT4, "203.0.113.5"), 0),
    "another's IPv6": (frame(OUT6, OUT6), 0),
    "next to the network": (frame("10.19.255.255", "10.21.0.0"), 0),
}
TAGGED = {
    "tagged, to": (frame(OUT4, IN4, ((VLAN, 5),)), 1),
    "tagged, from": (frame(IN4, OUT4, ((VLAN, 5),)), 1),
    "tagged, within": (frame(IN4, IN4_TOO, ((VLAN, 5),)), 1),
    "tagged IPv6": (frame(OUT6, IN6, ((VLAN, 5),)), 1),
    "tagged, another's": (frame(OUT4, "203.0.113.5", ((VLAN, 5),)), 0),
}
TWO_TAGS = {
    "QinQ, to": (frame(OUT4, IN4, ((QINQ, 9), (VLAN, 5))), 1),
    "QinQ, from": (frame(IN4, OUT4, ((QINQ, 9), (VLAN, 5))), 1),
    "two tags, to": (frame(OUT4, IN4, ((VLAN, 9), (VLAN, 5))), 1),
    "two tags IPv6": (frame(OUT6, IN6, ((VLAN, 9), (VLAN, 5))), 1),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Host:
    with host(tmp_path_factory.mktemp("lab") / "home") as made:
        yield made


def sent(frames: dict[str, tuple[bytes, int]], into: str) -> list[tuple[str, str, bytes]]:
    return [(name, into, content) for name, (content, _) in frames.items()]


@pytest.mark.parametrize(
    ("method", "inwards", "outwards"),
    [
        ("tc", EACH | TAGGED | TWO_TAGS, EACH | TAGGED),
        ("nft", EACH | TAGGED, EACH),
    ],
)
def test_what_is_the_networks_is_copied_once_each_way_and_nothing_else(
    lab: Host, method: str, inwards: dict[str, tuple[bytes, int]], outwards: dict[str, tuple[bytes, int]]
) -> None:
    """Into `wire` means into the host by v0; into v0 means out of the host."""
    lab.adumbra("mirror", "install", "lab", "--from", "v0", "--method", method)
    try:
        assert lab.copies(sent(inwards, "wire"), "adm1a") == {name: want for name, (_, want) in inwards.items()}
        assert lab.copies(sent(outwards, "v0"), "adm1a") == {name: want for name, (_, want) in outwards.items()}
        [mirror] = lab.mirrors()
        assert (mirror["state"], mirror["method"]) == ("stands", method)
        assert mirror["packets"] == sum(want for _, want in (*inwards.values(), *outwards.values()))
    finally:
        lab.adumbra("mirror", "remove", "lab")
    assert sum(lab.copies(sent(EACH, "wire"), "v0").values()) == len(EACH)


def test_both_methods_beside_each_other_and_what_comes_by_still_comes(lab: Host) -> None:
    """Two devices of one network, each with its own copies; the frames themselves go on as before."""
    lab.shell("ip link add w0 type veth peer name wire2; ip link set w0 up arp off; ip link set wire2 up arp off")
    lab.adumbra("mirror", "install", "lab", "--from", "v0", "--method", "tc")
    lab.adumbra("mirror", "install", "lab", "--from", "w0", "--method", "nft")
    one = {"to": (frame(OUT4, IN4), 1)}
    assert [mirror["to"] for mirror in lab.mirrors()] == ["adm1b", "adm1x1b"]
    assert lab.copies(sent(one, "wire"), "adm1a") == lab.copies(sent(one, "wire2"), "adm1x1a") == {"to": 1}
    assert lab.copies(sent(one, "wire"), "adm1x1a") == {"to": 0}
    assert lab.copies(sent(one, "wire"), "v0") == {"to": 1}
    lab.adumbra("mirror", "remove", "lab", "--from", "v0")
    assert [mirror["from"] for mirror in lab.mirrors()] == ["w0"]
    lab.adumbra("mirror", "remove", "lab")
    lab.shell("ip link del w0")


def test_filters_behind_ours_still_see_the_packet(lab: Host) -> None:
    """A filter of the host's own, at a later priority, mirrors the same packets to a device of its own."""
    lab.shell(
        "ip link add s0 type veth peer name s1; ip link set s0 up arp off; ip link set s1 up arp off\n"
        "tc qdisc add dev v0 clsact\n"
        "tc filter add dev v0 ingress prio 500 protocol ip u32 match ip dst 10.20.0.0/16 action mirred egress mirror dev s0"
    )
    lab.adumbra("mirror", "install", "lab", "--from", "v0")
    one = {"to": (frame(OUT4, IN4), 1)}
    assert lab.copies(sent(one, "wire"), "s1") == lab.copies(sent(one, "wire"), "adm1a") == {"to": 1}
    lab.adumbra("mirror", "remove", "lab")
    assert lab.copies(sent(one, "wire"), "s1") == {"to": 1}
    lab.shell("ip link del s0; tc qdisc del dev v0 clsact")


def test_a_client_that_nobody_answers_and_then_somebody_does(tmp_path: Path) -> None:
    """A client's host, and ours on its way: a SYN to the prefix is seen, the refusal too; other connections are not."""
    with host(tmp_path / "home", "r") as router, space(tmp_path, "c") as client:
        router.shell(f"ip link set wire netns {client.namespace}")
        client.shell("ip link set wire up arp on; ip addr add 192.0.2.2/24 dev wire; ip route add 10.20.0.0/16 via 192.0.2.1")
        router.shell("ip link set v0 arp on; ip addr add 192.0.2.1/24 dev v0; ip route add blackhole 10.20.0.0/16")
        router.adumbra("mirror", "install", "lab", "--from", "v0")
        ask = "import socket,sys\ns=socket.socket(); s.settimeout(0.3)\ns.connect_ex((sys.argv[1], 80))"
        client.run("python3", "-c", ask, "10.20.1.10")
        client.run("python3", "-c", ask, "192.0.2.1")
        seen = router.mirrors()[0]["packets"]
        assert seen >= 1
        router.shell("ip route del blackhole 10.20.0.0/16; ip route add local 10.20.0.0/16 dev lo")
        client.run("python3", "-c", ask, "10.20.1.10")
        assert router.mirrors()[0]["packets"] == seen + 2
