"""Which grid answers a query: steps, phases, mixed interval lengths, bounds and what is said where there is none."""

from __future__ import annotations

import pytest

from adumbra.schema.errors import InputError
from adumbra.schema.metrics import NAMES
from adumbra.schema.records import SeriesQuery
from adumbra.store.grid import MAX_CELLS, Grid, Stored, check_size, known_metrics, known_vms, plan_grid
from adumbra.store.names import natural_order, storable

S = 1_000_000_000


def rows(interval_s: float, first_s: float, last_s: float) -> Stored:
    return Stored(round(interval_s * S), round(first_s * S), round(last_s * S))


@pytest.mark.parametrize(
    ("stored", "step_s", "want"),
    [
        # the stored interval, as it lies
        ([rows(1, 100, 109)], None, Grid(100 * S, S, 10, (S,))),
        ([rows(1, 100, 100)], None, Grid(100 * S, S, 1, (S,))),
        # rolled up: cells begin at multiples of the step, so the first and last may be partly filled
        ([rows(1, 100, 109)], 4.0, Grid(100 * S, 4 * S, 3, (S,))),
        ([rows(1, 101, 108)], 4.0, Grid(100 * S, 4 * S, 3, (S,))),
        # intervals that began off the second keep their phase
        ([rows(1, 100.25, 109.25)], None, Grid(round(100.25 * S), S, 10, (S,))),
        ([rows(1, 101.25, 108.25)], 4.0, Grid(round(100.25 * S), 4 * S, 3, (S,))),
        # the interval was changed: the newest rows give the step, shorter rows go in, those that don't divide it don't
        ([rows(1, 100, 109), rows(5, 110, 125)], None, Grid(100 * S, 5 * S, 6, (S, 5 * S))),
        ([rows(5, 100, 115), rows(1, 120, 129)], None, Grid(120 * S, S, 10, (S,))),
        ([rows(5, 100, 115), rows(1, 120, 129)], 10.0, Grid(100 * S, 10 * S, 3, (S, 5 * S))),
        ([rows(2, 0, 18), rows(5, 20, 30)], None, Grid(20 * S, 5 * S, 3, (5 * S,))),
        # before 1970, for whom it matters
        ([rows(1, -5, -1)], 4.0, Grid(-8 * S, 4 * S, 2, (S,))),
        # a tenth of a second is no exact float
        ([rows(0.1, 0, 0.9)], 0.3, Grid(0, 300_000_000, 4, (100_000_000,))),
    ],
)
def test_the_grid_follows_from_what_is_stored(stored: list[Stored], step_s: float | None, want: Grid) -> None:
    assert plan_grid(SeriesQuery("shop", ("rx_bytes",), step_s=step_s), stored) == want


@pytest.mark.parametrize("step_s", [1.5, 0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_cannot_be_is_refused(step_s: float) -> None:
    with pytest.raises(InputError, match="step"):
        plan_grid(SeriesQuery("shop", ("rx_bytes",), step_s=step_s), [rows(1, 0, 9)])


def test_the_refusal_names_the_interval_to_give() -> None:
    with pytest.raises(InputError, match="give a multiple of 5 s"):
        plan_grid(SeriesQuery("shop", ("rx_bytes",), step_s=7.0), [rows(5, 0, 10)])


def test_a_series_too_large_to_hold_is_refused_with_a_step_that_would_do() -> None:
    query = SeriesQuery("shop", ("rx_bytes", "tx_bytes"))
    day = plan_grid(query, [rows(1, 0, 86_399)])
    check_size(query, day, vms=MAX_CELLS // (3 * 86_400))
    with pytest.raises(InputError, match="ask for a step of 14 s or longer") as refusal:
        check_size(query, day, vms=1000)
    assert "259,200,000 values" in str(refusal.value)
    check_size(query, plan_grid(SeriesQuery("shop", query.columns, step_s=14.0), [rows(1, 0, 86_399)]), vms=1000)


def test_where_no_step_would_do_fewer_vms_are_advised() -> None:
    query = SeriesQuery("shop", NAMES)
    with pytest.raises(InputError, match="fewer VMs, fewer columns"):
        check_size(query, Grid(0, S, 100, (S,)), vms=1_000_000)


def test_unknown_columns_and_vms_are_refused_with_what_was_meant() -> None:
    with pytest.raises(InputError, match="did you mean 'rx_bytes'"):
        known_metrics(["rx_byte"])
    with pytest.raises(InputError, match="did you mean 'web-1'"):
        known_vms("shop", ["web1"], ["db", "web-1"])
    with pytest.raises(InputError, match="there are: v0, v1, v2, v3, v4, v5, v6, v7 and 92 more"):
        known_vms("shop", ["x"], [f"v{i}" for i in range(100)])
    assert known_vms("shop", ["db", "db"], ["web-1", "db"]) == ("db",)
    assert known_vms("shop", [], ["web-1", "db"]) == ("web-1", "db")


def test_names_are_ordered_as_people_count() -> None:
    assert natural_order(["web-10", "db", "web-9", "web-1a", "web-1", "10"]) == (
        "10",
        "db",
        "web-1",
        "web-1a",
        "web-9",
        "web-10",
    )


@pytest.mark.parametrize(
    ("given", "want"), [("pcap:a.pcap", "pcap:a.pcap"), ("café", "café"), ("bad\udcff", "bad\\udcff"), ("a\0b", "a\\x00b")]
)
def test_any_file_name_can_be_stored(given: str, want: str) -> None:
    assert storable(given) == want
