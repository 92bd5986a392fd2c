"""The terraform provider: keeps a network as OpenTofu/Terraform JSON for AWS in one file of a folder.

Writes and reads that file, nothing else: it calls neither tofu nor a cloud, and holds no credentials.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from adumbra.provision.aws_rules import AwsRules
from adumbra.provision.plan import apply_step, network_of
from adumbra.provision.terraform_aws import NotOursError, Rendered, layout, read, render
from adumbra.schema.errors import ProvisionError
from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Act, Actual, Item, Step, StepOutcome

FILE = "main.tf.json"
_NEW = f".{FILE}.new"
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TerraformProvider:
    """A network as `folder`/main.tf.json. The folder may hold other files, such as terraform.tfstate; they stay untouched.

    The file is replaced as a whole, so that a crash leaves the old one or the new one. It carries the items it was made
    from; a file that isn't ours, or was edited, is never overwritten.
    """

    folder: Path
    region: str = "us-east-1"

    @property
    def rules(self) -> AwsRules:
        return AwsRules("terraform")

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def place(self) -> str:
        return str(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is held between two acts."""

    def actual(self, network: str) -> Actual:
        """What the file holds of the network; nothing where there is no file.

        Raises ProvisionError where the file isn't ours, was edited, or is another network's or region's.
        """
        standing = self._read(network)
        return Actual(network, standing.items if standing is not None else ())

    def perform(self, step: Step) -> StepOutcome:
        """Rewrites the file with the step carried out; the file goes with the last item. Again is harmless.

        Raises ProvisionError where the file can't be read or written, or has changed since the plan was made.
        """
        network = network_of(step.item)
        try:
            if step.act is Act.DELETE and not self.folder.exists():
                return StepOutcome(done=True, detail=f"there is no {self.file}")
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder) as folder:
                standing = self._read(network)
                before = standing.items if standing is not None else ()
                after = apply_step(before, step)
                if after == before:
                    return StepOutcome(done=True, detail=f"{self.file} had it already")
                if after:
                    _replace(folder, self._text(network, after))
                    return StepOutcome(done=True, detail=f"written to {self.file}")
                os.unlink(FILE, dir_fd=folder)
                os.fsync(folder)
                return StepOutcome(done=True, detail=f"removed {self.file}; {self._left_over()}")
        except OSError as error:
            raise ProvisionError(
                f"writing {self.file}: {error.strerror or error}", "make the folder writable, with room, then run it again"
            ) from error

    def usage(self, network: str) -> tuple[MachineReading, ...]:  # noqa: ARG002
        """None: a file tells of no use."""
        return ()

    def ports(self, network: str) -> tuple[LivePort, ...]:  # noqa: ARG002
        """None: what is made from the file stands elsewhere."""
        return ()

    def _text(self, network: str, items: tuple[Item, ...]) -> str:
        return layout(render(network, self.region, items))

    def _read(self, network: str) -> Rendered | None:
        try:
            if self.file.stat().st_size > MAX_BYTES:
                raise NotOursError("it is too large to have been written by adumbra")
            standing = read(json.loads(self.file.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProvisionError(
                f"reading {self.file}: {error.strerror or error}", "make it readable, then run it again"
            ) from error
        except (NotOursError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = str(error) if isinstance(error, NotOursError) else "it was not written by adumbra"
            raise ProvisionError(
                f"reading {self.file}: {why}, and is left as it is", "move it away or restore it, or choose another folder"
            ) from error
        if standing.network != network:
            raise ProvisionError(f"reading {self.file}: it holds the network {standing.network}", "choose another folder")
        if standing.region != self.region:
            raise ProvisionError(
                f"reading {self.file}: {network} stands in the region {standing.region}, not {self.region}",
                f"give that region, or deactivate {network} there first",
            )
        return standing

    def _left_over(self) -> str:
        """What to say of machines that tofu may have made from the file that is gone now."""
        state = self.folder / "terraform.tfstate"
        if not state.exists():
            return "what was applied from it elsewhere still stands"
        return f"what was applied still stands: run `AWS_REGION={self.region} tofu destroy` in {self.folder}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder, open, for one writer at a time. The lock leaves no file and ends with the process."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield opened
    finally:
        os.close(opened)


def _replace(folder: int, text: str) -> None:
    """Writes the file so that a crash at any moment leaves the old or the new one: aside, synced, renamed, synced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder)  # of a run that was killed
    opened = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(_NEW, FILE, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(_NEW, dir_fd=folder)
        raise
    os.fsync(folder)
