"""Metrics for a page: steps that suit, whatever interval is stored; within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.api.lives import START_S, batch
from tests.api.serving import SPEC

from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.records import NANOSECONDS
from adumbra.service import charts, networks
from adumbra.service.charts import Wanted, fitting_step_s
from adumbra.service.workspace import Workspace


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("home")) as opened:
        networks.create(opened, SPEC.format(name="shop"), "shop.yaml", 1)
        opened.metrics.write(batch("shop", interval_s=2.0))
        yield opened


@pytest.mark.parametrize(
    ("interval_s", "length_s", "points", "step_s"),
    [
        (1.0, 60, 300, 1.0),
        (1.0, 3_600, 300, 15.0),
        (1.0, 604_800, 300, 3_600.0),
        (7.0, 3_600, 300, 14.0),
        (0.1, 60, 300, 1.0),
        (60.0, 86_400 * 365, 300, 60.0 * 1_752),
        (3_600.0, 60, 300, 3_600.0),
    ],
)
def test_the_step_is_the_smallest_that_makes_few_enough(interval_s, length_s, points, step_s) -> None:
    assert fitting_step_s(interval_s, length_s * NANOSECONDS, Wanted(points=points)) == step_s


def test_what_is_stored_in_longer_intervals_than_the_spec_has_is_found_all_the_same(shop: Workspace) -> None:
    found = charts.chart(shop, "shop", Wanted(("requests",)))
    assert (found.step_s, found.steps) == (2.0, 300)
    newest = charts.latest(shop, "shop", Wanted(("requests",), ("db",)))
    assert (newest.steps, newest.vms) == (1, ("db",))
    assert newest.start_ns == (START_S + 2 * 299) * NANOSECONDS


def test_too_many_values_are_refused_with_what_would_do(shop: Workspace) -> None:
    all_of_it = Wanted(("requests",), step_s=2.0)
    assert charts.chart(shop, "shop", all_of_it).steps == 300
    with pytest.raises(InputError, match="ask for a step of"):
        charts.chart(shop, "shop", replace(all_of_it, step_s=0.001))
    with pytest.raises(NotFoundError, match="has no VM 'nope'"):
        charts.chart(shop, "shop", Wanted(vms=("nope",)))


def test_of_a_time_without_anything_nothing_is_told(shop: Workspace) -> None:
    for wanted in (Wanted(end_ns=5), Wanted(start_ns=2**62), Wanted(start_ns=START_S * NANOSECONDS, end_ns=START_S)):
        assert charts.chart(shop, "shop", wanted).vms == ()
