"""The scrape page: what a real Prometheus makes of it, what promtool has to say, and that both ways to write it agree."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests import servers
from tests.scraping import HOSTILE, ask, full_telemetry, scrape_config, serving
from tests.store.conftest import EPOCH_S, make_batch

from adumbra.schema.metrics import METRICS, TOLD, Kind
from adumbra.schema.records import MetricBatch, Origin
from adumbra.store.scrape import LatestIntervals, exposition
from adumbra.store.series import BESIDE

NAN = float("nan")


def page(latest: LatestIntervals) -> str:
    return b"".join(latest.page()).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    by_labels = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in found}
    assert len(by_labels) == len(found), "a series stands on the page twice"
    return by_labels


def value(latest: LatestIntervals, name: str, **labels: str) -> float | None:
    """Of the one series that has these labels; None: there is none."""
    found = [
        number
        for (its, pairs), number in samples(page(latest)).items()
        if its == name and labels.items() <= dict(pairs).items()
    ]
    assert len(found) <= 1
    return found[0] if found else None


def hostile() -> MetricBatch:
    batch = make_batch([0, 1], (HOSTILE, "nobody"), network=f"net {HOSTILE}", value=3)
    return replace(batch, subnets=(HOSTILE, ""), roles=("", f"{HOSTILE}\udcff\0"), one_sided=np.array([[True, False]] * 2))


@pytest.fixture
def latest() -> LatestIntervals:
    return LatestIntervals()


class TestTotals:
    def test_counts_add_up_over_batches_and_sources(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0, 1], value=5))
        latest.write(replace(make_batch([0], value=2), source="another"))
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="web-1") == 12
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="db") == 15

    def test_gauges_are_those_of_the_latest_interval(self, latest: LatestIntervals) -> None:
        first = make_batch([0, 1], ("db",))
        latest.write(replace(first, columns={**first.columns, "peers": np.array([[7], [4]])}))
        assert value(latest, "adumbra_vm_peers", vm="db", origin="shadow") == 4
        assert value(latest, "adumbra_network_interval_end_seconds", network="shop", interval="1s") == EPOCH_S + 2

    def test_what_is_not_known_has_no_sample_but_keeps_its_total(self, latest: LatestIntervals) -> None:
        batch = make_batch([0, 1], ("db",))
        partly = {
            "requests": np.array([[3.0], [NAN]]),
            "rtt_ms_p50": np.array([[5.0], [NAN]]),
            "zero_windows": np.full((2, 1), NAN),
        }
        latest.write(replace(batch, columns=partly))
        assert value(latest, "adumbra_vm_requests_total") == 3
        assert value(latest, "adumbra_vm_round_trip_median_seconds") is None
        assert value(latest, "adumbra_vm_zero_windows_total") is None
        latest.write(replace(make_batch([2], ("db",)), columns={"rx_bytes": np.ones((1, 1), np.int64)}))
        assert value(latest, "adumbra_vm_requests_total") == 3

    def test_times_are_in_seconds(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0], ("db",), value=250))
        assert value(latest, "adumbra_vm_response_p99_seconds") == 0.25
        assert value(latest, "adumbra_vm_response_seconds_sum") == 0.25

    def test_labels_say_how_a_number_was_come_by(self, latest: LatestIntervals) -> None:
        latest.write(replace(make_batch([0], ("a", "b")), one_sided=np.array([[True, False]])))
        for vm, want in (("a", "simulated"), ("b", "observed")):
            assert value(latest, "adumbra_vm_round_trip_p99_seconds", vm=vm, provenance=want) is not None
            assert value(latest, "adumbra_vm_one_sided_ratio", vm=vm) == (vm == "a")
        latest.write(make_batch([0], ("a",), origin=Origin.LIVE))
        for origin, want in (("live", "observed"), ("shadow", "simulated")):
            assert value(latest, "adumbra_vm_memory_bytes", vm="a", origin=origin, provenance=want) == 1

    def test_vms_come_go_and_change(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0], ("web-1", "db"), value=5))
        latest.write(make_batch([1], ("new", "db"), value=2))
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="web-1") is None
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="new") == 2
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="db") == 6 + 3
        latest.write(replace(make_batch([2], ("db",), value=1), roles=("proxy",)))
        assert value(latest, "adumbra_vm_receive_bytes_total", vm="db", role="proxy") == 1

    def test_a_forgotten_network_is_gone(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0]))
        latest.write(make_batch([0], origin=Origin.LIVE))
        latest.write(make_batch([0], network="other"))
        latest.forget("shop")
        assert 'network="shop"' not in page(latest)
        assert {each.labels[0] for each in latest.readings()} == {"other"}

    def test_there_is_room_for_so_many_and_the_others_are_counted(self) -> None:
        latest = LatestIntervals(most_vms=5)
        latest.write(make_batch([0], ("a", "b", "c")))
        latest.write(make_batch([0, 1], ("d", "e", "f"), network="other"))
        latest.write(make_batch([2], ("a", "b", "c")))
        shown = {dict(pairs)["vm"] for name, pairs in samples(page(latest)) if name == "adumbra_vm_peers"}
        assert shown == {"a", "b", "c", "d", "e"}
        told = {(each.name, each.labels): each.value for each in latest.readings()}
        assert told == {
            ("adumbra_intervals_closed_total", ("shop", "shadow")): 2,
            ("adumbra_intervals_closed_total", ("other", "shadow")): 2,
            ("adumbra_latest_rows_left_out_total", ("other",)): 2,
        }

    def test_only_what_was_asked_for_is_shown(self) -> None:
        latest = LatestIntervals(columns=TOLD)
        latest.write(make_batch([0]))
        assert "_bucket" not in page(latest)
        assert "adumbra_vm_cpu_seconds_total" in page(latest)


class TestPage:
    def test_both_ways_to_write_it_agree(self, latest: LatestIntervals) -> None:
        for batch in (make_batch([0, 1], value=0.1), hostile(), make_batch([5], origin=Origin.LIVE, value=2**50)):
            latest.write(batch)
        registry = CollectorRegistry()
        registry.register(latest)
        slow = generate_latest(registry).decode()
        assert samples(page(latest)) == samples(slow)
        comments = [sorted(line for line in text.split("\n") if line.startswith("#")) for text in (page(latest), slow)]
        assert comments[0] == comments[1]

    def test_it_has_every_metric_of_the_catalogue_with_its_kind_and_help(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0]))
        text = page(latest)
        for metric in METRICS:
            assert f"# TYPE {metric.family} {metric.kind.value}\n" in text
            assert f"# HELP {metric.family} {metric.help}\n" in text
        assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == {
            *(metric.family for metric in METRICS), *BESIDE,
        }  # fmt: skip

    def test_promtool_has_nothing_to_say(self, latest: LatestIntervals) -> None:
        promtool = servers.program("promtool", "prometheus")
        telemetry = full_telemetry(latest)
        latest.write(hostile())
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=exposition(telemetry.registry, latest), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")

    def test_it_can_be_read_while_it_is_written(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0], ("a", "b"), value=0))
        stop, torn = threading.Event(), []

        def write() -> None:
            for number in range(1, 100):
                latest.write(make_batch([number], ("a", "b") if number % 2 else ("a",), value=0))
            stop.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not stop.is_set():
            names = [name for name, _ in samples(page(latest))]
            torn.append(names.count("adumbra_vm_peers") != names.count("adumbra_vm_receive_bytes_total"))
        thread.join()
        assert torn
        assert not any(torn)

    def test_a_page_of_ten_thousand_vms_is_written_within_seconds(self, latest: LatestIntervals) -> None:
        latest.write(make_batch([0], tuple(f"vm-{number}" for number in range(10_000)), value=0.1))
        began_s = time.process_time()
        lines = sum(piece.count(b"\n") for piece in latest.page())
        assert time.process_time() - began_s < 5  # 0.8 s on an idle machine; Prometheus waits 10 s
        assert lines > 10_000 * len(METRICS)


class TestARealPrometheus:
    def test_scrapes_what_is_known(self, tmp_path: Path, latest: LatestIntervals) -> None:
        latest.write(make_batch([0, 1, 2], value=5))
        latest.write(hostile())
        telemetry = full_telemetry(latest)
        with (
            serving(lambda: exposition(telemetry.registry, latest)) as address,
            servers.running(servers.prometheus(tmp_path, config=scrape_config(address))) as server,
        ):
            until_s = time.monotonic() + 20
            while not (told := ask(server.url, "adumbra_vm_receive_bytes_total")) and time.monotonic() < until_s:
                time.sleep(0.1)
            assert told, "Prometheus did not scrape the page"
            every = samples(exposition(telemetry.registry, latest).decode())
            scraped = ask(server.url, "{__name__=~'adumbra_.*'}")
        found = {}
        for each in scraped:
            labels = {name: value for name, value in each["metric"].items() if name not in {"__name__", "job", "instance"}}
            found[each["metric"]["__name__"], tuple(sorted(labels.items()))] = float(each["value"][1])
        assert found == {key: number for key, number in every.items() if key[0].startswith("adumbra_")}
        kinds = {metric.kind for metric in METRICS if any(name.startswith(metric.family) for name, _ in found)}
        assert kinds == set(Kind)
