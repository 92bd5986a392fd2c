"""What a network's machines stand on at a hypervisor: its storage pool, its subnets' libvirt networks, its filters.

Each kind is found by our tag or UUID, made to be as its item says, and taken away. Making again is harmless.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adumbra.provision import libvirt_xml
from adumbra.provision.libvirt_connection import Connection
from adumbra.provision.libvirt_rules import Names
from adumbra.provision.libvirt_shaping import Host
from adumbra.schema.addresses import parse_prefix
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Item, Kind


@dataclass(frozen=True, slots=True)
class Found:
    """A thing of ours: the item as it stands, and the settings that it was last begun to be made with."""

    item: Item
    begun: Mapping[str, Any]


class Room(Protocol):
    """All things of one kind that a network has at a hypervisor."""

    def all(self) -> Sequence[Found]:
        """What stands of ours, or was begun."""
        ...

    def make(self, item: Item) -> None:
        """Makes a thing be as its item says, whatever of it stands. Raises ProvisionError where its name is another's."""
        ...

    def remove(self, item: Item) -> None:
        """Takes a thing away with all that is its; what isn't there is left at that."""
        ...


def clash(what: str, name: str) -> ProvisionError:
    return ProvisionError(
        f"there is a {what} {name} at the hypervisor that isn't ours, and it is left as it is",
        "rename or remove it there, then run the same command again",
    )


@dataclass(frozen=True, slots=True)
class Pools:
    """The network's storage pool, a folder of its own."""

    connection: Connection
    names: Names
    storage: str

    def all(self) -> Sequence[Found]:
        item = Item(Kind.NETWORK, self.names.network, {})
        pool = self._lookup(item)
        if pool is None:
            return ()
        with self.connection.doing(f"reading the storage pool of {item.name}"):
            settings = {} if pool.isActive() else {"inactive": True}
        return (Found(Item(item.kind, item.name, settings), {}),)

    def make(self, item: Item) -> None:
        name, virt, library = self.names.of(item), self.connection.virt, self.connection.library
        pool = self._lookup(item)
        if pool is None and self.connection.find(lambda: virt.storagePoolLookupByName(name)) is not None:
            raise clash("storage pool", name)
        with self.connection.doing(f"making the storage pool {name}"):
            if pool is None:
                folder = f"{self.storage}/{name}-{self.names.uuid(item.kind, item.name)[:8]}"
                pool = virt.storagePoolDefineXML(libvirt_xml.pool_xml(self.names, item, folder))
            if not pool.isActive():
                pool.build(library.VIR_STORAGE_POOL_BUILD_NEW)
                pool.create()
            pool.setAutostart(1)

    def remove(self, item: Item) -> None:
        pool = self._lookup(item)
        if pool is None:
            return
        name = self.names.of(item)
        with self.connection.doing(f"taking away the storage pool {name}"):
            if not pool.isActive():
                pool.build(self.connection.library.VIR_STORAGE_POOL_BUILD_NEW)
                pool.create()
            pool.refresh()
            left = sorted(volume.name() for volume in pool.listAllVolumes())
            if left:
                raise ProvisionError(
                    f"the storage pool {name} holds what isn't ours: {', '.join(left[:5])}",
                    "move that away, then run the same command again",
                )
            pool.destroy()
            pool.delete()
            pool.undefine()

    def _lookup(self, item: Item) -> Any:
        uuid = self.names.uuid(item.kind, item.name)
        return self.connection.find(lambda: self.connection.virt.storagePoolLookupByUUIDString(uuid))


@dataclass(frozen=True, slots=True)
class Subnets:
    """Each subnet a libvirt network: a bridge, leases, names."""

    connection: Connection
    names: Names
    host: Host | None

    def all(self) -> Sequence[Found]:
        with self.connection.doing("listing networks"):
            networks = self.connection.virt.listAllNetworks()
        found, masters, ports = [], masters_of(self.host), self._ports()
        for network in networks:
            with self.connection.doing(f"reading the network {network.name()}"):
                config = self.connection.kept(network.XMLDesc, self.connection.library.VIR_NETWORK_XML_INACTIVE)
                live, active = network.XMLDesc(0), bool(network.isActive())
            tag = libvirt_xml.read_tag(config)
            if tag is not None and libvirt_xml.is_ours(tag, self.names, Kind.SUBNET, network.UUIDString()):
                standing = _standing(tag.item, live, active)
                apart = [port for port in ports.get(tag.item.name, ()) if masters.get(port, "") != tag.item.settings["bridge"]]
                if active and any(port in masters for port in apart):
                    standing = Item(standing.kind, standing.name, {**standing.settings, "apart": sorted(apart)})
                found.append(Found(standing, tag.item.settings))
        return found

    def make(self, item: Item) -> None:
        name, virt = self.names.of(item), self.connection.virt
        network = self.connection.find(lambda: virt.networkLookupByName(name))
        if network is not None and network.UUIDString() != self.names.uuid(item.kind, item.name):
            raise clash("network", name)
        with self.connection.doing(f"making the network {name}"):
            network = virt.networkDefineXML(libvirt_xml.network_xml(self.names, item))
            if network.isActive() and libvirt_xml.read_network(network.XMLDesc(0))["forward"] != item.settings["forward"]:
                network.destroy()
            if network.isActive():
                self._adjust(network, item)
            else:
                network.create()
            self._join(item)
            network.setAutostart(1)

    def remove(self, item: Item) -> None:
        uuid = self.names.uuid(item.kind, item.name)
        network = self.connection.find(lambda: self.connection.virt.networkLookupByUUIDString(uuid))
        if network is None:
            return
        with self.connection.doing(f"taking away the network {self.names.of(item)}"):
            if network.isActive():
                network.destroy()
            network.undefine()

    def _adjust(self, network: Any, item: Item) -> None:
        """Brings leases and names of a running network to what they should be, those that go first."""
        library, version = self.connection.library, parse_prefix(item.settings["cidr"]).version
        live = libvirt_xml.read_network(network.XMLDesc(0))
        wanted = {"leases": item.settings["leases"], "names": item.settings["names"]}
        if version == 6:
            wanted["leases"] = [lease | {"mac": ""} for lease in wanted["leases"]]
        sections: dict[str, tuple[int, Callable[[Mapping[str, str]], ET.Element]]] = {
            "leases": (library.VIR_NETWORK_SECTION_IP_DHCP_HOST, lambda each: libvirt_xml.lease_element(each, version)),
            "names": (library.VIR_NETWORK_SECTION_DNS_HOST, libvirt_xml.name_element),
        }
        for part, (section, element) in sections.items():
            there = live.get(part, [])
            for command, entries in (
                (library.VIR_NETWORK_UPDATE_COMMAND_DELETE, [each for each in there if each not in wanted[part]]),
                (library.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, [each for each in wanted[part] if each not in there]),
            ):
                for entry in entries:
                    text = ET.tostring(element(entry), encoding="unicode")
                    network.update(command, section, -1, text, library.VIR_NETWORK_UPDATE_AFFECT_LIVE)

    def _join(self, item: Item) -> None:
        """Puts the ports of running machines back on a bridge that was made anew, by us or by somebody's hand."""
        masters = masters_of(self.host)
        for port in self._ports().get(item.name, ()):
            if self.host is not None and port in masters and masters[port] != item.settings["bridge"]:
                self.host.run("ip", "link", "set", port, "master", item.settings["bridge"])

    def _ports(self) -> dict[str, list[str]]:
        """The ports of running machines by subnet; none where there is no host to look at them."""
        if self.host is None:
            return {}
        with self.connection.doing("listing running domains"):
            domains = self.connection.virt.listAllDomains(self.connection.library.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        ports: dict[str, list[str]] = {}
        for domain in domains:
            live = self.connection.find(lambda: domain.XMLDesc(0))  # noqa: B023
            tag = None if live is None else libvirt_xml.read_tag(live)
            if live is None or tag is None or not libvirt_xml.is_ours(tag, self.names, Kind.MACHINE, domain.UUIDString()):
                continue
            if device := libvirt_xml.read_domain(live).get("device"):
                ports.setdefault(str(tag.item.settings.get("subnet")), []).append(device)
        return ports


def masters_of(host: Host | None) -> dict[str, str]:
    """The devices of a hypervisor, each with the bridge that it is a port of, "" for none; none where there is no host."""
    told = "" if host is None else host.tells("ip", "-json", "link", "show")
    try:
        links = json.loads(told or "[]")
    except ValueError:
        return {}
    return {str(link["ifname"]): str(link.get("master", "")) for link in links if "ifname" in link}


def _standing(item: Item, live: str, active: bool) -> Item:
    """A subnet's item with what really stands in place of what was to be."""
    read, macs = libvirt_xml.read_network(live), {lease["name"]: lease["mac"] for lease in item.settings.get("leases", ())}
    leases = [lease | {"mac": lease["mac"] or macs.get(lease["name"], "")} for lease in read.get("leases", ())]
    settings = {**item.settings, **read, "leases": sorted(leases, key=lambda lease: lease["name"])}
    return Item(item.kind, item.name, settings if active else settings | {"inactive": True})


@dataclass(frozen=True, slots=True)
class Filters:
    """Each firewall a network filter, which running machines follow at once."""

    connection: Connection
    names: Names

    def all(self) -> Sequence[Found]:
        with self.connection.doing("listing network filters"):
            filters = self.connection.virt.listAllNWFilters()
        before, found = self.names.of(Item(Kind.FIREWALL, "", {})), []
        for each in filters:
            name = each.name().removeprefix(before)
            if name == each.name() or each.UUIDString() != self.names.uuid(Kind.FIREWALL, name):
                continue
            with self.connection.doing(f"reading the network filter {each.name()}"):
                settings = {"network": self.names.network, "ingress": libvirt_xml.read_filter(each.XMLDesc(0))}
            found.append(Found(Item(Kind.FIREWALL, name, settings), settings))
        return found

    def make(self, item: Item) -> None:
        name, virt = self.names.of(item), self.connection.virt
        there = self.connection.find(lambda: virt.nwfilterLookupByName(name))
        if there is not None and there.UUIDString() != self.names.uuid(item.kind, item.name):
            raise clash("network filter", name)
        with self.connection.doing(f"making the network filter {name}"):
            virt.nwfilterDefineXML(libvirt_xml.filter_xml(self.names, item))

    def remove(self, item: Item) -> None:
        uuid = self.names.uuid(item.kind, item.name)
        there = self.connection.find(lambda: self.connection.virt.nwfilterLookupByUUIDString(uuid))
        if there is not None:
            with self.connection.doing(f"taking away the network filter {self.names.of(item)}"):
                there.undefine()
