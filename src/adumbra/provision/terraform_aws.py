"""The target aws: items as resources of the provider hashicorp/aws. Pure.

Argument names follow the documentation of the provider hashicorp/aws, 6.10 and later (`primary_network_interface` came
with 6.10; `network_interface` of aws_instance is deprecated since).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence

from adumbra.provision.aws_rules import AwsRules, arch_of, primary_cidr, root_gib
from adumbra.provision.common_rules import addresses_of
from adumbra.provision.plan import network_of
from adumbra.provision.terraform_document import LET_GO_FIRST, Body, Draft, Target, Watch, label, outputs, text, variable
from adumbra.schema.addresses import Address, Prefix, parse_prefix
from adumbra.schema.plans import Item, Kind

DEBIAN_OWNER = "136693071363"
"""The AWS account that publishes Debian's official cloud images."""

_DEBIAN_NAMES = {"x86_64": "debian-12-amd64-*", "arm64": "debian-12-arm64-*"}


def _frame(region: str, items: Sequence[Item]) -> Body:
    return {"variable": _variables(region, items), "provider": {"aws": {"region": "${var.region}"}}, "output": _outputs(items)}


def _tags(item: Item) -> dict[str, str]:
    """The tags that say whose it is: a plain name to read, and the key to find it by."""
    network = network_of(item)
    name = network if item.kind is Kind.NETWORK else f"{network}-{item.name}"
    return {"Name": text(name), "adumbra:network": text(network), "adumbra:item": text(f"{item.kind.value}/{item.name}")}


def _variables(region: str, items: Sequence[Item]) -> Body:
    variables = {
        "region": variable("The AWS region of the network.", region),
        "zone": variable("The letter of the availability zone: one for all subnets, as round trips grow between zones.", "a"),
    }
    if any(cidr.version == 6 for item in items if item.kind is Kind.NETWORK for cidr in _cidrs(item)):
        variables["ipv6_ipam_pool_id"] = variable(
            "The IPAM pool that holds the network's IPv6 CIDRs. AWS gives chosen IPv6 addresses only from one."
        )
    return variables


def _outputs(items: Sequence[Item]) -> Body:
    private: dict[str, object] = {}
    public: dict[str, object] = {}
    for item in items:
        if item.kind is Kind.MACHINE:
            name = label(item.name)
            six = ":" in item.settings["addresses"][0]
            private[text(item.name)] = f"${{aws_network_interface.{name}.{'ipv6_addresses' if six else 'private_ips'}}}"
            if item.settings["public_address"]:
                public[text(item.name)] = f"${{aws_eip.{name}.public_ip}}"
    return outputs(private, public)


def _cidrs(network: Item) -> list[Prefix]:
    return [parse_prefix(entry) for entry in network.settings["cidrs"]]


def _cidr_label(network: str, cidr: Prefix) -> str:
    return f"{label(network)}_{str(cidr).translate(str.maketrans('.:/', '--_'))}"


def _vpc(network: str) -> str:
    return f"${{aws_vpc.{label(network)}.id}}"


def _network(draft: Draft, item: Item) -> None:
    first = primary_cidr(item)
    body = {"cidr_block": first, "enable_dns_support": True, "enable_dns_hostnames": True, "tags": _tags(item)}
    draft.add("aws_vpc", label(item.name), body, Watch("cidr_block", first, "cidrs", lambda cidr: [cidr]))
    for cidr in _cidrs(item):
        name = _cidr_label(item.name, cidr)
        if cidr.version == 6:
            pool = {"ipv6_ipam_pool_id": "${var.ipv6_ipam_pool_id}", "ipv6_cidr_block": str(cidr)}
            draft.add("aws_vpc_ipv6_cidr_block_association", name, {"vpc_id": _vpc(item.name), **pool})
        elif str(cidr) != first:
            draft.add("aws_vpc_ipv4_cidr_block_association", name, {"vpc_id": _vpc(item.name), "cidr_block": str(cidr)})


def _subnet(draft: Draft, item: Item) -> None:
    cidr = parse_prefix(item.settings["cidr"])
    body: Body = {"vpc_id": _home(draft, item, cidr), "availability_zone": "${var.region}${var.zone}"}
    if cidr.version == 4:
        body["cidr_block"] = str(cidr)
    else:
        body |= {"ipv6_cidr_block": str(cidr), "ipv6_native": True, "assign_ipv6_address_on_creation": True}
        body["enable_resource_name_dns_aaaa_record_on_launch"] = True
    watch = Watch("cidr_block" if cidr.version == 4 else "ipv6_cidr_block", str(cidr), "cidr")
    draft.add("aws_subnet", label(item.name), {**body, "tags": _tags(item)}, watch)


def _home(draft: Draft, item: Item, cidr: Prefix) -> str:
    """The VPC's id, read from the CIDR's association where the subnet must wait for that."""
    name = item.settings["network"]
    network = draft.items[(Kind.NETWORK.value, name)]
    around = next(block for block in _cidrs(network) if block.version == cidr.version and _within(cidr, block))
    if str(around) == primary_cidr(network):
        return _vpc(name)
    return f"${{aws_vpc_ipv{cidr.version}_cidr_block_association.{_cidr_label(name, around)}.vpc_id}}"


def _within(cidr: Prefix, block: Prefix) -> bool:
    if isinstance(cidr, ipaddress.IPv4Network):
        return isinstance(block, ipaddress.IPv4Network) and cidr.subnet_of(block)
    return isinstance(block, ipaddress.IPv6Network) and cidr.subnet_of(block)


def _gateway(draft: Draft, item: Item) -> None:
    body = {"vpc_id": _vpc(item.settings["network"]), "tags": _tags(item)}
    draft.add("aws_internet_gateway", label(item.name), body)


def _routing(draft: Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    table = f"${{aws_route_table.{name}.id}}"
    draft.add("aws_route_table", name, {"vpc_id": _vpc(settings["network"]), "tags": _tags(item)})
    subnet = f"${{aws_subnet.{label(settings['subnet'])}.id}}"
    draft.add("aws_route_table_association", name, {"subnet_id": subnet, "route_table_id": table})
    if settings["default_route"] is not None:
        version = parse_prefix(settings["default_route"]).version
        destination = "destination_cidr_block" if version == 4 else "destination_ipv6_cidr_block"
        gateway = f"${{aws_internet_gateway.{label(settings['gateway'])}.id}}"
        route = {"route_table_id": table, destination: settings["default_route"], "gateway_id": gateway}
        draft.add("aws_route", name, route)


def _firewall(draft: Draft, item: Item) -> None:
    network = item.settings["network"]
    group = f"${{aws_security_group.{label(item.name)}.id}}"
    body = {
        # A prefix of its own, as AWS refuses names that begin with "sg-".
        "name": text(f"adumbra-{network}-{item.name}"),
        "description": text(f"Ports of the group {item.name} of the network {network}"),
        "vpc_id": _vpc(network),
        "lifecycle": LET_GO_FIRST,
        "tags": _tags(item),
    }
    draft.add("aws_security_group", label(item.name), body)
    for rule in item.settings["ingress"]:
        first, last = rule["from_port"], rule["to_port"]
        source = _cidr_label(item.name, parse_prefix(rule["source"]))
        ports = {"ip_protocol": rule["protocol"], "from_port": first, "to_port": last}
        body = {"security_group_id": group, **ports, **_ends(rule["source"]), "tags": _tags(item)}
        draft.add("aws_vpc_security_group_ingress_rule", f"{source}_{rule['protocol']}_{first}_{last}", body)
    for target in item.settings["egress"]:
        body = {"security_group_id": group, "ip_protocol": "-1", **_ends(target), "tags": _tags(item)}
        draft.add("aws_vpc_security_group_egress_rule", _cidr_label(item.name, parse_prefix(target)), body)


def _ends(prefix: str) -> Body:
    return {f"cidr_ipv{parse_prefix(prefix).version}": prefix}


def _machine(draft: Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    arch, addresses = arch_of(settings["type"]), addresses_of(item)
    tags = {**_tags(item), "adumbra:role": text(settings["role"])}
    draft.look_up("aws_ami", f"debian_12_{arch}", _image(arch))
    draft.add("aws_network_interface", name, _interface(item, addresses, tags))
    draft.add(
        "aws_instance",
        name,
        {
            "ami": f"${{data.aws_ami.debian_12_{arch}.id}}",
            "instance_type": text(settings["type"]),
            "primary_network_interface": {"network_interface_id": f"${{aws_network_interface.{name}.id}}"},
            "root_block_device": {
                "volume_type": "gp3",
                "volume_size": root_gib(settings["storage_gb"]),
                "encrypted": True,
                "delete_on_termination": True,
                "tags": tags,
            },
            "metadata_options": {
                "http_endpoint": "enabled",
                "http_tokens": "required",
                **({"http_protocol_ipv6": "enabled"} if addresses[0].version == 6 else {}),
            },
            # The architecture stands here so that another one makes the machine anew; a newer image must not.
            "user_data": text(f"#cloud-config\n# {arch}\nhostname: {json.dumps(item.name)}\n"),
            "user_data_replace_on_change": True,
            "lifecycle": {"ignore_changes": ["ami"]},
            "tags": tags,
        },
        Watch("instance_type", settings["type"], "type"),
        Watch("root_block_device.0.volume_size", root_gib(settings["storage_gb"]), "storage_gb"),
    )
    if settings["public_address"]:
        body = {
            "domain": "vpc",
            "network_interface": f"${{aws_network_interface.{name}.id}}",
            "associate_with_private_ip": str(addresses[0]),
            "depends_on": [f"aws_internet_gateway.{label(settings['gateway'])}", f"aws_instance.{name}"],
            "tags": tags,
        }
        draft.add("aws_eip", name, body)


def _interface(item: Item, addresses: Sequence[Address], tags: dict[str, str]) -> Body:
    given = [str(address) for address in addresses]
    body: Body = {
        "subnet_id": f"${{aws_subnet.{label(item.settings['subnet'])}.id}}",
        "security_groups": [f"${{aws_security_group.{label(item.settings['firewall'])}.id}}"],
    }
    six = addresses[0].version == 6
    if len(given) == 1:
        body["ipv6_addresses" if six else "private_ips"] = given
    else:  # as a list, not a set, so that the first address is the primary one
        name = "ipv6_address_list" if six else "private_ip_list"
        body |= {f"{name}_enabled": True, name: given}
    return {**body, "tags": tags}


def _image(arch: str) -> Body:
    filters = {"name": _DEBIAN_NAMES[arch], "architecture": arch, "virtualization-type": "hvm", "root-device-type": "ebs"}
    return {
        "most_recent": True,
        "owners": [DEBIAN_OWNER],
        "filter": [{"name": name, "values": [value]} for name, value in filters.items()],
    }


_RENDERERS = {
    Kind.NETWORK: _network,
    Kind.SUBNET: _subnet,
    Kind.GATEWAY: _gateway,
    Kind.ROUTING: _routing,
    Kind.FIREWALL: _firewall,
    Kind.MACHINE: _machine,
}

AWS = Target(
    name="aws",
    rules=AwsRules("terraform"),
    providers={"aws": {"source": "hashicorp/aws", "version": ">= 6.10, < 7.0"}},
    place=("region", "us-east-1"),
    renderers=_RENDERERS,
    frame=_frame,
    precious=frozenset({"aws_instance"}),
    undo=lambda region: f"AWS_REGION={region} tofu destroy",
)
