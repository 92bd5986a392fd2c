"""Items as libvirt's XML and back: what was rendered is read again, libvirt's own schemas are the oracle, fuzz is no crash."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.provision import libvirt_xml
from adumbra.provision.libvirt_rules import Choices, LibvirtRules, Names
from adumbra.provision.libvirt_xml import Hardware, Tag
from adumbra.schema.plans import Item, Kind

NAMES = Names("owner <&\"'> 1", "shop")
RULES = LibvirtRules(NAMES)
TCG = Hardware(accelerated=False, arch="x86_64", machine="q35")
KVM = Hardware(True, "aarch64", "virt", "/boot/k <&>", "/boot/initrd", 'console=ttyS0 root="/dev/vda" a<b&c', seeded=False)
QUICK = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])


def of_kind(desired, kind, choices=None):
    return [item for item in LibvirtRules(NAMES, choices or Choices()).settle(desired).items if item.kind is kind]


prefixes = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1]}", strict=False)))


@st.composite
def ingress(draw):
    first = draw(st.integers(1, 65_535))
    return {
        "protocol": draw(st.sampled_from(["tcp", "udp"])), "from_port": first, "to_port": draw(st.integers(first, 65_535)),
        "source": draw(prefixes),
    }  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.lists(ingress(), max_size=6))
def test_a_filter_is_read_as_it_was_rendered(rules):
    text = libvirt_xml.filter_xml(NAMES, Item(Kind.FIREWALL, "web", {"network": "shop", "ingress": rules}))
    assert libvirt_xml.read_filter(text) == rules


@pytest.mark.parametrize(
    "match",
    [
        "<tcp/>", "<tcp dstportstart='http'/>", "<tcp dstportstart='80' srcipaddr='nowhere'/>", "<tcp dstportstart='-'/>",
        "<tcp dstportstart='80' srcipaddr='10.0.0.0' srcipmask='99'/>", "<all/>", "<mac srcmacaddr='02:00:00:00:00:00'/>",
    ],
)  # fmt: skip
def test_a_rule_that_somebody_added_is_seen_and_is_none_of_ours(match):
    text = f"<filter name='f'><rule action='accept' direction='in' priority='100'>{match}</rule></filter>"
    (found,) = libvirt_xml.read_filter(text)
    assert found["protocol"] == "?"


@pytest.mark.parametrize("outside", ["route", "nat"])
def test_a_network_is_read_as_it_was_rendered(outside, networks):
    @QUICK
    @given(networks)
    def tried(network):
        for item in of_kind(network.desired, Kind.SUBNET, Choices(outside)):
            text = libvirt_xml.network_xml(NAMES, item)
            read, wanted = libvirt_xml.read_network(text), dict(item.settings)
            del wanted["network"]
            if ":" in wanted["cidr"]:  # DHCPv6 knows no MACs
                wanted["leases"] = [lease | {"mac": ""} for lease in wanted["leases"]]
            assert read == wanted
            assert libvirt_xml.read_tag(text) == Tag(NAMES.owner, item)

    tried()


@pytest.mark.parametrize("hardware", [TCG, KVM])
@pytest.mark.parametrize("filtered", [True, False])
def test_a_domain_is_read_as_it_was_rendered(hardware, filtered, networks):
    @QUICK
    @given(networks)
    def tried(network):
        for item in of_kind(network.desired, Kind.MACHINE, Choices(filtered=filtered)):
            text, given_ = libvirt_xml.domain_xml(NAMES, item, hardware), item.settings
            assert libvirt_xml.read_domain(text) == {
                "cpu_cores": given_["cpu_cores"], "most_cpu_cores": given_["most_cpu_cores"], "mac": given_["mac"],
                "memory_kib": given_["memory_gb"] * 1024 * 1024, "most_memory_kib": given_["most_memory_gb"] * 1024 * 1024,
                "device": given_["device"], "filter": f"adumbra-shop-{given_['firewall']}" if filtered else None,
            }  # fmt: skip
            assert libvirt_xml.read_tag(text) == Tag(NAMES.owner, item)
            assert libvirt_xml.read_limits(text) is None
            for named in ("another<&>", None):
                port = f"<domain><devices>{libvirt_xml.port_xml(text, named)}</devices></domain>"
                assert libvirt_xml.read_domain(port)["filter"] == named

    tried()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 10_000_000))
def test_limits_are_read_as_they_were_set(bandwidth):
    told = libvirt_xml.limits(bandwidth)
    ways = "".join(f"<{way} average='{told[f'{way}.average']}'/>" for way in ("inbound", "outbound"))
    text = f"<domain><devices><interface><bandwidth>{ways}</bandwidth></interface></devices></domain>"
    assert libvirt_xml.read_limits(text) == bandwidth
    assert told["inbound.average"] * 1024 * 8 >= bandwidth * 1e6


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_marks_in_names_and_settings_are_escaped(owner, name, given_):
    tag = Tag(xml_text(owner), Item(Kind.MACHINE, xml_text(name), given_))
    text = f"<domain><metadata>{libvirt_xml.tag_text(tag)}</metadata></domain>"
    assert libvirt_xml.read_tag(text) == tag
    assert libvirt_xml.read_tag(libvirt_xml.tag_text(tag)) == tag


def xml_text(text):
    """What XML has characters for, and an attribute keeps: no control characters, no half of a pair."""
    return "".join(c for c in text if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 and c not in "\ufffe\uffff")


def test_a_name_with_marks_is_one_text_of_each_document():
    evil = "</name><name>x&y'\"<!--"
    names, machine = Names(evil, evil), Item(Kind.NETWORK, evil, {})
    assert ET.fromstring(libvirt_xml.pool_xml(names, machine, f"/images/{evil}")).findtext("name") == f"adumbra-{evil}"
    volume = ET.fromstring(libvirt_xml.volume_xml(evil, 1, "qcow2", (evil, "raw")))
    assert (volume.findtext("name"), volume.findtext("backingStore/path")) == (evil, evil)
    assert ET.fromstring(libvirt_xml.filter_xml(names, Item(Kind.FIREWALL, evil, {"ingress": []}))).get("name") == (
        f"adumbra-{evil}-{evil}"
    )


# What isn't ours, or was ours until somebody wrote over it.


def tagged(owner="1", kind="machine", name="web-1", text="{}"):
    attributes = " ".join(
        f"{key}={quoteattr(value)}" for key, value in (("owner", owner), ("kind", kind), ("name", name)) if value is not None
    )
    item = f"<a:item xmlns:a={quoteattr(libvirt_xml.NAMESPACE)} {attributes}>{escape(text)}</a:item>"
    return f"<domain><metadata>{item}</metadata></domain>"


@pytest.mark.parametrize(
    "xml",
    [
        "", " ", "no XML", "<domain>", "<domain/>", "<domain><metadata/></domain>", "\0",
        "<!DOCTYPE x [<!ENTITY e 'e'>]><x>&f;</x>",
        "<domain><metadata><item owner='1' kind='machine' name='web-1'>{}</item></metadata></domain>",
        tagged(owner=None), tagged(kind=None), tagged(name=None), tagged(kind="moon"), tagged(text=""), tagged(text="{"),
        tagged(text="[]"), tagged(text="1"), tagged(text="null"), tagged(text="[" * 100_000), tagged(text='{"a":' * 50_000),
        tagged(text="9" * 10_000),
    ],
)  # fmt: skip
def test_what_carries_no_tag_of_ours_is_not_ours(xml):
    assert libvirt_xml.read_tag(xml) is None


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(), st.binary().map(lambda some: some.decode("latin-1")), st.text().map("<domain>{}".format)))
def test_no_text_is_a_crash(text):
    assert libvirt_xml.read_tag(text) is None


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_our_own_document_cut_or_written_over_is_no_crash(data):
    text = tagged(text=json.dumps({"network": "shop", "addresses": ["10.0.0.1"]}))
    at, more = data.draw(st.integers(0, len(text))), data.draw(st.text(max_size=5))
    spoiled = text[:at] + more + text[at + data.draw(st.integers(0, 5)) :]
    tag = libvirt_xml.read_tag(spoiled)
    assert tag is None or isinstance(tag.item.settings, dict)


def test_only_the_uuid_that_is_derived_of_the_tag_is_ours():
    names = Names("1", "shop")
    tag = Tag("1", Item(Kind.MACHINE, "web-1", {"network": "shop"}))
    uuid = names.uuid(Kind.MACHINE, "web-1")
    assert libvirt_xml.is_ours(tag, names, Kind.MACHINE, uuid)
    assert not libvirt_xml.is_ours(tag, names, Kind.SUBNET, uuid)
    assert not libvirt_xml.is_ours(tag, names, Kind.MACHINE, names.uuid(Kind.MACHINE, "web-2"))
    assert not libvirt_xml.is_ours(tag, Names("2", "shop"), Kind.MACHINE, uuid)
    assert not libvirt_xml.is_ours(tag, Names("1", "blog"), Kind.MACHINE, uuid)


# libvirt's own schemas.

ORACLE = pytest.mark.skipif(
    shutil.which("virt-xml-validate") is None or shutil.which("xmllint") is None,
    reason="needs virt-xml-validate and xmllint (Debian: libvirt-clients, libxml2-utils)",
)


def complaint(text, schema, folder):
    """What libvirt's own schema finds wrong with a document; "" for nothing."""
    (folder / "document.xml").write_text(text)
    done = subprocess.run(
        ["virt-xml-validate", str(folder / "document.xml"), schema], capture_output=True, text=True, timeout=60, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


SIX = """
name: shop
cidrs: ['fd00:1::/48', 10.20.0.0/16]
subnets: [{name: six, cidr: 'fd00:1::/64'}, {name: four, cidr: 10.20.1.0/24}]
links: [{between: [six, internet], rtt: 1ms, bandwidth: 1Gbps}]
vms:
  - {name: a, subnet: six, addresses: ['fd00:1::10'], ports: [80]}
  - {name: b, subnet: four, addresses: [10.20.1.10-10.20.1.12], ports: [53, 80, 81]}
"""


@ORACLE
@pytest.mark.parametrize("outside", ["route", "nat"])
def test_libvirts_schemas_take_every_document(outside, shop, network, tmp_path):
    names = Names("1", "shop")
    documents = [
        ("storagepool", libvirt_xml.pool_xml(names, Item(Kind.NETWORK, "shop", {}), "/images/shop")),
        ("storagevol", libvirt_xml.volume_xml("web-1.qcow2", 20 << 30, "qcow2", ("/images/base.qcow2", "qcow2"))),
        ("storagevol", libvirt_xml.volume_xml("web-1-seed.iso", 376_832, "raw")),
    ]
    for item in (
        *LibvirtRules(names, Choices(outside)).settle(shop.desired).items,
        *LibvirtRules(names, Choices(outside)).settle(network(SIX).desired).items,
    ):
        if item.kind is Kind.SUBNET:
            documents.append(("network", libvirt_xml.network_xml(names, item)))
        elif item.kind is Kind.FIREWALL:
            documents.append(("nwfilter", libvirt_xml.filter_xml(names, item)))
        elif item.kind is Kind.MACHINE:
            documents.append(("domain", libvirt_xml.domain_xml(names, item, TCG)))
    machine = of_kind(shop.desired, Kind.MACHINE, Choices(filtered=False))[0]
    documents.append(("domain", libvirt_xml.domain_xml(names, machine, KVM)))
    for schema, text in documents:
        assert complaint(text, schema, tmp_path) == "", text


@ORACLE
def test_the_schemas_do_find_fault(shop, tmp_path):
    item = of_kind(shop.desired, Kind.MACHINE)[0]
    text = libvirt_xml.domain_xml(Names("1", "shop"), item, TCG)
    assert "validate" in complaint(text.replace("<vcpu ", "<vcpu moons='2' "), "domain", tmp_path)
