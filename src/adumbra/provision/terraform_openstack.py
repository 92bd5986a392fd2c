"""The target openstack: items as resources of the provider terraform-provider-openstack/openstack. Pure.

Argument names follow its documentation, 3.x. A machine is a flavor of its size, a volume from an image, a port with its
addresses and bandwidth, and an instance; one router joins all subnets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from adumbra.provision.common_rules import addresses_of, cores_of, disk_gib, limit_kbps, memory_mib
from adumbra.provision.openstack_rules import OpenStackRules
from adumbra.provision.plan import network_of
from adumbra.provision.terraform_document import LET_GO_FIRST, Body, Draft, Target, Watch, label, outputs, text, variable
from adumbra.schema.addresses import AddressBlock, address_of, parse_prefix
from adumbra.schema.plans import Item, Kind

_BURST = 0.8  # of the limit, which lets TCP reach it ("Quality of Service", Networking guide)
_IMAGE = "machine"
_EXTERNAL = "external"


def openstack(make_flavors: bool = True) -> Target:
    """The target openstack. make_flavors: a flavor a size, else those that the profile names."""
    return Target(
        name="openstack",
        rules=OpenStackRules("terraform", make_flavors),
        providers={"openstack": {"source": "terraform-provider-openstack/openstack", "version": ">= 3.0, < 4.0"}},
        place=("cloud", ""),
        renderers=_RENDERERS,
        frame=_frame,
        precious=frozenset({"openstack_blockstorage_volume_v3"}),
        undo=lambda cloud: f"{f'OS_CLOUD={cloud} ' if cloud else ''}tofu destroy",
        notes=_notes,
    )


def _notes(items: Sequence[Item]) -> tuple[str, ...]:
    said = []
    if any(item.kind is Kind.MACHINE and item.settings["made_flavor"] for item in items):
        said.append("A flavor is made for each size, which takes an administrator's role.")
    if any(item.kind is Kind.SUBNET and parse_prefix(item.settings["cidr"]).version == 6 for item in items):
        said.append("IPv6 addresses reach the outside only where the external network routes the network's IPv6 CIDRs.")
    return tuple(said)


def _frame(cloud: str, items: Sequence[Item]) -> Body:
    variables = {}
    if cloud:
        variables["cloud"] = variable("The cloud's name in clouds.yaml.", cloud)
    if any(item.kind is Kind.MACHINE for item in items):
        variables["image"] = variable("The image that machines begin from, by name.", "debian-12")
    if any(item.kind is Kind.GATEWAY for item in items):
        variables["external_network"] = variable("The network that leads to the outside, by name.", "public")
    # Without a name the provider takes OS_AUTH_URL and the like from the environment: nothing secret stands here.
    return {
        "variable": variables,
        "provider": {"openstack": {"cloud": "${var.cloud}"} if cloud else {}},
        "output": outputs(*_addresses(items)),
    }


def _addresses(items: Sequence[Item]) -> tuple[dict[str, object], dict[str, object]]:
    machines = [item for item in items if item.kind is Kind.MACHINE]
    port, floating = "openstack_networking_port_v2", "openstack_networking_floatingip_v2"
    private: dict[str, object] = {text(item.name): f"${{{port}.{label(item.name)}.all_fixed_ips}}" for item in machines}
    public: dict[str, object] = {
        text(item.name): f"${{{floating}.{label(item.name)}.address}}" for item in machines if item.settings["public_address"]
    }
    return private, public


def _named(item: Item) -> dict[str, str]:
    """The name and the words by which a resource is known to be ours."""
    network = network_of(item)
    name = network if item.kind is Kind.NETWORK else f"{network}-{item.name}"
    return {"name": text(f"adumbra-{name}"), "description": text(f"{item.kind.value} {item.name} of {network}, by adumbra")}


def _id(type: str, name: str) -> str:
    return f"${{openstack_{type}.{label(name)}.id}}"


def _network(draft: Draft, item: Item) -> None:
    draft.add("openstack_networking_network_v2", label(item.name), {**_named(item), "admin_state_up": True})
    router: Body = {**_named(item), "admin_state_up": True}
    if any(kind == Kind.GATEWAY.value for kind, _ in draft.items):
        router["external_network_id"] = f"${{data.openstack_networking_network_v2.{_EXTERNAL}.id}}"
    draft.add("openstack_networking_router_v2", label(item.name), router)


def _subnet(draft: Draft, item: Item) -> None:
    cidr = parse_prefix(item.settings["cidr"])
    first = AddressBlock.of_prefix(cidr).first
    router, low, high = (str(address_of(cidr.version, first + nth)) for nth in (1, 2, 3))
    body: Body = {
        **_named(item),
        "network_id": _id("networking_network_v2", item.settings["network"]),
        "cidr": str(cidr),
        "ip_version": cidr.version,
        "gateway_ip": router,
        # What the network puts here of itself takes these two, and never an address that a machine is to have.
        "allocation_pool": [{"start": low, "end": high}],
        "enable_dhcp": True,
    }
    if cidr.version == 6:
        body |= {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
    draft.add("openstack_networking_subnet_v2", label(item.name), body, Watch("cidr", str(cidr), "cidr"))


def _gateway(draft: Draft, item: Item) -> None:  # noqa: ARG001
    body = {"name": "${var.external_network}", "external": True}
    draft.look_up("openstack_networking_network_v2", _EXTERNAL, body)


def _routing(draft: Draft, item: Item) -> None:
    body = {
        "router_id": _id("networking_router_v2", item.settings["network"]),
        "subnet_id": _id("networking_subnet_v2", item.settings["subnet"]),
    }
    draft.add("openstack_networking_router_interface_v2", label(item.name), body)


def _firewall(draft: Draft, item: Item) -> None:
    group = _id("networking_secgroup_v2", item.name)
    body: Body = {**_named(item), "delete_default_rules": True, "lifecycle": LET_GO_FIRST}
    draft.add("openstack_networking_secgroup_v2", label(item.name), body)
    for rule in item.settings["ingress"]:
        first, last = rule["from_port"], rule["to_port"]
        ports = {"protocol": rule["protocol"], "port_range_min": first, "port_range_max": last}
        body = {"direction": "ingress", **_ends(rule["source"]), **ports, "security_group_id": group}
        name = f"{label(item.name)}_in_{_spelt(rule['source'])}_{rule['protocol']}_{first}_{last}"
        draft.add("openstack_networking_secgroup_rule_v2", name, body)
    for target in item.settings["egress"]:
        body = {"direction": "egress", **_ends(target), "security_group_id": group}
        draft.add("openstack_networking_secgroup_rule_v2", f"{label(item.name)}_out_{_spelt(target)}", body)


def _ends(prefix: str) -> Body:
    return {"ethertype": f"IPv{parse_prefix(prefix).version}", "remote_ip_prefix": prefix}


def _spelt(prefix: str) -> str:
    return prefix.translate(str.maketrans(".:/", "--_"))


def _machine(draft: Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    given = [str(address) for address in addresses_of(item)]
    _bandwidth(draft, item)
    port = {
        **_named(item),
        "network_id": _id("networking_network_v2", settings["network"]),
        "admin_state_up": True,
        "fixed_ip": [{"subnet_id": _id("networking_subnet_v2", settings["subnet"]), "ip_address": one} for one in given],
        "security_group_ids": [_id("networking_secgroup_v2", settings["firewall"])],
        "qos_policy_id": _id("networking_qos_policy_v2", item.name),
    }
    draft.add("openstack_networking_port_v2", name, port)
    draft.look_up("openstack_images_image_v2", _IMAGE, {"name": "${var.image}", "most_recent": True})
    volume = {
        **_named(item),
        "size": disk_gib(settings),
        "image_id": f"${{data.openstack_images_image_v2.{_IMAGE}.id}}",
        "enable_online_resize": True,
        "lifecycle": {"ignore_changes": ["image_id"]},  # a newer image must not make the disk anew
    }
    draft.add("openstack_blockstorage_volume_v3", name, volume, Watch("size", disk_gib(settings), "storage_gb"))
    draft.add("openstack_compute_instance_v2", name, _instance(draft, item), Watch("flavor_name", settings["type"], "type"))
    if settings["public_address"]:
        _floating(draft, item, given[0])


def _bandwidth(draft: Draft, item: Item) -> None:
    """The machine's bandwidth as a limit each way; Neutron's directions are the port's own."""
    kbps = limit_kbps(item.settings)
    draft.add("openstack_networking_qos_policy_v2", label(item.name), _named(item))
    for direction in ("ingress", "egress"):
        body = {
            "qos_policy_id": _id("networking_qos_policy_v2", item.name),
            "max_kbps": kbps,
            "max_burst_kbps": math.ceil(kbps * _BURST),
            "direction": direction,
        }
        watch = Watch("max_kbps", kbps, "bandwidth_mbps", lambda value: value / 1000)
        draft.add("openstack_networking_qos_bandwidth_limit_rule_v2", f"{label(item.name)}_{direction}", body, watch)


def _instance(draft: Draft, item: Item) -> Body:
    name, settings = label(item.name), item.settings
    return {
        "name": text(item.name),
        "flavor_id": _flavor(draft, item),
        "config_drive": True,
        "user_data": text(f"#cloud-config\nhostname: {json.dumps(item.name)}\n"),
        "network": [{"port": f"${{openstack_networking_port_v2.{name}.id}}"}],
        "block_device": [
            {
                "uuid": f"${{openstack_blockstorage_volume_v3.{name}.id}}",
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": 0,
                "delete_on_termination": False,
            }
        ],
        "metadata": {
            "adumbra_network": text(settings["network"]),
            "adumbra_machine": text(item.name),
            "adumbra_role": text(settings["role"]),
        },
        "depends_on": [f"openstack_networking_router_interface_v2.{label(settings['subnet'])}"],
    }


def _flavor(draft: Draft, item: Item) -> str:
    settings = item.settings
    name = label(settings["type"])
    if not settings["made_flavor"]:
        draft.look_up("openstack_compute_flavor_v2", name, {"name": text(settings["type"])})
        return f"${{data.openstack_compute_flavor_v2.{name}.id}}"
    cores, memory = cores_of(settings), memory_mib(settings)
    body: Body = {"name": text(settings["type"]), "vcpus": cores, "ram": memory, "disk": 0, "is_public": True}
    body["lifecycle"] = LET_GO_FIRST
    draft.add("openstack_compute_flavor_v2", name, body)
    return f"${{openstack_compute_flavor_v2.{name}.id}}"


def _floating(draft: Draft, item: Item, address: str) -> None:
    name, settings = label(item.name), item.settings
    body = {"pool": "${var.external_network}", "description": _named(item)["description"]}
    draft.add("openstack_networking_floatingip_v2", name, body)
    association = {
        "floating_ip": f"${{openstack_networking_floatingip_v2.{name}.address}}",
        "port_id": f"${{openstack_networking_port_v2.{name}.id}}",
        "fixed_ip": address,
        "depends_on": [
            f"openstack_networking_router_interface_v2.{label(settings['subnet'])}",
            f"openstack_compute_instance_v2.{name}",
        ],
    }
    draft.add("openstack_networking_floatingip_associate_v2", name, association)


_RENDERERS = {
    Kind.NETWORK: _network,
    Kind.SUBNET: _subnet,
    Kind.GATEWAY: _gateway,
    Kind.ROUTING: _routing,
    Kind.FIREWALL: _firewall,
    Kind.MACHINE: _machine,
}
