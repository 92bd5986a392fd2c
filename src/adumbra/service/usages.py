"""Measured use of many machines from anywhere, mended and on one grid: what back-tests and trainings take.

Knows no network. Every defect is mended or refused, and said in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from adumbra.profile.catalog import load_catalog
from adumbra.schema.backtests import MeasuredUse, Usages
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats, Panel
from adumbra.schema.sizing import BYTES_PER_GB, RESOURCES
from adumbra.service import learning, networks
from adumbra.service.usage_cleaning import (
    VmFacts,
    bounds,
    looks_like_totals,
    one_row_a_time,
    provision_of,
    rates_of_totals,
    usual_step_s,
    within_machine,
)  # fmt: skip
from adumbra.service.usage_cloudwatch import Series, add_series, is_export, series_of_csv, series_of_json
from adumbra.service.usage_columns import COLUMNS, TOTALS, most_of
from adumbra.service.usage_csv import layout_of, readable
from adumbra.service.usage_exporters import Wanted, add_from_server, server_name
from adumbra.service.usage_findings import Findings
from adumbra.service.usage_grid import (
    DEFAULT_STEP_S,
    Grid,
    check_size,
    checked_step_s,
    edges,
    fitting_step_s,
    gathered,
    steps_of,
)  # fmt: skip
from adumbra.service.usage_prometheus import is_url
from adumbra.service.usage_table import Rows, UsageTable, is_parquet
from adumbra.service.workspace import Workspace, machine_of

Progress = Callable[[float | None, str], None]
ALWAYS = (0, 2**63 - 1)
_SAMPLED_VMS = 25


@dataclass(frozen=True, slots=True)
class Made:
    """How a resource's use is made of columns: the largest of them times `factor`, each a step's mean or max of samples."""

    columns: tuple[str, ...]
    factor: float
    how: str
    provisioned: str | None


MADE: Mapping[str, Made] = {
    "cpu_cores": Made(("cpu_cores",), 1.0, "mean", "cpu_cores_provisioned"),
    "memory_gb": Made(("memory_bytes",), 1 / BYTES_PER_GB, "max", "memory_bytes_provisioned"),
    "bandwidth_mbps": Made(("rx_bytes_per_s", "tx_bytes_per_s"), 8e-6, "mean", None),
    "storage_gb": Made(("storage_bytes",), 1 / BYTES_PER_GB, "max", "storage_bytes_provisioned"),
}
"""CPU and bandwidth throttle, so that a step's mean is what was used; memory and storage kill, so that its largest counts."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a user says of a source that it doesn't say itself.

    machines: VM -> its cores as a number, or a type of the catalogue; "*" for every other VM: what it has, where the source
    doesn't tell. between: the time from which, and before which, rows count, in ns since the epoch; a server must be told it.
    exporter: which kind of machines of a Prometheus server: "libvirt" or "node"; None: libvirt's, if there are such.
    """

    machines: Mapping[str, str] = field(default_factory=dict)
    between: tuple[int, int] = ALWAYS
    exporter: str | None = None

    def provisioned(self, vm: str, column: str) -> float | None:
        """What a VM has of a column (cpu_cores_provisioned, memory_bytes_provisioned), as the user said; None: not said.

        Raises InputError for what is neither a number of cores nor a type of the catalogue.
        """
        text = self.machines.get(vm, self.machines.get("*"))
        if text is None:
            return None
        try:
            cores = float(text)
        except ValueError:
            kind = load_catalog().type(text)
            return {"cpu_cores_provisioned": kind.cpu_cores, "memory_bytes_provisioned": kind.memory_gb * BYTES_PER_GB}.get(
                column
            )
        if not 0 < cores <= most_of("cpu_cores"):
            raise InputError(f"{vm} can't have {text} cores", "give a number of cores, or a type such as m7i.large")
        return cores if column == "cpu_cores_provisioned" else None


def read_usages(
    source: str | Path | Sequence[str | Path],
    step_s: float | None = None,
    resources: Sequence[str] | None = None,
    told: Told | None = None,
    progress: Progress = lambda *_: None,
) -> Usages:
    """The measured use of all VMs in a file, several files or a folder (CSV, plain, gzip or zstd; Parquet; exports of
    CloudWatch's), or of a Prometheus server by its URL.

    step_s: None for 5 minutes, or what the samples' usual distance needs. resources: None for all that the source tells of; of
    one that is asked for and not told, InputError. Panels have the same VMs, sorted by name, and the same steps; the first step
    begins at a whole number of steps since the epoch. Raises InputError with the place, what is wrong, and how to mend it.
    """
    told = told or Told()
    wanted = _wanted(resources)
    step_s = None if step_s is None else checked_step_s(step_s)
    kept = _columns_of(COLUMNS, wanted or RESOURCES)
    if isinstance(source, str) and is_url(source):
        name = server_name(source)
        with UsageTable(name, kept=kept) as table:
            asked = Wanted(told.between, step_s, told.exporter)
            notes = tuple(add_from_server(table, source, asked, progress))
            return _noted(notes, _gridded(table, step_s or DEFAULT_STEP_S, wanted, told, progress))
    paths, name, left_out = _files(source)
    with UsageTable(name, paths, kept=kept) as table:
        exports: list[Series] = []
        for number, path in enumerate(paths):
            progress(0.7 * number / len(paths), f"reading {path.name}")
            exports += _added(table, path)
        notes = tuple(add_series(table, exports, told.provisioned)) if exports else ()
        return _noted((*left_out, *notes), _gridded(table, step_s, wanted, told, progress))


def _added(table: UsageTable, path: Path) -> list[Series]:
    """Puts a file into the table; or gives the series of one that is an export of CloudWatch's."""
    with readable(path):
        if is_parquet(path):
            table.add_parquet(path)
        elif path.name.lower().endswith(".json"):
            return list(series_of_json(path))
        elif is_export((layout := layout_of(path)).names):
            return [series_of_csv(layout)]
        else:
            table.add_csv(layout)
    return []


def usages_of(workspace: Workspace, network: str, step_s: float | None = None) -> Usages:
    """The stored use of a network's VMs, in steps of 5 minutes unless told; provisioned: what its spec declares of each, or the
    machine that it is emulated with. Raises TooLittleDataError where nothing is stored.
    """
    machines = {vm.name: machine_of(vm) for vm in networks.get(workspace, network).vms}
    step_s = checked_step_s(step_s or DEFAULT_STEP_S)
    told = {
        name: MeasuredUse(panel, np.array([float(getattr(machines[vm], name)) for vm in panel.vms]))
        for name, panel in learning.panels(workspace, network, step_s).items()
    }
    return Usages(f"network:{network}", told, ("use as it is stored: emulated from traffic, unless the network is live",))


def _wanted(resources: Sequence[str] | None) -> tuple[str, ...] | None:
    for name in resources or ():
        if name not in MADE:
            raise InputError(f"there is no resource {name[:40]!r}", f"choose of {', '.join(RESOURCES)}")
    return None if resources is None else tuple(name for name in RESOURCES if name in resources)


_ENDINGS = (".csv", ".csv.gz", ".csv.zst", ".parquet", ".json")
MAX_FILES = 10_000


def _files(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], str, tuple[str, ...]]:
    """The files of a source, what it is called, and what was left out of it."""
    if not isinstance(source, str | Path):
        if not source:
            raise InputError("no file of measured use was given", "give one or several")
        parts = [_files(each) for each in source]
        found = [path for paths, _, _ in parts for path in paths]
        name = parts[0][1] if len(parts) == 1 else f"{parts[0][1]} and {len(parts) - 1} more"
        return found, name, tuple(note for _, _, notes in parts for note in notes)
    path = Path(source)
    if not path.is_dir():
        return [path], str(path), ()
    every = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    found = [each for each in every if each.name.lower().endswith(_ENDINGS)]
    if not found:
        raise InputError(f"{path} has no file of measured use", f"give files that end in {', '.join(_ENDINGS)}")
    if len(found) > MAX_FILES:
        raise InputError(f"{path} has {len(found):,} files", f"give no more than {MAX_FILES:,}")
    others = len(every) - len(found)
    return found, str(path), (f"{others} other files of the folder were not read",) if others else ()


def _noted(notes: tuple[str, ...], usages: Usages) -> Usages:
    return replace(usages, notes=notes + usages.notes)


def _gridded(
    table: UsageTable, step_s: float | None, wanted: tuple[str, ...] | None, told: Told, progress: Progress
) -> Usages:  # fmt: skip
    if not table.found.rows:
        raise InputError(f"{table.source} has no rows", "write one row a VM and time")
    counts = table.names()
    span = table.span_ns(told.between)
    if span is None:
        raise InputError(f"{table.source} has no row of a VM in that time", "ask for a time that it has")
    resources = _told_of(table, wanted)
    step = step_s or fitting_step_s(_usual_steps(table, counts))
    grid = Grid.over(*span, step)
    check_size(table.source, len(counts), grid)
    filling = _Filling(tuple(counts), resources, grid, told)
    chosen = _columns_of(table.columns, resources)
    done = 0
    for rows in table.batches(counts, chosen, told.between):
        filling.add(rows, done)
        done += len(rows.vms)
        progress(0.7 + 0.3 * done / len(counts), f"{done:,} of {len(counts):,} VMs")
    filling.findings.check(table.source, step_s)
    found = filling.findings.notes(resources)
    return Usages(table.source, filling.measured(table.source), (*table.notes(), *found))


def _told_of(table: UsageTable, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The resources that are asked for, or told of. Raises InputError for one that is asked for and not told of."""
    told = {*table.columns, *(TOTALS[name] for name in table.columns if name in TOTALS)}
    there = tuple(name for name in RESOURCES if told & set(MADE[name].columns))
    missing = [name for name in wanted or () if name not in there]
    if missing or not there:
        name = missing[0] if missing else "any resource"
        need = MADE[name].columns if missing else ("cpu_cores", "memory_bytes")
        raise InputError(f"{table.source} tells nothing of {name}", f"give a column {' or '.join(need)}")
    return wanted or there


def _columns_of(told: Sequence[str], resources: tuple[str, ...]) -> list[str]:
    """The columns that some resources need, of those that are told."""
    needed = {column for name in resources for column in (*MADE[name].columns, MADE[name].provisioned)}
    return [name for name in told if name in needed or TOTALS.get(name) in needed]


def _usual_steps(table: UsageTable, counts: Mapping[str, int]) -> list[float]:
    """The usual distance of two samples of some VMs, spread over all."""
    every = [vm for vm, count in counts.items() if count > 1]
    some = every[:: max(1, len(every) // _SAMPLED_VMS)][: 2 * _SAMPLED_VMS]
    return [usual_step_s(times[np.append(True, np.diff(times) > 0)]) for times in table.times(some)]


class _Filling:
    """Panels as they are filled, some VMs at a time."""

    def __init__(self, vms: tuple[str, ...], resources: tuple[str, ...], grid: Grid, told: Told) -> None:
        self._vms, self._grid, self._told = vms, grid, told
        self._panels = {name: np.full((len(vms), grid.steps), np.nan) for name in resources}
        self._provisioned = {name: np.full(len(vms), np.nan) for name in resources}
        self.findings = Findings(vms, grid)

    def add(self, rows: Rows, first: int) -> None:
        """Rows of the VMs from the first-th on."""
        rows, facts = one_row_a_time(rows)
        rows, resets = rates_of_totals(rows, facts.usual_s)
        self.findings.met(first, facts, resets, looks_like_totals(rows))
        for name, panel in self._panels.items():
            rows = self._machine(rows, name, first)
            self._fill(rows, facts, MADE[name], panel[first : first + len(rows.vms)])

    def _machine(self, rows: Rows, resource: str, first: int) -> Rows:
        """What VMs have of a resource; rows in which what can't be beside that is a gap."""
        made = MADE[resource]
        if made.provisioned is None:
            return rows
        provision = provision_of(rows, made.provisioned)
        has = provision.largest
        for number in np.flatnonzero(np.isnan(has)) if self._told.machines else ():
            has[number] = self._told.provisioned(rows.vms[number], made.provisioned) or np.nan
        self._provisioned[resource][first : first + len(has)] = has * made.factor
        column = made.columns[0]
        if column in rows.columns:
            rows, beyond = within_machine(rows, column, has)
            self.findings.measured(resource, first, provision, beyond)
        return rows

    def _fill(self, rows: Rows, facts: VmFacts, made: Made, panel: Floats) -> None:
        columns = [rows.columns[name] for name in made.columns if name in rows.columns]
        for number, (a, b) in enumerate(zip(*bounds(rows), strict=True)):
            at = steps_of(rows.time_ns[a:b], float(facts.usual_s[number]), self._grid)
            use = [gathered(at, values[a:b], self._grid.steps, made.how) for values in columns]
            panel[number] = np.fmax.reduce(use) * made.factor

    def measured(self, source: str) -> dict[str, MeasuredUse]:
        """Each resource's panel, from the first step in which there is anything to the last. Raises InputError for nothing."""
        first, end = edges(list(self._panels.values()))
        if end == 0:
            raise InputError(f"{source} has no value of use at all", "leave empty only what was not measured")
        start_ns = self._grid.start_ns + first * self._grid.step_ns
        return {
            name: MeasuredUse(Panel(name, self._vms, start_ns, self._grid.step_s, panel[:, first:end]), self._provisioned[name])
            for name, panel in self._panels.items()
        }
