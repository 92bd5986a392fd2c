"""Once VMs are real their ports are mirrored: each packet is seen once by the shadow, and what stood before comes back."""

from __future__ import annotations

import functools
import json
import operator
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.live_host import ADDRESS, DONORS, VMS, LiveHost, live_host, packets
from tests.netns.mirror_host import needed
from tests.netns.spaces import needs
from tests.thorough import tries
from tests.tshark import cells

from adumbra.schema.live import LivePort
from adumbra.service import handover
from adumbra.service.handover import HandedOver
from adumbra.service.workspace import Workspace

pytestmark = [pytest.mark.root, needed, needs("tc", "nft", "tcpdump", "tshark")]
KILLS = Path(__file__).with_name("handover_kills.py")
EARLIER = ("mirror", "install", "shop", "--from", "up0")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveHost]:
    monkeypatch.setenv("ADUMBRA_HOME", str(tmp_path / "home"))
    with live_host(tmp_path) as made:
        yield made


def handed_over(host: LiveHost, vms: tuple[str, ...] = VMS, devices: dict[str, str] | None = None) -> HandedOver:
    names = host.ports() | (devices or {})
    with host.net.inside("host"), Workspace(host.home) as workspace:
        ports = [LivePort(vm, names[vm]) for vm in vms]
        return handover.hand_over(workspace, "shop", ports, time.time_ns, random.Random(7))


def handed_back(host: LiveHost) -> HandedOver:
    with host.net.inside("host"), Workspace(host.home) as workspace:
        return handover.hand_back(workspace, "shop", time.time_ns, random.Random(8))


def each_once(files: dict[str, Path]) -> Counter[bytes]:
    """Every packet that any VM sent or received, once: the union of what tcpdump saw within them."""
    seen = functools.reduce(operator.or_, (packets(files[vm]) for vm in VMS if vm in files))
    assert max(seen.values()) == 1, "the packets of this test differ from each other"
    return seen


@pytest.mark.parametrize("shaped", [False, True])
def test_every_packet_is_seen_once(host: LiveHost, tmp_path: Path, shaped: bool) -> None:
    """Within a subnet, across two, to the outside and from it, broadcast, and flooded by bridges that learn nothing."""
    host.adumbra(*EARLIER)
    if shaped:
        shape(host)
    done = handed_over(host)
    assert (done.observe, done.changed, len(done.ports)) == ("live:adm1a", True, len(VMS))
    host.talk(count=2, size=0)  # neighbours are found before anything is counted
    with host.captured(tmp_path / "seen", "adm1a") as files:
        host.talk()
    assert packets(files["sink"]) == each_once(files)
    assert len(packets(files["sink"])) > 600
    if shaped:
        assert int(shaped_packets(host)) > 50
        shape(host)  # whoever shapes changes its own filters, and ours stay
        assert {mirror["state"] for mirror in host.mirrors()} == {"stands"}
    counts = {mirror["vm"]: mirror["packets"] for mirror in host.mirrors()}
    assert all(counts[vm] > 50 for vm in VMS), counts


def shape(host: LiveHost) -> None:
    """As a live network's limits are set: tbf on the way into web-1, and by way of an ifb on the way out of it."""
    host.shell(
        "ip link add ifb-web type ifb 2>/dev/null || true; ip link set ifb-web up\n"
        "tc qdisc replace dev pweb-1 root tbf rate 200mbit burst 256k latency 100ms\n"
        "tc qdisc replace dev ifb-web root tbf rate 200mbit burst 256k latency 100ms\n"
        "tc qdisc add dev pweb-1 clsact 2>/dev/null || true\n"
        "tc filter replace dev pweb-1 ingress pref 49152 protocol all handle 800::800 u32 match u32 0 0 "
        "action mirred egress redirect dev ifb-web"
    )


def shaped_packets(host: LiveHost) -> str:
    told = json.loads(host.shell("tc -j -s qdisc show dev ifb-web"))
    return str(next(each["packets"] for each in told if each["kind"] == "tbf"))


def test_the_shadow_counts_what_its_vms_count(host: LiveHost, tmp_path: Path) -> None:
    host.adumbra(*EARLIER)
    handed_over(host)
    command = [sys.executable, "-m", "adumbra", "observe", "shop", "live:adm1a", "--output", "json"]
    with host.net.start("host", *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        said = b""
        while b"observing" not in said:
            line = child.stderr.readline()
            assert line, said
            said += line
        host.talk(count=2, size=0)
        time.sleep(1.2)  # so that an interval lies between what isn't compared and what is
        begun = time.time()
        with host.captured(tmp_path / "seen", "adm1a") as files:
            host.talk()
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, (said + err).decode()
    assert json.loads(out)["accounts"]["losses"]["dropped"] == 0
    rows = json.loads(host.adumbra("metrics", "shop", "--output", "json"))["rows"]
    names = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")
    for vm in VMS:
        mine = [row for row in rows if row["vm"] == vm and _epoch(row["time"]) >= begun - 1]
        want = cells(files[vm], {ADDRESS[vm]: vm}).values()
        told = {name: sum(row[name] or 0 for row in mine) for name in names}
        assert told == {name: sum(getattr(cell, name) for cell in want) for name in names}


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_what_stood_before_comes_back_exactly(host: LiveHost) -> None:
    host.adumbra(*EARLIER)
    before = host.stands()
    index = host.shell("cat /sys/class/net/adm1a/ifindex")
    done = handed_over(host)
    assert "the mirror of up0 is taken away: the VMs' ports carry its traffic" in done.told
    whole = host.stands()
    assert "adm1b" not in whole["up0 ingress"]
    assert "adm1b" in whole["pdb egress"]
    again = handed_over(host)
    assert (again.changed, again.told) == (False, ("observe the copies: `adumbra observe shop live:adm1a`",))
    assert host.stands() == whole
    back = handed_back(host)
    assert "the mirror of up0 is back" in back.told
    assert host.stands() == before
    assert host.shell("cat /sys/class/net/adm1a/ifindex") == index, "whoever observes the sink observes it still"
    assert handed_back(host) == HandedOver("shop")
    assert [mirror["from"] for mirror in host.mirrors()] == ["up0"]


def test_without_an_earlier_mirror_nothing_is_left(host: LiveHost) -> None:
    bare = host.stands()
    assert handed_over(host).observe == "live:adm1a"
    handed_back(host)
    assert (host.stands(), host.mirrors()) == (bare, [])
    handed_over(host)
    host.adumbra("network", "delete", "shop")
    assert host.stands() == bare


def test_a_port_that_ends_with_its_vm_and_comes_back_under_another_name(host: LiveHost, tmp_path: Path) -> None:
    host.adumbra(*EARLIER)
    handed_over(host)
    standing = {mirror["vm"]: mirror["installed"] for mirror in host.mirrors() if mirror["vm"]}
    host.shell("ip link del pdb")
    gone = next(mirror for mirror in host.mirrors() if mirror["vm"] == "db")
    assert (gone["state"], gone["detail"]) == ("gone", "the device pdb is gone")
    others = tuple(vm for vm in VMS if vm != "db")
    done = handed_over(host, others)
    assert "pdb, the port of db, is gone, and its mirror with it" in done.told
    assert "the mirror of up0 stays for what the VMs' ports don't carry: VMs without a port here (db)" in done.told
    with host.captured(tmp_path / "without", "adm1a", others) as files:
        host.talk([("client", "web-1"), ("web-1", "web-2")], size=20_000)
    assert packets(files["sink"]) == each_once(files)
    host.plug("db", device="pdb7")
    done = handed_over(host, devices={"db": "pdb7"})
    assert "the mirror of up0 is taken away: the VMs' ports carry its traffic" in done.told
    now = {mirror["vm"]: mirror["installed"] for mirror in host.mirrors() if mirror["vm"]}
    assert {vm: when for vm, when in now.items() if vm != "db"} == {vm: when for vm, when in standing.items() if vm != "db"}
    with host.captured(tmp_path / "again", "adm1a") as files:
        host.talk([("client", "db"), ("db", "web-2")], size=20_000)
    assert packets(files["sink"]) == each_once(files)


def test_donors_stay_mirrored_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the cut-over their traffic is the network's; that between a donor and a VM is seen at the VM, and only there."""
    monkeypatch.setenv("ADUMBRA_HOME", str(tmp_path / "home"))
    with live_host(tmp_path, DONORS) as host:
        host.adumbra(*EARLIER)
        before = host.stands()
        host.shell("ip addr add 192.168.7.10/32 dev lo")
        done = handed_over(host)
        assert "the mirror of up0 stays for what the VMs' ports don't carry: donors (192.168.7.0/24)" in done.told
        ask = "import socket; s = socket.socket(2, 2)\nfor n in range(9): s.sendto(b'%d' % n, ('192.168.7.10', 77))"
        with host.captured(tmp_path / "seen", "adm1a") as files:
            host.net.run("client", sys.executable, "-c", ask)
            host.talk([("client", "web-1")])
        donors = {key for key in packets(files["sink"]) if bytes([192, 168, 7, 10]) in key[:12]}
        assert len(donors) == 9
        assert {k: n for k, n in packets(files["sink"]).items() if k not in donors} == each_once(files)
        assert {mirror["state"] for mirror in host.mirrors()} == {"stands"}
        assert handed_over(host).changed is False
        host.shell("ip addr del 192.168.7.10/32 dev lo")
        handed_back(host)
        assert host.stands() == before


def test_only_one_of_several_sinks_is_fed_the_one_that_is_observed(host: LiveHost) -> None:
    host.shell("ip link add e0 type veth peer name e1; ip link set e0 up")
    host.adumbra("mirror", "install", "shop", "--from", "e0")
    host.adumbra(*EARLIER)
    before = host.stands()
    with Workspace(host.home) as workspace:
        workspace.state.sources.add("shop", "live:adm1x1a", {}, 1)
    done = handed_over(host)
    assert (done.observe, done.followed, done.sink) == ("live:adm1x1a", True, "adm1x1b")
    assert "adm1a" in str(host.stands()["devices"]), "nobody who observes it meets a device that is gone"
    assert handed_back(host).followed
    assert host.stands() == before


def test_a_sink_of_somebodys_own_serves_the_ports_too(host: LiveHost) -> None:
    host.shell("ip link add s0 type veth peer name s1; ip link set s0 up; ip link set s1 up")
    host.adumbra(*EARLIER, "--to", "s0")
    before = host.stands()
    done = handed_over(host)
    assert (done.sink, done.observe) == ("s0", "live:s1")
    assert not any("adm" in name for name, *_ in host.stands()["devices"])
    handed_back(host)
    assert host.stands() == before


def test_after_a_restart_all_is_made_again(host: LiveHost) -> None:
    """Devices and filters are gone as after a restart of the host; the server's source is told the new sink."""
    host.adumbra(*EARLIER)
    with Workspace(host.home) as workspace:
        workspace.state.sources.add("shop", "live:adm1a", {"workers": 2}, 1)
    handed_over(host)
    host.shell("".join(f"tc qdisc del dev p{vm} clsact\n" for vm in VMS))
    host.shell("ip link del adm1a; ip link add adm1b type veth peer name other")
    done = handed_over(host)
    assert (done.observe, done.followed) == ("live:adm1x1a", True)
    assert {mirror["state"] for mirror in host.mirrors()} == {"stands"}
    with Workspace(host.home) as workspace:
        told = [(s.source, s.state.value, dict(s.options)) for s in workspace.state.sources.of("shop")]
    assert told == [("live:adm1x1a", "waiting", {"workers": 2}), ("live:adm1a", "stopped", {"workers": 2})]


def test_a_port_that_is_shaped_in_the_way_of_libvirt_is_mirrored_by_nftables(host: LiveHost, tmp_path: Path) -> None:
    """Its own limits hang on an ingress qdisc, beside which there is no clsact."""
    host.shell("tc qdisc add dev pdb ingress")
    bare = host.stands()
    handed_over(host)
    assert {m["vm"]: m["method"] for m in host.mirrors() if m["vm"]} == {vm: "nft" if vm == "db" else "tc" for vm in VMS}
    host.talk(count=2, size=0)
    with host.captured(tmp_path / "seen", "adm1a") as files:
        host.talk()
    assert packets(files["sink"]) == each_once(files)
    handed_back(host)
    assert host.stands() == bare


def test_what_cant_be_changed_is_told_and_left(host: LiveHost) -> None:
    host.adumbra(*EARLIER)
    before = host.stands()
    with host.net.inside("host"), Workspace(host.home) as workspace:
        none = handover.hand_over(workspace, "shop", (), time.time_ns, random.Random(1))
        far = [LivePort("web-1", "elsewhere0"), LivePort("nobody", "pdb")]
        elsewhere = handover.hand_over(workspace, "shop", far, time.time_ns, random.Random(1))
    assert none.told == ("no VM of shop has a port on this host that can be mirrored; its mirrors stay as they are",)
    assert "elsewhere0, the port of web-1, isn't a device of this host, and isn't mirrored" in elsewhere.told
    assert "pdb is the port of nobody, which is no VM of shop, and isn't mirrored" in elsewhere.told
    assert (none.changed, elsewhere.changed, host.stands()) == (False, False, before)
    assert "no VM of shop has a port on this host" in host.adumbra("mirror", "handover", "shop")
    command = f"{sys.executable} -m adumbra mirror handover shop"
    told = host.shell(f"capsh --drop=cap_net_admin -- -c '{command}' 2>&1")
    assert f"sudo env ADUMBRA_HOME={host.home} adumbra mirror handover shop" in told
    assert host.stands() == before


def test_mirrors_that_are_asked_for_later_copy_what_ports_dont(host: LiveHost, tmp_path: Path) -> None:
    handed_over(host)
    host.adumbra(*EARLIER)
    host.talk([("client", "web-1")], count=2, size=0)
    with host.captured(tmp_path / "seen", "adm1x1a") as files:
        host.talk([("client", "web-1"), ("web-2", "client")])
    assert not packets(files["sink"])
    assert "pdb is the port of db, and is mirrored as that" in host.adumbra(
        "mirror", "install", "shop", "--from", "pdb", status=2
    )
    assert handed_over(host).changed is False
    host.adumbra("mirror", "remove", "shop")
    assert host.mirrors() == []


SOME = ("web-1", "db")


@pytest.mark.parametrize(("act", "vms"), [("over", VMS), ("over", SOME), ("back", SOME)])
def test_killed_at_any_moment_it_is_finished_or_not_begun(
    host: LiveHost, monkeypatch: pytest.MonkeyPatch, act: str, vms: tuple[str, ...]
) -> None:
    """The next start leaves what an undisturbed act leaves, or what was before it; doing it again ends it, nothing doubled."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(KILLS.parents[2]), os.environ.get("PYTHONPATH", "")])))
    host.adumbra(*EARLIER)
    ports = ",".join(f"{vm}={host.ports()[vm]}" for vm in vms)
    said = host.net.run(
        "host", sys.executable, str(KILLS), str(host.home), act, str(tries(3, 40)), ports, timeout_s=tries(280, 2400)
    )
    moments = [json.loads(line) for line in said.splitlines()]
    assert sum(moment["killed"] for moment in moments) >= 4, moments
    for moment in moments:
        assert moment["ended"] or (moment["begun"] and moment["changed again"]), moment
        assert moment["ended again"], moment
    finished = [moment for moment in moments if any("finished now" in told for told in moment["told"])]
    assert len(finished) >= 2
