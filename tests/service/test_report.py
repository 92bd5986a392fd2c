"""The report's page: whole in itself, safe from names out of files, figures that plotly accepts; its files; its words."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.service.test_backtests import Scaled, report_with
from tests.service.usage_samples import VMS, usages

from adumbra.profile.money import UnitPrices
from adumbra.schema.backtests import Risk
from adumbra.schema.errors import InputError
from adumbra.service.backtests import OURS, BacktestReport
from adumbra.service.report.chosen import beside, vms_to_show
from adumbra.service.report.figures import BANDS, floor_of
from adumbra.service.report.files import checked_folder, write_report
from adumbra.service.report.page import page
from adumbra.service.report.series import digits, maxima, summed
from adumbra.service.report.words import PROMISED, cells, compared, promises, verdicts

HOSTILE = (
    "</script><script>document.title='owned'</script>", '"><img src=x onerror="alert(1)">', "<b>%{y}</b>&lt;", "<!--", "]]>",
    "a'b\"c", "\u2028\u2029", *VMS[7:],
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> BacktestReport:
    given_ = usages(vms=HOSTILE)
    ours = [Scaled("peak", ((0.01, 0.9), (0.05, 0.7)), Risk.PER_VM), Scaled("crane", ((0.01, 0.9), (0.05, 0.8)), Risk.POOLED)]
    return report_with(*ours, given=given_, prices=UnitPrices({"cpu_cores": 0.04}, "<prices>"))


@pytest.fixture(scope="module")
def text(report: BacktestReport) -> str:
    return page(report)


class Elements(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.found.append(("/script", {}))


@pytest.fixture(scope="module")
def elements(text: str) -> Elements:
    return Elements(text)


def figures_of(elements: Elements) -> dict[str, Any]:
    (data,) = [
        script
        for script, (_, attributes) in zip(elements.scripts, [e for e in elements.found if e[0] == "script"], strict=True)
        if attributes.get("id") == "figures"
    ]
    loaded: dict[str, Any] = json.loads(data)
    return loaded


def test_the_page_needs_nothing_from_outside_and_is_not_large(text: str, elements: Elements) -> None:
    assert len(text.encode()) < 8_000_000
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#"), tag  # type: ignore[union-attr]
        assert not [name for name in attributes if name.startswith("on")], tag


def test_only_its_own_scripts_may_run(elements: Elements) -> None:
    (policy,) = [a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    kinds = [attributes.get("type") for tag, attributes in elements.found if tag == "script"]
    assert kinds == ["application/json", None, None], "the figures, plotly, and the page's own: no name has become a script"
    run = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in elements.scripts[1:]}
    assert run == allowed


def texts_within(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            if key != "hovertemplate":
                yield from texts_within(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_within(each)


def test_names_from_files_are_text_everywhere(report: BacktestReport, text: str, elements: Elements) -> None:
    shown = text.replace(elements.scripts[1], "")
    for name in HOSTILE[:2]:
        assert name not in shown
    marks = {mark for each in texts_within(figures_of(elements)) for mark in re.findall(r"<[^>]*>?", each)}
    assert marks <= {"<b>", "</b>", "<br>"}, "plotly takes these for marks; no others are in its labels"
    shown_vms = {HOSTILE[vm] for found in report.resources for _, vm in vms_to_show(beside(found))}
    assert shown_vms & set(HOSTILE[:7]), "a name that could do harm is shown"
    for name in shown_vms:
        assert f"<b>{html.escape(name)}</b>" in shown


def resolved(value: Any) -> Any:
    """The figure as the page's script gives it to plotly: colours instead of names of variables."""
    if isinstance(value, str):
        return "#123456" if value.startswith("--") else value
    if isinstance(value, dict):
        return {key: resolved(each) for key, each in value.items()}
    return [resolved(each) for each in value] if isinstance(value, list) else value


def test_plotly_accepts_every_figure_and_every_figure_is_in_the_page(elements: Elements) -> None:
    import plotly.graph_objects as go

    drawn = figures_of(elements)
    places = [attributes["data-figure"] for tag, attributes in elements.found if "data-figure" in attributes]
    assert places == list(drawn)
    assert len(drawn) >= 2 * 6, "of each resource: frontier, promise, coverage, spread, and two VMs at least"
    style = (Path(__file__).parents[2] / "src/adumbra/service/report/page.css").read_text()
    for figure in drawn.values():
        made = go.Figure(resolved({"data": figure["data"], "layout": figure["layout"]}))
        assert len(made.data) == len(figure["data"]) > 0
        for name in set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(figure))):
            assert style.count(f"{name}:") == 2, f"{name} has a colour in the light and in the dark"


def test_the_frontier_shows_the_scores(report: BacktestReport, elements: Elements) -> None:
    frontier = next(iter(figures_of(elements).values()))
    shown = {(round(x, 6), round(y, 6)) for trace in frontier["data"] for x, y in zip(trace["x"], trace["y"], strict=True)}
    found = report.resources[0]
    floor = floor_of([each.point.figures.short_percent for each in found.scored])
    want = {
        (round(max(each.point.figures.short_percent, floor), 6), round(each.point.figures.allocated_percent, 6))
        for each in found.scored
        if each.given.rule != "declared"
    }
    assert shown == want
    labelled = ", ".join(label["text"] for label in frontier["labels"]).split(", ")
    assert sorted(labelled) == sorted(
        f"{each.given.dial * 100:g} %" if each.given.dial else each.given.rule
        for each in found.scored
        if each.given.rule != "declared"
    )


def test_the_spread_counts_every_vm_once(report: BacktestReport, elements: Elements) -> None:
    spread = [figure for figure in figures_of(elements).values() if figure["data"][0]["type"] == "bar"]
    assert len(spread) == len(report.resources)
    for figure in spread:
        assert len(figure["data"]) == len(BANDS)
        for shares in zip(*(trace["x"] for trace in figure["data"]), strict=True):
            assert sum(shares) == pytest.approx(100.0)


def test_vms_that_are_shown(report: BacktestReport) -> None:
    for found in report.resources:
        chosen = beside(found)
        assert [each.given.risk for each in chosen] == [Risk.PER_VM, Risk.POOLED, None]
        shown = vms_to_show(chosen)
        short = chosen[0].short_of_vms
        whys = " ".join(why for why, _ in shown)
        assert "the most often short" in whys
        worst = next(vm for why, vm in shown if "the most often short" in why)
        measured = chosen[0].point.per_vm.measured
        assert short[worst] == np.nanmax(np.where(measured >= measured.max() / 2, short, np.nan))
        assert len({vm for _, vm in shown}) == len(shown)


FLOATS = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan))


@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float64, st.integers(1, 120), elements=FLOATS), points=st.integers(1, 50))
def test_short_series_keep_their_maxima(values: np.ndarray[Any, Any], points: int) -> None:
    short, each = maxima(values, points)
    assert len(short) <= points
    assert len(short) == -(-len(values) // each)
    for number, largest in enumerate(short):
        part = [x for x in values[number * each : (number + 1) * each] if not math.isnan(x)]
        assert (math.isnan(largest) and not part) or largest == max(part)


@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=100), points=st.integers(1, 50))
def test_added_counts_lose_none(numbers: list[int], points: int) -> None:
    counts = np.array(numbers, dtype=np.float64)
    added, each = summed(counts, points)
    assert len(added) <= points
    assert added.sum() == counts.sum()
    assert added[0] == counts[:each].sum()


def test_digits() -> None:
    assert digits(np.array([1.23456, math.nan, 123456.0, math.inf, 0.0])) == [1.235, None, 123500.0, None, 0.0]


def test_the_files(report: BacktestReport, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    checked_folder(folder)
    write_report(report, folder)
    write_report(report, folder)  # in place of the first
    assert sorted(each.name for each in folder.iterdir()) == ["frontier.csv", "report.html", "report.json"]
    plain = json.loads((folder / "report.json").read_text())
    rows = list(csv.DictReader((folder / "frontier.csv").read_text().splitlines()))
    scored = [(found.resource, each) for found in report.resources for each in found.scored]
    assert len(rows) == len(scored)
    for row, (resource, each) in zip(rows, scored, strict=True):
        assert (row["resource"], row["rule"]) == (resource, each.given.rule)
        assert float(row["allocated_percent"]) == each.point.figures.allocated_percent
        assert row["dial"] == ("" if each.given.dial is None else str(each.given.dial))
    (first, *_) = plain["resources"]["cpu_cores"]["rules"]
    assert first["rule"] == "azure-1d"
    assert first["per_vm"]["short_percent"] == [
        None if math.isnan(x) else x for x in report.resources[0].scored[0].short_of_vms.tolist()
    ]
    assert plain["prices"] == {"per_hour": {"cpu_cores": 0.04}, "source": "<prices>"}
    assert plain["resources"]["cpu_cores"]["vms"] == list(HOSTILE)


def test_a_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be the report's folder"):
        checked_folder(tmp_path / "file")


def test_the_words(report: BacktestReport) -> None:
    for found in report.resources:
        columns, rows = compared(found)
        assert {len(row) for row in rows} == {len(columns)}
        assert len(rows) == 7
        said = verdicts(found)
        assert [sentence.split(" ", 3)[2] for sentence in said] == ["per", "pooled"]
        for each in found.comparisons:
            assert each.found.rule in " ".join(said)
        assert all(len(cells(each)) == 8 for each in found.scored)
        kept = promises(found)
        assert [row[:2] for row in kept] == [("per-vm", "1"), ("per-vm", "5"), ("pooled", "1"), ("pooled", "5")]
        for row, each in zip(kept, [each for each in found.scored if each.given.dial], strict=True):
            assert len(row) == len(PROMISED)
            assert float(row[3]) == pytest.approx(each.point.figures.short_percent / 100 / (each.given.dial or 1), abs=0.006)
    without = report_with(rules=["peak", "crane"])
    (sentence,) = verdicts(without.resources[0])
    assert sentence.startswith("Of the rules that are short no more than 1 % of the time, crane allocates least: ")
    (sentence,) = verdicts(report_with(rules=[]).resources[0])
    assert sentence == "Nothing could be scored."


def test_a_page_without_ours_and_without_rules() -> None:
    for rules in (["peak"], []):
        found = Elements(page(report_with(rules=rules)))
        assert len(figures_of(found)) >= 2
        assert OURS not in json.dumps(figures_of(found))


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_draws_it_and_runs_no_name(tmp_path: Path) -> None:
    given_ = usages(vms=HOSTILE)
    text = page(report_with(Scaled("peak", ((0.01, 0.9),)), given=given_, rules=["peak"], resources=("cpu_cores",)))
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    assert CHROMIUM is not None
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
    ]
    run = subprocess.run(
        [CHROMIUM, *options, "--virtual-time-budget=20000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'data-drawn="yes"' in run.stdout, run.stderr[-2000:]
    assert "<title>Back-test of sizes: made-up.csv</title>" in run.stdout, "no name has run as a script"
    assert run.stdout.count('class="main-svg"') >= len(figures_of(Elements(text)))
    complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
