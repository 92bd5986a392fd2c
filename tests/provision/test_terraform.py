"""The Terraform JSON: what it says, that Terraform takes it, and that no crash or stranger's file is ever harmed."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.provision import fake_tofu

import adumbra
from adumbra.provision.execute import execute
from adumbra.provision.plan import describe, make_plan
from adumbra.provision.terraform import FILE, TerraformProvider
from adumbra.provision.terraform_aws import AWS
from adumbra.provision.terraform_document import COMMENT, Rendered, label, layout, read, render, text
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Actual, Desired, Item, Kind, Step

TERRAFORM = shutil.which("tofu") or shutil.which("terraform")
REFERENCE = re.compile(r"(?<!\$)\$\{(data\.)?(aws_\w+)\.([\w-]+)\.(\w+)\}")

ODD = (
    "{name: 'true', cidrs: [10.0.0.0/16, 10.9.0.0/16, '2001:db8::/56'], subnets: [{name: for, cidr: 10.0.1.0/24}, "
    "{name: count, cidr: 10.9.1.0/24}, {name: if, cidr: '2001:db8:0:1::/64'}], links: "
    "[{between: [for, internet], rtt: 1ms, bandwidth: 1Gbps}, {between: [if, internet], rtt: 1ms, bandwidth: 1Gbps}], "
    "vms: [{name: null-a, count: 2, subnet: for, ports: [22]}, {name: each, subnet: count, addresses: [10.9.1.9, 10.9.1.7]}, "
    "{name: self, subnet: if, ports: [443]}]}"
)


def document(network, region="us-east-1"):
    return render(AWS, Rendered(network.spec.name, "aws", region, AWS.rules.settle(network.desired).items))


def performed(network, folder, **kwargs):
    provider = TerraformProvider(folder, **kwargs)
    name = network.spec.name
    execute(make_plan(network.desired, provider.actual(name), provider.rules), provider, lambda index, outcome: None)
    return provider


def check_document(plain):
    """The strict fake takes it, tags say whose it is, nothing secret is there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_text(json.dumps(plain))
        fake_tofu.Folder(Path(folder), {}).validate()
    for kind, bodies in plain.get("resource", {}).items():
        for name, body in bodies.items():
            assert re.fullmatch(r"[A-Za-z_][\w-]*", name)
            if "tags" in fake_tofu.FACTS["resource"][kind] and kind.startswith("aws_"):
                assert body["tags"]["adumbra:network"] == plain[COMMENT]["network"]
    code = json.dumps({key: part for key, part in plain.items() if key != COMMENT})
    assert not re.search(r"access_key|secret|token\"|password|profile|registry|://", code)


def test_the_document_of_the_shop(shop):
    plain = document(shop)
    check_document(plain)
    web, db = plain["resource"]["aws_instance"]["web-1"], plain["resource"]["aws_instance"]["db"]
    assert plain["terraform"]["required_providers"]["aws"]["source"] == "hashicorp/aws"
    assert web["instance_type"] == "m7i.large"
    assert web["root_block_device"]["volume_size"] == 20
    assert web["root_block_device"]["encrypted"] is True
    assert web["metadata_options"]["http_tokens"] == "required"
    assert web["primary_network_interface"] == {"network_interface_id": "${aws_network_interface.web-1.id}"}
    assert web["tags"] == {
        "Name": "shop-web-1", "adumbra:network": "shop", "adumbra:item": "machine/web-1", "adumbra:role": "nginx",
    }  # fmt: skip
    assert plain["resource"]["aws_network_interface"]["web-1"]["private_ips"] == ["10.20.1.10"]
    assert plain["resource"]["aws_route"].keys() == {"web"}
    assert plain["resource"]["aws_eip"].keys() == {"web-1", "web-2"}
    assert db["ami"] == "${data.aws_ami.debian_12_x86_64.id}"
    assert plain["data"]["aws_ami"]["debian_12_x86_64"]["owners"] == ["136693071363"]
    assert plain["output"]["private_addresses"]["value"]["db"] == "${aws_network_interface.db.private_ips}"


def test_more_cidrs_more_addresses_ipv6_and_both_architectures(network):
    net = network(ODD, {"null-a-1": ("m7g.large", 8)})
    plain = document(net)
    check_document(plain)
    parts = plain["resource"]
    assert parts["aws_vpc"]["true"]["cidr_block"] == "10.0.0.0/16"
    assert parts["aws_vpc_ipv4_cidr_block_association"]["true_10-9-0-0_16"]["cidr_block"] == "10.9.0.0/16"
    assert parts["aws_subnet"]["count"]["vpc_id"] == "${aws_vpc_ipv4_cidr_block_association.true_10-9-0-0_16.vpc_id}"
    assert parts["aws_subnet"]["if"]["ipv6_native"] is True
    assert parts["aws_route"]["if"]["destination_ipv6_cidr_block"] == "::/0"
    assert parts["aws_network_interface"]["each"]["private_ip_list"] == ["10.9.1.9", "10.9.1.7"]
    assert parts["aws_network_interface"]["self"]["ipv6_addresses"] == ["2001:db8:0:1::a"]
    assert parts["aws_eip"].keys() == {"null-a-1", "null-a-2"}
    assert plain["data"]["aws_ami"].keys() == {"debian_12_arm64", "debian_12_x86_64"}
    assert plain["variable"].keys() == {"region", "zone", "ipv6_ipam_pool_id"}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(st.data())
def test_any_document_holds_together_and_gives_its_items_back(networks, data):
    net = data.draw(networks)
    plain = document(net)
    assert layout(plain) == json.dumps(plain, indent=2) + "\n"
    plain = json.loads(layout(plain))
    check_document(plain)
    assert {item.key: item for item in read(plain).items} == {item.key: item for item in net.desired.items}


@given(st.lists(st.text(max_size=80), unique=True, max_size=6))
def test_any_name_becomes_an_identifier_of_its_own(names):
    labels = [label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z_][\w-]*", one, re.ASCII) for one in labels)


def test_template_marks_are_taken_as_they_are():
    assert text("${path.module} %{if} $x") == "$${path.module} %%{if} $x"


def twin(plain):
    """The document with every resource as a terraform_data, which is built in: same names, same references, no AWS."""

    def refer(value):
        if isinstance(value, dict):
            return {key: refer(part) for key, part in value.items()}
        if isinstance(value, list):
            return [refer(part) for part in value]
        return REFERENCE.sub(r"${terraform_data.\2__\3.id}", value) if isinstance(value, str) else value

    bodies = {}
    for kind, named in {**plain["resource"], **plain["data"]}.items():
        for name, body in named.items():
            after = [f"terraform_data.{entry.replace('.', '__')}" for entry in body.get("depends_on", [])]
            given_ = {key: part for key, part in body.items() if key not in {"depends_on", "lifecycle"}}
            bodies[f"{kind}__{name}"] = {"input": refer(given_)} | ({"depends_on": after} if after else {})
    kept = {key: refer(plain[key]) for key in (COMMENT, "variable", "output")}
    return {**kept, "resource": {"terraform_data": bodies}}


def terraform(folder, *args):
    rc = folder / "rc"
    rc.touch()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TF_CLI_CONFIG_FILE": str(rc), "CHECKPOINT_DISABLE": "1"}
    done = subprocess.run([TERRAFORM, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(TERRAFORM is None, reason="neither tofu nor terraform is installed")
@pytest.mark.parametrize("odd", [False, True])
def test_terraform_reads_it_and_orders_it_without_a_cycle(odd, shop, network, tmp_path):
    """Without the AWS provider Terraform checks its own language: blocks, templates, references, cycles. Not arguments."""
    net = network(ODD) if odd else shop
    real = tmp_path / "real"
    performed(net, real)
    assert "hashicorp/aws" in terraform(real, "providers")
    copy = tmp_path / "twin"
    copy.mkdir()
    (copy / FILE).write_text(json.dumps(twin(json.loads((real / FILE).read_text()))))
    pool = ["-var", "ipv6_ipam_pool_id=ipam-pool-1"] if odd else []
    terraform(copy, "init", "-backend=false", "-input=false")
    assert json.loads(terraform(copy, "validate", "-json"))["diagnostics"] == []
    terraform(copy, "apply", "-auto-approve", "-input=false", "-no-color", *pool)
    state = json.loads((copy / "terraform.tfstate").read_text())["resources"]
    made = {entry["name"]: entry["instances"][0]["attributes"]["input"]["value"] for entry in state}
    machine = "null-a-1" if odd else "web-1"
    assert made[f"aws_instance__{machine}"]["user_data"] == f'#cloud-config\n# x86_64\nhostname: "{machine}"\n'
    terraform(copy, "plan", "-detailed-exitcode", "-input=false", *pool)  # 0: nothing to do


def test_strangers_files_stay_and_activating_again_gives_the_same_file(shop, nothing, tmp_path):
    (tmp_path / "terraform.tfstate").write_text("{}")
    (tmp_path / "other.tf").write_text("# mine")
    provider = performed(shop, tmp_path)
    first = provider.file.read_bytes()
    outcomes = []
    away = make_plan(nothing[1], provider.actual("shop"), provider.rules)
    execute(away, provider, lambda index, outcome: outcomes.append(outcome))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.tf", "terraform.tfstate"]
    assert "AWS_REGION=us-east-1 tofu destroy" in outcomes[-1].detail
    assert performed(shop, tmp_path).file.read_bytes() == first


def edited(plain):
    plain["resource"]["aws_instance"]["db"]["instance_type"] = "m7i.xlarge"
    return json.dumps(plain)


def edited_items(plain):
    plain[COMMENT]["items"][0]["settings"]["cidrs"] = ["10.21.0.0/16"]
    return json.dumps(plain)


def later_format(plain):
    return json.dumps(plain | {COMMENT: plain[COMMENT] | {"format": 3}})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (edited, "it was changed by hand since adumbra wrote it, and is left as it is; move it away or restore it"),
        (edited_items, "it was changed by hand"),
        (later_format, "it has format 3"),
        (lambda plain: json.dumps({"resource": plain["resource"]}), "it was not written by adumbra"),
        (lambda plain: json.dumps(plain)[:-20], "it was not written by adumbra"),
        (lambda plain: "", "it was not written by adumbra"),
        (lambda plain: "[" * 100_000, "it was not written by adumbra"),
        (lambda plain: json.dumps({COMMENT: {"made_by": "adumbra", "format": 1}}), "changed by hand"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_never_overwritten(spoil, why, shop, tmp_path):
    provider = performed(shop, tmp_path)
    spoilt = spoil(json.loads(provider.file.read_text()))
    provider.file.write_text(spoilt)
    with pytest.raises(ProvisionError, match=why):
        provider.actual("shop")
    net = next(item for item in shop.desired.items if item.kind is Kind.NETWORK)
    for step in (Step(Act.CREATE, net), Step(Act.DELETE, net, net)):
        with pytest.raises(ProvisionError, match=why):
            provider.perform(step)
    assert provider.file.read_text() == spoilt


def test_other_spacing_is_no_edit(shop, tmp_path):
    provider = performed(shop, tmp_path)
    provider.file.write_text(json.dumps(json.loads(provider.file.read_text()), sort_keys=True))
    assert make_plan(shop.desired, provider.actual("shop"), provider.rules).empty


def test_another_network_or_region_is_refused(shop, tmp_path):
    performed(shop, tmp_path)
    with pytest.raises(ProvisionError, match="it holds the network shop; choose another folder"):
        TerraformProvider(tmp_path).actual("blog")
    with pytest.raises(ProvisionError, match="region us-east-1, not eu-west-1"):
        TerraformProvider(tmp_path, given_place="eu-west-1").actual("shop")


def test_planning_and_deleting_nothing_make_no_folder(shop, tmp_path):
    provider = TerraformProvider(tmp_path / "new")
    assert provider.actual("shop") == Actual("shop", ())
    assert provider.perform(Step(Act.DELETE, shop.desired.items[0], shop.desired.items[0])).done
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_one_clear_error(shop, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProvisionError, match=r"writing .*make the folder writable"):
        TerraformProvider(tmp_path / "file").perform(Step(Act.CREATE, shop.desired.items[0]))


def test_a_full_disk_leaves_the_file_as_it_was(shop, tmp_path):
    provider = performed(shop, tmp_path)
    before = provider.file.read_bytes()
    extra = Item(Kind.SUBNET, "more", {"network": "shop", "cidr": "10.20.9.0/24"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(ProvisionError, match=r"writing .*main\.tf\.json: File too large; make the folder writable"):
            provider.perform(Step(Act.CREATE, extra))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert provider.file.read_bytes() == before
    assert provider.perform(Step(Act.CREATE, extra)).done


WORKER = """
import json, sys
from pathlib import Path
from adumbra.provision.execute import execute
from adumbra.provision.terraform import TerraformProvider
from adumbra.schema.plans import Plan
there, back = (Plan.from_dict(plan) for plan in json.loads(Path(sys.argv[2]).read_text()))
print("ready", flush=True)
while True:
    for plan in (there, back):
        execute(plan, TerraformProvider(Path(sys.argv[1])), lambda index, outcome: None)
"""


def test_kill_minus_9_at_any_moment_leaves_the_old_file_or_the_new_one(shop, nothing, performed_in_memory, tmp_path):
    folder = tmp_path / "tf"
    there = make_plan(shop.desired, nothing[0], TerraformProvider(folder).rules)
    back = make_plan(nothing[1], Actual("shop", performed_in_memory((), there)), TerraformProvider(folder).rules)
    plans = tmp_path / "plans.json"
    plans.write_text(json.dumps([there.to_dict(), back.to_dict()]))
    source = str(Path(adumbra.__file__).parents[1])
    rng = random.Random(7)
    sizes = set()
    for _ in range(12):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(plans)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source},
        )  # fmt: skip
        assert worker.stdout.readline() == "ready\n"
        time.sleep(0.02 + rng.random() * 0.05)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        provider = TerraformProvider(folder)
        actual = provider.actual("shop")  # whole, ours, and unharmed, or not there
        sizes.add(len(actual.items))
        if provider.file.exists():
            check_document(json.loads(provider.file.read_text()))
        execute(make_plan(Desired("shop", ()), actual, provider.rules), provider, lambda index, outcome: None)
        assert {path.name for path in folder.iterdir()} <= {f".{FILE}.new"}
    assert len(sizes) > 2  # it was killed at different moments
    assert performed(shop, folder).file.exists()
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.fixture(scope="module")
def performed_in_memory(request):
    return request.getfixturevalue("performed")


def test_the_steps_say_where_they_were_written(shop, nothing, tmp_path):
    provider = TerraformProvider(tmp_path)
    said = []
    plan = make_plan(shop.desired, nothing[0], provider.rules)
    execute(plan, provider, lambda index, outcome: said.append(outcome.detail))
    assert said == [f"written to {tmp_path / FILE}"] * len(plan.steps)
    assert describe(plan.steps[-1]) == "create machine db"
