"""Whether a new training takes the place of the one that serves: both on time that neither learned from, and what is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adumbra.forecast import registry
from adumbra.forecast.gate import TOLERANCE, Judgement, Serving, judge
from adumbra.forecast.training import Training, train
from adumbra.schema.records import NANOSECONDS, Panel

START_NS, STEP_S = 1_700_000_000 * NANOSECONDS, 60.0
LEARNED_STEPS, STEPS = 300, 600


def panel(values: np.ndarray, resource: str = "cpu_cores") -> Panel:
    return Panel(resource, tuple(f"vm{i}" for i in range(len(values))), START_NS, STEP_S, values)


def quiet(_share: float, _what: str) -> None:
    """Progress that nobody watches."""


def usual(steps: int = STEPS, seed: int = 4) -> np.ndarray:
    """Use of six VMs with a season of 30 steps."""
    rng = np.random.default_rng(seed)
    season = 2 + np.sin(np.arange(steps) * 2 * np.pi / 30)
    return np.asarray(season * rng.uniform(0.5, 3.0, (6, 1)) * rng.gamma(30.0, 1 / 30, (6, steps)))


def both(values: np.ndarray) -> tuple[Training, Serving, dict[str, Panel]]:
    """The new version, of all that is there; the old one, of the first LEARNED_STEPS; what the new one learned from."""
    old = train({"cpu_cores": panel(values[:, :LEARNED_STEPS])}, 1, quiet)
    whole = {"cpu_cores": panel(values)}
    return train(whole, 1, quiet), Serving(3, old, START_NS + round(LEARNED_STEPS * STEP_S * NANOSECONDS)), whole


@pytest.fixture(scope="module")
def steady() -> tuple[Training, Serving, dict[str, Panel]]:
    return both(usual())


def test_the_first_serves(steady: tuple[Training, Serving, dict[str, Panel]]) -> None:
    new, _, whole = steady
    assert judge(new, whole, None) == Judgement(True, "it is the first")


def test_one_that_is_as_good_serves_and_the_figures_are_told(steady: tuple[Training, Serving, dict[str, Panel]]) -> None:
    judged = judge(*steady[::2], steady[1])
    assert (judged.serves, judged.against) == (True, 3)
    (compared,) = judged.compared
    assert judged.ratio == pytest.approx(compared.new_loss / compared.old_loss, rel=1e-3)
    assert (compared.resource, compared.origins, compared.horizon_s, compared.vms) == ("cpu_cores", 3, 3600.0, 6)
    assert f"cpu_cores {compared.new_loss:.3g} beside {compared.old_loss:.3g}" in judged.why
    assert "since version 3 learned, 3 times 1 h" in judged.why
    assert judge(*steady[::2], steady[1]) == judged


def test_one_that_learned_of_a_change_serves() -> None:
    values = usual()
    restless = slice(LEARNED_STEPS + 20, None)
    values[:, restless] *= np.random.default_rng(1).gamma(0.5, 2.0, values[:, restless].shape)
    judged = judge(*(given := both(values))[::2], given[1])
    assert judged.serves
    assert judged.ratio is not None
    assert judged.ratio < 0.9
    assert "less than version 3" in judged.why


def test_one_that_learned_from_a_disturbance_that_has_passed_does_not() -> None:
    values = usual()
    disturbed = slice(LEARNED_STEPS + 10, LEARNED_STEPS + 110)
    values[:, disturbed] *= np.random.default_rng(6).lognormal(2.0, 1.5, (6, 100))
    judged = judge(*(given := both(values))[::2], given[1])
    assert judged.ratio is not None
    assert judged.ratio > 1 + TOLERANCE
    assert not judged.serves
    assert "more than version 3, which is more than the 5 % that are left to chance" in judged.why


def test_neither_sees_what_comes_after_an_origin(
    steady: tuple[Training, Serving, dict[str, Panel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to the models ends where each origin lies, and all origins lie after what the old one learned from."""
    learned, asked = [], []
    make = registry.forecaster

    class Watched:
        def __init__(self, model: object) -> None:
            self.model = model

        def fit(self, history: Panel, rng: np.random.Generator) -> object:
            learned.append(history.values.shape[1])
            return self.model.fit(history, rng)

    class Asked:
        def __init__(self, fitted: object) -> None:
            self.fitted = fitted

        def __getattr__(self, name: str) -> object:
            return getattr(self.fitted, name)

        def quantiles(self, recent: Panel, *how: object) -> object:
            asked.append(recent.values.shape[1])
            return self.fitted.quantiles(recent, *how)

        def informed(self, recent: Panel, horizon: object, levels: object, _covariates: object) -> object:
            return self.quantiles(recent, horizon, levels)

    monkeypatch.setattr(registry, "forecaster", lambda *which: Watched(make(*which)))
    new, serving, whole = steady
    assert serving.training is not None
    (old,) = serving.training.resources
    watched = replace(serving.training, resources=(replace(old, fitted=Asked(old.fitted)),))
    judge(new, whole, replace(serving, training=watched))
    assert asked == [420, 480, 540]
    assert {420, 540} <= set(learned)
    assert max(learned[: learned.index(540)]) == 420
    assert max(learned) == 540


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda serving: replace(serving, training=None), "that one can't be read any more"),
        (lambda serving: replace(serving, end_ns=None), "until when that one learned was not kept"),
        (
            lambda serving: replace(serving, end_ns=START_NS + round(595 * STEP_S * NANOSECONDS)),
            "too little was measured since that one learned",
        ),
        (
            lambda serving: replace(
                serving, training=replace(serving.training, resources=(replace(serving.training.resources[0], step_s=30.0),))
            ),
            "they work in steps of 30 s and of 1 min",
        ),
        (
            lambda serving: replace(
                serving,
                training=replace(serving.training, resources=(replace(serving.training.resources[0], resource="storage_gb"),)),
            ),
            "that one knows nothing of cpu_cores",
        ),
    ],
    ids=["unreadable", "until when", "nothing new", "other steps", "other resources"],
)
def test_where_nothing_can_be_compared_the_newer_serves_and_says_why(
    steady: tuple[Training, Serving, dict[str, Panel]], change, told: str
) -> None:
    new, serving, whole = steady
    judged = judge(new, whole, change(serving))
    assert (judged.serves, judged.against, judged.ratio, judged.compared) == (True, 3, None, ())
    assert judged.why == f"it could not be compared with version 3, so the newer one serves: {told}"


@pytest.mark.parametrize("values", [np.zeros((2, STEPS)), np.full((1, STEPS), 3.0)], ids=["zeros", "constant"])
def test_what_never_changes_is_no_reason_to_stay_behind(values: np.ndarray) -> None:
    judged = judge(*(given := both(values))[::2], given[1])
    assert judged.serves
    assert judged.ratio == pytest.approx(1.0)
    assert "as much as version 3" in judged.why


def test_gaps_are_held_against_nobody() -> None:
    values = usual()
    values[0] = np.nan
    values[1, 400:] = np.nan
    values[2, ::3] = np.nan
    judged = judge(*(given := both(values))[::2], given[1])
    assert judged.ratio is not None
    assert judged.compared[0].vms == 4
