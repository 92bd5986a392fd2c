"""The recurrent network: what it forecasts, what it can't see, that it ends the same however often it is broken off."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adumbra.forecast import registry
from adumbra.forecast.models import gru
from adumbra.forecast.models.gru import Gru
from adumbra.forecast.models.gru_batches import Budget, Sizes
from adumbra.forecast.models.gru_features import GRU_LEVELS
from adumbra.forecast.models.protocol import LEVELS, Horizon
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Panel

pytestmark = pytest.mark.skipif(bool(gru.missing()), reason="needs the extra [rnn]: pip install 'adumbra[rnn]'")

NAN = float("nan")
DAYS, PER_DAY = 6, 24
TINY = Budget(steps=60, per_epoch=20, patience=9, batch=Sizes(8, 6, 4), held_batches=2, hidden=8, width=16)


def panel(values: np.ndarray, step_s: float = 3600.0) -> Panel:
    return Panel("cpu_cores", tuple(f"vm{i}" for i in range(len(values))), 1_700_000_000_000_000_000, step_s, values)


def daily(vms: int, days: int = DAYS, seed: int = 5) -> np.ndarray:
    """A load with a daily wave, each VM of its own size, some of it by chance."""
    wave = 1.2 + np.sin(2 * np.pi * np.arange(days * PER_DAY) / PER_DAY)
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 1.0, (vms, 1)) * wave * (0.9 + 0.2 * rng.random((vms, days * PER_DAY)))


@pytest.fixture(scope="module")
def trained():
    """One small network and the epochs that it told of; compiling takes most of the time."""
    epochs = []
    model = Gru(48, {"vm0": 8.0}, TINY, told=epochs.append)
    return model.fit(panel(daily(4)), np.random.default_rng(1)), epochs


def test_progress_tells_each_epoch_with_both_losses_and_they_fall(trained):
    epochs = trained[1]
    assert [epoch.step for epoch in epochs] == [20, 40, 60]
    assert all(epoch.steps == 60 and np.isfinite([epoch.trained, epoch.held_out]).all() for epoch in epochs)
    assert epochs[-1].trained < epochs[0].trained


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(trained):
    again = Gru(48, {"vm0": 8.0}, TINY).fit(panel(daily(4)), np.random.default_rng(1))
    np.testing.assert_array_equal(again.parameters, trained[0].parameters)
    other = Gru(48, {"vm0": 8.0}, TINY).fit(panel(daily(4)), np.random.default_rng(2))
    assert (other.parameters != trained[0].parameters).any()


def test_a_daily_wave_is_repeated_on_the_grid_after_the_history(trained):
    history = panel(daily(4))
    got = trained[0].quantiles(history, Horizon(48, 2), (0.1, 0.5, 0.99))
    assert (got.vms, got.step_s, got.levels) == (history.vms, 7200.0, (0.1, 0.5, 0.99))
    assert got.start_ns == history.start_ns + DAYS * PER_DAY * 3_600_000_000_000
    true = daily(4, DAYS + 2)[:, -48::2]
    for vm in range(4):
        assert np.corrcoef(got.values[vm, :, 1], true[vm])[0, 1] > 0.9


def test_it_goes_through_json_and_comes_back_the_same(trained):
    fitted, history = trained[0], panel(daily(4))
    again = registry.restore(json.loads(json.dumps(fitted.to_dict())))
    assert (again.name, again.about) == (fitted.name, fitted.about)
    ahead = Horizon(48)
    np.testing.assert_array_equal(
        again.quantiles(history, ahead, LEVELS).values, fitted.quantiles(history, ahead, LEVELS).values
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("parameters", "AAAA"), ("parameters", "!"), ("levels", [0.5]), ("grid", {}), ("hidden", 9), ("parameters", "AADAfw==")],
)
def test_what_is_no_stored_network_is_refused(trained, field: str, value: object):
    with pytest.raises((KeyError, TypeError, ValueError)):
        registry.restore({**trained[0].to_dict(), field: value})


def spiked() -> np.ndarray:
    values = np.full((2, DAYS * PER_DAY), 0.2)
    values[0, 100] = 1e6
    return values


def half_gone() -> np.ndarray:
    values = daily(3)
    values[np.random.default_rng(1).random(values.shape) < 0.5] = NAN
    return values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(half_gone(), id="half of it gaps"),
        pytest.param(np.zeros((2, DAYS * PER_DAY)), id="all zero"),
        pytest.param(np.full((2, DAYS * PER_DAY), 3.0), id="constant"),
        pytest.param(spiked(), id="one spike"),
        pytest.param(daily(1), id="one VM"),
        pytest.param(daily(3)[:, :5], id="five hours only"),
        pytest.param(np.full((2, 1), 0.4), id="one value"),
        pytest.param(1e9 * daily(2), id="huge"),
        pytest.param(1e-9 * daily(2), id="tiny"),
    ],
)
def test_whatever_the_recent_past_forecasts_are_finite_monotone_and_not_negative(trained, values: np.ndarray):
    got = trained[0].quantiles(panel(values), Horizon.thinned(1000, 40), LEVELS).values
    assert np.isfinite(got).all()
    assert (np.diff(got, axis=-1) >= 0).all()
    assert (got >= 0).all()
    amounts = np.quantile(got, [0.0, 0.3, 0.9, 1.0], axis=(1, 2)).T
    short = trained[0].shortfall(panel(values), Horizon.thinned(1000, 40), amounts)
    assert ((short >= 0) & (short <= 1)).all()
    assert (np.diff(short, axis=1) <= 1e-12).all()


def test_a_vm_without_a_value_has_no_forecast_one_with_an_old_value_has_and_neither_harms_another(trained):
    values = daily(3, 40)
    alone = trained[0].quantiles(panel(values), Horizon(10), LEVELS).values
    values[1] = NAN
    values[2, 24 * 10 :] = NAN  # last seen a month ago
    got = trained[0].quantiles(panel(values), Horizon(10), LEVELS).values
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[2, 4], np.quantile(values[2, : 24 * 10], LEVELS))
    np.testing.assert_allclose(got[0], alone[0], rtol=1e-5)


def test_more_vms_than_a_block_are_each_forecast_as_on_their_own(trained):
    values = np.tile(daily(3), (100, 1))
    got = trained[0].quantiles(panel(values), Horizon(4), LEVELS).values
    few = trained[0].quantiles(panel(values[:6]), Horizon(4), LEVELS).values
    np.testing.assert_allclose(got[:3], few[:3], rtol=1e-4)
    np.testing.assert_allclose(got[3:], np.tile(few[3:], (99, 1, 1)), rtol=1e-4)  # the first one's declared size is known


def test_what_lies_far_back_or_is_not_handed_over_changes_nothing(trained):
    values = daily(2, 40)
    changed = values.copy()
    changed[:, : 40 * 24 - trained[0].grid.reach] = 1e5
    for given in (values, changed):
        np.testing.assert_array_equal(
            trained[0].quantiles(panel(given), Horizon(30), LEVELS).values,
            trained[0].quantiles(panel(values), Horizon(30), LEVELS).values,
        )


@pytest.mark.parametrize(
    ("values", "step_s"),
    [(daily(2, 1), 3600.0), (daily(3), 1.0), (np.full((3, 200), NAN), 3600.0), (daily(2, 2)[:, :48], 3600.0)],
)
def test_too_little_says_how_much_it_takes(values: np.ndarray, step_s: float):
    with pytest.raises(TooLittleDataError, match="observe for at least 2"):
        Gru(10, budget=TINY).fit(panel(values, step_s), np.random.default_rng(0))


def test_without_the_extra_it_says_what_to_install(trained, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(gru, "find_spec", lambda name: None if name == "equinox" else real(name))
    for act in (
        lambda: Gru(10, budget=TINY).fit(panel(daily(4)), np.random.default_rng(0)),
        lambda: trained[0].quantiles(panel(daily(4)), Horizon(2), LEVELS),
    ):
        with pytest.raises(InputError, match=r"needs equinox.*pip install 'adumbra\[rnn\]'"):
            act()


def test_neither_the_package_nor_the_registry_loads_jax():
    code = (
        "import sys, numpy as np; from adumbra.forecast import demand, registry; from adumbra.schema.records import Panel;"
        "registry.why_not('gru', Panel('cpu_cores', ('a',), 0, 300.0, np.ones((1, 9)))); registry.forecaster('gru', 9);"
        "sys.exit(any(name.split('.')[0] in ('jax', 'equinox', 'optax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("vms", "steps", "tried"), [(25, 2_016, True), (19, 9_000, False), (100, 288, False), (20, 2_016, False)]
)
def test_it_is_tried_only_where_there_is_enough_to_be_worth_its_minutes(vms: int, steps: int, tried: bool):
    said = registry.why_not("gru", panel(np.ones((vms, steps)), 300.0))
    assert (said == "") is tried
    assert tried or "wasn't tried: it takes 7 d of 20 VMs" in said


INTERRUPTED = """
import sys, numpy as np
from pathlib import Path
from tests.forecast.test_gru import TINY, daily, panel
from adumbra.forecast.models.gru import Gru
print("began", flush=True)
Gru(48, {"vm0": 8.0}, TINY, Path(sys.argv[1]), lambda epoch: (print(epoch.step, flush=True), sys.stdin.readline())).fit(
    panel(daily(4)), np.random.default_rng(1))
"""


def test_killed_in_the_middle_it_goes_on_from_its_checkpoint_and_ends_the_same(trained, tmp_path: Path):
    path = tmp_path / "training.npz"
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
    ) as process:
        assert [process.stdout.readline().strip() for _ in range(2)] == ["began", "20"]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    epochs = []
    resumed = Gru(48, {"vm0": 8.0}, TINY, path, epochs.append).fit(panel(daily(4)), np.random.default_rng(1))
    assert [epoch.step for epoch in epochs] == [40, 60]
    np.testing.assert_array_equal(resumed.parameters, trained[0].parameters)
    epochs.clear()
    done = Gru(48, {"vm0": 8.0}, TINY, path, epochs.append).fit(panel(daily(4)), np.random.default_rng(1))
    assert epochs == []
    np.testing.assert_array_equal(done.parameters, trained[0].parameters)


def test_levels_hold_all_that_is_scored():
    assert set(LEVELS) < set(GRU_LEVELS)
