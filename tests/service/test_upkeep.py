"""How long metrics are kept, by the environment, and the upkeep of a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store.conftest import at_ns, make_batch

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service import observations
from adumbra.service.following import Vigil
from adumbra.service.upkeep import maintain, retention_of
from adumbra.service.workspace import Storage, Workspace
from adumbra.settings import load_settings
from adumbra.store.levels import Retention
from adumbra.store.protocol import Upkeep


def test_the_environment_says_how_long_each_level_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retention_of(load_settings()) == Retention()
    monkeypatch.setenv("ADUMBRA_KEEP_RAW", "90m")
    monkeypatch.setenv("ADUMBRA_KEEP_1H", "10y")
    assert retention_of(load_settings()) == Retention(raw_s=5400.0, hour_s=10 * 365 * 86_400.0)
    monkeypatch.setenv("ADUMBRA_KEEP_1M", "1h")
    with pytest.raises(InputError, match="keep each level at least as long as the finer one"):
        retention_of(load_settings())
    monkeypatch.setenv("ADUMBRA_KEEP_1M", "a while")
    with pytest.raises(InputError, match=r"ADUMBRA_KEEP_1M: .*write it like 7d"):
        load_settings()


def test_upkeep_rolls_up_and_forgets_what_is_no_longer_to_be_kept(tmp_path: Path) -> None:
    hour = Retention(3600.0, 3600.0, 3600.0)
    with Workspace(tmp_path, Storage(retention=hour)) as workspace:
        workspace.metrics.write(make_batch([60.0 * n + 20 for n in range(300)], interval_s=20.0))
        done = maintain(workspace, at_ns(1e6))
        assert done.rolled_up == 2 * (299 + 59 + 4)
        assert done.forgotten == 2 * (180 + 180 + 36)
        assert maintain(workspace, at_ns(1e6)) == Upkeep()
        series = workspace.metrics.read(SeriesQuery("shop", ("rx_packets",), ("web-1",), step_s=3600.0))
        assert series.values["rx_packets"].tolist() == [[60.0] * 5]


def test_an_observation_looks_after_what_is_kept_now_and_then_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(observations.upkeep, "maintain", lambda _, now_ns: asked.append(now_ns))
    clock = iter([0, 100, 299, 301, 400, 500])
    vigil = Vigil(observations.ObserveOptions(), lambda: next(clock) * NANOSECONDS, goes_on=True)
    with Workspace(tmp_path) as workspace:
        keeper = observations.StoreKeeper(workspace, lambda: 7)
        for last in (False, False, False, False, True):
            vigil.look_after(keeper, last=last)
    assert asked == [7, 7]
    assert next(clock, None) is None
