"""A network's machines at a hypervisor: each a domain with its disk, its seed and its port. Making again is harmless.

The domain is defined before anything of it is made, and goes last, so that whatever was interrupted is found by it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adumbra.provision import libvirt_seed, libvirt_shaping, libvirt_xml
from adumbra.provision.libvirt_connection import Connection
from adumbra.provision.libvirt_rules import Names
from adumbra.provision.libvirt_shaping import Host
from adumbra.provision.libvirt_things import Found, clash
from adumbra.provision.libvirt_xml import Hardware
from adumbra.schema.errors import ProvisionError
from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Item, Kind
from adumbra.schema.sizing import BYTES_PER_GB

UNPLUG_S = 60.0
"""How long a guest may take to let go of its cores."""
_PIECE = 1 << 18
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Workshop:
    """What machines are made with.

    hardware: what all have in common; image: what disks are cloned from (path, format), None for blank ones; user_data: what
    the seed carries besides; shaping: "auto", "libvirt", "tc" or "none"; host: where tc runs, None where nowhere; stop_s: how
    long a machine that is to stop may take.
    """

    hardware: Hardware
    image: tuple[str, str] | None
    user_data: str
    shaping: str
    host: Host | None
    stop_s: float


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines of a network."""

    connection: Connection
    names: Names
    workshop: Workshop

    def all(self) -> Sequence[Found]:
        return [Found(self._standing(domain, item), item.settings) for domain, item in self._ours()]

    def make(self, item: Item) -> None:
        name, virt, library = self.names.of(item), self.connection.virt, self.connection.library
        domain = self.connection.find(lambda: virt.lookupByName(name))
        if domain is not None and domain.UUIDString() != self.names.uuid(item.kind, item.name):
            raise clash("domain", name)
        with self.connection.doing(f"making the machine {name}"):
            domain = virt.defineXML(libvirt_xml.domain_xml(self.names, item, self.workshop.hardware))
            if domain.isActive() and self._beyond(domain, item):
                self._stop(domain)
            self._disk(domain, item)
            if domain.isActive():
                self._adjust(domain, item)
            else:
                self._seed(item)
                domain.create()
            domain.setAutostart(1)
            self._shape(domain, item, library.VIR_DOMAIN_AFFECT_LIVE | library.VIR_DOMAIN_AFFECT_CONFIG)

    def remove(self, item: Item) -> None:
        virt, library, uuid = self.connection.virt, self.connection.library, self.names.uuid(item.kind, item.name)
        domain = self.connection.find(lambda: virt.lookupByUUIDString(uuid))
        if domain is None:
            return
        device = libvirt_xml.read_domain(domain.XMLDesc(0)).get("device")
        with self.connection.doing(f"taking away the machine {self.names.of(item)}"):
            if domain.isActive():
                domain.destroy()
            if device and self.workshop.host is not None:
                libvirt_shaping.unshape(self.workshop.host, device)
            pool = self._pool()
            for name in libvirt_xml.volume_names(item):
                volume = self._volume(pool, name)
                if volume is not None:
                    volume.delete()
            domain.undefineFlags(library.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | library.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)

    def readings(self, now_ns: int) -> tuple[MachineReading, ...]:
        """The counters of the machines that run."""
        return tuple(self._reading(domain, item, now_ns) for domain, item in self._ours() if domain.isActive())

    def ports(self) -> tuple[LivePort, ...]:
        """The ports of the machines that run."""
        return tuple(LivePort(item.name, item.settings["device"]) for domain, item in self._ours() if domain.isActive())

    def _ours(self) -> Iterator[tuple[Any, Item]]:
        with self.connection.doing("listing domains"):
            domains = self.connection.virt.listAllDomains()
        for domain in domains:
            config = self.connection.find(lambda: domain.XMLDesc(self.connection.library.VIR_DOMAIN_XML_INACTIVE))  # noqa: B023
            tag = None if config is None else libvirt_xml.read_tag(config)
            if tag is not None and libvirt_xml.is_ours(tag, self.names, Kind.MACHINE, domain.UUIDString()):
                yield domain, tag.item

    def _standing(self, domain: Any, item: Item) -> Item:
        """A machine's item with what really stands in place of what was to be."""
        with self.connection.doing(f"reading the machine {self.names.of(item)}"):
            running = bool(domain.isActive())
            config = libvirt_xml.read_domain(domain.XMLDesc(self.connection.library.VIR_DOMAIN_XML_INACTIVE))
            live = libvirt_xml.read_domain(domain.XMLDesc(0)) if running else config
            pool = self._pool()
            disk, seed = (self._volume(pool, name) for name in libvirt_xml.volume_names(item))
            capacity = 0 if disk is None else disk.info()[1]
        settings = dict(item.settings)
        settings |= {"running": running, "cpu_cores": live["cpu_cores"], "most_cpu_cores": live["most_cpu_cores"]}
        settings |= {"mac": config.get("mac"), "device": config.get("device")}
        for name in ("memory", "most_memory"):
            # The balloon moves as the guest lets it: what counts is what it is told to be.
            if libvirt_xml.memory_kib(settings[f"{name}_gb"]) != (kib := config[f"{name}_kib"]):
                settings[f"{name}_gb"] = round(kib * 1024 / BYTES_PER_GB, 6)
        if capacity != settings["storage_gb"] * BYTES_PER_GB:
            settings["storage_gb"] = round(capacity / BYTES_PER_GB, 6)
        if settings.get("firewall") is not None:
            before = self.names.of(Item(Kind.FIREWALL, "", {}))
            settings["firewall"] = (config.get("filter") or "").removeprefix(before)
        if self.workshop.hardware.seeded and seed is None:
            settings["seed"] = "missing"
        if running:
            settings["bandwidth_mbps"] = self._bandwidth(domain, settings)
        return Item(item.kind, item.name, settings)

    def _beyond(self, domain: Any, item: Item) -> bool:
        """Whether what is wanted is more than the machine can be given while it runs, or cores that can't be taken from it."""
        live = libvirt_xml.read_domain(domain.XMLDesc(0))
        if item.settings["cpu_cores"] < live["cpu_cores"] and not self.workshop.hardware.accelerated:
            return True
        most_kib = libvirt_xml.memory_kib(item.settings["memory_gb"])
        return bool(item.settings["cpu_cores"] > live["most_cpu_cores"] or most_kib > live["most_memory_kib"])

    def _stop(self, domain: Any) -> None:
        """Asks the machine to shut down, and switches it off where it takes too long."""
        library = self.connection.library
        until_s = time.monotonic() + self.workshop.stop_s
        if self.workshop.stop_s > 0:
            domain.shutdown()
        while domain.isActive() and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
        if domain.isActive():
            domain.destroyFlags(library.VIR_DOMAIN_DESTROY_GRACEFUL)

    def _pool(self) -> Any:
        uuid = self.names.uuid(Kind.NETWORK, self.names.network)
        pool = self.connection.find(lambda: self.connection.virt.storagePoolLookupByUUIDString(uuid))
        if pool is None or not pool.isActive():
            return None
        return pool

    def _volume(self, pool: Any, name: str) -> Any:
        return None if pool is None else self.connection.find(lambda: pool.storageVolLookupByName(name))

    def _disk(self, domain: Any, item: Item) -> None:
        pool, (name, _) = self._pool(), libvirt_xml.volume_names(item)
        if pool is None:
            raise ProvisionError(
                f"the storage pool of {self.names.network} isn't there", "plan again: run the same command anew"
            )
        wanted = int(item.settings["storage_gb"] * BYTES_PER_GB)
        volume = self._volume(pool, name)
        if volume is None:
            pool.createXML(libvirt_xml.volume_xml(name, wanted, "qcow2", self.workshop.image))
        elif volume.info()[1] < wanted:
            if domain.isActive():
                domain.blockResize("vda", wanted, self.connection.library.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                pool.refresh()
            else:
                volume.resize(wanted)

    def _seed(self, item: Item) -> None:
        """Writes the seed, also over one that was being written when somebody pulled the plug."""
        if not self.workshop.hardware.seeded:
            return
        pool, (_, name) = self._pool(), libvirt_xml.volume_names(item)
        subnet = self.connection.virt.networkLookupByUUIDString(self.names.uuid(Kind.SUBNET, item.settings["subnet"]))
        cidr = libvirt_xml.read_network(subnet.XMLDesc(0))["cidr"]
        instance = self.names.uuid(item.kind, item.name)
        image = libvirt_seed.seed_image(libvirt_seed.seed_files(item, cidr, instance, self.workshop.user_data))
        volume = self._volume(pool, name)
        if volume is not None:
            volume.delete()
        volume = pool.createXML(libvirt_xml.volume_xml(name, len(image), "raw"))
        stream = self.connection.virt.newStream()
        volume.upload(stream, 0, len(image), 0)
        for at in range(0, len(image), _PIECE):
            piece = image[at : at + _PIECE]
            while piece:
                piece = piece[stream.send(piece) :]
        stream.finish()

    def _adjust(self, domain: Any, item: Item) -> None:
        """Brings a running machine's cores, memory and filter to what they should be."""
        library, settings = self.connection.library, item.settings
        live = libvirt_xml.read_domain(domain.XMLDesc(0))
        if live["cpu_cores"] != settings["cpu_cores"]:
            self._plug(domain, int(settings["cpu_cores"]))
        kib = libvirt_xml.memory_kib(settings["memory_gb"])
        if live["memory_kib"] != kib:
            domain.setMemoryFlags(kib, library.VIR_DOMAIN_AFFECT_LIVE)
        named = settings.get("firewall")
        wanted = None if named is None else self.names.of(Item(Kind.FIREWALL, named, {}))
        if live.get("filter") != wanted:
            domain.updateDeviceFlags(libvirt_xml.port_xml(domain.XMLDesc(0), wanted), library.VIR_DOMAIN_AFFECT_LIVE)

    def _plug(self, domain: Any, cores: int) -> None:
        """Plugs cores in or out. A guest lets go of one in its own time, of which libvirt waits for a few seconds only."""
        library, until_s = self.connection.library, time.monotonic() + UNPLUG_S
        while libvirt_xml.read_domain(domain.XMLDesc(0))["cpu_cores"] != cores:
            try:
                domain.setVcpusFlags(cores, library.VIR_DOMAIN_AFFECT_LIVE)
            except library.libvirtError as error:
                if error.get_error_code() != library.VIR_ERR_OPERATION_TIMEOUT or time.monotonic() > until_s:
                    raise
                time.sleep(_LOOK_EVERY_S)

    def _shape(self, domain: Any, item: Item, flags: int) -> None:
        how, bandwidth = self.workshop.shaping, int(item.settings["bandwidth_mbps"])
        if how == "none" or self._bandwidth(domain, item.settings) == bandwidth:
            return
        device = item.settings["device"]
        if how in {"auto", "libvirt"}:
            limits = libvirt_xml.limits(bandwidth)
            try:
                domain.setInterfaceParameters(device, limits, flags)
            except self.connection.library.libvirtError:
                if how == "libvirt":
                    raise
            else:
                return
        if self.workshop.host is None:
            raise ProvisionError(
                f"limiting {device} to {bandwidth} Mbps: this hypervisor can't, and tc can't be run at its host",
                "use qemu+ssh://, or ADUMBRA_LIBVIRT_SHAPING=none",
            )
        libvirt_shaping.shape(self.workshop.host, device, bandwidth)

    def _bandwidth(self, domain: Any, settings: Any) -> int:
        """What a running machine's port is limited to each way; 0 for no limit."""
        if self.workshop.shaping == "none":
            return int(settings["bandwidth_mbps"])
        told = libvirt_xml.read_limits(domain.XMLDesc(0))
        if told is None and self.workshop.host is not None:
            told = libvirt_shaping.shaped_mbps(self.workshop.host, settings["device"])
        return told or 0

    def _reading(self, domain: Any, item: Item, now_ns: int) -> MachineReading:
        with self.connection.doing(f"reading what {self.names.of(item)} uses"):
            state = domain.info()
            memory = domain.memoryStats()
            port = domain.interfaceStats(item.settings["device"])
            disk = domain.blockStats("vda")
            capacity, allocated, _ = domain.blockInfo("vda")
            run = domain.ID()
        # Not what caches hold, where the guest says it; the balloon's own driver may not have spoken yet.
        free = memory.get("usable", memory.get("unused"))
        total = memory.get("available")
        return MachineReading(
            item.name, now_ns, str(run), cpu_time_ns=state[4], cpu_cores=state[3],
            memory_bytes=None if free is None or total is None else max(0, total - free) * 1024,
            memory_provisioned_bytes=memory.get("actual", state[2]) * 1024,
            rx_bytes=port[0], rx_packets=port[1], rx_dropped=port[3], tx_bytes=port[4], tx_packets=port[5], tx_dropped=port[7],
            storage_bytes=allocated, storage_provisioned_bytes=capacity,
            read_ops=disk[0], read_bytes=disk[1], write_ops=disk[2], write_bytes=disk[3],
        )  # fmt: skip
