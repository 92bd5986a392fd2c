"""Reports of back-tests that a workspace keeps: those that were written into its folder, and those made of a file that came."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adumbra.schema.errors import ConflictError, InputError, NotFoundError
from adumbra.service.observations import Progress
from adumbra.service.workspace import Workspace

FOLDER = "backtests"
"""Of the workspace's: `adumbra backtest USAGE --out FOLDER_OF_WORKSPACE/backtests/NAME` puts a report there."""
MAX_SHOWN, MAX_KEPT = 200, 50
MAX_REPORT_BYTES = 64 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Kept:
    """A report that is kept. made_ns: when its page was written."""

    name: str
    made_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Measured use in a file, and how much of it comes before the first size is set."""

    file: Path
    lead_in_s: float


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule's sizes of a resource: how much they allocate, in % of what was provisioned, and how often they are short."""

    resource: str
    rule: str
    dial: float | None
    risk: str | None
    allocated_percent: float | None
    short_percent: float | None


def listing(workspace: Workspace) -> tuple[Kept, ...]:
    """The reports, newest first."""
    folder = workspace.home / FOLDER
    found = []
    for path in folder.glob("*/report.html") if folder.is_dir() else ():
        if _NAME.fullmatch(path.parent.name) and not path.is_symlink():
            told = path.stat()
            found.append(Kept(path.parent.name, told.st_mtime_ns, told.st_size))
    return tuple(sorted(found, key=lambda each: -each.made_ns)[:MAX_SHOWN])


def page_of(workspace: Workspace, name: str) -> Path:
    """The file of a report's page. Raises NotFoundError."""
    return _file(workspace, name, "report.html")


def rules_of(workspace: Workspace, report: str) -> tuple[Rule, ...]:
    """What a report says of each rule, by resource. Raises NotFoundError."""
    path = _file(workspace, report, "report.json")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return tuple(_rule(str(name), each) for name, one in told["resources"].items() for each in one["rules"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotFoundError(f"the figures of {report} can't be read", "make the report again") from None


def _rule(resource: str, each: dict[str, Any]) -> Rule:
    return Rule(
        resource, str(each["rule"]), each.get("dial"), each.get("risk"), each.get("allocated_percent"),
        each.get("short_percent"),
    )  # fmt: skip


def _file(workspace: Workspace, name: str, which: str) -> Path:
    path = workspace.home / FOLDER / name / which
    if not _NAME.fullmatch(name) or not path.is_file() or path.is_symlink() or path.stat().st_size > MAX_REPORT_BYTES:
        raise NotFoundError(f"there is no report {name[:80]!r}", "`adumbra backtest USAGE --out FOLDER` makes one")
    return path


def make(workspace: Workspace, name: str, usage: Usage, now: Callable[[], int], progress: Progress = lambda *_: None) -> Kept:
    """Makes a report of measured use in a file, sizes set each day, and keeps it.

    Raises InputError for a name that is none or a file that can't be used, ConflictError where there is one of that name, or
    there are too many, TooLittleDataError.
    """
    from adumbra.service.backtests import BacktestRequest, backtest
    from adumbra.service.prices import prices_from
    from adumbra.service.report.files import checked_folder, write_report
    from adumbra.service.schedules import Periods
    from adumbra.service.usages import read_usages

    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} is no name for a report", "write up to 80 letters, digits, and . _ -")
    folder = workspace.home / FOLDER / name
    if folder.exists():
        raise ConflictError(f"there is a report {name} already", "choose another name")
    if len(listing(workspace)) >= MAX_KEPT:
        raise ConflictError(f"{MAX_KEPT} reports are kept already", f"remove some of {folder.parent}")
    usages = read_usages(usage.file, progress=lambda share, doing: progress((share or 0) * 0.1, doing))
    request = BacktestRequest(periods=Periods(lead_in_s=usage.lead_in_s), prices=prices_from(None))
    report = backtest(usages, request, lambda share, doing: progress(0.1 + 0.85 * (share or 0), doing))
    checked_folder(folder)
    try:
        write_report(report, folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"the report can't be kept ({error.strerror})", "check the server's disk") from None
    message = f"Made the back-test report {name}."
    workspace.state.add_event(None, "backtest.made", message, {"name": name, "vms": report.vms}, now())
    return next(each for each in listing(workspace) if each.name == name)
