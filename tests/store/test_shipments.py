"""Who told of which time of a network: claimed, settled, met by others; in either database."""

from __future__ import annotations

from pathlib import Path

import pytest

from adumbra.schema.errors import StoreBusyError
from adumbra.store.shipments import CLAIM_S, NEWS_S, Overlap
from adumbra.store.state import StateStore

SECOND = 10**9


def test_a_claim_is_settled_met_and_forgotten(place: Path | str) -> None:
    with StateStore(place) as store:
        store.create_network("shop", "name: shop", 1)
        shipments = store.shipments
        claim = shipments.claim("shop", "one", [(0, 10), (20, 30)], 1)
        assert claim.held == ()
        with pytest.raises(StoreBusyError):
            shipments.claim("shop", "two", [(5, 6)], 2)
        shipments.settle("shop", "one", claim, 3)
        shipments.settle("shop", "one", shipments.claim("shop", "one", [(10, 15)], 4), 5)
        assert shipments.claim("shop", "two", [(15, 20)], 6).held == ()  # time in between is free
        held = shipments.claim("shop", "three", [(0, 30)], round(CLAIM_S * SECOND) + 10).held
        assert {(each.instance, each.span, each.settled) for each in held} == {
            ("one", (0, 15), True), ("one", (20, 30), True), ("two", (15, 20), False),
        }  # fmt: skip


def test_a_claim_of_a_dead_server_holds_no_longer_where_the_clock_went_back(tmp_path: Path) -> None:
    with StateStore(tmp_path / "state.db") as store:
        store.create_network("shop", "name: shop", 1)
        store.shipments.claim("shop", "one", [(0, 10)], 3_600 * SECOND)
        assert not store.shipments.claim("shop", "two", [(0, 10)], 10 * SECOND).held[0].settled


def test_an_overlap_is_news_once_and_again_after_a_pause(place: Path | str) -> None:
    with StateStore(place) as store:
        store.create_network("shop", "name: shop", 1)
        pause_ns = round(NEWS_S * SECOND)
        told = [
            store.shipments.note_overlap("shop", Overlap("one", "two", 3, "both see web-1", at, at))
            for at in (1, 2, 3 + pause_ns)
        ]
        assert told == [True, False, True]
        (found,) = store.shipments.overlaps("shop")
        assert (found.rows, found.since_ns, found.about) == (9, 1, "both see web-1")
        store.shipments.forget("shop")
        assert store.shipments.overlaps("shop") == ()
        store.delete_network("shop", 9)
