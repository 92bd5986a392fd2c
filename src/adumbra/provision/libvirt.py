"""The libvirt provider: networks, subnets, firewalls and machines at a QEMU hypervisor, here or by ssh.

Wires the rooms that make each kind of thing; chooses nothing, and touches nothing that doesn't carry our tag or UUID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from adumbra.provision.libvirt_connection import Connection, host_of, is_here, shown
from adumbra.provision.libvirt_machines import Machines, Workshop
from adumbra.provision.libvirt_rules import Choices, LibvirtRules, Names
from adumbra.provision.libvirt_things import Filters, Found, Pools, Room, Subnets
from adumbra.provision.libvirt_xml import Hardware
from adumbra.provision.plan import in_order, network_of
from adumbra.schema.errors import InputError, ProvisionError
from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Act, Actual, Item, Kind, Step, StepOutcome
from adumbra.settings import Acceleration, LibvirtSettings, Shaping

_MOST_USER_DATA = 1 << 20


@dataclass(frozen=True, slots=True)
class _Rooms:
    """A connection, and who makes each kind of thing with it."""

    connection: Connection
    by_kind: dict[Kind, Room]
    machines: Machines


class LibvirtProvider:
    """One network at the hypervisor that the settings name. owner: tells networks of the same name apart. Opened by `with`."""

    def __init__(self, settings: LibvirtSettings, network: str, owner: str, now: Callable[[], int]) -> None:
        self._settings, self._now = settings, now
        self._names = Names(owner, network)
        self._rooms: _Rooms | None = None

    @property
    def rules(self) -> LibvirtRules:
        settings = self._settings
        # QEMU 7.2 doesn't tell libvirt that an emulated core is gone: DEVICE_DELETED comes for its interrupt controller alone.
        unplugs = self._rooms is None or self._rooms.machines.workshop.hardware.accelerated
        return LibvirtRules(self._names, Choices(settings.outside, settings.firewall, settings.headroom, unplugs))

    @property
    def place(self) -> str:
        return shown(self._settings.uri)

    def __enter__(self) -> Self:
        connection = Connection(self._settings.uri).__enter__()
        try:
            self._rooms = self._furnish(connection)
        except BaseException:
            connection.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        rooms, self._rooms = self._rooms, None
        if rooms is not None:
            rooms.connection.__exit__(*exc)

    def actual(self, network: str) -> Actual:
        """What stands of the network, or was begun: found by tag and UUID, its settings as they really are."""
        self._check(network)
        found = [each.item for room in self._open.by_kind.values() for each in room.all()]
        return Actual(network, in_order(found))

    def perform(self, step: Step) -> StepOutcome:
        """One attempt at one step. Again is harmless, also after a crash in its middle.

        Raises ProvisionError where what stands is neither what the step expects nor what it leaves or began.
        """
        self._check(network_of(step.item))
        room = self._open.by_kind.get(step.item.kind)
        if room is None:
            raise ProvisionError(f"there is no {step.item.kind.value} at a hypervisor", "plan again: run the same command anew")
        there = {each.item.key: each for each in room.all()}.get(step.item.key)
        if step.act is Act.DELETE:
            if there is None:
                return StepOutcome(done=True, detail="it was gone already")
            self._expect(step, there)
            room.remove(step.item)
            return StepOutcome(done=True, detail=f"taken away from {self.place}")
        if there is not None and there.item.settings == step.item.settings:
            return StepOutcome(done=True, detail="it stood already")
        self._expect(step, there)
        if step.act is Act.REPLACE and there is not None and there.begun != step.item.settings:
            room.remove(step.item)
        room.make(step.item)
        return StepOutcome(done=True, detail=f"stands at {self.place}")

    def usage(self, network: str) -> tuple[MachineReading, ...]:
        self._check(network)
        return self._open.machines.readings(self._now())

    def ports(self, network: str) -> tuple[LivePort, ...]:
        self._check(network)
        return self._open.machines.ports() if is_here(self._settings.uri) else ()

    @property
    def _open(self) -> _Rooms:
        if self._rooms is None:
            raise RuntimeError("the provider isn't open")
        return self._rooms

    def _furnish(self, connection: Connection) -> _Rooms:
        settings, names = self._settings, self._names
        tools = settings.shaping in {Shaping.AUTO, Shaping.TC} and not settings.uri.startswith("test")
        host = host_of(settings.uri) if tools else None
        image = (settings.image, settings.image_format) if settings.image else None
        shaping = settings.shaping.value
        workshop = Workshop(self._hardware(connection), image, self._user_data(), shaping, host, settings.stop_s)
        machines = Machines(connection, names, workshop)
        rooms: dict[Kind, Room] = {
            Kind.NETWORK: Pools(connection, names, settings.storage),
            Kind.SUBNET: Subnets(connection, names, host),
        }
        if settings.firewall:
            rooms[Kind.FIREWALL] = Filters(connection, names)
        rooms[Kind.MACHINE] = machines
        return _Rooms(connection, rooms, machines)

    def _hardware(self, connection: Connection) -> Hardware:
        settings = self._settings
        with connection.doing(f"asking {self.place} what it can"):
            able = "<domain type='kvm'" in connection.virt.getCapabilities()
        if settings.acceleration is Acceleration.KVM and not able:
            raise ProvisionError(f"{self.place} has no KVM", "use ADUMBRA_LIBVIRT_ACCELERATION=tcg, which is far slower")
        accelerated = able and settings.acceleration is not Acceleration.TCG
        return Hardware(
            accelerated, settings.arch, settings.machine, settings.kernel, settings.initrd, settings.kernel_arguments,
            settings.seed,
        )  # fmt: skip

    def _user_data(self) -> str:
        file = self._settings.user_data
        if file is None:
            return ""
        try:
            if file.stat().st_size > _MOST_USER_DATA:
                raise InputError(f"{file} is too large for a seed", "give cloud-init at most 1 MiB")
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"reading {file}: {why}", "correct ADUMBRA_LIBVIRT_USER_DATA") from None

    def _check(self, network: str) -> None:
        if network != self._names.network:
            raise ProvisionError(
                f"{network} can't be made in place of {self._names.network}", "open a provider for each network"
            )

    def _expect(self, step: Step, there: Found | None) -> None:
        """Refuses a step that doesn't fit what stands."""
        if there is None:
            if step.before is None or step.act is Act.REPLACE:  # a replacement may have been interrupted between its two halves
                return
            found = "does not stand any more"
        else:
            was = None if step.before is None else step.before.settings
            known = there.item.settings == was or (step.act is not Act.DELETE and there.begun == step.item.settings)
            if known or (step.act in {Act.DELETE, Act.REPLACE} and self._was_begun(there, step.before)):
                return
            found = "stands with other settings than when this was planned"
        raise ProvisionError(f"{' '.join(step.item.key)} {found}", "plan again: run the same command anew")

    @staticmethod
    def _was_begun(there: Found, before: Item | None) -> bool:
        """Whether a removal of `before` was interrupted: what it was made with is still known."""
        return before is not None and there.begun == before.settings
