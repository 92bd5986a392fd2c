"""The target libvirt: items as resources of the provider dmacvicar/libvirt, 0.8. Pure.

One libvirt network a subnet, one pool a network, and a machine as a volume over the image, a cloud-init disk and a domain.
Bandwidth, which that provider has no argument for, goes into the domain's XML by a stylesheet; ports are held by the guest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

from adumbra.provision.common_rules import addresses_of, cores_of, disk_gib, limit_kbps, memory_mib, ports_of
from adumbra.provision.terraform_document import Body, Draft, Target, Watch, label, outputs, text, variable
from adumbra.provision.terraform_libvirt_rules import TerraformLibvirtRules
from adumbra.schema.addresses import AddressBlock, address_of, parse_prefix
from adumbra.schema.plans import Item, Kind
from adumbra.schema.sizing import BYTES_PER_GB

_IMAGE = "_image"  # no machine's label begins so

_SHEET = (
    '<?xml version="1.0"?>'
    '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
    '<xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>'
    '<xsl:template match="/domain/devices/interface"><xsl:copy><xsl:apply-templates select="@*|node()"/>'
    '<bandwidth><inbound average="{kilobytes}"/><outbound average="{kilobytes}"/></bandwidth>'
    "</xsl:copy></xsl:template></xsl:stylesheet>"
)
"""Copies a domain's XML, and limits its interfaces each way ("Quality of service", libvirt's domain format)."""


def _notes(items: Sequence[Item]) -> tuple[str, ...]:
    machines = [item.settings for item in items if item.kind is Kind.MACHINE]
    said = []
    if machines:
        said.append(
            "This provider fixes a domain as it is made: there is no room for cores or memory to be added while it runs, and a "
            "larger disk is a new one."
        )
        said.append("Ports are held by each guest with nft, which the image must have; the host filters nothing.")
    if any(settings["public_address"] for settings in machines):
        said.append(
            "Machines in subnets that are linked to the internet go out behind the host's address, and have no public one; "
            "nothing reaches them but from their own subnet and the host."
        )
    return tuple(said)


def _frame(uri: str, items: Sequence[Item]) -> Body:
    variables = {"uri": variable("The URI of the host's libvirt.", uri)}
    if any(item.kind is Kind.NETWORK for item in items):
        variables["image"] = variable(
            "The cloud image that machines begin from, in qcow2: a file on this machine or a URL.",
            "/var/lib/libvirt/images/debian-12-genericcloud-amd64.qcow2",
        )
        variables["pool_folder"] = variable("The host's folder for the network's disks.", "/var/lib/libvirt/images")
    private: dict[str, object] = {
        text(item.name): [str(address) for address in addresses_of(item)] for item in items if item.kind is Kind.MACHINE
    }
    return {"variable": variables, "provider": {"libvirt": {"uri": "${var.uri}"}}, "output": outputs(private, {})}


def _pool(network: str) -> str:
    return f"${{libvirt_pool.{label(network)}.name}}"


def _network(draft: Draft, item: Item) -> None:
    named = text(f"adumbra-{item.name}")
    pool = {"name": named, "type": "dir", "target": [{"path": f"${{var.pool_folder}}/{named}"}]}
    draft.add("libvirt_pool", label(item.name), pool)
    image = {
        "name": "image.qcow2",
        "pool": _pool(item.name),
        "source": "${var.image}",
        "format": "qcow2",
        "lifecycle": {"ignore_changes": ["source"]},  # another image must not make all disks anew
    }
    draft.add("libvirt_volume", _IMAGE, image)


def _subnet(draft: Draft, item: Item) -> None:
    routing = draft.items.get((Kind.ROUTING.value, item.name))
    outside = routing is not None and routing.settings["default_route"] is not None
    body = {
        "name": text(f"adumbra-{item.settings['network']}-{item.name}"),
        "mode": "nat" if outside else "route",
        "addresses": [item.settings["cidr"]],
        "dhcp": [{"enabled": False}],
        "dns": [{"enabled": True}],
        "autostart": True,
    }
    draft.add("libvirt_network", label(item.name), body, Watch("addresses.0", item.settings["cidr"], "cidr"))


def _nothing(draft: Draft, item: Item) -> None:
    """Gateways and routes are a subnet's mode, firewalls are in their machines' cloud-init disks."""


def _machine(draft: Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    size_bytes = disk_gib(settings) * BYTES_PER_GB
    volume = {
        "name": text(f"{item.name}.qcow2"),
        "pool": _pool(settings["network"]),
        "base_volume_id": f"${{libvirt_volume.{_IMAGE}.id}}",
        "size": size_bytes,
        "format": "qcow2",
    }
    draft.add("libvirt_volume", name, volume, Watch("size", size_bytes, "storage_gb", lambda size: size / BYTES_PER_GB))
    draft.add("libvirt_cloudinit_disk", name, _cloud_init(draft, item))
    draft.add(
        "libvirt_domain",
        name,
        _domain(item),
        Watch("vcpu", cores_of(settings), "type", lambda cores: f"{cores} cores"),
        Watch("memory", memory_mib(settings), "type", lambda mib: f"{mib} MiB"),
    )


def _domain(item: Item) -> Body:
    name, settings = label(item.name), item.settings
    network = f"libvirt_network.{label(settings['subnet'])}.id"
    kilobytes = math.ceil(limit_kbps(settings) / 8)
    return {
        "name": text(f"adumbra-{settings['network']}-{item.name}"),
        "description": text(f"machine {item.name} of {settings['network']}, by adumbra"),
        "vcpu": cores_of(settings),
        "memory": memory_mib(settings),
        "cpu": [{"mode": "host-passthrough"}],
        "autostart": True,
        "running": True,
        "cloudinit": f"${{libvirt_cloudinit_disk.{name}.id}}",
        "disk": [{"volume_id": f"${{libvirt_volume.{name}.id}}"}],
        "network_interface": [{"network_id": f"${{{network}}}", "mac": mac_of(item)}],
        "console": [{"type": "pty", "target_type": "serial", "target_port": "0"}],
        "xml": [{"xslt": _SHEET.format(kilobytes=kilobytes)}],
        # The provider changes neither a domain's network nor, in a guest that runs, what cloud-init read.
        "lifecycle": {"replace_triggered_by": [network, f"libvirt_cloudinit_disk.{name}.id"]},
    }


def mac_of(item: Item) -> str:
    """A machine's hardware address: locally administered, its own by network and name (IEEE 802, 40 bits of a digest)."""
    digest = hashlib.sha256(f"{item.settings['network']}/{item.name}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (2, *digest[:5]))


def _cloud_init(draft: Draft, item: Item) -> Body:
    settings = item.settings
    cidr = parse_prefix(draft.items[(Kind.SUBNET.value, settings["subnet"])].settings["cidr"])
    host = str(address_of(cidr.version, AddressBlock.of_prefix(cidr).first + 1))
    interface = {
        "match": {"macaddress": mac_of(item)},
        "addresses": [f"{address}/{cidr.prefixlen}" for address in addresses_of(item)],
        "routes": [{"to": "0.0.0.0/0" if cidr.version == 4 else "::/0", "via": host}],
        "nameservers": {"addresses": [host]},
    }
    firewall = draft.items[(Kind.FIREWALL.value, settings["firewall"])]
    user = {"hostname": item.name, "bootcmd": [["sh", "-c", f"printf '%s' '{_rules_of(firewall)}' | nft -f -"]]}
    return {
        "name": text(f"{item.name}.iso"),
        "pool": _pool(settings["network"]),
        "user_data": text(f"#cloud-config\n{json.dumps(user)}\n"),
        "meta_data": text(json.dumps({"instance-id": f"adumbra-{settings['network']}-{item.name}"})),
        "network_config": text(json.dumps({"version": 2, "ethernets": {"lan": interface}})),
    }


def _rules_of(firewall: Item) -> str:
    """The ports that a guest lets in, as nft reads them. They hold nothing but numbers and prefixes."""
    lines = [
        f"{'ip' if parse_prefix(rule['source']).version == 4 else 'ip6'} saddr {parse_prefix(rule['source'])} "
        f"{rule['protocol']} dport {ports_of(rule)} accept"
        for rule in firewall.settings["ingress"]
    ]
    always = ["ct state established,related accept", "iif lo accept", "meta l4proto { icmp, ipv6-icmp } accept"]
    chain = ["type filter hook input priority 0; policy drop;", *always, *lines]
    table = ["table inet adumbra {", "chain input {", *chain, "}", "}"]
    return "\n".join(["add table inet adumbra", "delete table inet adumbra", *table, ""])


LIBVIRT = Target(
    name="libvirt",
    rules=TerraformLibvirtRules("terraform"),
    providers={"libvirt": {"source": "dmacvicar/libvirt", "version": ">= 0.8, < 0.9"}},
    place=("URI", "qemu:///system"),
    renderers={
        Kind.NETWORK: _network,
        Kind.SUBNET: _subnet,
        Kind.GATEWAY: _nothing,
        Kind.ROUTING: _nothing,
        Kind.FIREWALL: _nothing,
        Kind.MACHINE: _machine,
    },
    frame=_frame,
    precious=frozenset({"libvirt_volume"}),
    undo=lambda uri: f"TF_VAR_uri={uri} tofu destroy",
    notes=_notes,
)
