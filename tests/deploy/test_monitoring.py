"""Rules and dashboards: as the catalogue says, right by promtool, and with data behind each of them in real databases."""

from __future__ import annotations

import json
import math
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ruamel.yaml import YAML
from tests import servers
from tests.scraping import ask, full_telemetry, scrape_config, serving
from tests.store.conftest import flushed, make_batch
from tools.monitoring.outputs import PAGE, ROOT, outputs
from tools.monitoring.rules import alerts, recordings

from adumbra.http_asking import HttpAccess
from adumbra.schema.metrics import BUCKETS_MS, HISTOGRAMS, METRICS, Kind
from adumbra.schema.own_metrics import OWN_METRICS
from adumbra.schema.records import MetricBatch
from adumbra.store.prometheus import PrometheusConfig, PrometheusStore
from adumbra.store.scrape import LatestIntervals, exposition

RULES, RULES_TEST = ROOT / "deploy/prometheus/rules.yml", ROOT / "deploy/prometheus/rules_test.yml"
NETWORK, PROCESS = (json.loads((ROOT / f"deploy/grafana/adumbra-{name}.json").read_text()) for name in ("network", "process"))
LENGTH_S = 240


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", [])


def queries(*dashboards: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(panel["title"], target) for each in dashboards for panel in panels(each) for target in panel["targets"]]


class TestWritten:
    @pytest.mark.parametrize("path", outputs(), ids=lambda path: path.name)
    def test_as_the_catalogue_says(self, path: Path) -> None:
        assert path.read_text(encoding="utf-8") == outputs()[path], "run `python -m tools.monitoring`"

    def test_every_metric_is_on_a_panel(self) -> None:
        asked = " ".join(target["expr"] for _, target in queries(NETWORK, PROCESS))
        own = (f"{metric.name}_bucket" if metric.kind is Kind.HISTOGRAM else metric.name for metric in OWN_METRICS)
        for name in [*(metric.prometheus for metric in METRICS), *own]:
            assert re.search(rf"\b{name}\b", asked), name

    def test_every_counter_and_histogram_is_recorded(self) -> None:
        made = {rule.record for group in recordings().values() for rule in group}
        for metric in METRICS:
            if metric.kind is Kind.COUNTER:
                assert f"vm:{metric.family.removesuffix('_total')}:rate5m" in made
            if metric.kind is Kind.HISTOGRAM:
                assert f"network:{metric.family}:p99_rate5m" in made
        assert all(re.fullmatch(r"[a-z_]+:adumbra_vm_[a-z_]+[a-z]:[a-z0-9_]+", record) for record in made)

    def test_a_dashboard_is_laid_out_without_overlaps(self) -> None:
        for dashboard in (NETWORK, PROCESS):
            ids = [panel["id"] for panel in [*dashboard["panels"], *panels(dashboard)]]
            assert len(set(ids)) == len({id(panel) for panel in [*dashboard["panels"], *panels(dashboard)]})
            taken: set[tuple[int, int]] = set()
            for panel in dashboard["panels"]:
                at = panel["gridPos"]
                cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
                assert not cells & taken, panel["title"]
                assert all(x < 24 for x, _ in cells)
                taken |= cells

    def test_what_is_no_observation_says_so_in_its_title(self) -> None:
        for panel in panels(NETWORK):
            asked = " ".join(target["expr"] for target in panel["targets"])
            for metric in METRICS:
                if re.search(rf"\b{metric.prometheus}\b", asked) and not metric.name.endswith(("_low", "_high")):
                    assert metric.provenance.value in panel["title"]
                    assert metric.help in panel["description"]


class TestPromtool:
    @pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", RULES_TEST)])
    def test_finds_nothing_wrong(self, arguments: tuple[str, ...]) -> None:
        done = subprocess.run(
            [servers.program("promtool", "prometheus"), *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "SUCCESS" in done.stdout

    def test_each_alert_is_seen_to_fire_and_not_to_fire(self) -> None:
        fires, quiet = set(), set()
        for case in YAML(typ="safe").load(RULES_TEST)["tests"]:
            for test in case["alert_rule_test"]:
                (fires if test.get("exp_alerts") else quiet).add(test["alertname"])
        names = {alert.name for alert in alerts()}
        assert fires == quiet == names

    def test_each_alert_has_a_section_that_says_what_to_do(self) -> None:
        headings = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
        assert [heading for heading in headings if heading.startswith("Adumbra")] == [alert.name for alert in alerts()]


def shop(network: str, end_s: int) -> MetricBatch:
    """Four minutes of four VMs, up to a time: plausible numbers, of which web-1 has 1,000 bytes in each interval."""
    rng = np.random.default_rng(5)
    starts = np.arange(end_s - LENGTH_S, end_s, dtype=np.int64)
    empty = make_batch([0], ("web-1", "web-2", "db", "cache"), network=network)
    shape = (LENGTH_S, len(empty.vms))
    columns: dict[str, Any] = {
        metric.name: rng.integers(1, 1000, shape) if metric.whole else rng.uniform(0.2, 0.8, shape) for metric in METRICS
    }
    for stem, (*buckets, total) in HISTOGRAMS.items():
        times = rng.lognormal(2, 1, (*shape, 20))
        for name, bound in zip(buckets, BUCKETS_MS, strict=True):
            columns[name] = (times <= bound).sum(axis=2)
        columns[total] = times.sum(axis=2)
        columns[f"{stem}_ms_p50"], columns[f"{stem}_ms_p99"] = np.median(times, axis=2), times.max(axis=2)
    for name in [name for name in columns if name.endswith("_low")]:
        middle = columns[name.removesuffix("_low")]
        columns[name], columns[name.replace("_low", "_high")] = middle * 0.7, middle * 1.3
    columns["rx_bytes"][:, 0] = 1000
    sided = np.zeros(shape, np.bool_)
    sided[:, 1] = True
    return MetricBatch(
        network, 1.0, empty.vms, starts * 10**9, columns, sided, "pcap:shop.pcap", subnets=empty.subnets, roles=empty.roles
    )


@dataclass(frozen=True)
class Monitored:
    """A database with a shop's last minutes, up to `end_s`."""

    url: str
    network: str
    end_s: int
    client: httpx.Client

    def values(self, target: Mapping[str, Any]) -> dict[str, list[float]]:
        """What Grafana would draw of a query, by the labels of each line."""
        chosen = {
            "$network": self.network, "$origin": "shadow", "$one": "web-1", "$vm": ".*", "$top": "10", "$job": "adumbra",
            "$instance": ".*", "$__rate_interval": "1m",
        }  # fmt: skip
        expr = re.sub(r"\$\w+", lambda found: chosen[found[0]], target["expr"])
        form: dict[str, Any] = {"query": expr, "nocache": "1"}
        if target["instant"]:
            form["time"] = self.end_s
        else:
            form |= {"start": self.end_s - 120, "end": self.end_s, "step": 15}
        answer = self.client.post(f"{self.url}/api/v1/query{'' if target['instant'] else '_range'}", data=form)
        assert answer.status_code == 200, (expr, answer.text)
        return {
            ",".join(f"{name}={value}" for name, value in sorted(each["metric"].items())): [
                float(value) for _, value in each.get("values") or [each["value"]]
            ]
            for each in answer.json()["data"]["result"]
        }


@pytest.fixture(scope="module")
def monitored() -> Iterator[Monitored]:
    """A Prometheus that was written to, scrapes a page with all metrics, and evaluates the rules once a second."""
    latest = LatestIntervals(most_vms=1)
    telemetry = full_telemetry(latest, busy=True)
    latest.write(make_batch([0], network="page"))
    with servers.folder_of("monitored") as folder, serving(lambda: exposition(telemetry.registry, latest)) as address:
        (folder / "rules.yml").write_text(RULES.read_text().replace("interval: 1m", "interval: 1s"))
        config = scrape_config(address) + "rule_files: [rules.yml]\n"
        with servers.running(servers.prometheus(folder, config=config)) as server:
            network, end_s = f"m{secrets.token_hex(4)}", int(time.time())
            with PrometheusStore(PrometheusConfig(HttpAccess(server.url))) as store:
                store.write(shop(network, end_s))
            until_s = time.monotonic() + 30
            while time.monotonic() < until_s:
                scraped = ask(server.url, "count_over_time(adumbra_build_info[1m])")
                if scraped and int(scraped[0]["value"][1]) >= 3:
                    break
                time.sleep(0.2)
            with httpx.Client() as client:
                yield Monitored(server.url, network, end_s, client)


@pytest.fixture(params=["prometheus", "victoriametrics"])
def written(request: pytest.FixtureRequest) -> Iterator[Monitored]:
    if request.param == "prometheus":
        yield request.getfixturevalue("monitored")
        return
    url, network, end_s = request.getfixturevalue("victoriametrics_url"), f"m{secrets.token_hex(4)}", int(time.time())
    with PrometheusStore(PrometheusConfig(HttpAccess(url))) as store:
        store.write(shop(network, end_s))
    flushed(url)
    with httpx.Client() as client:
        yield Monitored(url, network, end_s, client)


def known(lines: Mapping[str, list[float]]) -> bool:
    return any(math.isfinite(value) for values in lines.values() for value in values)


DECLARED = "adumbra_vm_declared"


class TestData:
    def test_stands_behind_every_panel_of_the_network(self, written: Monitored) -> None:
        asked = [(title, target) for title, target in queries(NETWORK) if DECLARED not in target["expr"]]
        empty = [(title, target["expr"]) for title, target in asked if not known(written.values(target))]
        assert len(asked) > 60
        assert not empty

    def test_stands_behind_every_panel_of_the_processes(self, monitored: Monitored) -> None:
        declared = [(title, target) for title, target in queries(NETWORK) if DECLARED in target["expr"]]
        assert len(declared) == 3
        page = replace(monitored, network="shop", end_s=int(time.time()))
        asked = [*queries(PROCESS), *declared]
        assert not [(title, target["expr"]) for title, target in asked if not known(page.values(target))]

    def test_is_what_was_written(self, written: Monitored) -> None:
        found = {(title, target["legendFormat"]): target for title, target in queries(NETWORK)}
        by_vm = written.values(found["In (observed)", "{{vm}}"])
        assert by_vm["vm=web-1"] == pytest.approx([8000] * len(by_vm["vm=web-1"]), rel=0.01)
        assert len(by_vm) == 4
        (middle,) = written.values(found["Memory (simulated)", "Memory"]).values()
        (high,) = written.values(found["Memory (simulated)", "90th percentile"]).values()
        (low,) = written.values(found["Memory (simulated)", "10th percentile"]).values()
        assert all(a < b < c for a, b, c in zip(low, middle, high, strict=True))
        (median,) = written.values(found["Round trips (observed)", "p50"]).values()
        assert median == pytest.approx([math.exp(2) / 1e3] * len(median), rel=0.3)
        heat = written.values(found["Round trips (observed), how often", "{{le}}"])
        assert len(heat) == len(BUCKETS_MS)

    def test_gives_every_choice_something_to_choose(self, written: Monitored) -> None:
        for variable in NETWORK["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
                series = series.replace("$network", written.network).replace("$origin", "shadow")
                answer = httpx.get(f"{written.url}/api/v1/label/{label}/values", params={"match[]": series}).raise_for_status()
                assert answer.json()["data"], variable["name"]

    def test_comes_of_every_recording_rule(self, monitored: Monitored) -> None:
        want = {rule.record for group in recordings().values() for rule in group}
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            found = ask(monitored.url, f'{{__name__=~".+:.+:.+", network="{monitored.network}"}}')
            if {each["metric"]["__name__"] for each in found} == want:
                break
            time.sleep(0.2)
        assert {each["metric"]["__name__"] for each in found} == want
        groups = httpx.get(f"{monitored.url}/api/v1/rules").raise_for_status().json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == len(want) + len(alerts())
        assert {(rule["health"], rule.get("lastError")) for rule in rules} == {("ok", None)}
