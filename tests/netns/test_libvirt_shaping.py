"""A machine's port is limited by tc, each way, beside what others have on it; and nothing of that is left behind."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.netns.spaces import Spaces, needs

from adumbra.provision.libvirt_shaping import PRIORITY, Host, behind, commands, shape, shaped_mbps, unshape
from adumbra.schema.errors import ProvisionError

pytestmark = [pytest.mark.root, needs("tc")]
PORT = "adt0123456789"
IFB = behind(PORT)
HERE = Host()


@pytest.fixture
def net() -> Iterator[Spaces]:
    """A hypervisor and a machine, joined at the machine's port."""
    with Spaces("hypervisor", "machine") as spaces:
        spaces.veth(("hypervisor", PORT), ("machine", "eth0"), ["10.9.0.1/24"], ["10.9.0.2/24"])
        spaces.run("hypervisor", "ip", "tuntap", "add", "tap0", "mode", "tap")
        spaces.run("hypervisor", "ip", "link", "set", "tap0", "up")
        try:
            with spaces.inside("hypervisor"):
                shape(HERE, PORT, 1)
                unshape(HERE, PORT)
        except ProvisionError as error:
            pytest.skip(f"this kernel can't shape: {error}")
        yield spaces


def state(net):
    """All that there is of queues, filters and devices, without counters."""
    links = json.loads(net.run("hypervisor", "ip", "-json", "link", "show"))
    return (
        sorted(link["ifname"] for link in links),
        *(net.run("hypervisor", "tc", "qdisc", "show", "dev", link["ifname"]) for link in links),
        *(net.run("hypervisor", "tc", "filter", "show", "dev", PORT, way) for way in ("ingress", "egress")),
    )


@pytest.mark.parametrize("rate", [1, 20, 150, 4_000, 40_000])
def test_what_was_set_is_told_again_and_again_changes_nothing(net, rate):
    before = state(net)
    with net.inside("hypervisor"):
        assert shaped_mbps(HERE, PORT) is None
        shape(HERE, PORT, rate)
        assert shaped_mbps(HERE, PORT) == rate
        once = state(net)
        shape(HERE, PORT, rate)
        assert state(net) == once
        shape(HERE, PORT, rate + 7)
        assert shaped_mbps(HERE, PORT) == rate + 7
        shape(HERE, PORT, rate)
        assert len(state(net)[0]) == len(once[0])
        unshape(HERE, PORT)
        assert shaped_mbps(HERE, PORT) is None
        assert state(net) == before
        unshape(HERE, PORT)
    assert state(net) == before


def somebodys(net, *more):
    """A filter of a mirror's kind on what comes out of the machine."""
    net.run(
        "hypervisor", "tc", "filter", "add", "dev", PORT, "ingress", *more, "u32", "match", "u32", "0", "0",
        "action", "mirred", "egress", "mirror", "dev", "tap0",
    )  # fmt: skip


@pytest.mark.parametrize(
    "more", [(), ("pref", "10"), ("protocol", "ip"), ("pref", "10", "protocol", "ip", "handle", "800::800")]
)
@pytest.mark.parametrize("hook", [("clsact",), ("handle", "ffff:", "ingress")])
def test_a_filter_of_somebody_else_on_the_hook_outlives_ours(net, more, hook):
    net.run("hypervisor", "tc", "qdisc", "add", "dev", PORT, *hook)
    somebodys(net, *more)
    before = state(net)
    assert "Mirror to device tap0" in before[-2]
    with net.inside("hypervisor"):
        shape(HERE, PORT, 20)
        shape(HERE, PORT, 30)
        assert shaped_mbps(HERE, PORT) == 30
        told = net.run("hypervisor", "tc", "filter", "show", "dev", PORT, "ingress")
        assert told.index("Mirror to device tap0") < told.index(f"Redirect to device {IFB}")
        assert before[-2] in told
        unshape(HERE, PORT)
    assert state(net) == before


def test_a_filter_that_comes_after_ours_is_first_and_outlives_it(net):
    with net.inside("hypervisor"):
        shape(HERE, PORT, 20)
        somebodys(net)
        told = net.run("hypervisor", "tc", "filter", "show", "dev", PORT, "ingress")
        assert told.index("Mirror to device tap0") < told.index(f"Redirect to device {IFB}")
        unshape(HERE, PORT)
    after = state(net)
    assert IFB not in after[0]
    assert any("clsact" in each for each in after[1:-2])
    assert "Mirror to device tap0" in after[-2]
    assert str(PRIORITY) not in after[-2]


@pytest.mark.parametrize("end", [unshape, lambda host, device: (shape(host, device, 20), unshape(host, device))])
def test_a_shaping_that_was_cut_at_any_command_is_finished_or_taken_back(net, end):
    before = state(net)
    whole = commands(PORT, 20, hook=False, ifb=False, led=False)
    with net.inside("hypervisor"):
        for cut in range(len(whole) + 1):
            for command in whole[:cut]:
                HERE.run(*command)
            assert (shaped_mbps(HERE, PORT) == 20) == (cut == len(whole))
            end(HERE, PORT)
            assert state(net) == before, cut


@pytest.mark.parametrize(
    "spoil",
    [
        ("ip", "link", "del", IFB),
        ("tc", "qdisc", "del", "dev", PORT, "root"),
        ("tc", "qdisc", "del", "dev", IFB, "root"),
        ("tc", "qdisc", "del", "dev", PORT, "clsact"),
        ("tc", "filter", "del", "dev", PORT, "ingress", "pref", str(PRIORITY)),
        ("tc", "qdisc", "replace", "dev", IFB, "root", "tbf", "rate", "5mbit", "burst", "9999b", "latency", "50ms"),
    ],
    ids=" ".join,
)
def test_what_somebody_took_away_is_seen_and_made_again(net, spoil):
    before = state(net)
    with net.inside("hypervisor"):
        shape(HERE, PORT, 20)
        whole = state(net)
        net.run("hypervisor", *spoil)
        assert shaped_mbps(HERE, PORT) != 20
        shape(HERE, PORT, 20)
        assert shaped_mbps(HERE, PORT) == 20
        assert len(state(net)[-2].splitlines()) == len(whole[-2].splitlines())
        assert passes(net, 1 << 16)
        net.run("hypervisor", *spoil)
        unshape(HERE, PORT)
    assert state(net) == before


def test_a_port_that_is_gone_takes_its_ifb_with_it_by_unshape(net):
    with net.inside("hypervisor"):
        shape(HERE, PORT, 20)
        net.run("hypervisor", "ip", "link", "del", PORT)
        assert shaped_mbps(HERE, PORT) is None
        unshape(HERE, PORT)
        unshape(HERE, PORT)
        with pytest.raises(ProvisionError, match=r"`tc .* failed: .*; mend that"):
            shape(HERE, PORT, 20)
        unshape(HERE, PORT)
    assert json.loads(net.run("hypervisor", "ip", "-json", "link", "show", "type", "ifb") or "[]") in ([], [{}])


@pytest.mark.parametrize(("device", "rate"), [("adt1; reboot", 20), ("", 20), ("a" * 16, 20), ("adt1", 0), ("adt1", -1)])
def test_what_is_no_device_or_rate_is_never_a_command(device, rate):
    with pytest.raises(ValueError, match="can't be shaped"):
        commands(device, rate, hook=False, ifb=False, led=False)


def joined(net, into_machine):
    """A connection: the sending end and the receiving one."""
    spaces = ["hypervisor", "machine"] if into_machine else ["machine", "hypervisor"]
    address = "10.9.0.2" if into_machine else "10.9.0.1"
    with net.inside(spaces[1]), socket.create_server((address, 0)) as server:
        with net.inside(spaces[0]):
            sender = socket.create_connection(server.getsockname(), timeout=10)
        receiver, _ = server.accept()
    receiver.settimeout(10)
    return sender, receiver


def passes(net, count):
    """Whether so many bytes get through out of the machine."""
    sender, receiver = joined(net, into_machine=False)
    with sender, receiver:
        sender.sendall(b"x" * count)
        sender.shutdown(socket.SHUT_WR)
        got = 0
        while piece := receiver.recv(1 << 16):
            got += len(piece)
    return got == count


def measured_mbps(net, into_machine, warm_s=0.4, for_s=1.6):
    """What a TCP connection carries, after a time for the bucket to run dry."""
    sender, receiver = joined(net, into_machine)

    def send():
        with suppress(OSError):
            while True:
                sender.sendall(b"x" * (1 << 16))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        begun_s, got, counted_s = time.monotonic(), 0, None
        while True:
            piece = len(receiver.recv(1 << 18))
            now_s = time.monotonic()
            if counted_s is None:
                counted_s = now_s if now_s - begun_s > warm_s else None
                continue
            got += piece
            if now_s - counted_s > for_s:
                return got * 8 / 1e6 / (now_s - counted_s)
    finally:
        receiver.close()
        with suppress(OSError):
            sender.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        sender.close()


@pytest.mark.parametrize("into_machine", [True, False], ids=["into the machine", "out of the machine"])
def test_what_is_measured_is_what_was_set(net, into_machine):
    with net.inside("hypervisor"):
        shape(HERE, PORT, 20)
    assert measured_mbps(net, into_machine) == pytest.approx(20, rel=0.15)
    with net.inside("hypervisor"):
        unshape(HERE, PORT)
    assert measured_mbps(net, into_machine, 0.1, 0.2) > 60
