"""From captured traffic to real VMs that answer, and back: real libvirtd, QEMU, dnsmasq, tc; as `make demo-libvirt` does it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.profiled_lab import profiled
from tools import demo_libvirt
from tools.demo_libvirt import Lab, Story
from tools.hypervisor import missing

pytest.importorskip("libvirt", reason="needs libvirt-python: tools/libvirt.sh")
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs a hypervisor of its own: {missing()}")
GIB = 2**30
KERNEL_KIB = 110_000
"""What a guest's kernel keeps of its memory for itself, at most."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="adl", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def story(folder: Path) -> Story:
    return demo_libvirt.run(folder)


def test_the_guests_and_libvirt_say_just_what_was_profiled(story) -> None:
    for vm, sizes in story.profiled.items():
        guest, domain = story.guests[vm], story.domains[vm]
        assert guest["cores"] == domain["cores"] == sizes["cpu_cores"]
        assert guest["disk_bytes"] == domain["disk_bytes"] == sizes["storage_gb"] * GIB
        assert domain["memory_kib"] == sizes["memory_gb"] * 2**20
        assert 0 <= domain["memory_kib"] - guest["memory_kib"] < KERNEL_KIB
        assert domain["mbps"] == sizes["bandwidth_mbps"]
        assert guest["base"] == "cloned from the base image"


def test_they_answer_at_the_specs_addresses_by_name_and_nowhere_else(story) -> None:
    for vm, (address, _) in demo_libvirt.PLACES.items():
        assert f"{address}/24" in story.guests[vm]["addresses"].split()
        assert story.guests[vm]["hostname"] == vm
        assert story.guests[vm]["resolver"] == address.rpartition(".")[0] + ".1"
    assert story.shut


def test_their_bandwidth_is_what_was_profiled(story) -> None:
    """Payload: headers take some 5 % of the link. How fast an emulated guest takes what comes in is its processor's matter."""
    for vm, found in story.mbps.items():
        limit = story.profiled[vm]["bandwidth_mbps"]
        assert 0.6 * limit < found["out"] < 1.02 * limit
        assert 1.0 < found["in"] < 1.02 * limit


def test_planning_again_is_empty(story) -> None:
    assert story.planned_again == []


def test_the_shadow_goes_on_and_is_held_against_what_is_measured(story) -> None:
    for vm in story.live["vms"]:
        scores = {(score["resource"], score["way"]): score for score in vm["scores"]}
        assert scores["cpu_cores", ""]["paired"] >= 2
        assert scores["cpu_cores", ""]["measured"]["mean"] > 0
        for way in ("rx", "tx"):  # each packet is seen once, and all are: to some per cent at the edges of intervals
            score = scores["bandwidth_mbps", way]
            assert score["predicted"]["mean"] == pytest.approx(score["measured"]["mean"], rel=0.1)


def test_deactivation_leaves_nothing(story) -> None:
    assert {kind: left for kind, left in story.left.items() if left} == {}


SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets: [{name: a, cidr: 10.9.1.0/24}]
links: [{between: [a, internet], rtt: 20ms, bandwidth: 1Gbps}]
vms: [{name: web, count: 2, subnet: a, role: app, ports: [80]}]
"""
KILLED = """
import os, sys
from dataclasses import replace
from adumbra.service import activations
from adumbra.service.workspace import Workspace
from adumbra.settings import load_settings
from adumbra.store.plans import PlanStore
import time

record, left, before = PlanStore.record_step, [int(sys.argv[1])], sys.argv[2] == "before"
def record_or_die(self, *arguments):
    left[0] -= 1
    if left[0] == 0 and before:
        os.kill(os.getpid(), 9)
    record(self, *arguments)
    if left[0] == 0:
        os.kill(os.getpid(), 9)
PlanStore.record_step = record_or_die
with Workspace(load_settings().home) as workspace:
    activations.activate(workspace, "lab", "libvirt", time.time_ns)
"""
MADE = """
import json, sys, time
from adumbra.schema.sizing import NetworkProfile
from adumbra.service import networks
from adumbra.service.workspace import Workspace
from adumbra.settings import load_settings
with Workspace(load_settings().home) as workspace:
    networks.create(workspace, sys.argv[1], "lab.yaml", time.time_ns())
    workspace.state.save_profile("lab", json.loads(sys.argv[2]), time.time_ns())
"""


def _python(lab: Lab, code: str, *words: str) -> int:
    command = lab.hypervisor.inside(sys.executable, "-c", code, *words)
    return subprocess.run(command, env=lab.environment, check=False, stdout=subprocess.DEVNULL).returncode


def test_killed_between_any_two_steps_and_run_again_all_stands_once(tmp_path) -> None:
    with tempfile.TemporaryDirectory(prefix="adl", dir="/tmp") as made, Lab(Path(made)) as lab:
        told = profiled().to_dict()
        for vm in told["vms"]:
            vm |= {"cpu_cores": 1, "memory_gb": 0.125, "storage_gb": 1}
        assert _python(lab, MADE, SPEC, json.dumps(told)) == 0
        empty = lab.standing()
        lab.adumbra("activate", "lab", "--provider", "libvirt")
        want, steps = lab.standing(), len(lab.told("plan", "show", "lab")["plan"]["steps"])
        assert len(want["domains"]) == 2
        lab.adumbra("deactivate", "lab")
        assert lab.standing() == empty
        for when in ("after", "before"):
            for step in range(1, steps + 1, 1 if when == "after" else 2):
                assert _python(lab, KILLED, str(step), when) == -9
                lab.adumbra(
                    "activate", "lab", "--provider", "libvirt"
                )  # what starts next finishes the plan; this finds it done
                assert lab.standing() == want
                assert lab.told("activate", "lab", "--provider", "libvirt", "--dry-run")["plan"]["steps"] == []
                lab.adumbra("deactivate", "lab")
                assert lab.standing() == empty
