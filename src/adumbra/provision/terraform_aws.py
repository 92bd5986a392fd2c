"""Renders items as OpenTofu/Terraform JSON for AWS: a document from items, and the items back from a document.

Pure: the same items give the same document. Reads and writes no file, holds no credentials.

Argument names follow the documentation of the provider hashicorp/aws, 6.10 and later (`primary_network_interface` came
with 6.10; `network_interface` of aws_instance is deprecated since).
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adumbra.provision.aws_rules import addresses_of, arch_of, primary_cidr, root_gib
from adumbra.provision.plan import Key, in_order, network_of
from adumbra.schema.addresses import Address, Prefix, parse_prefix
from adumbra.schema.plans import Item, Kind

COMMENT = "//"
FORMAT = 1
DEBIAN_OWNER = "136693071363"
"""The AWS account that publishes Debian's official cloud images."""

_DEBIAN_NAMES = {"x86_64": "debian-12-amd64-*", "arm64": "debian-12-arm64-*"}
_IDENTIFIER = re.compile(r"[a-z][a-z0-9-]*")

Body = dict[str, Any]


class NotOursError(ValueError):
    """A document that this module did not render, or that was changed since."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a document says of itself: the network, the region, and the items that it was rendered from."""

    network: str
    region: str
    items: tuple[Item, ...]


@dataclass(slots=True)
class _Draft:
    """A document in the making. `resources`: type -> label -> body."""

    items: Mapping[Key, Item]
    resources: dict[str, dict[str, Body]] = field(default_factory=dict)
    data: dict[str, dict[str, Body]] = field(default_factory=dict)

    def add(self, type: str, name: str, body: Body) -> None:
        self.resources.setdefault(type, {})[name] = body

    def tags(self, item: Item) -> dict[str, str]:
        """The tags that say whose it is: a plain name to read, and the key to find it by."""
        network = network_of(item)
        name = network if item.kind is Kind.NETWORK else f"{network}-{item.name}"
        return {"Name": text(name), "adumbra:network": text(network), "adumbra:item": text(f"{item.kind.value}/{item.name}")}


def render(network: str, region: str, items: Sequence[Item]) -> dict[str, Any]:
    """The document of these items, which must be able to stand together. Strings in it are Terraform templates."""
    ordered = in_order(items)
    draft = _Draft({item.key: item for item in ordered})
    for item in ordered:
        _RENDERERS[item.kind](draft, item)
    document: dict[str, Any] = {
        COMMENT: _about(network, region, ordered),
        "terraform": {
            "required_version": ">= 1.5",
            "required_providers": {"aws": {"source": "hashicorp/aws", "version": ">= 6.10, < 7.0"}},
        },
        "variable": _variables(region, ordered),
        "provider": {"aws": {"region": "${var.region}"}},
        "data": draft.data,
        "resource": draft.resources,
        "output": _outputs(ordered),
    }
    document = {key: part for key, part in document.items() if part}
    document[COMMENT]["sha256"] = _digest(document)
    return document


def layout(document: Mapping[str, Any]) -> str:
    """The document as text to read, indented by two. The same as json.dumps(document, indent=2), but much faster again."""
    sections = []
    for name, section in document.items():
        if name in {"resource", "data"}:
            kinds = [f"    {json.dumps(kind)}: {_braced(named, 6)}" for kind, named in section.items()]
            sections.append(f"  {json.dumps(name)}: {{\n{_joined(kinds)}\n  }}")
        elif name == COMMENT:
            parts = [
                f"    {json.dumps(key)}: {_laid_out(_compact(part), 4)}" for key, part in section.items() if key != "items"
            ]
            items = _joined(f"      {_laid_out(_compact(item), 6)}" for item in section["items"])
            parts.append(f'    "items": [\n{items}\n    ]')
            sections.append(f"  {json.dumps(name)}: {{\n{_joined(parts)}\n  }}")
        else:
            sections.append(f"  {json.dumps(name)}: {_laid_out(_compact(section), 2)}")
    return f"{{\n{_joined(sections)}\n}}\n"


def _braced(named: Mapping[str, Body], depth: int) -> str:
    entries = (f"{' ' * depth}{json.dumps(name)}: {_laid_out(_compact(body), depth)}" for name, body in named.items())
    return f"{{\n{_joined(entries)}\n{' ' * (depth - 2)}}}"


def _joined(parts: Iterable[str]) -> str:
    return ",\n".join(parts)


def _compact(part: object) -> str:
    return json.dumps(part, separators=(",", ":"))


@functools.lru_cache(maxsize=16_384)
def _laid_out(compact: str, depth: int) -> str:
    """A part of a document, indented. Remembered, as each step writes the whole document with one part changed."""
    return json.dumps(json.loads(compact), indent=2).replace("\n", "\n" + " " * depth)


def read(document: object) -> Rendered:
    """What a document says of itself. Raises NotOursError where it isn't ours, or was changed by hand."""
    about = document.get(COMMENT) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(about, dict) or about.get("made_by") != "adumbra":
        raise NotOursError("it was not written by adumbra")
    if about.get("format") != FORMAT:
        raise NotOursError(f"it has format {about.get('format')!r}, and this version of adumbra knows format {FORMAT}")
    if about.get("sha256") != _digest(document):
        raise NotOursError("it was changed by hand since adumbra wrote it")
    items = tuple(Item(Kind(entry["kind"]), entry["name"], entry["settings"]) for entry in about["items"])
    return Rendered(about["network"], about["region"], items)


def label(name: str) -> str:
    """A name as a Terraform identifier, unique a name: names of a spec as they are, others spelt out with a digest."""
    if _IDENTIFIER.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return f"x_{plain[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def text(plain: str) -> str:
    """A string that Terraform takes as it is, whatever template marks stand in it."""
    return plain.replace("${", "$${").replace("%{", "%%{")


def _about(network: str, region: str, items: Sequence[Item]) -> Body:
    return {
        "made_by": "adumbra",
        "format": FORMAT,
        "about": (
            f"Written by `adumbra activate {network} --provider terraform`. Don't edit: change the network's spec and activate "
            "again. Other .tf files may stand beside this one. Apply with `tofu init && tofu apply`, or with terraform."
        ),
        "network": network,
        "region": region,
        "sha256": "",
        "items": [{"kind": item.kind.value, "name": item.name, "settings": item.settings} for item in items],
    }


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document without its digest, whatever its spacing and the order of its keys."""
    about = {key: value for key, value in document[COMMENT].items() if key != "sha256"}
    plain = json.dumps({**document, COMMENT: about}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def _variables(region: str, items: Sequence[Item]) -> Body:
    variables: Body = {
        "region": {"type": "string", "default": region, "description": "The AWS region of the network."},
        "zone": {
            "type": "string",
            "default": "a",
            "description": "The letter of the availability zone: one for all subnets, as round trips grow between zones.",
        },
    }
    if any(cidr.version == 6 for item in items if item.kind is Kind.NETWORK for cidr in _cidrs(item)):
        variables["ipv6_ipam_pool_id"] = {
            "type": "string",
            "description": "The IPAM pool that holds the network's IPv6 CIDRs. AWS gives chosen IPv6 addresses only from one.",
        }
    return variables


def _outputs(items: Sequence[Item]) -> Body:
    private: dict[str, str] = {}
    public: dict[str, str] = {}
    for item in items:
        if item.kind is Kind.MACHINE:
            name = label(item.name)
            six = ":" in item.settings["addresses"][0]
            private[text(item.name)] = f"${{aws_network_interface.{name}.{'ipv6_addresses' if six else 'private_ips'}}}"
            if item.settings["public_address"]:
                public[text(item.name)] = f"${{aws_eip.{name}.public_ip}}"
    outputs: Body = {}
    for name, addresses in (("private_addresses", private), ("public_addresses", public)):
        if addresses:
            outputs[name] = {"description": f"The {name.replace('_', ' ')} by machine.", "value": addresses}
    return outputs


def _cidrs(network: Item) -> list[Prefix]:
    return [parse_prefix(entry) for entry in network.settings["cidrs"]]


def _cidr_label(network: str, cidr: Prefix) -> str:
    return f"{label(network)}_{str(cidr).translate(str.maketrans('.:/', '--_'))}"


def _vpc(network: str) -> str:
    return f"${{aws_vpc.{label(network)}.id}}"


def _network(draft: _Draft, item: Item) -> None:
    first = primary_cidr(item)
    body = {"cidr_block": first, "enable_dns_support": True, "enable_dns_hostnames": True, "tags": draft.tags(item)}
    draft.add("aws_vpc", label(item.name), body)
    for cidr in _cidrs(item):
        name = _cidr_label(item.name, cidr)
        if cidr.version == 6:
            pool = {"ipv6_ipam_pool_id": "${var.ipv6_ipam_pool_id}", "ipv6_cidr_block": str(cidr)}
            draft.add("aws_vpc_ipv6_cidr_block_association", name, {"vpc_id": _vpc(item.name), **pool})
        elif str(cidr) != first:
            draft.add("aws_vpc_ipv4_cidr_block_association", name, {"vpc_id": _vpc(item.name), "cidr_block": str(cidr)})


def _subnet(draft: _Draft, item: Item) -> None:
    cidr = parse_prefix(item.settings["cidr"])
    body: Body = {"vpc_id": _home(draft, item, cidr), "availability_zone": "${var.region}${var.zone}"}
    if cidr.version == 4:
        body["cidr_block"] = str(cidr)
    else:
        body |= {"ipv6_cidr_block": str(cidr), "ipv6_native": True, "assign_ipv6_address_on_creation": True}
        body["enable_resource_name_dns_aaaa_record_on_launch"] = True
    draft.add("aws_subnet", label(item.name), {**body, "tags": draft.tags(item)})


def _home(draft: _Draft, item: Item, cidr: Prefix) -> str:
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


def _gateway(draft: _Draft, item: Item) -> None:
    body = {"vpc_id": _vpc(item.settings["network"]), "tags": draft.tags(item)}
    draft.add("aws_internet_gateway", label(item.name), body)


def _routing(draft: _Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    table = f"${{aws_route_table.{name}.id}}"
    draft.add("aws_route_table", name, {"vpc_id": _vpc(settings["network"]), "tags": draft.tags(item)})
    subnet = f"${{aws_subnet.{label(settings['subnet'])}.id}}"
    draft.add("aws_route_table_association", name, {"subnet_id": subnet, "route_table_id": table})
    if settings["default_route"] is not None:
        version = parse_prefix(settings["default_route"]).version
        destination = "destination_cidr_block" if version == 4 else "destination_ipv6_cidr_block"
        gateway = f"${{aws_internet_gateway.{label(settings['gateway'])}.id}}"
        route = {"route_table_id": table, destination: settings["default_route"], "gateway_id": gateway}
        draft.add("aws_route", name, route)


def _firewall(draft: _Draft, item: Item) -> None:
    network = item.settings["network"]
    group = f"${{aws_security_group.{label(item.name)}.id}}"
    body = {
        # A prefix of its own, as AWS refuses names that begin with "sg-".
        "name": text(f"adumbra-{network}-{item.name}"),
        "description": text(f"Ports of the group {item.name} of the network {network}"),
        "vpc_id": _vpc(network),
        "tags": draft.tags(item),
    }
    draft.add("aws_security_group", label(item.name), body)
    for rule in item.settings["ingress"]:
        first, last = rule["from_port"], rule["to_port"]
        source = _cidr_label(item.name, parse_prefix(rule["source"]))
        ports = {"ip_protocol": rule["protocol"], "from_port": first, "to_port": last}
        body = {"security_group_id": group, **ports, **_ends(rule["source"]), "tags": draft.tags(item)}
        draft.add("aws_vpc_security_group_ingress_rule", f"{source}_{rule['protocol']}_{first}_{last}", body)
    for target in item.settings["egress"]:
        body = {"security_group_id": group, "ip_protocol": "-1", **_ends(target), "tags": draft.tags(item)}
        draft.add("aws_vpc_security_group_egress_rule", _cidr_label(item.name, parse_prefix(target)), body)


def _ends(prefix: str) -> Body:
    return {f"cidr_ipv{parse_prefix(prefix).version}": prefix}


def _machine(draft: _Draft, item: Item) -> None:
    name, settings = label(item.name), item.settings
    arch, addresses = arch_of(settings["type"]), addresses_of(item)
    tags = {**draft.tags(item), "adumbra:role": text(settings["role"])}
    draft.data.setdefault("aws_ami", {})[f"debian_12_{arch}"] = _image(arch)
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
