"""Where the terraform provider is tried: every target, as a file alone and with a tool that applies it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.provision import fake_tofu

from adumbra.provision.protocol import Provider
from adumbra.provision.terraform import FILE, TerraformProvider
from adumbra.provision.terraform_targets import target_of
from adumbra.provision.terraform_tool import Said, Tool


@dataclass
class TerraformPlace:
    """A folder that holds others' files too."""

    folder: Path
    target: ClassVar[str] = "aws"
    sampled: ClassVar[int] = 1

    def __post_init__(self):
        (self.folder / "terraform.tfstate").write_text('{"version": 4, "resources": []}')
        (self.folder / "others.tf").write_text('resource "terraform_data" "others" {}\n')

    def open(self) -> Provider:
        return TerraformProvider(self.folder, target_of(self.target))

    def strangers(self):
        """All that isn't ours, to compare before and after."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != FILE}

    def is_empty(self):
        return not (self.folder / FILE).exists()


class OpenStackPlace(TerraformPlace):
    target = "openstack"
    sampled = 4


class LibvirtPlace(TerraformPlace):
    target = "libvirt"
    sampled = 4


def within(call):
    """The fake tofu, in this process."""
    out, err = io.StringIO(), io.StringIO()
    environment = {**call.environment, "FAKE_TOFU_WITHIN": "1", "TF_VAR_ipv6_ipam_pool_id": "ipam-pool-1"}
    code = fake_tofu.told(list(call.argv[1:]), call.folder, environment, out, err)
    return Said(code, out.getvalue().encode(), err.getvalue().encode())


class AppliedPlace(TerraformPlace):
    """The same with a tool that applies, beside somebody's own document and the resource that was made from it."""

    sampled = 6  # of the steps at which it crashes, as each run of the tool takes its time

    def __post_init__(self):
        other = {"resource": {"terraform_data": {"others": {"input": "mine"}}}}
        (self.folder / "others.tf.json").write_text(json.dumps(other))
        folder = fake_tofu.Folder(self.folder, {})
        folder.apply({"terraform_data.others": ["create"]}, lambda line: None)
        (self.folder / "wish.tf.json").write_text(json.dumps({"resource": {"terraform_data": {"wish": {"input": "not yet"}}}}))

    def open(self):
        return TerraformProvider(self.folder, target_of(self.target), None, Tool("tofu", self.folder, run=within), apply=True)

    def strangers(self):
        kept = fake_tofu.Folder(self.folder, {}).entries
        theirs = {address: entry for address, entry in kept.items() if address.startswith("terraform_data")}
        return theirs, *((self.folder / name).read_bytes() for name in ("others.tf.json", "wish.tf.json"))

    def is_empty(self):
        return super().is_empty() and fake_tofu.Folder(self.folder, {}).entries.keys() == {"terraform_data.others"}


class AppliedOpenStackPlace(AppliedPlace):
    target = "openstack"


class AppliedLibvirtPlace(AppliedPlace):
    target = "libvirt"


TERRAFORM_PLACES = {
    "terraform aws": TerraformPlace,
    "terraform openstack": OpenStackPlace,
    "terraform libvirt": LibvirtPlace,
    "terraform aws, applied": AppliedPlace,
    "terraform openstack, applied": AppliedOpenStackPlace,
    "terraform libvirt, applied": AppliedLibvirtPlace,
}
