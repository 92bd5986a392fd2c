"""The terraform provider: keeps a network as OpenTofu/Terraform JSON for one target in one file of a folder.

Writes and reads that file, and where it is asked to has tofu or terraform apply it (docs/decisions). Holds no credentials.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from adumbra.provision.plan import Key, apply_step, network_of
from adumbra.provision.protocol import Rules
from adumbra.provision.terraform_aws import AWS
from adumbra.provision.terraform_document import NotOursError, Rendered, Target, draft_of, layout, read, render
from adumbra.provision.terraform_state import INCOMPLETE, TAINTED, MarkedRules, standing_items, unmarked
from adumbra.provision.terraform_tool import PLAN_FILE, Tool
from adumbra.schema.errors import ProvisionError
from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Act, Actual, Item, Plan, Step, StepOutcome

FILE = "main.tf.json"
_NEW = f".{FILE}.new"
MAX_BYTES = 1 << 30

Changes = Mapping[str, tuple[str, ...]]
"""What the tool would do: address -> actions."""


@dataclass(frozen=True, slots=True)
class TerraformProvider:
    """A network as `folder`/main.tf.json. The folder may hold other files, such as terraform.tfstate; they stay untouched.

    The file is replaced as a whole, so that a crash leaves the old one or the new one. It carries the items it was made
    from; a file that isn't ours, or was edited, is never overwritten. given_place: the target's region, cloud or URI, None for
    its own. tool: who plans and, with `apply`, makes what the file says after the last step; None: nobody, the file is all.
    """

    folder: Path
    target: Target = AWS
    given_place: str | None = None
    tool: Tool | None = None
    apply: bool = False

    @property
    def rules(self) -> Rules:
        return MarkedRules(self.target.rules)

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
        """What the file holds of the network; nothing where there is no file. Where the tool applies: as its state tells of it.

        Raises ProvisionError where the file isn't ours, was edited, or is another network's, target's or place's.
        """
        standing = self._read(network)
        return Actual(network, self._seen(standing) if standing is not None else ())

    def perform(self, step: Step) -> StepOutcome:
        """Rewrites the file with the step carried out; the file goes with the last item. Again is harmless.

        Where the tool applies, an empty file stays until `finish` has had all of it destroyed.
        Raises ProvisionError where the file can't be read or written, or has changed since the plan was made.
        """
        network = network_of(step.item)
        step = replace(step, before=unmarked(step.before) if step.before is not None else None)
        with self._writing(step.act is not Act.DELETE) as folder:
            if folder is None:
                return StepOutcome(done=True, detail=f"there is no {self.file}")
            standing = self._read(network) or Rendered(network, self.target.name, self._place, ())
            if step.act in {Act.CREATE, Act.REPLACE} and _going(standing) and self._applies:
                # What goes goes first: the tool orders by references only, and an address or a name may pass on.
                standing = self._carry_out(folder, standing, self._planned(standing))
            there = next((item for item in standing.items if item.key == step.item.key), None)
            if there == (None if step.act is Act.DELETE else step.item):
                return StepOutcome(done=True, detail=f"{self.file} had it already")
            after = apply_step(standing.items if there == step.before else self._as_planned(standing, step), step)
            if after or self._applies:
                self._write(folder, self._changed(standing, step, after))
                return StepOutcome(done=True, detail=f"written to {self.file}")
            self._remove(folder)
            return StepOutcome(done=True, detail=f"removed {self.file}; {self._left_over()}")

    def finish(self, plan: Plan) -> StepOutcome | None:
        """Has the tool carry out what the file says, after a plan's last step; None where there is nothing to be done.

        Again is harmless: the tool compares with what stands. What isn't ours is left alone, and no disk is destroyed that the
        plan doesn't say so of. Raises ProvisionError saying what to do next.
        """
        if self.tool is None or not self.folder.exists():
            return None
        with self._writing(create=False) as folder:
            standing = self._read(plan.network)
            if folder is None or standing is None:
                return None
            changes = self._planned(standing)
            if not self.apply:
                told = f"{_counted(changes)}; run it with `tofu apply {PLAN_FILE}` in {self.folder}"
                return StepOutcome(done=True, detail=told)
            self._carry_out(folder, standing, changes, frozenset(step.item.key for step in plan.steps if _loses(step)))
            if standing.items:
                return StepOutcome(done=True, detail=f"{_counted(changes)}: applied")
            self._remove(folder)
            return StepOutcome(done=True, detail=f"{_counted(changes)}: applied; removed {self.file}")

    def usage(self, network: str) -> tuple[MachineReading, ...]:  # noqa: ARG002
        """None: a file tells of no use."""
        return ()

    def ports(self, network: str) -> tuple[LivePort, ...]:  # noqa: ARG002
        """None: what is made from the file stands elsewhere."""
        return ()

    @property
    def _place(self) -> str:
        return self.target.place[1] if self.given_place is None else self.given_place

    @property
    def _applies(self) -> bool:
        return self.tool is not None and self.apply

    def _seen(self, standing: Rendered) -> tuple[Item, ...]:
        if self.tool is None or not self.apply:
            return standing.items
        return standing_items(self.target, standing, self.tool.state())

    def _as_planned(self, standing: Rendered, step: Step) -> tuple[Item, ...]:
        """The file's items, but the step's own as the planner saw it, where that is how it is seen now too."""
        seen = next((item for item in self._seen(standing) if item.key == step.item.key), None)
        seen = unmarked(seen) if seen is not None else None
        if not self._applies or seen != step.before:
            return standing.items
        others = tuple(item for item in standing.items if item.key != step.item.key)
        return others if seen is None else (*others, seen)

    def _changed(self, standing: Rendered, step: Step, after: tuple[Item, ...]) -> Rendered:
        """The document's next word. Where the tool applies, with what it was before and what may stand of it."""
        if not self._applies:
            return replace(standing, items=after)
        kept = standing.pending.get(step.item.key) or step.before
        pending: dict[Key, Item | None] = {**standing.pending, step.item.key: kept}
        former = {**standing.former, **_addresses(self.target, standing.items)}
        now = _addresses(self.target, after)
        former = {address: key for address, key in former.items() if address not in now}
        return replace(standing, items=after, pending=pending, former=former)

    def _planned(self, standing: Rendered) -> Changes:
        """Has the tool plan, and refuses what isn't ours to touch."""
        tool, ours = self._tool, self._ours(standing)
        tool.init()
        changes = tool.plan()
        if changes.keys() - ours.keys():  # somebody else's, in the same folder: theirs to apply
            touched = sorted(changes.keys() & ours.keys())
            tool.forget_plan()
            changes = tool.plan(touched) if touched else {}
        others = sorted(changes.keys() - ours.keys())
        if others:
            tool.forget_plan()
            raise ProvisionError(
                f"the tool would {' and '.join(changes[others[0]])} {others[0]}, which isn't adumbra's",
                "apply what else is in the folder first, or move it to another",
            )
        return changes

    def _carry_out(self, folder: int, standing: Rendered, changes: Changes, told: frozenset[Key] | None = None) -> Rendered:
        """Has the tool do what it planned, and writes that down. told: what the plan says is lost; None: amid a plan."""
        ours, may_go = self._ours(standing), (told or frozenset()) | _going(standing)
        for address, actions in sorted(changes.items()):
            precious = "delete" in actions and address.partition(".")[0] in self.target.precious
            if precious and ours[address] not in may_go:
                self._tool.forget_plan()
                raise ProvisionError(
                    f"the tool would destroy {address}, and with it data of {' '.join(ours[address])}, and the plan doesn't "
                    "say so",
                    f"see why with `tofu plan` in {self.folder}",
                )
        if changes:
            self._tool.apply()
        self._tool.forget_plan()
        # Amid a plan the rest still counts as not applied: the plan's steps were made from what stood before it.
        pending = (
            {} if told is not None else {key: item for key, item in standing.pending.items() if key not in _going(standing)}
        )
        applied = replace(standing, pending=pending, former={})
        if applied != standing and standing.items:
            self._write(folder, applied)
        return applied

    @property
    def _tool(self) -> Tool:
        if self.tool is None:
            raise ProvisionError(f"applying {self.file}: no tool was asked for", "set ADUMBRA_TERRAFORM_APPLY")
        return self.tool

    def _ours(self, standing: Rendered) -> dict[str, Key]:
        """All that the tool may have made of this file and those before it, and whose each is."""
        return {**standing.former, **_addresses(self.target, standing.items)}

    def _write(self, folder: int, rendered: Rendered) -> None:
        _replace(folder, layout(render(self.target, rendered)))

    @staticmethod
    def _remove(folder: int) -> None:
        os.unlink(FILE, dir_fd=folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PLAN_FILE, dir_fd=folder)
        os.fsync(folder)

    @contextlib.contextmanager
    def _writing(self, create: bool) -> Iterator[int | None]:
        """The folder, locked and open; None where there is none and none is to be made. Tells what can't be written."""
        try:
            if not create and not self.folder.exists():
                yield None
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder) as folder:
                yield folder
        except OSError as error:
            raise ProvisionError(
                f"writing {self.file}: {error.strerror or error}", "make the folder writable, with room, then run it again"
            ) from error

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
        self._check_home(standing, network)
        return standing

    def _check_home(self, standing: Rendered, network: str) -> None:
        if standing.network != network:
            raise ProvisionError(f"reading {self.file}: it holds the network {standing.network}", "choose another folder")
        if standing.target != self.target.name:
            raise ProvisionError(
                f"reading {self.file}: {network} is there for the target {standing.target}, not {self.target.name}",
                f"set ADUMBRA_TERRAFORM_TARGET={standing.target}, or deactivate {network} with that first",
            )
        if standing.place != self._place:
            word = self.target.place[0]
            raise ProvisionError(
                f"reading {self.file}: {network} stands in the {word} {standing.place}, not {self._place}",
                f"give that {word}, or deactivate {network} there first",
            )

    def _left_over(self) -> str:
        """What to say of machines that tofu may have made from the file that is gone now."""
        state = self.folder / "terraform.tfstate"
        if not state.exists():
            return "what was applied from it elsewhere still stands"
        return f"what was applied still stands: run `{self.target.undo(self._place)}` in {self.folder}"


def _addresses(target: Target, items: Iterable[Item]) -> dict[str, Key]:
    """The resources of these items, and whose each is."""
    return {address: keys[0] for address, keys in draft_of(target, tuple(items)).owners.items()}


def _going(standing: Rendered) -> frozenset[Key]:
    """What the file says goes, and the tool hasn't destroyed yet."""
    there = {item.key for item in standing.items}
    return frozenset(key for key, before in standing.pending.items() if before is not None and key not in there)


def _loses(step: Step) -> bool:
    """Whether a step says that what the item holds is destroyed."""
    half = step.before is not None and step.before.settings.get(INCOMPLETE) == TAINTED
    return half or step.act in {Act.DELETE, Act.REPLACE}


def _counted(changes: Changes) -> str:
    """What the tool plans, in the tool's own terms."""
    made = sum("create" in actions for actions in changes.values())
    gone = sum("delete" in actions for actions in changes.values())
    changed = sum("update" in actions for actions in changes.values())
    return f"{made} to add, {changed} to change, {gone} to destroy"


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
