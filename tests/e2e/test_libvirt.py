"""From captured traffic to real VMs that answer, and back: real libvirtd, QEMU, dnsmasq, tc; as `make demo-libvirt` does it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.service.profiled_lab import profiled
from tools import demo_libvirt
from tools.demo_libvirt import Lab, Story
from tools.hypervisor import missing

pytest.importorskip("libvirt", reason="needs libvirt-python: tools/libvirt.sh")
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs a hypervisor of its own: {missing()}")
GIB = 2**30
KERNEL_KIB, PAGES = 110_000, 0.03
"""What a guest's kernel keeps of its memory for itself, at most: itself, and a share of all that it could be given."""


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
        kept_kib = KERNEL_KIB + PAGES * 2 * domain["memory_kib"]  # head-room is twice the size
        assert 0 <= domain["memory_kib"] - guest["memory_kib"] < kept_kib
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


AGAIN = """
import time
from adumbra.schema.state import PlanState
from adumbra.service import activations, recovery
from adumbra.service.workspace import Workspace
from adumbra.settings import load_settings
with Workspace(load_settings().home) as workspace:
    told = recovery.recover(workspace, time.time_ns())
    assert any("plan for lab was interrupted, and is finished" in line for line in told), told
    assert workspace.state.plans.newest("lab").state is PlanState.DONE
    assert activations.activate(workspace, "lab", "libvirt", time.time_ns, dry_run=True).plan.empty
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
        # Between every two steps; and once where a step was done, and nobody had written that down.
        for when, step in [*(("after", step) for step in range(1, steps + 1)), ("before", steps - 1)]:
            assert _python(lab, KILLED, str(step), when) == -9
            assert _python(lab, AGAIN) == 0
            assert lab.standing() == want
            lab.adumbra("deactivate", "lab")
            assert lab.standing() == empty


TWO = """\
name: lab
cidrs: [10.9.0.0/16, "fd00:9::/48"]
subnets: [{name: a, cidr: 10.9.1.0/24}, {name: six, cidr: "fd00:9:0:6::/64"}]
links: [{between: [a, internet], rtt: 20ms, bandwidth: 1Gbps}, {between: [a, six], rtt: 1ms, bandwidth: 1Gbps}]
vms:
  - {name: web, subnet: a, addresses: [10.9.1.10, 10.9.1.20], role: app, ports: [80]}
  - {name: v6, subnet: six, addresses: ["fd00:9:0:6::10"], role: app, ports: [80]}
"""
ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Echo).serve_forever()
"""


def _resized(lab: Lab, **sizes: float) -> None:
    """Saves a profile of these sizes, and activates the network with it."""
    told = profiled(("web", "v6")).to_dict()
    for vm in told["vms"]:
        vm |= {"cpu_cores": 1, "memory_gb": 0.25, "storage_gb": 1, "bandwidth_mbps": 50}
    told["vms"][0].update(sizes)
    code = MADE.replace('    networks.create(workspace, sys.argv[1], "lab.yaml", time.time_ns())\n', "")
    assert _python(lab, code, "", json.dumps(told)) == 0
    lab.adumbra("activate", "lab", "--provider", "libvirt")
    assert lab.told("activate", "lab", "--provider", "libvirt", "--dry-run")["plan"]["steps"] == []


def _until(look, want, patience_s: float = 60.0):
    until_s = time.monotonic() + patience_s
    while (found := look()) != want and time.monotonic() < until_s:
        time.sleep(0.5)
    return found


def test_both_ip_versions_names_the_way_out_and_sizes_that_change_live() -> None:
    with tempfile.TemporaryDirectory(prefix="adl", dir="/tmp") as made, Lab(Path(made)) as lab, ExitStack() as more:
        lab.environment |= {"ADUMBRA_LIBVIRT_OUTSIDE": "nat"}
        outside = subprocess.Popen(["ip", "netns", "exec", lab.client, sys.executable, "-c", ECHO])
        more.callback(outside.wait)
        more.callback(outside.kill)
        assert _python(lab, MADE, TWO, json.dumps(profiled(("web", "v6")).to_dict())) == 0
        empty = lab.standing()
        _resized(lab)

        def beside(url: str) -> str:
            """What the hypervisor's host gets: nobody outside reaches what lies behind its NAT."""
            command = lab.hypervisor.inside("wget", "-q", "-T", "5", "-t", "1", "-O", "-", url)
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

        def facts(address: str) -> dict[str, Any]:
            """What a guest says of itself, once it answers."""
            until_s = time.monotonic() + 90
            while not (said := beside(f"http://{address}/cgi-bin/facts")) and time.monotonic() < until_s:
                time.sleep(0.5)
            assert said, f"{address} never answered"
            return dict(json.loads(said))

        assert facts("10.9.1.10")["hostname"] == facts("10.9.1.20")["hostname"] == "web", "both of its addresses"
        six = facts("[fd00:9:0:6::10]")
        assert "fd00:9:0:6::10/64" in six["addresses"].split()
        assert "fd00:9:0:6::10" in beside("http://10.9.1.10/cgi-bin/named?v6").split()
        assert beside(f"http://10.9.1.10/cgi-bin/reach?{demo_libvirt.OUTSIDE},8000") == demo_libvirt.INSIDE, "by NAT"
        booted = lab.hypervisor.virsh("domid", "adumbra-lab-web")

        _resized(lab, cpu_cores=2, memory_gb=0.375, storage_gb=2, bandwidth_mbps=20)
        assert _until(lambda: facts("10.9.1.10")["cores"], 2) == 2
        grown = facts("10.9.1.10")
        assert grown["disk_bytes"] == 2 * GIB
        domain = _until(lambda: lab.hypervisor.virsh("dominfo", "adumbra-lab-web").count("393216 KiB"), 1)
        assert domain == 1
        assert lab.hypervisor.virsh("domid", "adumbra-lab-web") == booted, "it ran all the while"

        _resized(lab, storage_gb=2)
        assert _until(lambda: facts("10.9.1.10")["cores"], 1) == 1
        assert lab.hypervisor.virsh("domid", "adumbra-lab-web") != booted, "an emulated core can't be taken while it runs"
        booted = lab.hypervisor.virsh("domid", "adumbra-lab-web")

        _resized(lab, cpu_cores=4, storage_gb=2)
        assert lab.hypervisor.virsh("domid", "adumbra-lab-web") != booted, "beyond its head-room it is started anew"
        assert facts("10.9.1.10")["cores"] == 4
        lab.adumbra("deactivate", "lab")
        assert lab.standing() == empty
