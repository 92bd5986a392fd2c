"""Records go through JSON and come back as they were; what isn't of their form is refused, with its place."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from adumbra.cli.output import plain
from adumbra.forecast.gate import Judgement
from adumbra.profile.hourly import HourlySizes
from adumbra.schema.calibration import Calibration, Fit, VmCalibration
from adumbra.schema.plain import PlainError, of_plain
from adumbra.schema.plans import Item, Kind, Plan, Step
from adumbra.schema.records import Quantiles
from adumbra.schema.sizing import NetworkProfile
from adumbra.service.activations import Activation
from adumbra.service.calibrations import Calibrated
from adumbra.service.learning import Found
from adumbra.service.whatif import Answer, Answers

NAMES = st.text("abcdefghij-0123456789", min_size=1, max_size=8)
WORDS = st.text(max_size=12)
st.register_type_strategy(Item, st.builds(Item, st.sampled_from(Kind), NAMES, st.dictionaries(NAMES, WORDS, max_size=3)))
PLANS = st.builds(Plan, NAMES, NAMES, st.lists(st.builds(Step), max_size=3).map(tuple), st.none() | st.floats(0, 9))
FOUND = st.builds(
    Found, NAMES, st.integers(1, 99),
    st.fixed_dictionaries({"seed": st.integers(0, 9), "resources": st.lists(st.dictionaries(NAMES, WORDS), max_size=2)}),
    st.none() | st.from_type(Judgement), st.lists(st.integers(1, 9), max_size=3).map(tuple),
)  # fmt: skip
ANSWERS = st.builds(
    Answers, NAMES, st.floats(0.1, 9), st.integers(), st.integers(), st.floats(), st.lists(st.from_type(Answer), max_size=2).map(tuple)
)  # fmt: skip
ONE_MATRIX = st.lists(st.lists(st.floats(0, 9), max_size=2).map(tuple), max_size=2).map(tuple)
FITS = st.builds(Fit, covariance=ONE_MATRIX, carried=st.none())
CALIBRATIONS = st.builds(
    Calibration, vms=st.lists(st.builds(VmCalibration, fits=st.dictionaries(NAMES, FITS, max_size=1)), max_size=2).map(tuple)
)  # fmt: skip


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
        (Answers, ANSWERS), (NetworkProfile, st.from_type(NetworkProfile)), (Plan, PLANS), (Found, FOUND),
        (Activation, st.builds(Activation, PLANS)), (Calibrated, st.builds(Calibrated, st.integers(1, 9), CALIBRATIONS, st.just({}))),
        (HourlySizes, HOURLY), (Quantiles, QUANTILES), (Judgement, st.from_type(Judgement)),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)  # fmt: skip
@given(data=st.data())
def test_a_record_comes_back_as_it_was(kind: Any, made: st.SearchStrategy[Any], data: st.DataObject) -> None:
    told = through_json(data.draw(made).to_dict())
    again = kind.from_dict(told)
    assert through_json(again.to_dict()) == told
    assert through_json(kind.from_dict(told | {"of a later version": 1}).to_dict()).keys() == told.keys() or kind is Found


@pytest.mark.parametrize(
    ("kind", "given_", "told"),
    [
        (Judgement, {"serves": 1, "why": ""}, "Judgement.serves: '1' is no bool"),
        (Judgement, {"serves": True}, "Judgement: why is missing"),
        (Judgement, [], "Judgement: '[]' is no mapping"),
        (Judgement, {"serves": True, "why": "", "compared": [{"resource": 3}]}, r"Judgement.compared\[0\].resource: '3' is no str"),
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
