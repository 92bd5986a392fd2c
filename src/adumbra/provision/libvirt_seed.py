"""A machine's first words: the NoCloud seed that cloud-init reads, as the bytes of an ISO image. Pure.

Source: cloud-init's pages "NoCloud" and "Networking config version 2".
"""

from __future__ import annotations

import io
import json

from adumbra.provision.common_rules import addresses_of
from adumbra.provision.libvirt_rules import gateway_of
from adumbra.schema.addresses import parse_prefix
from adumbra.schema.plans import Item


def seed_files(item: Item, cidr: str, instance: str, user_data: str) -> dict[str, str]:
    """The seed's files by name. instance: what cloud-init tells one machine from the next by; user_data: "" for none."""
    return {
        "meta-data": f"instance-id: {json.dumps(instance)}\nlocal-hostname: {json.dumps(item.name)}\n",
        "user-data": user_data or "#cloud-config\n{}\n",
        "network-config": _network_config(item, cidr),
    }


def seed_image(files: dict[str, str]) -> bytes:
    """An ISO 9660 image labelled `cidata`, with Joliet and Rock Ridge names."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, (name, text) in enumerate(sorted(files.items())):
        data = text.encode()
        image.add_fp(
            io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}"
        )  # the plain name is read by nobody
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def _network_config(item: Item, cidr: str) -> str:
    """Network configuration, version 2: the first IPv4 address comes by DHCP, with its route; all others stand here."""
    prefix = parse_prefix(cidr)
    own = [f"{address}/{prefix.prefixlen}" for address in addresses_of(item)]
    leased = prefix.version == 4
    lines = [
        "version: 2",
        "ethernets:",
        "  port:",
        f'    match: {{macaddress: "{item.settings["mac"]}"}}',
        f"    dhcp4: {str(leased).lower()}",
        "    dhcp6: false",
        "    accept-ra: false",
    ]
    fixed = own[1:] if leased else own
    if fixed:
        lines += ["    addresses:", *(f'      - "{address}"' for address in fixed)]
    if not leased:
        gateway = gateway_of(prefix)
        lines += ["    routes:", '      - to: "::/0"', f'        via: "{gateway}"']
        lines += ["    nameservers:", f'      addresses: ["{gateway}"]']
    return "\n".join(lines) + "\n"
