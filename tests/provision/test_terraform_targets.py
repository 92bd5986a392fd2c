"""OpenStack and libvirt as targets: what their documents say, what they can't hold, and what a change interrupts there."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.provision import fake_tofu

from adumbra.provision.protocol import Effect
from adumbra.provision.terraform import FILE, TerraformProvider
from adumbra.provision.terraform_document import COMMENT, Rendered, layout, read, render
from adumbra.provision.terraform_targets import TARGETS, target_of
from adumbra.schema.errors import InputError, ProvisionError
from adumbra.schema.plans import Act, Desired, Item, Kind, Step

OTHERS = ("openstack", "libvirt")
ODD_ROLES = ["${path.module}", "%{ if x }", "$${a}", 'a"b\\', "née ${", "</xsl>"]


def document(network, name, **options):
    target = target_of(name, **options)
    target.rules.check(network.desired)
    return render(target, Rendered("shop", name, target.place[1], target.rules.settle(network.desired).items))


def validated(plain):
    """The strict fake's reading of a document: every string resolved as the tool would."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_text(json.dumps(plain))
        found = fake_tofu.Folder(Path(folder), {"TF_VAR_ipv6_ipam_pool_id": "pool"})
        found.validate()
        found.apply(found.plan(()), lambda line: None)
        return {address: entry["instances"][0]["attributes"] for address, entry in found.entries.items()}


def test_the_shop_on_openstack(shop):
    made = validated(document(shop, "openstack"))
    instance = made["openstack_compute_instance_v2.web-1"]
    assert made["openstack_compute_flavor_v2.adumbra-shop-2c-4096m"].items() >= {"vcpus": 2, "ram": 4096, "disk": 0}.items()
    assert instance["flavor_name"] == "adumbra-shop-2c-4096m"
    assert instance["block_device"][0]["uuid"] == made["openstack_blockstorage_volume_v3.web-1"]["id"]
    assert made["openstack_blockstorage_volume_v3.web-1"]["size"] == 20
    port = made["openstack_networking_port_v2.web-1"]
    assert port["fixed_ip"][0]["ip_address"] == "10.20.1.10"
    assert port["qos_policy_id"] == made["openstack_networking_qos_policy_v2.web-1"]["id"]
    for way in ("ingress", "egress"):
        rule = made[f"openstack_networking_qos_bandwidth_limit_rule_v2.web-1_{way}"]
        assert (rule["max_kbps"], rule["max_burst_kbps"], rule["direction"]) == (150_000, 120_000, way)
    assert "openstack_networking_floatingip_associate_v2.web-1" in made
    assert "openstack_networking_floatingip_v2.db" not in made
    subnet = made["openstack_networking_subnet_v2.web"]
    assert subnet["gateway_ip"] == "10.20.1.1"
    assert subnet["allocation_pool"] == [{"start": "10.20.1.2", "end": "10.20.1.3"}]
    rules = {name: each for name, each in made.items() if name.startswith("openstack_networking_secgroup_rule_v2")}
    assert {name: each["remote_ip_prefix"] for name, each in rules.items() if each["direction"] == "egress"} == {
        "openstack_networking_secgroup_rule_v2.web_out_0-0-0-0_0": "0.0.0.0/0",
        "openstack_networking_secgroup_rule_v2.db_out_10-20-0-0_16": "10.20.0.0/16",  # no way to the outside
    }


def test_flavors_that_stand_already_are_looked_up_by_name(shop):
    plain = document(shop, "openstack", make_flavors=False)
    validated(plain)
    assert [body["name"] for body in plain["data"]["openstack_compute_flavor_v2"].values()] == ["m7i.large"]
    assert "openstack_compute_flavor_v2" not in plain["resource"]


def test_the_shop_on_libvirt(shop, tmp_path):
    made = validated(document(shop, "libvirt"))
    domain = made["libvirt_domain.web-1"]
    assert (domain["vcpu"], domain["memory"]) == (2, 4096)
    assert made["libvirt_volume.web-1"]["size"] == 20 * 2**30
    assert made["libvirt_volume.web-1"]["base_volume_id"] == made["libvirt_volume._image"]["id"]
    assert {name: made[f"libvirt_network.{name}"]["mode"] for name in ("web", "data")} == {"web": "nat", "data": "route"}
    disk = made["libvirt_cloudinit_disk.web-1"]
    lan = json.loads(disk["network_config"])["ethernets"]["lan"]
    assert lan["addresses"] == ["10.20.1.10/24"]
    assert lan["match"]["macaddress"] == domain["network_interface"][0]["mac"]
    assert len({body["network_interface"][0]["mac"] for name, body in made.items() if name.startswith("libvirt_domain")}) == 3
    notes = document(shop, "libvirt")[COMMENT]["notes"]
    assert any("no room for cores or memory" in note for note in notes)
    assert any("have no public one" in note for note in notes)


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_takes_the_rules_that_guests_boot_with(network, shop_text, tmp_path):
    ports = network(shop_text.replace("ports: [80, 443]", "ports: [80, 81, 443]"))
    user = json.loads(validated(document(ports, "libvirt"))["libvirt_cloudinit_disk.web-1"]["user_data"].partition("\n")[2])
    shell, option, command = user["bootcmd"][0]
    apart = ["unshare", "--net", "--map-root-user", shell, option, f"{command} && {command} && nft list ruleset"]
    done = subprocess.run(apart, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("no network namespace can be made here")
    assert done.returncode == 0, done.stderr
    assert "tcp dport 80-81 accept" in done.stdout
    assert "policy drop" in done.stdout


@pytest.mark.skipif(shutil.which("xsltproc") is None, reason="xsltproc is not installed")
def test_the_stylesheet_limits_every_interface_and_changes_nothing_else(shop, tmp_path):
    (tmp_path / "sheet").write_text(validated(document(shop, "libvirt"))["libvirt_domain.db"]["xml"][0]["xslt"])
    plain = "<domain a='1'><name>db</name><devices><interface type='network'><mac/></interface><disk/></devices></domain>"
    (tmp_path / "domain").write_text(plain)
    done = subprocess.run(["xsltproc", tmp_path / "sheet", tmp_path / "domain"], capture_output=True, check=True)
    domain = ET.fromstring(done.stdout)
    limits = domain.find("devices/interface/bandwidth")
    assert {way.tag: way.get("average") for way in limits} == {"inbound": "18750", "outbound": "18750"}  # 150 Mbit/s in kB/s
    domain.find("devices/interface").remove(limits)
    assert ET.canonicalize(ET.tostring(domain)) == ET.canonicalize(plain)


@pytest.mark.parametrize("name", TARGETS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=15)
@given(data=st.data())
def test_any_document_stands_and_gives_its_items_back(name, networks, data):
    """No dangling reference, no clash of names or addresses, none but known arguments: the fake applies it whole."""
    net = data.draw(networks)
    plain = document(net, name)
    assert layout(plain) == json.dumps(plain, indent=2) + "\n"
    settled = target_of(name).rules.settle(net.desired)
    assert target_of(name).rules.settle(settled) == settled
    assert {item.key: item for item in read(plain).items} == {item.key: item for item in settled.items}
    validated(plain)


@pytest.mark.parametrize("name", TARGETS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=10)
@given(role=st.sampled_from(ODD_ROLES), vm=st.sampled_from(["${x}", "a'b", "%{", "µ"]))
def test_text_with_template_marks_comes_through(name, shop, role, vm):
    """Whatever stands in a name or a role is text to the tool, never a template."""
    items = []
    for item in shop.desired.items:
        machine = item.kind is Kind.MACHINE
        named = vm if machine and item.name == "db" else item.name
        items.append(Item(item.kind, named, {**item.settings, "role": role} if machine else item.settings))
    target = target_of(name)
    plain = render(target, Rendered("shop", name, target.place[1], target.rules.settle(Desired("shop", tuple(items))).items))
    made = validated(plain)
    texts = json.dumps(list(made.values()), ensure_ascii=False)
    assert json.dumps(vm, ensure_ascii=False)[1:-1] in texts
    if name != "libvirt":
        assert json.dumps(role, ensure_ascii=False)[1:-1] in texts


def spec(subnet="10.0.1.0/24", addresses="", vm=""):
    given_ = f", addresses: {addresses}" if addresses else ""
    vms = f"[{{name: db, subnet: s{given_}{vm}}}]"
    return f"{{name: n, cidrs: [10.0.0.0/16], subnets: [{{name: s, cidr: {subnet}}}], vms: {vms}}}"


@pytest.mark.parametrize(
    ("name", "given_", "why"),
    [
        ("openstack", {"addresses": "[10.0.1.3]"}, r"OpenStack can't hold n: db has 10.0.1.3.*one of 10.0.1.4 to 10.0.1.254"),
        ("openstack", {"subnet": "10.0.1.0/30", "addresses": "[10.0.1.2]"}, "no address for a machine.*/29 or larger"),
        ("openstack", {"addresses": "10.0.1.16/28"}, "db has 16 addresses, and its interface takes 10"),
        ("openstack", {"vm": f", ports: {list(range(1, 2048, 2))}"}, "1024 firewall rules"),
        ("libvirt", {"addresses": "[10.0.1.1]"}, r"libvirt can't hold n: db has 10.0.1.1.*10.0.1.2 to 10.0.1.254"),
        ("libvirt", {"addresses": "10.0.1.16/28"}, "takes 10"),
    ],
)
def test_what_a_target_cannot_hold_is_refused_with_what_to_do(name, given_, why, network):
    with pytest.raises(InputError, match=why):
        target_of(name).rules.check(network(spec(**given_)).desired)


def test_a_flavor_must_be_named_where_none_is_made(network):
    named = target_of("openstack", make_flavors=False).rules
    net = network(spec(), {"db": (None, 20)})
    with pytest.raises(InputError, match="no flavor fits db; let flavors be made"):
        named.check(net.desired)
    target_of("openstack").rules.check(net.desired)


@pytest.mark.parametrize(
    ("changed", "openstack", "libvirt"),
    [
        ({}, Effect.NOTHING, Effect.NOTHING),
        ({"storage_gb": 10}, Effect.NOTHING, Effect.NOTHING),
        ({"storage_gb": 30}, Effect.LIVE, Effect.REPLACE),
        ({"bandwidth_mbps": 99}, Effect.LIVE, Effect.RESTART),
        ({"cpu_cores": 8}, Effect.RESTART, Effect.RESTART),
        ({"memory_gb": 8.5, "storage_gb": 5}, Effect.RESTART, Effect.RESTART),
        ({"role": "other"}, Effect.LIVE, Effect.LIVE),
        ({"subnet": "web"}, Effect.REPLACE, Effect.REPLACE),
        ({"addresses": ["10.20.2.11"]}, Effect.REPLACE, Effect.REPLACE),
    ],
)
def test_what_a_change_of_a_machine_takes(changed, openstack, libvirt, shop):
    machine = next(item for item in shop.desired.items if item.key == ("machine", "db"))
    for name, effect in (("openstack", openstack), ("libvirt", libvirt)):
        rules = target_of(name).rules
        before, after = (
            rules.settle(Desired("shop", (Item(machine.kind, machine.name, {**machine.settings, **more}),))).items[0]
            for more in ({}, changed)
        )
        change = rules.change(before, after)
        assert change.effect is effect, name
        assert bool(change.interrupts) == (effect in {Effect.RESTART, Effect.REPLACE})
        assert rules.change(change.item, after).effect is Effect.NOTHING


def test_what_a_change_around_machines_takes_on_libvirt(shop):
    rules = target_of("libvirt").rules
    by_key = {item.key: item for item in shop.desired.items}
    firewall, routing = by_key[("firewall", "db")], by_key[("routing", "web")]
    shut = rules.change(firewall, Item(firewall.kind, firewall.name, {**firewall.settings, "ingress": []}))
    assert shut.effect is Effect.RESTART
    assert "are restarted" in shut.interrupts
    assert "no longer takes" in shut.interrupts
    cut = rules.change(routing, Item(routing.kind, routing.name, {**routing.settings, "default_route": None, "gateway": None}))
    assert cut.effect is Effect.RESTART
    assert "loses its way to the outside" in cut.interrupts


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_target_is_refused(name, shop, tmp_path):
    TerraformProvider(tmp_path).perform(Step(Act.CREATE, shop.desired.items[0]))
    with pytest.raises(ProvisionError, match=f"target aws, not {name}; set ADUMBRA_TERRAFORM_TARGET=aws, or deactivate shop"):
        TerraformProvider(tmp_path, target_of(name)).actual("shop")


def test_a_file_of_the_first_format_is_still_ours(shop, tmp_path):
    """Files of before there were targets: of AWS, with a region."""
    provider = TerraformProvider(tmp_path)
    plain = render(target_of("aws"), Rendered("shop", "aws", "us-east-1", shop.desired.items))
    about = {key: part for key, part in plain[COMMENT].items() if key not in {"target", "place", "sha256"}}
    old = {**plain, COMMENT: {**about, "format": 1, "region": "us-east-1"}}
    told = json.dumps(old, sort_keys=True, separators=(",", ":"))
    old[COMMENT]["sha256"] = hashlib.sha256(told.encode()).hexdigest()
    provider.file.write_text(json.dumps(old))
    assert {item.key for item in provider.actual("shop").items} == {item.key for item in shop.desired.items}


def test_an_unknown_target_is_refused():
    with pytest.raises(InputError, match="no target 'azure'; choose one of: aws, openstack, libvirt"):
        target_of("azure")
