"""Writes the sizes of a back-test as Parquet, for anyone to score: a row a VM, origin, resource and rule. Decides nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from adumbra.schema.backtests import Allocations, MeasuredUse, Schedule
from adumbra.schema.errors import AdumbraError, InputError
from adumbra.service.schedules import times_ns
from adumbra.store.files import sync_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS_AT_ONCE = 2_000_000
_TABLES = """
CREATE TABLE vms (vm INTEGER, name VARCHAR);
CREATE TABLE given (given SMALLINT, resource VARCHAR, rule VARCHAR, dial DOUBLE, risk VARCHAR);
CREATE TABLE sizes (given SMALLINT, vm INTEGER, at_us BIGINT, allocated DOUBLE);
"""
_ROWS = """
COPY (
  SELECT name AS vm, make_timestamp(at_us) AS origin, resource, rule, allocated, dial, risk
  FROM sizes JOIN given USING (given) JOIN vms USING (vm)
) TO $beside (FORMAT parquet, COMPRESSION zstd)
"""


class AllocationFile:
    """A Parquet file that is there whole when the block ends, or not at all. Rows in no promised order.

    Columns: vm, origin (UTC, without a zone, as the times of usage files may be), resource, rule, allocated (in the resource's
    unit; null where the rule gave no size), dial (null: the rule has none), risk ("per-vm" or "pooled").
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._given = 0
        self._numbers: dict[str, int] = {}
        self._connection: DuckDBPyConnection | None = None

    def __enter__(self) -> AllocationFile:
        import duckdb

        if self.path.is_dir() or not self.path.parent.is_dir():
            raise InputError(f"{self.path} can't be written", "give a file in a folder that is there")
        self._connection = duckdb.connect(config={"threads": 2, "memory_limit": "2GB", "temp_directory": ""})
        self._connection.execute(_TABLES)
        return self

    def add(self, use: MeasuredUse, schedule: Schedule, given: Sequence[Allocations]) -> None:
        """The sizes that were given for one resource. Raises ValueError where they aren't one a VM and origin."""
        vms = self._vms(use.panel.vms)
        at_us = np.array(times_ns(use.panel, schedule), dtype=np.int64) // 1_000
        size = max(1, _ROWS_AT_ONCE // max(len(vms), 1))
        for each in given:
            if each.amounts.shape != (len(at_us), len(vms)):
                raise ValueError(
                    f"sizes of shape {each.amounts.shape} are not those of {len(at_us)} origins and {len(vms)} VMs"
                )
            self._given += 1
            risk = each.risk.value if each.risk else None
            self._open.execute(
                "INSERT INTO given VALUES (?, ?, ?, ?, ?)", [self._given, use.panel.resource, each.rule, each.dial, risk]
            )
            for first in range(0, len(at_us), size):
                amounts = each.amounts[first : first + size]
                part = {
                    "vm": np.tile(vms, len(amounts)),
                    "at_us": np.repeat(at_us[first : first + size], len(vms)),
                    "allocated": np.ascontiguousarray(amounts).ravel(),
                }
                self._open.register("part", part)
                self._open.execute("INSERT INTO sizes SELECT ?::SMALLINT, vm, at_us, allocated FROM part", [self._given])
                self._open.unregister("part")
                self.rows += amounts.size

    @property
    def _open(self) -> DuckDBPyConnection:
        assert self._connection is not None, "used within its block"
        return self._connection

    def _vms(self, names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The number of each VM; resources may have other VMs."""
        new = [name for name in names if name not in self._numbers]
        if new:
            first = len(self._numbers)
            self._numbers.update((name, first + i) for i, name in enumerate(new))
            part = {"vm": np.arange(first, first + len(new), dtype=np.int32), "name": np.array(new, dtype=object)}
            self._open.register("part", part)
            self._open.execute("INSERT INTO vms SELECT vm, name FROM part")
            self._open.unregister("part")
        return np.array([self._numbers[name] for name in names], dtype=np.int32)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.closing(self._open):
            if kind is None:
                self._put_in_place()

    def _put_in_place(self) -> None:
        import duckdb

        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            self._open.execute(_ROWS, {"beside": str(beside)})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path)
        except duckdb.Error as error:
            reason = (str(error).strip().splitlines() or ["unknown"])[0][:200]
            raise AdumbraError(f"writing {self.path} failed ({reason})", "see to the disk, and run it again") from None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        sync_folder(self.path.parent)
