"""Records go through JSON and come back as they were; what isn't of their form is refused, with its place."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from adumbra.cli.output import plain
from adumbra.emulate.trial import Tried
from adumbra.forecast.gate import Compared, Judgement
from adumbra.profile.hourly import HourlySizes
from adumbra.schema.calibration import Calibration, Fit, VmCalibration
from adumbra.schema.plain import PlainError, of_plain
from adumbra.schema.plans import Act, Item, Kind, Plan, Step
from adumbra.schema.records import Quantiles
from adumbra.schema.sizing import Confidence, Estimate, Machine, NetworkProfile, Risk, VmProfile
from adumbra.service.activations import Activation
from adumbra.service.calibrations import Calibrated
from adumbra.service.learning import Found
from adumbra.service.whatif import Answer, Answers, Choice

NAMES = st.text("abcdefghij-0123456789", min_size=1, max_size=8)
WORDS = st.text(max_size=12)
ITEMS = st.builds(Item, st.sampled_from(Kind), NAMES, st.dictionaries(NAMES, WORDS, max_size=3))
STEPS = st.builds(Step, st.sampled_from(Act), ITEMS, st.none() | ITEMS, WORDS)
PLANS = st.builds(Plan, NAMES, NAMES, st.lists(STEPS, max_size=3).map(tuple), st.none() | st.floats(0, 9))
FLOATS = st.floats(-9, 9) | st.just(math.nan)
MACHINES = st.builds(Machine, *[st.floats(0, 9)] * 4)
CHOICES = st.builds(
    Choice, st.none() | NAMES, MACHINES, st.none(), st.none(), st.none() | st.floats(0, 9), st.builds(Tried, *[FLOATS] * 10),
    st.lists(WORDS, max_size=2).map(tuple),
)  # fmt: skip
SOME = st.lists(CHOICES, min_size=1, max_size=2).map(tuple)
INTERVALS = st.dictionaries(NAMES, st.tuples(FLOATS, FLOATS, FLOATS), max_size=2)
ANSWER = st.builds(Answer, NAMES, CHOICES, CHOICES, SOME, INTERVALS, st.booleans())
ANSWERS = st.builds(
    Answers, NAMES, st.floats(0.1, 9), st.integers(), st.integers(), FLOATS, st.lists(ANSWER, max_size=2).map(tuple)
)  # fmt: skip
COMPARED = st.builds(Compared, NAMES, NAMES, FLOATS, NAMES, FLOATS, st.integers(1, 9), FLOATS, st.integers(1, 9))
JUDGEMENTS = st.builds(
    Judgement, st.booleans(), WORDS, st.none() | st.integers(1, 9), st.none() | st.floats(0, 9),
    st.lists(COMPARED, max_size=2).map(tuple),
)  # fmt: skip
FOUND = st.builds(
    Found, NAMES, st.integers(1, 99),
    st.fixed_dictionaries({"seed": st.integers(0, 9), "resources": st.lists(st.dictionaries(NAMES, WORDS), max_size=2)}),
    st.none() | JUDGEMENTS, st.lists(st.integers(1, 9), max_size=3).map(tuple),
)  # fmt: skip
ESTIMATES = st.dictionaries(NAMES, st.builds(Estimate, FLOATS, FLOATS, FLOATS), max_size=2)
VM_PROFILES = st.builds(
    VmProfile, NAMES, st.integers(1, 9), st.floats(0, 9), st.integers(1, 9), st.integers(1, 9), st.none() | NAMES,
    st.none() | st.floats(0, 9), ESTIMATES, st.sampled_from(Confidence), st.lists(WORDS, max_size=2).map(tuple),
)  # fmt: skip
PROFILES = st.builds(
    NetworkProfile, NAMES, st.floats(60, 99), st.floats(0.01, 0.5), FLOATS, NAMES,
    st.lists(VM_PROFILES, max_size=2).map(tuple), st.sampled_from(Risk),
)  # fmt: skip
MATRIX = st.lists(st.lists(st.floats(0, 9), max_size=2).map(tuple), max_size=2).map(tuple)
TUPLES = st.lists(st.floats(0, 9), max_size=2).map(tuple)
FITS = st.builds(Fit, st.lists(NAMES, max_size=2).map(tuple), TUPLES, TUPLES, MATRIX, st.floats(0, 9), st.integers(1, 99))
VM_CALIBRATIONS = st.builds(
    VmCalibration, NAMES, st.dictionaries(NAMES, FITS, max_size=1), st.dictionaries(NAMES, WORDS, max_size=1)
)  # fmt: skip
CALIBRATIONS = st.builds(
    Calibration, NAMES, WORDS, st.integers(), st.integers(), st.lists(VM_CALIBRATIONS, max_size=2).map(tuple)
)  # fmt: skip
CALIBRATED = st.builds(Calibrated, st.integers(1, 9), CALIBRATIONS, st.just({}))


def of_shape(*shape: int) -> st.SearchStrategy[Any]:
    return of_numpy.arrays(np.float64, shape, elements=st.floats(0, 99) | st.just(math.nan))


HOURLY = st.builds(HourlySizes, NAMES, st.just(("a", "b")), of_shape(2, 7, 24))
QUANTILES = st.builds(
    Quantiles, NAMES, st.just(("a", "b")), st.integers(0, 2**62), st.floats(1, 99), st.just((0.1, 0.9)), of_shape(2, 3, 2)
)  # fmt: skip


def through_json(data: Any) -> Any:
    """As it arrives at the other end: what isn't a number is null there."""
    return json.loads(json.dumps(plain(data), allow_nan=False))


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (Answers, ANSWERS), (NetworkProfile, PROFILES), (Plan, PLANS), (Found, FOUND),
        (Activation, st.builds(Activation, PLANS, st.booleans(), st.just("/a/b"))), (Calibrated, CALIBRATED),
        (HourlySizes, HOURLY), (Quantiles, QUANTILES), (Judgement, JUDGEMENTS),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)  # fmt: skip
@settings(max_examples=30)
@given(data=st.data())
def test_a_record_comes_back_as_it_was(kind: Any, made: st.SearchStrategy[Any], data: st.DataObject) -> None:
    told = through_json(data.draw(made).to_dict())
    again = kind.from_dict(told)
    assert through_json(again.to_dict()) == told


@pytest.mark.parametrize(
    ("kind", "given_", "told"),
    [
        (Judgement, {"serves": 1, "why": ""}, "Judgement.serves: '1' is no bool"),
        (Judgement, {"serves": True}, "Judgement: why is missing"),
        (Judgement, [], "is no mapping"),
        (Judgement, {"serves": True, "why": "", "compared": [{"resource": 3}]}, r"compared\[0\].resource: '3' is no str"),
        (tuple[int, str], [1], "it has 1 values and should have 2"),
        (tuple[int, ...], [1, "2"], r"\[1\]: '2' is no int"),
        (Kind, "kettle", "'kettle' is no Kind"),
        (int, True, "'True' is no int"),
        (float, "1", "'1' is no float"),
        (np.ndarray[Any, np.dtype[np.float64]], [["x"]], "no array of numbers"),
    ],
)  # fmt: skip
def test_what_is_not_of_a_records_form_is_refused(kind: Any, given_: Any, told: str) -> None:
    with pytest.raises(PlainError, match=told):
        of_plain(kind, given_)
