"""Networks: checking, creating, updating and deleting them. Creating a network creates its shadow, in the same act."""

from __future__ import annotations

import json
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adumbra.profile.catalog import load_catalog
from adumbra.schema.calibration import Calibration
from adumbra.schema.errors import ConflictError, InputError, MirrorError, NotFoundError, SpecError
from adumbra.schema.spec import NetworkSpec, Vm, expand_vms, parse_spec, spec_to_dict
from adumbra.schema.state import NetworkRecord, NetworkState
from adumbra.schema.yamllines import Location
from adumbra.service import captures, mirrors
from adumbra.service.texts import read_text
from adumbra.service.workspace import Workspace

MAX_SPEC_BYTES = 16 * 1024 * 1024
KEPT_SPEC_LETTERS = 8 * 1024 * 1024
"""How much text the specs have together that are kept read, in memory."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network: what is kept of it, its spec, the VMs that it stands for, and what measured use said of these, if any."""

    record: NetworkRecord
    spec: NetworkSpec
    vms: tuple[Vm, ...]
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        return self.record.name


def read_spec(path: Path) -> str:
    """The text of a spec file. Raises InputError where it can't be read or can't be one."""
    try:
        return read_text(path, "a spec", "a few pages", MAX_SPEC_BYTES)
    except UnicodeDecodeError:
        raise SpecError([f"{path}:1: this is not text in UTF-8; write the spec as YAML or JSON"]) from None


def check(text: str, file: str) -> NetworkSpec:
    """Is this spec right, its instance types known? Raises SpecError with one line a problem."""
    known = _SPECS.known(text)
    if known is not None and not any(_unknown_types(known[0])):
        return known[0]
    spec = parse_spec(text, file, _unknown_types)
    _SPECS.keep(text, spec)
    return spec


def _unknown_types(spec: NetworkSpec) -> Iterator[tuple[Location, str]]:
    catalog = load_catalog()
    for i, group in enumerate(spec.vms):
        if group.type is not None:
            try:
                catalog.type(group.type)
            except InputError as error:
                yield ("vms", i, "type"), str(error)


def create(workspace: Workspace, text: str, file: str, now_ns: int) -> Network:
    """Creates a network and its shadow in one transaction. Raises SpecError, or ConflictError where the name is taken."""
    spec = check(text, file)
    record = workspace.state.create_network(spec.name, text, now_ns, _json(spec))
    return Network(record, spec, expand_vms(spec))


def get(workspace: Workspace, name: str) -> Network:
    """A network by name. Raises NotFoundError."""
    network = of_record(workspace.state.network(name))
    kept = workspace.state.calibration(name)
    if kept is None or not kept.calibration["vms"]:
        return network
    return replace(network, calibration=Calibration.from_dict(kept.calibration))


def listing(workspace: Workspace) -> tuple[Network, ...]:
    """All networks, by name."""
    return tuple(of_record(record) for record in workspace.state.networks())


def update(workspace: Workspace, text: str, file: str, now_ns: int, was: int | None = None) -> Network:
    """Replaces the spec of the network that it names. What was observed stays.

    Raises SpecError, NotFoundError, and PreconditionError where its version isn't `was` (None: any).
    """
    spec = check(text, file)
    return of_record(workspace.state.update_network(spec.name, text, now_ns, was, _json(spec)))


def delete(workspace: Workspace, name: str, now_ns: int, *, force: bool = False) -> None:
    """Deletes a network, its mirrors, its shadow and all that was learned of it; its events stay.

    Begins with the mirrors and the metrics and ends with the network itself, so that a deletion that was interrupted is
    ended by deleting again, or by the next start. Raises ConflictError for a network that is active, unless forced, and
    MirrorError where its mirrors can't be removed: nothing else is deleted then.
    """
    network = get(workspace, name)
    standing = network.record.state in {NetworkState.ACTIVE, NetworkState.ACTIVATING}
    if standing and not force:
        raise ConflictError(
            f"{name} is {network.record.state.value}, its VMs may stand",
            f"run `adumbra deactivate {name}` first, or use --force",
        )
    mirrors.remove(workspace, name, lambda: now_ns)
    workspace.state.set_network_state(name, NetworkState.DELETING, now_ns, "deletion was asked for")
    _remove(workspace, name, now_ns, keep_files=standing)


def finish_deletions(
    workspace: Workspace, now_ns: int, owned: Callable[[str], bool] = lambda _: True, before_ns: int | None = None
) -> tuple[str, ...]:
    """Ends the deletions that were interrupted, of networks that are owned; gives their names. before_ns: those that began by
    then, None for all. One whose mirrors can't be removed waits."""
    finished = []
    begun = [r for r in workspace.state.networks() if r.state is NetworkState.DELETING and owned(r.name)]
    for name in (r.name for r in begun if before_ns is None or r.updated_ns <= before_ns):
        try:
            _remove(workspace, name, now_ns, keep_files=True)
        except (MirrorError, NotFoundError):  # NotFoundError: whoever was at it has just ended it
            continue
        finished.append(name)
    return tuple(finished)


def _remove(workspace: Workspace, name: str, now_ns: int, *, keep_files: bool) -> None:
    mirrors.remove(workspace, name, lambda: now_ns)  # one may have been installed meanwhile
    workspace.metrics.delete_network(name)
    folder = workspace.provider_folder("terraform", name)
    if not keep_files and folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
    captures.forget(workspace, name)
    workspace.state.delete_network(name, now_ns)


def of_record(record: NetworkRecord) -> Network:
    """A network of its record; what measured use said of it is not read."""
    return Network(record, *_SPECS.of(record))


def _json(spec: NetworkSpec) -> str:
    return json.dumps(spec_to_dict(spec), ensure_ascii=False, separators=(",", ":"))


class _Specs:
    """Specs that were read, and their VMs, by their text: reading one takes milliseconds, and a server reads all of them often.
    Of a record that has it as JSON, that is read: it was checked before it was kept.

    Those used last, within bounds. Threads may share it; two that ask for the same at once may both read it.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[NetworkSpec, tuple[Vm, ...]]] = OrderedDict()
        self._letters = 0
        self._turn = threading.Lock()

    def of(self, record: NetworkRecord) -> tuple[NetworkSpec, tuple[Vm, ...]]:
        """A network's spec, and the VMs that it stands for. Raises SpecError, which calls it by the network's name."""
        text = record.spec_text
        found = self.known(text)
        if found is not None:
            return found
        if record.spec_json:
            with suppress(ValueError):  # written by another version of this program: its text says it too
                return self.keep(text, NetworkSpec.model_validate(json.loads(record.spec_json)))
        return self.keep(text, parse_spec(text, record.name))

    def known(self, text: str) -> tuple[NetworkSpec, tuple[Vm, ...]] | None:
        """The same where it was read before."""
        with self._turn:
            found = self._known.get(text)
            if found is not None:
                self._known.move_to_end(text)
            return found

    def keep(self, text: str, spec: NetworkSpec) -> tuple[NetworkSpec, tuple[Vm, ...]]:
        """Notes a spec that was read."""
        found = spec, expand_vms(spec)
        with self._turn:
            if text not in self._known:
                self._letters += len(text)
            self._known[text] = found
            while self._letters > KEPT_SPEC_LETTERS and len(self._known) > 1:
                gone, _ = self._known.popitem(last=False)
                self._letters -= len(gone)
        return found


_SPECS = _Specs()
