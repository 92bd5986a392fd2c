"""What a network's page and report show: the right figures, their units, how they were come by; and drawings that are sound."""

from __future__ import annotations

import html
import itertools
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.service.lab import HOSTILE, SECONDS, SPEC, START_S, expected, made_lab, traffic

from adumbra.console.parts.told import diff_list
from adumbra.schema.plans import Act, Item, Kind, Plan, Step
from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.sizing import Confidence
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service.pictures import charts, drawn, words
from adumbra.service.pictures.loads import loads
from adumbra.service.pictures.networks import accounts_told, glances, overview, sources_of
from adumbra.service.pictures.plans import diff
from adumbra.service.pictures.prices import declared_price
from adumbra.service.pictures.topology import MAX_CARDS, Box, sentences, svg, topology
from adumbra.service.pictures.words import Mark
from adumbra.service.report import network as network_report
from adumbra.service.workspace import Workspace

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("lab")) as opened:
        made_lab(opened)
        yield opened


def test_a_glance_has_state_time_confidence_and_costs(lab: Workspace) -> None:
    found = {each.name: each for each in glances(lab, lab.state.networks())}
    one, other = found["lab"], found["other"]
    assert (one.vms, one.learned_s, one.watched_s) == (2, 300.0, SECONDS)
    assert one.confidence is Confidence.LOW  # of the VM that is known least
    assert one.costs.proposed == pytest.approx((0.0765 + 0.153) * 730)
    assert one.costs.declared is not None
    assert one.costs.saved == pytest.approx(one.costs.declared - one.costs.proposed)
    assert one.costs.estimated == 1  # the db names no type
    assert (other.learned_s, other.confidence, other.costs.proposed, other.last_ns) == (None, None, None, None)


def test_what_is_declared_without_a_type_is_priced_by_the_cheapest_that_holds_it(lab: Workspace) -> None:
    web, db = overview(lab, "lab").vms
    assert declared_price(web).type == "m7i.large"
    assert not declared_price(web).chosen
    chosen = declared_price(db)
    assert chosen.chosen
    assert chosen.price_per_hour is not None


def test_sizes_stand_beside_what_was_declared(lab: Workspace) -> None:
    web, db = overview(lab, "lab").sizes
    assert [(each.resource, each.declared, each.proposed) for each in web.sizes[:2]] == [
        ("cpu_cores", 2.0, 2.0), ("memory_gb", 8.0, 4.0)
    ]  # fmt: skip
    assert (web.declared_type, web.proposed_type, web.priced_as) == ("m7i.large", "c6a.large", "")
    assert db.priced_as
    assert web.told[0].startswith("c6a.large")
    assert set(web.told) < set(web.reasons)
    undecided = overview(lab, "other").sizes[0]
    assert all(each.proposed is None for each in undecided.sizes)
    assert undecided.reasons == ()


def test_charts_say_how_their_lines_were_come_by(lab: Workspace) -> None:
    series = charts.read(lab, "lab", "web", 1.0, None)
    assert series is not None
    found = charts.vm_charts(overview(lab, "lab").sizes[0], series, None, expected())
    by_key = {chart.key: chart for chart in found.charts}
    assert list(by_key) == ["cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb", "requests", "latency"]
    cpu = by_key["cpu_cores"]
    assert [(line.name, line.mark) for line in cpu.lines] == [
        ("simulated", Mark.SIMULATED),
        ("forecast, median", Mark.FORECAST),
    ]
    assert [band.mark for band in cpu.bands] == [Mark.SIMULATED, Mark.FORECAST]
    assert by_key["bandwidth_mbps"].lines[0].mark is Mark.OBSERVED
    assert by_key["requests"].lines[0].mark is Mark.INFERRED
    assert cpu.unit == "cores"
    assert cpu.lines[0].points[0][0] == START_S * 1000
    for line, band in zip(cpu.lines, cpu.bands, strict=True):
        for (_, value), (_, low), (_, high) in zip(line.points, band.low, band.high, strict=True):
            assert value is not None
            assert low is not None
            assert high is not None
            assert low <= value <= high


def test_a_size_far_above_the_use_is_told_and_not_drawn(lab: Workspace) -> None:
    series = charts.read(lab, "lab", "web", 1.0, None)
    assert series is not None
    bandwidth = charts.vm_charts(overview(lab, "lab").sizes[0], series).charts[2]
    assert bandwidth.levels == ()
    assert "declared 781 Mbps and proposed 50 Mbps: far above what is drawn" in bandwidth.notes
    assert "no forecast yet" in bandwidth.notes
    memory = charts.vm_charts(overview(lab, "lab").sizes[0], series).charts[1]
    assert [level.mark for level in memory.levels] == [Mark.DECLARED, Mark.PROPOSED]


@pytest.mark.parametrize(
    ("interval", "seconds", "step"), [(1.0, 300, 1.0), (1.0, 900, 5.0), (10.0, 3600, 30.0), (7.0, 70_000, 238.0)]
)
def test_a_chart_has_about_so_many_points_in_whole_intervals(interval: float, seconds: float, step: float) -> None:
    assert charts.step_for(interval, seconds) == step
    assert seconds / step <= charts.POINTS


def test_loads_are_means_of_the_last_seconds(lab: Workspace) -> None:
    found = loads(lab, "lab")
    assert found.until_ns == (START_S + SECONDS) * 10**9
    web = found.vms["web"]
    assert web.tx_mbps == pytest.approx(web.requests_per_s * 9000 * 8e-6)
    assert 0 < web.cpu < 1
    assert loads(lab, "other").vms == {}


def _overlap(a: Box, b: Box) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


_RING = """\
name: ring
cidrs: [10.0.0.0/8]
subnets: [{names}]
links: [{links}]
vms: [{vms}]
"""


def _ring(size: int, count: int) -> str:
    names = ", ".join(f"{{name: s{i}, cidr: 10.{i}.0.0/16}}" for i in range(size))
    links = ", ".join(f"{{between: [s{i}, s{(i + 1) % size}], rtt: 1ms, bandwidth: 1Gbps}}" for i in range(size))
    links += ", {between: [s0, internet], rtt: 10ms, bandwidth: 1Gbps}"
    vms = ", ".join(f"{{name: v{i}, subnet: s{i}, count: {count}}}" for i in range(size))
    return _RING.format(names=names, links=links, vms=vms)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("size", "count"), [(3, 1), (5, 3), (8, 40)])
def test_a_topology_draws_every_subnet_once_and_none_over_another(size: int, count: int, down: bool) -> None:
    spec = parse_spec(_ring(size, count))
    picture = topology(spec, expand_vms(spec), {}, down=down)
    assert {box.name for box in picture.boxes} == {"internet", *(f"s{i}" for i in range(size))}
    assert not any(_overlap(a, b) for a, b in itertools.combinations(picture.boxes, 2))
    for box in picture.boxes:
        assert box.x >= 0
        assert box.x + box.width <= picture.width
        assert box.y + box.height <= picture.height
        assert len(box.cards) + box.more == (count if box.cidr else 0)
        assert len(box.cards) <= MAX_CARDS
    assert len(picture.lines) == size + 1
    root = ET.fromstring(svg(picture, "it"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "it"
    assert root.find(f"{SVG}desc") is not None
    assert len(root.findall(f".//{SVG}path")) == size + 1


def test_a_topology_is_told_in_words_too(lab: Workspace) -> None:
    found = overview(lab, "lab")
    told = sentences(topology(found.spec, found.vms, loads(lab, "lab").vms))
    assert "front (10.9.1.0/24) holds web." in told
    assert any("front" in each and "back" in each and "1 Gbps" in each for each in told)


def test_a_drawn_chart_is_sound_and_breaks_where_nothing_is_known() -> None:
    points = ((0, 1.0), (1000, 2.0), (2000, None), (3000, 1.5), (4000, 0.0))
    line = charts.Line("x", Mark.OBSERVED, points)
    band = charts.Band("b", Mark.SIMULATED, points, tuple((at, None if v is None else v + 1) for at, v in points))
    chart = charts.Chart("k", "T", "u", (line,), (band,), (charts.Level("<l>", Mark.PROPOSED, 3.0),), (), "<it & that>")
    root = ET.fromstring(drawn.svg(chart, 'a "label"'))
    (path,) = [each for each in root.iter(f"{SVG}path") if each.get("class") == "c-line observed"]
    assert path.get("d", "").count("M") == 2
    assert "NaN" not in ET.tostring(root, encoding="unicode")


def test_a_plan_reads_as_a_diff() -> None:
    was = Item(Kind.MACHINE, "db", {"network": "lab", "type": "m7i.large", "storage_gb": 20})
    now = Item(Kind.MACHINE, "db", {"network": "lab", "type": "c6a.xlarge", "storage_gb": 20})
    gone = Item(Kind.MACHINE, "old", {"network": "lab", "type": "m7i.large"})
    steps = (Step(Act.UPDATE, now, was, "db restarts"), Step(Act.DELETE, gone, gone, "old is destroyed, with its disk"))
    found = diff(Plan("lab", "terraform", steps, 0.153))
    update, delete = found.changes
    assert [(one.name, one.was, one.value) for one in update.settings] == [("type", "m7i.large", "c6a.xlarge")]
    assert (update.sign, delete.sign, delete.settings) == ("~", "−", ())
    assert update.interrupts == "db restarts"
    assert found.summary == "1 thing to change, 1 thing to take away; 2 steps interrupt something"
    assert diff(Plan("lab", "terraform", (), None)).summary.startswith("nothing to do")
    held = Plan("lab", "terraform", steps, 0.153, 0.1, "it costs <much>", {"db": ("CPU 4 cores", "a larger type")})
    told = diff_list(diff(held))
    assert "(now $73" in told
    assert "An administrator must approve it: it costs &lt;much&gt;." in told
    assert "db: CPU 4 cores; a larger type" in told


def test_losses_are_told_from_accounts_bare_or_within_an_observation() -> None:
    bare = {
        "offered": 100, "outcomes": {"parsed": 90, "ip_malformed": 2}, "attributed": 80, "late": 3,
        "losses": {"dropped": 5, "ended": "cut"},
    }  # fmt: skip
    for raw in (bare, {"network": "lab", "accounts": bare}):
        figures, lost, ended = accounts_told(raw)
        assert dict(figures) == {"offered": 100, "attributed": 80, "late": 3, "unreadable": 2, "dropped": 5}
        assert (lost, ended) == (10, "cut")
    assert accounts_told({}) == ((), 0, "")


def test_sources_and_observations_are_told_once(lab: Workspace) -> None:
    record = lab.state.sources.add("other", "pcap:/a.pcap", {}, 5)
    ledger = lab.state.begin_observation("other", "pcap:/b.pcap", "mark", 6)
    lab.state.begin_observation("other", "pcap:/a.pcap", "mark2", 7)
    found = sources_of(lab, "other")
    assert [(each.source, each.id, each.going) for each in found] == [
        ("pcap:/a.pcap", record.id, True),
        ("pcap:/b.pcap", None, True),
    ]
    assert ledger.id is not None


@pytest.mark.parametrize(
    ("resource", "value", "want"),
    [("cpu_cores", 1.0, "1 core"), ("cpu_cores", 2.0, "2 cores"), ("memory_gb", 6.0, "6 GB"), ("bandwidth_mbps", None, "–"),
     ("storage_gb", float("nan"), "–")],
)  # fmt: skip
def test_amounts_have_units(resource: str, value: float | None, want: str) -> None:
    assert words.amount(resource, value) == want


def test_changes_of_price_read_as_words() -> None:
    assert words.percent_change(80, 100) == "20 % less"
    assert words.percent_change(150, 100) == "50 % more"
    assert words.percent_change(100.2, 100) == "the same"
    assert words.month(0.1) == "$73.00"
    assert words.ago(10_000_000_000, 9_000_000_000) == "just now"
    assert words.ago(3_600 * 10**9, 0) == "1 h ago"


def test_a_report_is_one_page_that_needs_nothing_and_runs_nothing(lab: Workspace, tmp_path: Path) -> None:
    found = network_report.found_of(lab, "lab", time.time_ns)
    assert found.plan is not None
    text = network_report.page(found)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<script|<link|<img|<iframe|src=|url\(|@import|\bon[a-z]+=", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert text.count('role="img"') == 2 + 6 * 2  # the topology, wide and tall; six charts a VM
    for word in ("Sizes of lab", "$168 a month", "need 0.5 to 2", "create", "How to read this", "Confidence: low"):
        assert word in text, word
    assert len(text) < 500_000


def test_a_report_plans_by_whoever_made_the_network_and_says_where_they_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("ADUMBRA_LIBVIRT_URI", "qemu+unix:///system?socket=/nowhere")
    with Workspace(tmp_path / "own") as own:
        made_lab(own)
        whole = {"network": "lab", "provider": "libvirt", "steps": [], "price_per_hour": None, "aim": "active"}
        made = own.state.plans.begin("lab", whole, 3, "it began")
        own.state.plans.finish(made.id, PlanState.DONE, 4, (NetworkState.ACTIVE, "it is done"))
        found = network_report.found_of(own, "lab", time.time_ns)
    assert found.plan is None
    assert "libvirt" in found.why_no_plan or "qemu+unix:///system" in found.why_no_plan
    assert html.escape(found.why_no_plan, quote=True) in network_report.page(found)


def test_a_report_tells_what_was_measured_once_anything_is(lab: Workspace, tmp_path: Path) -> None:
    assert "Predicted and measured" not in network_report.page(network_report.found_of(lab, "lab", time.time_ns))
    with Workspace(tmp_path / "own") as own:
        made_lab(own)
        made = traffic()
        columns = {"cpu_seconds": np.full((SECONDS, 1), 3.0)}
        sided = np.zeros((SECONDS, 1), np.bool_)
        own.metrics.write(MetricBatch("lab", 1.0, ("web",), made.start_ns, columns, sided, "libvirt", Origin.LIVE))
        text = network_report.page(network_report.found_of(own, "lab", time.time_ns))
    assert "<h2>Predicted and measured</h2>" in text
    assert "→ <b>3</b><small>0 % (0 to 11) inside, 100 % short</small>" in text
    assert "short of CPU" in text
    assert "not measured" in text


def test_a_report_of_a_network_that_nothing_is_known_of_says_so(lab: Workspace) -> None:
    text = network_report.page(network_report.found_of(lab, "other", time.time_ns))
    assert "Nothing is proposed yet" in text
    assert "There are no sizes yet." in text
    assert "nan" not in text.lower().replace("finance", "")


def test_nothing_known_is_no_zero(lab: Workspace) -> None:
    assert charts.read(lab, "other", "web", 1.0, None) is None
    assert np.isnan(loads(lab, "lab").vms["web"].cpu) is np.False_
    assert SPEC
