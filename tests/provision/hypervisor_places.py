"""Where the libvirt provider is tried without a guest: libvirt's own test driver, which keeps all in this process' memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adumbra.provision.libvirt import LibvirtProvider
from adumbra.settings import LibvirtSettings

libvirt = pytest.importorskip("libvirt", reason="needs libvirt-python: tools/libvirt.sh")
URI = "test:///default"
_clock = itertools.count(1_700_000_000_000_000_000, 1_000_000_000)


def settings_at(folder: Path, **given: Any) -> LibvirtSettings:
    """The test driver has no network filters, uploads or devices: what takes these is tried at a real hypervisor."""
    plain = {
        "uri": URI, "storage": str(folder / "images"), "seed": False, "firewall": False, "shaping": "none",
        "acceleration": "tcg", "arch": "i686", "machine": "pc",
    }  # fmt: skip
    return LibvirtSettings.model_validate(plain | given)


@dataclass
class HypervisorPlace:
    """A hypervisor that holds others' things too. What is in it goes with the last connection, so one is held."""

    folder: Path
    sampled: ClassVar[int] = 1
    held: Any = field(init=False)

    def __post_init__(self):
        self.held = libvirt.open(URI)
        for domain in self.held.listAllDomains():  # of a test that failed
            if domain.name().startswith("adumbra-"):
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        for each in (*self.held.listAllNetworks(), *self.held.listAllStoragePools()):
            if each.name().startswith("adumbra-"):
                if each.isActive():
                    each.destroy()
                each.undefine()

    def open(self, owner="1", **given) -> LibvirtProvider:
        return LibvirtProvider(settings_at(self.folder, **given), "shop", owner, _clock.__next__).__enter__()

    def strangers(self):
        """All that isn't ours, to compare before and after."""
        return self._named(lambda name: not name.startswith("adumbra-shop"))

    def is_empty(self):
        return not any(self._named(lambda name: name.startswith("adumbra-shop")).values())

    def _named(self, chosen):
        things = {
            "domains": self.held.listAllDomains(), "networks": self.held.listAllNetworks(),
            "pools": self.held.listAllStoragePools(),
        }  # fmt: skip
        return {kind: {each.name(): each.XMLDesc(0) for each in found if chosen(each.name())} for kind, found in things.items()}


HYPERVISOR_PLACES = {"libvirt": HypervisorPlace}
