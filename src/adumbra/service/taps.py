"""The sources that are observed for networks, as whoever asks for them and their taps tell of them. Observes nothing itself."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adumbra.schema.errors import ConflictError, ForbiddenError, InputError, NotFoundError
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.schema.sources import CaptureSource, ExportFileSource, FlowLogSource, SourceSpec, parse_source
from adumbra.schema.spec import parse_spec, spec_to_dict
from adumbra.service.source_metering import FILES
from adumbra.service.workspace import Workspace
from adumbra.store.shipments import NEWS_S

SILENT_S = 60.0
"""After so long without a word a tap counts as gone: its source is silent, and another tap may have it."""
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A source that is asked for, as its user names it. options: layer, workers."""

    source: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What a tap says of itself. instance: its word for itself; ended: what became of the source, None while it goes on.

    trouble: what is to be known, in words, "" for nothing; accounts: where everything went.
    """

    instance: str
    process: str = ""
    accounts: Mapping[str, Any] | None = None
    trouble: str = ""
    ended: SourceState | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a tap is told in turn: what is to become of its source, and which spec and calibration its shadow is to follow."""

    state: SourceState
    spec_version: int
    calibration_version: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Followed:
    """What a shadow follows on another host: the spec, what measured use said of the VMs, and which versions these are of.

    created_ns: when the network was made: one that is made again has the same versions.
    """

    created_ns: int
    spec_version: int
    calibration_version: int
    spec: Mapping[str, Any]
    calibration: Mapping[str, Any] | None


def followed(workspace: Workspace, name: str) -> Followed:
    """What the shadow of a network is to follow. Raises NotFoundError."""
    record, kept = workspace.state.network(name), workspace.state.calibration(name)
    known = None if kept is None or not kept.calibration["vms"] else kept.calibration
    return Followed(
        record.created_ns, record.version, kept.version if kept else 0, spec_to_dict(parse_spec(record.spec_text, name)), known
    )


def ask_for(workspace: Workspace, name: str, asked: Asked, captures: Path | None, now_ns: int) -> SourceRecord:
    """A source that the server is to observe. Raises InputError for one that isn't known, ForbiddenError for a file that isn't
    in the folder of captures, ConflictError where it is observed.
    """
    source = parse_source(asked.source)
    if isinstance(source, FILES):
        source = _in_folder(source, captures)
    return workspace.state.sources.add(name, str(source), asked.options, now_ns)


def _in_folder(source: CaptureSource | ExportFileSource | FlowLogSource, captures: Path | None) -> SourceSpec:
    """The same file by its whole path. What lies elsewhere isn't looked at, so that nothing is told of it."""
    if captures is None:
        raise ForbiddenError(
            "this server observes no files for others",
            "set ADUMBRA_CAPTURES to the folder that holds them, or tap the file where it lies: `adumbra tap`",
        )
    folder = captures.resolve()
    path = (folder / source.path).resolve()
    if not path.is_relative_to(folder):
        raise ForbiddenError(f"{source.path.name} is not in the server's folder of captures", "put it there, and name it")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{source.path} is no file", "name a file in the server's folder of captures")
    except OSError:
        raise InputError(f"there is no {source.path} in the server's folder of captures", "put it there first") from None
    if isinstance(source, ExportFileSource):
        return ExportFileSource(source.export, path)
    return CaptureSource(path) if isinstance(source, CaptureSource) else FlowLogSource(path)


def register(workspace: Workspace, name: str, asked: Asked, tap: tuple[str, str], now_ns: int) -> SourceRecord:
    """A source that a tap on another host observes; the same again where that tap has it. tap: its instance, and its host.

    Raises ConflictError where another tap of that host has it.
    """
    instance, host = tap
    source = str(parse_source(asked.source))
    if not instance:
        raise InputError("a tap gives its instance", "send a word that no other tap has")
    for each in _remote(workspace, name, source):
        if each.instance == instance:
            return each
    return workspace.state.sources.add(name, source, asked.options, now_ns, place=Place.REMOTE, host=host, instance=instance)


def make_room(workspace: Workspace, name: str, text: str, tap: tuple[str, str], now_ns: int) -> None:
    """Gives up a source of that host whose tap hasn't been heard of for SILENT_S: another comes for it."""
    instance, host = tap
    source = str(parse_source(text))
    for each in _remote(workspace, name, source):
        if each.host == host and each.instance != instance and _silent(each, now_ns):
            message = f"Nothing was heard of {source} on {host}; another tap has it now."
            workspace.state.sources.move(each.id, SourceState.FAILED, now_ns, message)


def _remote(workspace: Workspace, name: str, source: str) -> list[SourceRecord]:
    """The sources of that name that taps on other hosts observe."""
    found = workspace.state.sources.of(name)
    return [each for each in found if each.place is Place.REMOTE and each.source == source and not each.state.over]


def note_silent(workspace: Workspace, now_ns: int, owned: Callable[[str], bool] = lambda _: True) -> tuple[str, ...]:
    """Notes, with an event, each tap on another host that hasn't been heard of for SILENT_S. A sentence for each.

    owned: the networks that are looked after. Such a source is silent until its tap is heard of again.
    """
    told = []
    for each in workspace.state.sources.open(Place.REMOTE):
        if each.state is SourceState.SILENT or not owned(each.network) or not _silent(each, now_ns):
            continue
        message = f"Nothing was heard of {each.source} on {each.host or 'another host'} for {SILENT_S:.0f} s."
        workspace.state.sources.move(each.id, SourceState.SILENT, now_ns, message, seen_ns=each.seen_ns)
        told.append(f"{each.network}: {message}")
    return tuple(told)


def of_network(workspace: Workspace, name: str, number: int) -> SourceRecord:
    """A source of that network. Raises NotFoundError."""
    source = workspace.state.sources.get(number)
    if source.network != name:
        raise NotFoundError(f"{name} has no source {number}", f"list them: GET /v1/networks/{name}/sources")
    return source


def stop(workspace: Workspace, name: str, number: int, now_ns: int) -> SourceRecord:
    """Has a source observed no more: its tap ends when it next asks. One that is over stays as it is."""
    source = of_network(workspace, name, number)
    return workspace.state.sources.move(source.id, SourceState.STOPPED, now_ns, f"{source.source} is observed no more.")


def hear(workspace: Workspace, name: str, number: int, told: Told, now_ns: int) -> Heard:
    """Notes what a tap says of its source. Raises ConflictError where another tap has it."""
    source, sources = of_network(workspace, name, number), workspace.state.sources
    going = not source.state.over
    if source.instance not in {"", told.instance} and not (
        going and source.place is Place.SERVER and (source.state is SourceState.WAITING or _silent(source, now_ns))
    ):
        raise ConflictError(f"{source.source} is observed for {name} by another tap", "end one of them")
    trouble = told.trouble or _overlap(workspace, name, told.instance, now_ns)
    accounts = told.accounts if told.accounts is not None else source.accounts
    if told.ended is not None and going:
        message = f"The tap of {source.source} ended: {told.ended.value}." + (f" {told.trouble}" if told.trouble else "")
        source = sources.move(number, told.ended, now_ns, message, accounts=accounts, trouble=trouble)
    elif going and (source.state is not SourceState.RUNNING or source.instance != told.instance):
        again = " again" if source.state is SourceState.SILENT else ""
        source = sources.move(
            number, SourceState.RUNNING, now_ns, f"{source.source} is observed{again}.", instance=told.instance,
            process=told.process, accounts=accounts, trouble=trouble,
        )  # fmt: skip
    else:
        sources.tell(number, now_ns, accounts, trouble)
    kept = workspace.state.calibration(name)
    return Heard(source.state, workspace.state.network(name).version, kept.version if kept else 0, trouble)


def duplicates(workspace: Workspace, name: str) -> Mapping[str, int]:
    """How many rows of each tap were left out, as another had told of them; by instance."""
    counted: dict[str, int] = {}
    for each in workspace.state.shipments.overlaps(name):
        counted[each.later] = counted.get(each.later, 0) + each.rows
    return counted


def _overlap(workspace: Workspace, name: str, instance: str, now_ns: int) -> str:
    """What is to be said to a tap that another tap's traffic meets, as long as that goes on."""
    for each in workspace.state.shipments.overlaps(name):
        if instance in {each.first, each.later} and now_ns - each.seen_ns < NEWS_S * _NANOSECONDS:
            return each.about
    return ""


def _silent(source: SourceRecord, now_ns: int) -> bool:
    return now_ns - (source.seen_ns or source.created_ns) > SILENT_S * _NANOSECONDS
