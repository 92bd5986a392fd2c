"""Activations by the terraform provider where a tool is asked for: by settings, recorded, and finished after a failure."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

import pytest
from tests.provision import fake_tofu

from adumbra.schema.errors import InputError, ProvisionError
from adumbra.schema.sizing import Confidence, NetworkProfile, VmProfile
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import activations, networks
from adumbra.service.workspace import Workspace

SPEC = "{name: lab, cidrs: [10.3.0.0/16], subnets: [{name: s, cidr: 10.3.1.0/24}], vms: [{name: a, subnet: s, ports: [80]}]}"
SIZES = VmProfile("a", 2, 4.0, 100, 20, "m7i.large", 0.1, {}, Confidence.LOW, ())


@pytest.fixture
def clock():
    return itertools.count(1_700_000_000_000_000_000, 1_000_000_000)


@pytest.fixture
def workspace(tmp_path, clock, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tofu").write_text(f'#!/bin/sh\nexec {sys.executable} {fake_tofu.__file__} "$@"\n')
    (tools / "tofu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("ADUMBRA_TERRAFORM_APPLY", "apply")
    monkeypatch.setenv("ADUMBRA_TERRAFORM_TARGET", "openstack")
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", next(clock))
        profile = NetworkProfile("lab", 86_400.0, 0.01, 900.0, "seasonal naive", (SIZES,))
        opened.state.save_profile("lab", profile.to_dict(), next(clock))
        yield opened


def made(workspace):
    return json.loads((workspace.home / "terraform" / "lab" / "terraform.tfstate").read_text())["resources"]


def test_an_activation_makes_and_a_deactivation_destroys(workspace, clock):
    done = activations.activate(workspace, "lab", "terraform", clock.__next__)
    kept = workspace.state.plans.newest("lab")
    assert [step.index for step in kept.steps] == [*range(len(done.plan.steps)), len(done.plan.steps)]
    assert kept.steps[-1].outcome["detail"].endswith("applied")
    assert len({entry["type"] for entry in made(workspace)}) > 8
    assert activations.activate(workspace, "lab", "terraform", clock.__next__).plan.empty
    activations.deactivate(workspace, "lab", None, clock.__next__)
    assert made(workspace) == []
    assert not Path(done.place).exists()
    assert workspace.state.network("lab").state is NetworkState.READY


def test_a_failed_apply_fails_the_plan_and_the_next_activation_goes_on(workspace, clock, monkeypatch):
    monkeypatch.setenv("FAKE_TOFU_FAIL_AT", "5")
    with pytest.raises(ProvisionError, match=r"after the last step: .*the provider said no"):
        activations.activate(workspace, "lab", "terraform", clock.__next__)
    assert workspace.state.plans.newest("lab").state is PlanState.FAILED
    assert workspace.state.network("lab").state is NetworkState.FAILED
    monkeypatch.delenv("FAKE_TOFU_FAIL_AT")
    assert not activations.activate(workspace, "lab", "terraform", clock.__next__).plan.empty
    assert workspace.state.network("lab").state is NetworkState.ACTIVE
    assert activations.activate(workspace, "lab", "terraform", clock.__next__).plan.empty


def test_a_process_that_died_before_the_last_act_is_followed_by_one_that_does_it(workspace, clock, monkeypatch):
    """All steps are recorded, the tool was never run: the recorded plan is finished at the next start."""

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("adumbra.provision.terraform.TerraformProvider.finish", dies)
        with pytest.raises(KeyboardInterrupt):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
    assert not (workspace.home / "terraform" / "lab" / "terraform.tfstate").exists()
    assert activations.finish_plans(workspace, next(clock)) == ("lab",)
    assert len(made(workspace)) > 8
    assert workspace.state.network("lab").state is NetworkState.ACTIVE


def test_other_targets_and_missing_tools_are_refused_with_what_to_do(workspace, clock, monkeypatch):
    activations.activate(workspace, "lab", "terraform", clock.__next__)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("ADUMBRA_TERRAFORM_TARGET", "libvirt")
        with pytest.raises(ProvisionError, match="target openstack, not libvirt; set ADUMBRA_TERRAFORM_TARGET=openstack"):
            activations.deactivate(workspace, "lab", None, clock.__next__)
    monkeypatch.setenv("ADUMBRA_TERRAFORM_TARGET", "moon")
    with pytest.raises(InputError, match="ADUMBRA_TERRAFORM_TARGET"):
        activations.deactivate(workspace, "lab", None, clock.__next__)
    monkeypatch.setenv("ADUMBRA_TERRAFORM_TARGET", "openstack")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProvisionError, match="neither tofu nor terraform is on PATH"):
        activations.deactivate(workspace, "lab", None, clock.__next__)
