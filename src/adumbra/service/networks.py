"""Networks: checking, creating, updating and deleting them. Creating a network creates its shadow, in the same act."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adumbra.profile.catalog import load_catalog
from adumbra.schema.calibration import Calibration
from adumbra.schema.errors import ConflictError, InputError, MirrorError, SpecError
from adumbra.schema.spec import NetworkSpec, Vm, expand_vms, parse_spec
from adumbra.schema.state import NetworkRecord, NetworkState
from adumbra.schema.yamllines import Location
from adumbra.service import captures, mirrors
from adumbra.service.workspace import Workspace

MAX_SPEC_BYTES = 16 * 1024 * 1024


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
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise InputError(f"{path} is too large to be a spec", "a spec is a few pages of YAML or JSON")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})", "give the path of a spec in YAML or JSON") from None
    except UnicodeDecodeError:
        raise SpecError([f"{path}:1: this is not text in UTF-8; write the spec as YAML or JSON"]) from None


def check(text: str, file: str) -> NetworkSpec:
    """Is this spec right, its instance types known? Raises SpecError with one line a problem."""
    return parse_spec(text, file, _unknown_types)


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
    record = workspace.state.create_network(spec.name, text, now_ns)
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
    return of_record(workspace.state.update_network(spec.name, text, now_ns, was))


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


def finish_deletions(workspace: Workspace, now_ns: int) -> tuple[str, ...]:
    """Ends the deletions that were interrupted; gives the names of the networks. One whose mirrors can't be removed waits."""
    finished = []
    for name in (r.name for r in workspace.state.networks() if r.state is NetworkState.DELETING):
        try:
            _remove(workspace, name, now_ns, keep_files=True)
        except MirrorError:
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
    spec = parse_spec(record.spec_text, record.name)
    return Network(record, spec, expand_vms(spec))
