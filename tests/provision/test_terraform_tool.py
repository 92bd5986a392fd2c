"""The tool that applies: what the real one does, what the fake refuses, and that no failure, kill or drift is left unmended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.provision import fake_tofu
from tests.provision.terraform_places import within

import adumbra
from adumbra.provision.execute import execute
from adumbra.provision.plan import make_plan
from adumbra.provision.terraform import FILE, TerraformProvider
from adumbra.provision.terraform_aws import AWS
from adumbra.provision.terraform_document import LET_GO_FIRST, Target, label
from adumbra.provision.terraform_state import INCOMPLETE, TAINTED, UNFINISHED, parse_state
from adumbra.provision.terraform_targets import target_of
from adumbra.provision.terraform_tool import PLAN_FILE, Call, Said, Tool, find_program, run_program
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Desired, Kind

REAL = shutil.which("tofu") or shutil.which("terraform")
FAKE = Path(fake_tofu.__file__)


def faked(folder, target="aws", **environment):
    """A provider whose tool is the fake within this process, told so by its environment."""

    def run(call):
        return within(replace(call, environment={**call.environment, **environment}))

    return TerraformProvider(folder, target_of(target), None, Tool("tofu", folder, run=run), apply=True)


def turn(network, provider):
    plan = make_plan(network.desired, provider.actual("shop"), provider.rules)
    said = []
    execute(plan, provider, lambda index, outcome: said.append((index, outcome)))
    return plan, said


def away(provider):
    return make_plan(Desired("shop", ()), provider.actual("shop"), provider.rules)


def entries(folder):
    return fake_tofu.Folder(folder, {}).entries


def at_rest(network, provider):
    """Nothing is left to do, by the planner's word and by the tool's."""
    assert make_plan(network.desired, provider.actual("shop"), provider.rules).empty
    assert provider.tool.plan() == {}
    provider.tool.forget_plan()
    return True


@pytest.fixture
def grown(shop_text, network):
    """The shop with a larger type, another group that its machines move to, and one machine fewer."""
    text = shop_text.replace("name: web, count: 2", "name: front, count: 2").replace("ports: [5432]", "ports: [5432, 5433]")
    assert text != shop_text
    return network(text, {"db": ("c6a.large", 40)})


@pytest.mark.parametrize("target", ["aws", "openstack", "libvirt"])
def test_what_a_failed_apply_left_is_finished_by_the_next_run(target, shop, grown, tmp_path, monkeypatch):
    monkeypatch.setenv("OS_PASSWORD", "hunter22")
    turn(shop, faked(tmp_path, target))
    plan = make_plan(grown.desired, faked(tmp_path, target).actual("shop"), faked(tmp_path, target).rules)
    for at in (1, 4, 9):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path, folder, ignore=lambda *_: {"1", "4", "9"})
        kept = {}
        with pytest.raises(ProvisionError, match=r"the provider said no, with \*\*\*; mend that.*goes on from what stands"):
            execute(plan, faked(folder, target, FAKE_TOFU_FAIL_AT=str(at)), kept.__setitem__)
        assert not kept[max(kept)].done
        assert "hunter22" not in json.dumps([outcome.detail for outcome in kept.values()])
        again = faked(folder, target)
        assert not make_plan(grown.desired, again.actual("shop"), again.rules).empty
        turn(grown, again)
        assert at_rest(grown, again)
        turn(shop, again)  # and back, though nobody finished the first change by its own plan
        execute(away(again), again, lambda index, outcome: None)
        assert entries(folder) == {}
        assert not (folder / FILE).exists()


def test_a_change_of_mind_after_a_failure_leaves_nothing_behind(shop, grown, nothing, tmp_path):
    """What a failed apply had made is known to be ours, though no finished plan speaks of it."""
    turn(shop, faked(tmp_path))
    for at in range(2, 12, 3):
        with pytest.raises(ProvisionError):
            turn(grown, faked(tmp_path, FAKE_TOFU_FAIL_AT=str(at)))
        turn(shop, faked(tmp_path))
        assert at_rest(shop, faked(tmp_path))


def test_a_quota_is_told_and_mended(shop, tmp_path):
    with pytest.raises(ProvisionError, match=r"aws_instance\.web-\d: Quota exceeded.*raise the quota") as told:
        turn(shop, faked(tmp_path, FAKE_TOFU_QUOTA="aws_instance:2"))
    assert "after the last step" in str(told.value)
    turn(shop, faked(tmp_path))
    assert at_rest(shop, faked(tmp_path))


def test_the_state_tells_what_is_missing_drifted_or_half_made(shop, tmp_path):
    provider = faked(tmp_path)
    turn(shop, provider)
    folder = fake_tofu.Folder(tmp_path, {})
    kept = folder.entries
    del kept["aws_route.web"]
    kept["aws_instance.web-1"]["instances"][0]["attributes"]["instance_type"] = "m7i.xlarge"
    kept["aws_instance.web-2"]["instances"][0]["status"] = "tainted"
    kept["aws_instance.db"]["instances"][0]["attributes"]["root_block_device"][0]["volume_size"] = 10
    kept["aws_subnet.data"]["instances"][0]["attributes"]["cidr_block"] = "10.20.2.0/24"  # as it should be
    folder.save(kept)
    seen = {item.key: item for item in provider.actual("shop").items}
    assert seen[("routing", "web")].settings[INCOMPLETE] == UNFINISHED
    assert seen[("machine", "web-1")].settings["type"] == "m7i.xlarge"
    assert seen[("machine", "web-2")].settings[INCOMPLETE] == TAINTED
    assert seen[("machine", "db")].settings["storage_gb"] == 10
    plan, _ = turn(shop, provider)
    acts = {step.item.key: (step.act, bool(step.interrupts)) for step in plan.steps}
    assert acts == {
        ("routing", "web"): (Act.UPDATE, False),
        ("machine", "web-1"): (Act.UPDATE, True),
        ("machine", "web-2"): (Act.REPLACE, True),
        ("machine", "db"): (Act.UPDATE, False),
    }
    assert at_rest(shop, provider)


def test_data_is_never_lost_that_the_plan_does_not_speak_of(shop, network, shop_text, tmp_path):
    provider = faked(tmp_path)
    turn(shop, provider)
    folder = fake_tofu.Folder(tmp_path, {})
    kept = folder.entries
    kept["aws_instance.db"]["instances"][0]["attributes"]["user_data"] = "of another version"
    folder.save(kept)
    more = network(shop_text.replace("ports: [80, 443]", "ports: [80]"))
    with pytest.raises(ProvisionError, match=r"would destroy aws_instance.db, and with it data of machine db.*`tofu plan`"):
        turn(more, provider)
    assert "aws_instance.db" in entries(tmp_path)
    assert not (tmp_path / PLAN_FILE).exists()


def test_a_tool_that_only_plans_says_what_it_would_do_and_makes_nothing(shop, tmp_path):
    provider = TerraformProvider(tmp_path, AWS, None, Tool("tofu", tmp_path, run=within))
    _, said = turn(shop, provider)
    assert said[-1][1].detail == f"25 to add, 0 to change, 0 to destroy; run it with `tofu apply {PLAN_FILE}` in {tmp_path}"
    assert entries(tmp_path) == {}
    assert make_plan(shop.desired, provider.actual("shop"), provider.rules).empty
    execute(away(provider), provider, lambda index, outcome: None)
    assert {path.name for path in tmp_path.iterdir()} <= {".terraform", ".terraform.tfstate.lock.info"}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (b"{", "can't be read"),
        (b"[]", "can't be read"),
        (b'{"version": 3}', "version 3, not 4"),
        (b'{"version": 4, "resources": [{"mode": "managed"}]}', "can't be read"),
        (b'{"version": 4, "resources": 7}', "can't be read"),
        (b"[" * 100_000, "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
    ],
)
def test_a_state_that_is_none_is_refused(state, why, shop, tmp_path):
    with pytest.raises(ProvisionError, match=why):
        parse_state(state)
    turn(shop, faked(tmp_path))
    (tmp_path / "terraform.tfstate").write_bytes(state)
    with pytest.raises(ProvisionError, match=why):
        faked(tmp_path).actual("shop")


def test_attributes_of_another_type_than_a_provider_writes_are_no_crash(shop, tmp_path):
    turn(shop, faked(tmp_path, "libvirt"))
    folder = fake_tofu.Folder(tmp_path, {})
    kept = folder.entries
    kept["libvirt_volume.db"]["instances"][0]["attributes"]["size"] = "much"
    kept["libvirt_domain.db"]["instances"][0]["attributes"] = None
    folder.save(kept)
    seen = {item.key: item for item in faked(tmp_path, "libvirt").actual("shop").items}
    assert seen[("machine", "db")].settings[INCOMPLETE] == UNFINISHED


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_tool_that_takes_too_long_is_told_to_stop(tmp_path):
    program = script(tmp_path / "tofu", f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    with pytest.raises(ProvisionError, match=r"longer than 0.3 s, and was told to stop; run the same command again"):
        Tool(program, tmp_path, timeout_s=0.3).init()


def test_what_a_tool_says_is_bounded(tmp_path):
    program = script(tmp_path / "tofu", f"#!{sys.executable}\nprint('x' * 3_000_000)\n")
    said = run_program(Call((program,), tmp_path, os.environ, 10.0, limit_bytes=1000))
    assert (said.code, len(said.out)) == (0, 1001)
    noisy = Tool("tofu", tmp_path, run=lambda call: Said(1, b'{"@level": "error", "diagnostic": 7}\n' * 3, b"x" * 5_000_000))
    with pytest.raises(ProvisionError) as told:
        noisy.init()
    assert len(str(told.value)) < 1000


def test_a_tool_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(ProvisionError, match="see that it is on PATH"):
        Tool(str(tmp_path / "none"), tmp_path).init()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProvisionError, match=r"neither tofu nor terraform is on PATH.*install OpenTofu"):
        find_program()


WORKER = """
import json, sys
from pathlib import Path
from adumbra.provision.execute import execute
from adumbra.provision.terraform import TerraformProvider
from adumbra.provision.terraform_targets import target_of
from adumbra.provision.terraform_tool import Tool
from adumbra.schema.plans import Plan
folder = Path(sys.argv[1])
provider = TerraformProvider(folder, target_of("openstack"), None, Tool(sys.argv[3], folder), apply=True)
execute(Plan.from_dict(json.loads(Path(sys.argv[2]).read_text())), provider, lambda index, outcome: print(index, flush=True))
"""


@pytest.mark.parametrize("who", ["adumbra", "the tool"])
def test_kill_minus_9_amid_an_apply_is_mended_by_the_next_run(who, shop, tmp_path):
    """Where adumbra is killed the tool goes on by itself, and the next run waits for its lock."""
    program = script(tmp_path / "tofu", f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    folder = tmp_path / "shop"
    provider = TerraformProvider(folder, target_of("openstack"), None, Tool(program, folder), apply=True)
    plan = make_plan(shop.desired, provider.actual("shop"), provider.rules)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    environment = {**os.environ, "PYTHONPATH": str(Path(adumbra.__file__).parents[1])}
    told = {"FAKE_TOFU_SLEEP_S": "0.05"} if who == "adumbra" else {"FAKE_TOFU_KILL_AT": "7"}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(tmp_path / "plan.json"), program],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**environment, **told},
    )  # fmt: skip
    if who == "adumbra":
        until = time.monotonic() + 30
        while time.monotonic() < until and not ((folder / "terraform.tfstate").exists() and len(entries(folder)) > 3):
            time.sleep(0.01)
        worker.send_signal(signal.SIGKILL)
    said = worker.communicate()[0].split()
    made = len(entries(folder))
    assert 3 < made < 40
    assert said == [str(index) for index in range(len(plan.steps) + (who != "adumbra"))]
    again = {item.key: item for item in provider.actual("shop").items}
    assert again.keys() == {item.key for item in shop.desired.items}
    execute(plan, provider, lambda index, outcome: None, frozenset(range(len(plan.steps))))
    assert at_rest(shop, provider)
    assert not (folder / PLAN_FILE).exists()


# The real tool. No provider of the targets can be had here, so each item is a terraform_data, which is built in.


def _twin(draft, item):
    name = label(f"{item.kind.value}-{item.name}")
    named = [(kind.value, item.settings.get(kind.value)) for kind in Kind if kind is not item.kind]
    needs = {kind: f"${{terraform_data.{label(f'{kind}-{other}')}.id}}" for kind, other in named if other is not None}
    settings = json.dumps(dict(item.settings), sort_keys=True)
    draft.add("terraform_data", name, {"input": {"needs": needs, "settings": settings}, "lifecycle": LET_GO_FIRST})


TWIN = Target("twin", AWS.rules, {}, ("place", "here"), dict.fromkeys(Kind, _twin), lambda *_: {}, frozenset(), lambda _: "")


@pytest.fixture
def real(tmp_path, monkeypatch):
    if REAL is None:
        pytest.skip("neither tofu nor terraform is installed")
    (tmp_path / "rc").touch()
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(tmp_path / "rc"))
    folder = tmp_path / "shop"
    folder.mkdir()
    return TerraformProvider(folder, TWIN, None, Tool(REAL, folder), apply=True)


def test_the_real_tool_makes_changes_and_destroys_and_leaves_others_alone(real, shop, grown):
    folder = real.folder
    (folder / "others.tf").write_text('resource "terraform_data" "others" {\n  input = "mine"\n}\n')
    real.tool.init()
    real.tool.plan(["terraform_data.others"])
    real.tool.apply()
    (folder / "others.tf").write_text('resource "terraform_data" "wish" {}\n')  # theirs: one to go, one to come
    others = real.tool.state()
    turn(shop, real)
    assert make_plan(shop.desired, real.actual("shop"), real.rules).empty
    _, said = turn(grown, real)
    assert said[-1][1].detail.endswith("applied")
    standing = {address for address in real.tool.state() if address != "terraform_data.others"}
    assert standing == {f"terraform_data.{item.kind.value}-{item.name}" for item in grown.desired.items}
    subprocess.run([REAL, "state", "rm", "terraform_data.machine-db"], cwd=folder, check=True, capture_output=True)
    plan, _ = turn(grown, real)
    assert [(step.act, step.item.name) for step in plan.steps] == [(Act.UPDATE, "db")]
    assert "terraform_data.machine-db" in real.tool.state()
    execute(away(real), real, lambda index, outcome: None)
    assert real.tool.state() == others
    assert not real.file.exists()


def test_a_state_that_is_kept_elsewhere_is_asked_for(real, shop):
    (real.folder / "backend.tf").write_text('terraform {\n  backend "local" {\n    path = "../kept.tfstate"\n  }\n}\n')
    turn(shop, real)
    assert not (real.folder / "terraform.tfstate").exists()
    assert make_plan(shop.desired, real.actual("shop"), real.rules).empty
    execute(away(real), real, lambda index, outcome: None)
    assert real.tool.state() == {}


def test_the_real_tools_own_words_are_told(real, shop):
    turn(shop, real)
    (real.folder / "bad.tf.json").write_text(json.dumps({"resource": {"terraform_data": {"bad": {"nonsense": 1}}}}))
    with pytest.raises(ProvisionError, match=r"planning: Extraneous JSON object property: No argument or block type is named"):
        real.tool.plan()
    (real.folder / "bad.tf.json").write_text('{"terraform": {"required_version": "< 1.0"}}')
    with pytest.raises(ProvisionError, match=r"making the folder ready: .*Unsupported Terraform Core version"):
        real.tool.init()
