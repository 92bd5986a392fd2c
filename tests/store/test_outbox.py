"""What an outbox takes reaches its store once, in order, whatever becomes of store and process; and several stores as one.

The store here is one in memory that fails as it is told to; real ones are in tests/e2e/test_outage.py.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from tests.store.conftest import at_ns, make_batch

from adumbra.schema.errors import StoreError, StoreUnavailableError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.accumulate import Accumulator
from adumbra.store.batches import check_batch
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.many import ManyStores
from adumbra.store.outbox import Outbox, Patience
from adumbra.store.prepared import Prepared
from adumbra.store.protocol import Abilities
from adumbra.store.spool import Spool

QUICK = Patience(first_s=0.001, longest_s=0.01, idle_s=0.02, settle_s=5.0)


class Remote:
    """A store of counters on a server that outlives it: of each network the totals of rx_bytes by VM and time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.abilities = Abilities(replaces=False)
        self._totals = Accumulator()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def write(self, batch: MetricBatch) -> int:
        return self.send(self.prepare(batch))

    def prepare(self, batch: MetricBatch) -> Prepared:
        check_batch(batch)
        return self._totals.add(batch)

    def send(self, prepared: Prepared) -> int:
        self.server.meet(prepared.batch)
        samples = self.server.samples[prepared.batch.network]
        totals, bases = prepared.batch.columns["rx_bytes"], prepared.bases.get("rx_bytes")
        for row, start_ns in enumerate(prepared.batch.start_ns.tolist()):
            for place, vm in enumerate(prepared.batch.vms):
                if bases is not None and not np.isnan(bases[row, place]):
                    samples[vm, start_ns + 1_000_000] = float(bases[row, place])
                samples[vm, start_ns + 1_000_000_000] = float(totals[row, place])  # type: ignore[arg-type]
        return 0

    def amend(self, batch: MetricBatch) -> int:
        self.server.asked.append(("amend", batch.network))
        return 1

    def read(self, query: SeriesQuery) -> Series:
        raise StoreUnavailableError("it is read straight from the store")

    def vms(self, network: str) -> tuple[str, ...]:
        return tuple(sorted({vm for vm, _ in self.server.samples[network]}))

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        return None

    def delete_network(self, network: str) -> int:
        self.server.meet(None)
        self.server.asked.append(("delete", network))
        return len(self.server.samples.pop(network, {}))


class Server:
    """What is told to fail, and what came."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
        self.asked: list[tuple[str, str]] = []
        self.fails: Callable[[MetricBatch | None], Exception | None] = lambda _: None

    def meet(self, batch: MetricBatch | None) -> None:
        error = self.fails(batch)
        if error is not None:
            raise error
        if batch is not None:
            self.asked.append(("send", f"{batch.network} {(int(batch.start_ns[0]) - at_ns(0)) // 10**9}"))

    def counts(self, network: str = "shop") -> dict[int, float]:
        """What each interval of web-1 counted, as a difference to the sample before: None of what has nothing before it."""
        times = sorted((ns, total) for (vm, ns), total in self.samples[network].items() if vm == "web-1")
        return {(ns - at_ns(1)) // 10**9: total - before for (_, before), (ns, total) in pairwise(times) if ns % 10**9 == 0}


@pytest.fixture
def server() -> Server:
    return Server()


def outbox_of(server: Server, folder: Path, bound_bytes: int = 1 << 24, **more: object) -> Outbox:
    return Outbox("remote", Remote(server), Spool(folder, bound_bytes), patience=QUICK, **more)  # type: ignore[arg-type]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def outbox(server: Server, tmp_path: Path, said: list[str]) -> Iterator[Outbox]:
    with outbox_of(server, tmp_path / "spool", say=said.append) as outbox:
        yield outbox


def counted(batch: MetricBatch, value: float) -> MetricBatch:
    values = {"rx_bytes": np.full((len(batch), len(batch.vms)), value)}
    return MetricBatch(batch.network, batch.interval_s, batch.vms, batch.start_ns, values, batch.one_sided, "live:eth0")


def second(number: int, **more: object) -> MetricBatch:
    """Interval `number`, in which 2^n is counted so that any sum says what is in it."""
    return counted(make_batch([number], ("web-1",), **more), 2.0 ** (number % 50))  # type: ignore[arg-type]


def down(_: object) -> Exception:
    return StoreUnavailableError("the store can't be reached", "does it run?")


class TestSending:
    def test_what_is_written_arrives_in_order(self, outbox: Outbox, server: Server) -> None:
        for number in range(20):
            assert outbox.write(second(number)) == 0
        assert outbox.flush(5.0) == 0
        assert [what for _, what in server.asked] == [f"shop {number}" for number in range(20)]
        assert server.counts() == {number: 2.0**number for number in range(20)}

    def test_an_outage_loses_nothing_and_blocks_nobody(self, outbox: Outbox, server: Server, said: list[str]) -> None:
        server.fails = down
        began = time.monotonic()
        for number in range(20):
            outbox.write(second(number))
        assert outbox.flush(0.05) == 20
        assert time.monotonic() - began < 2.0
        assert "can't be reached" in outbox.status().trouble
        (waits,) = outbox.sentences()
        assert waits.startswith(
            "20 batches wait to be sent to remote (the store can't be reached; does it run?): the next `adumbra"
        )
        server.fails = lambda _: None
        assert outbox.flush(5.0) == 0
        assert server.counts() == {number: 2.0**number for number in range(20)}
        assert outbox.sentences() == ()
        assert [line.partition(";")[0] for line in said] == ["the store can't be reached", "remote answers again"]

    def test_pauses_grow_and_heed_what_the_store_asks_for(self, server: Server, tmp_path: Path) -> None:
        outbox = outbox_of(server, tmp_path)
        error = StoreUnavailableError("busy")
        outbox._patience = Patience(first_s=1.0, longest_s=8.0)
        pauses = [outbox._failed("busy", error, tries) for tries in range(6)]
        for pause, most in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
            assert most / 2 <= pause <= most
        error.after_s = 40.0  # type: ignore[attr-defined]
        assert outbox._failed("busy", error, 0) == 40.0

    def test_what_is_refused_for_good_is_counted_said_and_passed_over(
        self, outbox: Outbox, server: Server, said: list[str], tmp_path: Path
    ) -> None:
        server.fails = lambda batch: StoreError("400 no") if batch is not None and batch.start_ns[0] == at_ns(2) else None
        for number in range(5):
            outbox.write(second(number))
        assert outbox.flush(5.0) == 0
        assert server.counts() == {0: 1.0, 1: 2.0, 3: 8.0, 4: 16.0}, "what follows counts from where it begins"
        assert outbox.status().refused == 1
        assert said == ["remote refused a batch for good, and it is lost: 400 no"]
        outbox.__exit__()
        with outbox_of(server, tmp_path / "spool") as later:
            assert later.status().refused == 1

    def test_a_fault_of_the_program_keeps_what_waits(self, outbox: Outbox, server: Server) -> None:
        server.fails = lambda _: KeyError("a fault")
        outbox.write(second(0))
        assert outbox.flush(0.1) == 1
        assert outbox.status().trouble == "KeyError: 'a fault'"
        server.fails = lambda _: None
        assert outbox.flush(5.0) == 0

    def test_a_full_spool_drops_the_oldest_and_the_rest_still_counts(
        self, server: Server, tmp_path: Path, said: list[str]
    ) -> None:
        server.fails = down
        with outbox_of(server, tmp_path, 20_000, say=said.append) as outbox:
            for number in range(150):
                outbox.write(second(number))
            server.fails = lambda _: None
            assert outbox.flush(5.0) == 0
            lost = outbox.status().dropped
        assert 50 < lost < 150
        assert server.counts() == {number: 2.0 ** (number % 50) for number in range(lost, 150)}
        assert any("is full (2e-05 GB): " in line for line in said)

    def test_the_next_process_goes_on_with_totals_that_fit(self, server: Server, tmp_path: Path) -> None:
        server.fails = down
        with outbox_of(server, tmp_path) as outbox:
            for number in range(5):
                outbox.write(second(number))
        server.fails = lambda _: None
        with outbox_of(server, tmp_path) as outbox:
            for number in range(6, 10):
                outbox.write(second(number))
            assert outbox.flush(5.0) == 0
        assert server.counts() == {number: 2.0**number for number in range(10) if number != 5}

    def test_lanes_of_others_that_ended_are_sent_by_one_that_runs(self, outbox: Outbox, server: Server, tmp_path: Path) -> None:
        server.fails = down
        with outbox_of(server, tmp_path / "spool") as other:
            other.write(second(3))
        server.fails = lambda _: None
        until = time.monotonic() + 5.0
        while server.counts() != {3: 8.0} and time.monotonic() < until:
            time.sleep(0.01)
        assert server.counts() == {3: 8.0}

    def test_a_batch_that_is_none_is_refused_at_once(self, outbox: Outbox) -> None:
        with pytest.raises(ValueError, match="rx_byte"):
            outbox.write(replace(second(0), columns={"rx_byte": np.zeros((1, 1))}))
        assert outbox.status().waiting == 0


class TestOtherActs:
    def test_a_deletion_is_not_overtaken(self, outbox: Outbox, server: Server) -> None:
        server.fails = down
        outbox.write(second(0))
        outbox.write(second(0, network="other"))
        assert outbox.delete_network("shop") == 0  # later, as it can't be reached now
        outbox.write(second(1))
        server.fails = lambda _: None
        assert outbox.flush(5.0) == 0
        assert server.asked == [("send", "shop 0"), ("send", "other 0"), ("delete", "shop"), ("send", "shop 1")]
        assert server.counts() == {1: 2.0}, "after the deletion its totals have their base"
        assert server.counts("other") == {0: 1.0}

    def test_a_deletion_is_done_at_once_where_it_can_be(self, outbox: Outbox, server: Server) -> None:
        outbox.write(second(0))
        assert outbox.delete_network("shop") == 2  # the base and the total
        assert server.samples == {}

    def test_a_deletion_outlives_its_process(self, server: Server, tmp_path: Path) -> None:
        with outbox_of(server, tmp_path) as outbox:
            outbox.write(second(0))
            outbox.flush(5.0)
            server.fails = down
            outbox.delete_network("shop")
        server.fails = lambda _: None
        with outbox_of(server, tmp_path) as outbox:
            assert outbox.flush(5.0) == 0
        assert server.samples == {}

    def test_amending_waits_for_what_is_queued(self, server: Server, tmp_path: Path) -> None:
        outbox = outbox_of(server, tmp_path)
        outbox.inner.abilities = Abilities(replaces=True)
        with outbox:
            outbox.write(second(0))
            assert outbox.amend(second(0)) == 1
            assert server.asked == [("send", "shop 0"), ("amend", "shop")]
            server.fails = down
            outbox.write(second(1))
            with pytest.raises(StoreUnavailableError, match="could not amend what remote has of shop: 1 batches still wait"):
                outbox.amend(second(0))

    def test_what_replaces_nothing_amends_nothing(self, outbox: Outbox, server: Server) -> None:
        assert outbox.amend(second(0)) == 0
        assert server.asked == []

    def test_threads_end_with_it(self, server: Server, tmp_path: Path) -> None:
        server.fails = down
        with outbox_of(server, tmp_path) as outbox:
            outbox.write(second(0))
        assert not [thread for thread in threading.enumerate() if thread.name == "outbox remote"]
        with outbox:  # and it can be opened again
            server.fails = lambda _: None
            assert outbox.flush(5.0) == 0


class TestManyStores:
    def test_all_are_written_to_and_one_is_read(self, outbox: Outbox, server: Server, tmp_path: Path) -> None:
        many = ManyStores((outbox, DuckDBStore(tmp_path / "m.duckdb")), read=1)
        outbox.__exit__()
        with many:
            assert [many.write(second(3)) for _ in range(2)] == [0, 1]
            assert many.span("shop") == (at_ns(3), at_ns(4))
            assert many.read(SeriesQuery("shop", ("rx_bytes",))).values["rx_bytes"].tolist() == [[8.0]]
            assert many.amend(counted(make_batch([3], ("web-1",)), 5.0)) == 1
            assert many.delete_network("shop") == 1
            assert (many.span("shop"), many.vms("shop")) == (None, ())
            assert outbox.flush(5.0) == 0
        assert [what for what, _ in server.asked] == ["send", "send", "delete"]

    @pytest.mark.parametrize("order", [1, -1])
    def test_one_that_fails_is_told_of_and_costs_the_others_nothing(self, server: Server, tmp_path: Path, order: int) -> None:
        class Broken(Remote):
            def prepare(self, batch: MetricBatch) -> Prepared:
                raise StoreError("its disk is full")

        good, broken = DuckDBStore(tmp_path / "m.duckdb"), Broken(server)
        with ManyStores((good, broken)[::order]) as many:
            with pytest.raises(StoreError, match="its disk is full"):
                many.write(second(3))
            assert good.span("shop") == (at_ns(3), at_ns(4))
