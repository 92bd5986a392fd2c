"""Killed at any moment, a mirror is whole or gone after the next start; and what was the host's own is never touched."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.mirror_host import CAP_NET_ADMIN, OTHERS, SPEC, Host, host, needed

pytestmark = [pytest.mark.root, needed]
KILLS = Path(__file__).with_name("mirror_kills.py")
FIRST, SECOND = ("mirror", "install", "lab", "--from", "v0"), ("mirror", "remove", "lab")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path / "home") as made:
        yield made


@pytest.mark.parametrize(("method", "before"), [("tc", ""), ("tc", OTHERS), ("nft", OTHERS)])
@pytest.mark.parametrize("act", ["install", "remove"])
def test_killed_at_any_moment_it_is_whole_or_gone(lab: Host, method: str, act: str, before: str) -> None:
    lab.shell(before)
    path = os.pathsep.join(filter(None, [str(KILLS.parents[2]), os.environ.get("PYTHONPATH", "")]))
    said = lab.run(sys.executable, str(KILLS), str(lab.home), method, act, "5", PYTHONPATH=path)
    moments = [json.loads(line) for line in said.stdout.splitlines()]
    assert sum(moment["killed"] for moment in moments) >= 6
    for moment in moments:
        assert moment["whole"] if moment["recorded"] else moment["bare"], moment
    assert any("interrupted" in told for moment in moments for told in moment["told"])


@pytest.mark.parametrize("method", ["tc", "nft"])
@pytest.mark.parametrize("before", ["", OTHERS])
def test_exactly_what_was_installed_is_removed(lab: Host, method: str, before: str) -> None:
    lab.shell(before)
    bare = lab.stands()
    lab.adumbra(*FIRST, "--method", method)
    whole = lab.stands()
    assert "nothing to do" in lab.adumbra(*FIRST, "--method", method).stdout
    assert "nothing to do" in lab.adumbra(*FIRST).stdout
    assert lab.stands() == whole != bare
    assert "removed the mirror of v0" in lab.adumbra(*SECOND).stderr
    assert lab.stands() == bare
    assert "nothing to do" in lab.adumbra(*SECOND).stderr
    assert lab.stands() == bare


def test_a_deleted_network_takes_its_mirrors_along(lab: Host) -> None:
    lab.shell(OTHERS)
    bare = lab.stands()
    lab.adumbra(*FIRST)
    lab.adumbra("network", "delete", "lab")
    assert lab.stands() == bare
    kinds = [event["kind"] for event in json.loads(lab.adumbra("events", "lab", "-o", "json").stdout)]
    assert kinds[-5:] == ["mirror.installed", "mirror.removing", "mirror.removed", "network.state", "network.deleted"]


def test_another_spec_is_a_reason_to_install_again(lab: Host, tmp_path: Path) -> None:
    lab.adumbra(*FIRST)
    (tmp_path / "lab.yaml").write_text(SPEC.replace("192.168.7.0/24", "192.168.8.0/24"))
    lab.adumbra("network", "update", str(tmp_path / "lab.yaml"))
    [drifted] = lab.mirrors()
    assert (drifted["state"], drifted["detail"]) == ("changed", "the network's prefixes are others now; install it again")
    lab.adumbra(*FIRST)
    [mirror] = lab.mirrors()
    assert (mirror["state"], "192.168.8.0/24" in mirror["prefixes"]) == ("stands", True)


@pytest.mark.parametrize(
    ("method", "harm", "state", "told"),
    [
        ("tc", "tc filter del dev v0 ingress prio 100", "changed", "filters of v0 (ingress) are gone"),
        ("tc", "tc qdisc del dev v0 clsact; ip link del adm1a", "gone", "gone"),
        ("tc", "ip link set adm1a down", "changed", "adm1a is down"),
        ("tc", "ip link del v0", "changed", "v0 is gone"),
        ("nft", "nft delete table netdev adumbra_lab; ip link del adm1b", "gone", "gone"),
        ("nft", "nft flush ruleset", "changed", "the nftables table adumbra_lab is gone"),
        ("nft", "nft flush chain netdev adumbra_lab egress", "changed", "was changed"),
        ("nft", "ip link del adm1b", "changed", "adm1"),
    ],
)
def test_drift_is_told_and_removing_ends_well(lab: Host, method: str, harm: str, state: str, told: str) -> None:
    lab.adumbra(*FIRST, "--method", method)
    lab.shell(harm)
    [mirror] = lab.mirrors()
    assert (mirror["state"], told in mirror["detail"]) == (state, True), mirror
    lab.adumbra(*SECOND)
    left = lab.stands()
    assert lab.mirrors() == []
    assert "adm1" not in str(left)
    assert "adumbra" not in left["tables"]
    assert "clsact" not in str(left["qdiscs"])


def test_what_others_put_beside_our_filters_stays(lab: Host) -> None:
    """Somebody adds a rule of their own at our priority, and a filter to the qdisc that we made."""
    lab.adumbra(*FIRST)
    lab.shell(
        "tc filter add dev v0 ingress prio 100 protocol ip u32 match ip dst 203.0.113.0/24 action mirred egress mirror dev lo\n"
        "tc filter add dev v0 egress prio 9 protocol ip u32 match ip dst 203.0.113.0/24 action mirred egress mirror dev lo"
    )
    told = lab.adumbra(*SECOND).stderr
    assert "filters of others at priority 100 of v0 were left alone" in told
    assert "the qdisc clsact of v0 stays" in told
    left = lab.stands()
    assert left["v0 ingress"].count("match") == left["v0 egress"].count("match") == 1
    assert "cb007100/ffffff00 at 16" in left["v0 ingress"]
    assert "adm1" not in str(left)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "nope"), "there is no device 'nope'; there are: lo, "),
        (("--from", "v0", "--to", "nope"), "--to: there is no device 'nope'"),
        (("--from", "v0", "--to", "v0"), "to itself would never end"),
        (("--from", "v0", "--to", "wire"), "crosses v0 again"),
        (("--from", "v0", "--to", "w0"), "crosses w1, which is mirrored itself"),
        (("--from", "v0", "--to", "vx"), "the tunnel vx leads to 10.20.9.9, which is in the network itself"),
        (("--from", "v0", "--method", "ovs"), "ovs"),
    ],
)
def test_what_would_loop_or_is_not_there_is_refused(lab: Host, arguments: tuple[str, ...], told: str) -> None:
    lab.shell("ip link add w0 type veth peer name w1; ip link set w0 up; ip link set w1 up")
    lab.shell("ip link add vx type vxlan id 7 remote 10.20.9.9 dstport 4789")
    lab.adumbra("mirror", "install", "lab", "--from", "w1")
    before = lab.stands()
    run = lab.adumbra("mirror", "install", "lab", *arguments, status=2)
    assert told in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert lab.stands() == before


def test_copies_for_another_host_go_into_a_tunnel(lab: Host) -> None:
    lab.shell("ip link add vx type vxlan id 7 remote 198.51.100.9 dstport 4789; ip link set vx up")
    told = lab.adumbra(*FIRST, "--to", "vx").stderr
    assert "on the host where vx leads: adumbra observe lab vxlan:4789" in told
    lab.adumbra(*SECOND)


def test_without_the_privilege_the_command_that_has_it_is_named(lab: Host) -> None:
    lab.adumbra("mirror", "install", "lab", "--from", "wire")
    before = lab.stands()

    def unprivileged(*arguments: str) -> str:
        run = lab.run(
            "capsh", "--drop=cap_net_admin", "--", "-c", f"{sys.executable} -m adumbra {' '.join(arguments)}", check=False
        )
        assert run.returncode == (0 if "list" in arguments else 1)
        return run.stdout + run.stderr

    told = unprivileged(*FIRST)
    assert f"sudo env ADUMBRA_HOME={lab.home} adumbra mirror install lab --from v0" in told
    assert "CAP_NET_ADMIN" in unprivileged(*SECOND)
    assert "CAP_NET_ADMIN" in unprivileged("network", "delete", "lab")
    assert "stands" in unprivileged("mirror", "list")
    assert lab.stands() == before
    assert CAP_NET_ADMIN == 12
