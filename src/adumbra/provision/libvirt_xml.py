"""Items as libvirt's XML, and back: what we made says so in its metadata, with the settings it was made from. Pure.

Source: libvirt's pages "Domain XML format", "Network XML format", "Network Filters", "Storage pool and volume XML format".
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adumbra.provision.libvirt_rules import Names
from adumbra.schema.addresses import parse_prefix
from adumbra.schema.plans import Item, Kind
from adumbra.schema.sizing import BYTES_PER_GB

NAMESPACE = "urn:adumbra:item:1"
_TAG = f"{{{NAMESPACE}}}item"
_KIB = 1024
STATS_PERIOD_S = 2
"""How often a guest is asked for what it uses of its memory."""
_DHCP_RULE = {4: ("udp", "67", "68"), 6: ("udp-ipv6", "547", "546")}
ET.register_namespace("adumbra", NAMESPACE)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What all domains of a hypervisor have in common. kernel, initrd: "" to boot from the disk, as images do."""

    accelerated: bool
    arch: str
    machine: str
    kernel: str = ""
    initrd: str = ""
    kernel_arguments: str = ""
    seeded: bool = True


@dataclass(frozen=True, slots=True)
class Tag:
    """What stands in the metadata of what we made."""

    owner: str
    item: Item


def tag_text(tag: Tag) -> str:
    """The metadata's element as text."""
    return ET.tostring(_tag(tag), encoding="unicode")


def read_tag(xml: str) -> Tag | None:
    """The tag in a domain's or network's XML, or of the metadata's element alone; None where it is not ours."""
    try:
        root = ET.fromstring(xml)  # noqa: S314  the hypervisor's own words
    except ET.ParseError:
        return None
    found = root if root.tag == _TAG else root.find(f"metadata/{_TAG}")
    if found is None:
        return None
    try:
        settings = json.loads(found.text or "")
        item = Item(Kind(found.attrib["kind"]), found.attrib["name"], settings)
        return Tag(found.attrib["owner"], item) if isinstance(settings, dict) else None
    except (KeyError, ValueError, RecursionError):
        return None  # somebody wrote over it: not ours any more


def is_ours(tag: Tag, names: Names, kind: Kind, uuid: str) -> bool:
    """Whether what carries a tag is the network's own: a copy that somebody made of it has the tag, but another UUID."""
    ours = (tag.owner, tag.item.kind, tag.item.settings.get("network")) == (names.owner, kind, names.network)
    return ours and uuid == names.uuid(kind, tag.item.name)


def memory_kib(memory_gb: float) -> int:
    """Memory in whole KiB."""
    return round(memory_gb * BYTES_PER_GB / _KIB)


def volume_names(item: Item) -> tuple[str, str]:
    """A machine's disk and its seed, in the network's pool."""
    return f"{item.name}.qcow2", f"{item.name}-seed.iso"


def pool_xml(names: Names, item: Item, folder: str) -> str:
    pool = ET.Element("pool", type="dir")
    _text(pool, "name", names.of(item))
    _text(pool, "uuid", names.uuid(item.kind, item.name))
    _text(ET.SubElement(pool, "target"), "path", folder)
    return ET.tostring(pool, encoding="unicode")


def volume_xml(name: str, capacity_bytes: int, format: str, base: tuple[str, str] | None = None) -> str:
    """A volume; base: the path and format of the image that it is a clone of, copied as it is written to."""
    volume = ET.Element("volume")
    _text(volume, "name", name)
    _text(volume, "capacity", str(capacity_bytes), unit="bytes")
    _text(volume, "allocation", "0")
    ET.SubElement(ET.SubElement(volume, "target"), "format", type=format)
    if base is not None:
        store = ET.SubElement(volume, "backingStore")
        _text(store, "path", base[0])
        ET.SubElement(store, "format", type=base[1])
    return ET.tostring(volume, encoding="unicode")


def network_xml(names: Names, item: Item) -> str:
    """A subnet as a libvirt network: a bridge with the hypervisor's address, leases, names, and how packets are forwarded."""
    settings, cidr = item.settings, parse_prefix(item.settings["cidr"])
    network = ET.Element("network")
    _text(network, "name", names.of(item))
    _text(network, "uuid", names.uuid(item.kind, item.name))
    ET.SubElement(network, "metadata").append(_tag(Tag(names.owner, item)))
    if settings["forward"] != "isolated":
        forward = ET.SubElement(network, "forward", mode=settings["forward"])
        if settings["forward"] == "nat" and cidr.version == 6:
            ET.SubElement(forward, "nat", ipv6="yes")
    ET.SubElement(network, "bridge", name=settings["bridge"], stp="off", delay="0")
    ET.SubElement(network, "domain", name=names.network, localOnly="yes")
    dns = ET.SubElement(network, "dns")
    for named in settings["names"]:
        dns.append(name_element(named))
    ip = ET.SubElement(network, "ip", address=settings["router"], prefix=str(cidr.prefixlen))
    if cidr.version == 6:
        ip.set("family", "ipv6")
    if settings["leases"]:
        dhcp = ET.SubElement(ip, "dhcp")
        for lease in settings["leases"]:
            dhcp.append(lease_element(lease, cidr.version))
    return ET.tostring(network, encoding="unicode")


def lease_element(lease: Mapping[str, str], version: int) -> ET.Element:
    """A lease: by MAC; of IPv6 by name, as DHCPv6 knows no MACs."""
    key = {"mac": lease["mac"]} if version == 4 else {}
    return ET.Element("host", key | {"name": lease["name"], "ip": lease["address"]})


def name_element(named: Mapping[str, str]) -> ET.Element:
    host = ET.Element("host", ip=named["address"])
    _text(host, "hostname", named["name"])
    return host


def read_network(xml: str) -> dict[str, Any]:
    """What stands of a network, as settings: cidr, forward, bridge, router, leases, names."""
    root = ET.fromstring(xml)  # noqa: S314  the hypervisor's own words
    ip, bridge, forward = root.find("ip"), root.find("bridge"), root.find("forward")
    found: dict[str, Any] = {"forward": "isolated" if forward is None else forward.get("mode", "nat")}
    if bridge is not None:
        found["bridge"] = bridge.get("name", "")
    if ip is not None:
        found["router"] = ip.get("address", "")
        found["cidr"] = str(parse_prefix(_cidr(found["router"], ip)))
        found["leases"] = [
            {"name": host.get("name", ""), "address": host.get("ip", ""), "mac": host.get("mac", "")}
            for host in ip.findall("dhcp/host")
        ]
    found["names"] = sorted(
        (
            {"name": named.text or "", "address": host.get("ip", "")}
            for host in root.findall("dns/host")
            for named in host.findall("hostname")
        ),
        key=lambda named: named["name"],
    )
    return found


def _cidr(address: str, ip: ET.Element) -> str:
    import ipaddress

    length = ip.get("prefix") or ip.get("netmask") or "24"
    return str(ipaddress.ip_interface(f"{address}/{length}").network)


def filter_xml(names: Names, item: Item) -> str:
    """A firewall as a network filter: answers and what machines begin go out, DHCP comes in, of the rest the ports only."""
    root = ET.Element("filter", name=names.of(item), chain="root")
    _text(root, "uuid", names.uuid(item.kind, item.name))
    for rule in item.settings["ingress"]:
        root.append(_ingress(rule))
    for protocol, source, destination in _DHCP_RULE.values():
        dhcp = ET.SubElement(root, "rule", action="accept", direction="in", priority="200")
        ET.SubElement(dhcp, protocol, srcportstart=source, dstportstart=destination)
    neighbours = ET.SubElement(root, "rule", action="accept", direction="inout", priority="200")
    ET.SubElement(neighbours, "icmpv6")
    for protocol in ("all", "all-ipv6"):
        out = ET.SubElement(root, "rule", action="accept", direction="out", priority="300")
        ET.SubElement(out, protocol)
        rest = ET.SubElement(root, "rule", action="drop", direction="in", priority="900")
        ET.SubElement(rest, protocol)
    return ET.tostring(root, encoding="unicode")


def _ingress(rule: Mapping[str, Any]) -> ET.Element:
    element = ET.Element("rule", action="accept", direction="in", priority="100")
    source = parse_prefix(rule["source"])
    protocol = rule["protocol"] if source.version == 4 else f"{rule['protocol']}-ipv6"
    ports = {"dstportstart": str(rule["from_port"]), "dstportend": str(rule["to_port"])}
    of = {} if source.prefixlen == 0 else {"srcipaddr": str(source.network_address), "srcipmask": str(source.prefixlen)}
    ET.SubElement(element, protocol, ports | of)
    return element


def read_filter(xml: str) -> list[dict[str, Any]]:
    """The rules that let something in, as a firewall's ingress. What isn't of our form comes as protocol "?"."""
    root = ET.fromstring(xml)  # noqa: S314  the hypervisor's own words
    found = []
    for rule in root.findall("rule"):
        if rule.get("direction") == "in" and rule.get("action") == "accept" and rule.get("priority") == "100":
            found += [_read_ingress(match) for match in rule]
    return found


def _read_ingress(match: ET.Element) -> dict[str, Any]:
    version = 6 if match.tag.endswith("-ipv6") else 4
    everywhere = "0.0.0.0/0" if version == 4 else "::/0"
    address, mask = match.get("srcipaddr"), match.get("srcipmask")
    try:
        source = str(parse_prefix(_cidr(address, ET.Element("ip", prefix=mask or "")))) if address else everywhere
        first = int(match.get("dstportstart", ""))
        last = int(match.get("dstportend", first))
    except ValueError:
        return {"protocol": "?", "from_port": 0, "to_port": 0, "source": everywhere}
    return {"protocol": match.tag.removesuffix("-ipv6"), "from_port": first, "to_port": last, "source": source}


def domain_xml(names: Names, item: Item, hardware: Hardware) -> str:
    """A machine as a domain: its cores with room to plug in more, memory with a balloon's room, disk, seed, port."""
    settings = item.settings
    domain = ET.Element("domain", type="kvm" if hardware.accelerated else "qemu")
    _text(domain, "name", names.of(item))
    _text(domain, "uuid", names.uuid(item.kind, item.name))
    ET.SubElement(domain, "metadata").append(_tag(Tag(names.owner, item)))
    _text(domain, "memory", str(memory_kib(settings["most_memory_gb"])), unit="KiB")
    _text(domain, "currentMemory", str(memory_kib(settings["memory_gb"])), unit="KiB")
    _cores(domain, int(settings["cpu_cores"]), int(settings["most_cpu_cores"]))
    os = ET.SubElement(domain, "os")
    _text(os, "type", "hvm", arch=hardware.arch, machine=hardware.machine)
    if hardware.kernel:
        _text(os, "kernel", hardware.kernel)
        if hardware.initrd:
            _text(os, "initrd", hardware.initrd)
        _text(os, "cmdline", hardware.kernel_arguments)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    ET.SubElement(domain, "cpu", mode="host-passthrough" if hardware.accelerated else "maximum")
    ET.SubElement(domain, "clock", offset="utc")
    _text(domain, "on_crash", "restart")
    _devices(ET.SubElement(domain, "devices"), names, item, hardware)
    return ET.tostring(domain, encoding="unicode")


def _cores(domain: ET.Element, cores: int, most: int) -> None:
    """All but the first can be plugged in and out while the machine runs."""
    _text(domain, "vcpu", str(most), placement="static", current=str(cores))
    each = ET.SubElement(domain, "vcpus")
    for number in range(most):
        enabled, pluggable = ("yes" if number < cores else "no"), ("no" if number == 0 else "yes")
        ET.SubElement(each, "vcpu", id=str(number), enabled=enabled, hotpluggable=pluggable)


def _devices(devices: ET.Element, names: Names, item: Item, hardware: Hardware) -> None:
    pool, (disk, seed) = names.of(Item(Kind.NETWORK, names.network, {})), volume_names(item)
    _disk(devices, (pool, disk), "qcow2", "vda")
    if hardware.seeded:
        ET.SubElement(_disk(devices, (pool, seed), "raw", "vdb"), "readonly")
    port = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(port, "mac", address=item.settings["mac"])
    subnet = Item(Kind.SUBNET, item.settings["subnet"], {})
    ET.SubElement(port, "source", network=names.of(subnet))
    ET.SubElement(port, "target", dev=item.settings["device"])
    ET.SubElement(port, "model", type="virtio")
    if item.settings.get("firewall") is not None:
        ET.SubElement(port, "filterref", filter=names.of(Item(Kind.FIREWALL, item.settings["firewall"], {})))
    ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(devices, "console", type="pty")
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period=str(STATS_PERIOD_S))


def _disk(devices: ET.Element, volume: tuple[str, str], format: str, target: str) -> ET.Element:
    disk = ET.SubElement(devices, "disk", type="volume", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=format)
    ET.SubElement(disk, "source", pool=volume[0], volume=volume[1])
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    return disk


def port_xml(domain_xml: str, filter: str | None) -> str:
    """The port of a domain's XML with another filter."""
    port = ET.fromstring(domain_xml).find("devices/interface")  # noqa: S314  the hypervisor's own words
    if port is None:
        raise ValueError("the domain has no port")
    for old in port.findall("filterref"):
        port.remove(old)
    if filter is not None:
        ET.SubElement(port, "filterref", filter=filter)
    return ET.tostring(port, encoding="unicode")


def read_domain(xml: str) -> dict[str, Any]:
    """What stands of a domain: cpu_cores, most_cpu_cores, memory_kib, most_memory_kib, device, mac, filter."""
    root = ET.fromstring(xml)  # noqa: S314  the hypervisor's own words
    vcpu, port = root.find("vcpu"), root.find("devices/interface")
    found: dict[str, Any] = {}
    if vcpu is not None:
        found["most_cpu_cores"] = int(vcpu.text or 1)
        found["cpu_cores"] = int(vcpu.get("current") or found["most_cpu_cores"])
    for name, at in (("most_memory_kib", "memory"), ("memory_kib", "currentMemory")):
        element = root.find(at)
        if element is not None:
            found[name] = int(element.text or 0)
    if port is not None:
        for name, at, key in (("mac", "mac", "address"), ("device", "target", "dev"), ("filter", "filterref", "filter")):
            element = port.find(at)
            found[name] = element.get(key) if element is not None else None
    return found


def _tag(tag: Tag) -> ET.Element:
    item = tag.item
    element = ET.Element(_TAG, owner=tag.owner, kind=item.kind.value, name=item.name)
    element.text = json.dumps(dict(item.settings), sort_keys=True)
    return element


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, name, attributes)
    element.text = text
    return element


def limits(bandwidth_mbps: int) -> dict[str, int]:
    """libvirt's own limits of a port: KiB a second, rounded up."""
    average = -(-bandwidth_mbps * 1_000_000 // (8 * _KIB))
    burst = max(128, average // 100)
    return {
        f"{way}.{name}": value for way in ("inbound", "outbound") for name, value in (("average", average), ("burst", burst))
    }


def read_limits(xml: str) -> int | None:
    """What libvirt limits a domain's port to, megabits a second, where both ways are alike; None where it doesn't."""
    port = ET.fromstring(xml).find("devices/interface/bandwidth")  # noqa: S314  the hypervisor's own words
    ways = [] if port is None else [port.find(way) for way in ("inbound", "outbound")]
    told = [int(way.get("average", 0)) for way in ways if way is not None]
    return round(told[0] * 8 * _KIB / 1e6) if len(told) == 2 and told[0] == told[1] else None
