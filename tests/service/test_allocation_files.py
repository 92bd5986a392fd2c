"""The file of sizes: every size in it once, under its own name, and whole or not there at all."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from tests.service.usage_samples import VMS, usages

from adumbra.schema.backtests import Allocations, Risk
from adumbra.schema.errors import AdumbraError, InputError
from adumbra.service.allocation_files import AllocationFile
from adumbra.service.schedules import Periods, schedule_of

HOSTILE = ("'; DROP TABLE sizes; --", '<img src=x onerror="alert(1)">', "naïve-ü-漢", *VMS[3:])
USAGES = usages(vms=HOSTILE)
CPU, MEMORY = USAGES.resources["cpu_cores"], USAGES.resources["memory_gb"]
SCHEDULE = schedule_of(CPU.panel, Periods())
SHAPE = (len(SCHEDULE.origins), len(HOSTILE))


def test_every_size_is_in_it_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    peak, ours = rng.random(SHAPE), rng.random(SHAPE)
    ours[2, 3] = np.nan
    file = tmp_path / "sizes.parquet"
    with AllocationFile(file) as writing:
        writing.add(CPU, SCHEDULE, [Allocations("peak", "peak", peak)])
        writing.add(MEMORY, SCHEDULE, [Allocations("adumbra", "Adumbra", ours, 0.01, Risk.POOLED)])
        assert not file.exists()
    assert writing.rows == 2 * peak.size
    assert [each.name for each in tmp_path.iterdir()] == ["sizes.parquet"]
    query = "SELECT vm, epoch(origin), resource, rule, dial, risk, allocated FROM read_parquet(?)"
    rows = duckdb.execute(query, [str(file)]).fetchall()
    found = {tuple(row[:-1]): row[-1] for row in rows}
    want = {}
    for o in range(SHAPE[0]):
        at = (MEMORY.panel.start_ns // 10**9) + (14 + o) * 86_400.0
        for v, vm in enumerate(HOSTILE):
            want[vm, at, "cpu_cores", "peak", None, None] = peak[o, v]
            want[vm, at, "memory_gb", "adumbra", 0.01, "pooled"] = None if np.isnan(ours[o, v]) else ours[o, v]
    assert len(rows) == len(want)
    assert found == want
    kinds = dict(duckdb.execute("SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet(?))", [str(file)]).fetchall())
    assert kinds["origin"] == "TIMESTAMP"


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "sizes.parquet"
    file.write_text("old")
    writing = AllocationFile(file)
    with pytest.raises(ValueError, match="shape"), writing:
        writing.add(CPU, SCHEDULE, [Allocations("peak", "peak", np.ones(SHAPE)), Allocations("bad", "bad", np.ones((2, 3, 4)))])
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_can_not_be_put_in_place(tmp_path: Path) -> None:
    file = tmp_path / "sizes.parquet"
    (tmp_path / "sizes.parquet.new").mkdir()
    with pytest.raises(AdumbraError, match=r"writing .* failed"), AllocationFile(file) as writing:
        writing.add(CPU, SCHEDULE, [Allocations("peak", "peak", np.ones(SHAPE))])
    assert not file.exists()


@pytest.mark.parametrize("place", [".", "absent/sizes.parquet"])
def test_where_no_file_can_be(tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match="can't be written"), AllocationFile(tmp_path / place):
        pass
