"""The back-test command as a user meets it: tables that fit, complete JSON, sizes that anyone can score, refusals."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.service.usage_samples import VMS, as_csv, usages
from typer.testing import CliRunner, Result

from adumbra.cli.backtest import ago_or_instant_ns, instant_ns, machines_of, shares
from adumbra.cli.main import app
from adumbra.profile.rules import RULES
from adumbra.schema.backtests import MeasuredUse, Usages
from adumbra.schema.errors import AdumbraError, InputError, TooLittleDataError
from adumbra.schema.units import format_time

START_S, LEAD_IN_S, DAY_S = 1_704_067_200, 14 * 86_400, 86_400


@pytest.mark.parametrize(("text", "want"), [("1%", (0.01,)), ("5%,0.5%, 1%,1%", (0.005, 0.01, 0.05)), ("50%", (0.5,))])
def test_settings_of_the_dial(text: str, want: tuple[float, ...]) -> None:
    assert shares(text) == pytest.approx(want)


@pytest.mark.parametrize("text", ["", "0%", "51%", "1", "1%,", "1%;2%", "-1%", "nan%"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        shares(text)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T12:30:00Z", "2026-01-31T12:30:00Z"),
        ("2026-01-31T12:30:00+02:00", "2026-01-31T10:30:00Z"),
        (" 2026-01-31 06:00 ", "2026-01-31T06:00:00Z"),
    ],
)
def test_dates(text: str, want: str) -> None:
    assert format_time(instant_ns(text)) == want


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "31.1.2026", "1700000000000000"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match="is no date"):
        instant_ns(text)


def test_how_long_ago_is_a_time_too() -> None:
    assert ago_or_instant_ns("2026-01-31") == instant_ns("2026-01-31")
    assert ago_or_instant_ns("1d") - ago_or_instant_ns("2d") == pytest.approx(DAY_S * 1e9, rel=1e-3)
    with pytest.raises(ValueError, match="is no date"):
        ago_or_instant_ns("30")


def test_what_machines_have() -> None:
    assert machines_of(["web=4", "a=b=m7i.large", "2"]) == {"web": "4", "a=b": "m7i.large", "*": "2"}
    for wrong in (["web="], [""], ["web=4", "web=8"], ["4", "8"]):
        with pytest.raises(InputError, match="--machine"):
            machines_of(wrong)


@pytest.fixture(scope="module")
def usage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("usage") / "usage.csv"
    file.write_text(as_csv(usages()))
    return file


@pytest.fixture(scope="module")
def one_vm() -> Usages:
    """One of the VMs alone: too little for Adumbra's own sizes, and quick to try."""
    every = usages()
    panels = {name: replace(use.panel, vms=VMS[:1], values=use.panel.values[:1]) for name, use in every.resources.items()}
    provisioned = {name: use.provisioned[:1] for name, use in every.resources.items()}
    return replace(every, resources={name: MeasuredUse(panel, provisioned[name]) for name, panel in panels.items()})


def run(*arguments: object, columns: int = 100) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["backtest", *map(str, arguments)])


@pytest.fixture(scope="module")
def done(usage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the command says as JSON, and the folder in which it wrote its files."""
    folder = tmp_path_factory.mktemp("out")
    asked = ["--step", "1h", "--out", folder / "report", "--allocations", folder / "sizes.parquet", "--output", "json"]
    result = run(usage, *asked)
    assert result.exit_code == 0, result.output
    plain: dict[str, Any] = json.loads(result.stdout)
    return plain, folder


def test_the_table_fits(usage: Path) -> None:
    result = run(usage, "--step", "1h")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "CPU of 10 VMs, sized every 1 d, 2024-01-15T00:00:00Z to 2024-01-21T00:00:00Z"
    for rule in RULES:
        assert len(re.findall(rf"^ {rule} +[\d.]+ +[\d.]+ ", result.stdout, re.MULTILINE)) >= 2, "a row a resource"
    assert "Memory of 10 VMs" in result.stdout
    assert "next: the same with --out DIR" in result.stderr
    assert "55 of 60 windows" in result.stderr


def test_the_table_fits_a_narrow_terminal_as_well(one_vm: Usages, tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text(as_csv(one_vm))
    result = run(file, columns=80)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.startswith("CPU of 1 VM, sized every 1 d, ")
    for rule in RULES:
        assert len(re.findall(rf"^ {rule} +[\d.]+ +[\d.]+ ", result.stdout, re.MULTILINE)) >= 2, "no name is cut off"
    assert "adumbra gave no sizes: " in result.stderr


def test_the_json_is_complete_and_that_of_the_report(done: tuple[dict[str, Any], Path]) -> None:
    plain, folder = done
    assert plain == json.loads((folder / "report" / "report.json").read_text())
    assert plain["origins"] == [f"2024-01-{day}T00:00:00Z" for day in range(15, 21)]
    for resource in ("cpu_cores", "memory_gb"):
        found = plain["resources"][resource]
        assert [each["rule"] for each in found["rules"]][: len(RULES)] == list(RULES)
        assert found["vms"] == sorted(VMS)
        assert all(each["cost"]["allocated"] > 0 for each in found["rules"])
    assert (folder / "report" / "report.html").stat().st_size < 8_000_000
    with (folder / "report" / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(found["rules"]) for found in plain["resources"].values())


Key = tuple[str, float | None, str | None]


def scored_from_the_files(usage: Path, sizes: Path, resource: str, column: str, unit: float) -> dict[Key, tuple[float, float]]:
    """Allocated and short, in %, of each rule, from the usage file and the sizes alone, by SQL and loops of its own."""
    query = f"SELECT vm, time, {column}, {column}_provisioned FROM read_csv(?)"
    samples: dict[tuple[str, int], list[float]] = defaultdict(list)
    provisioned: dict[str, float] = {}
    for vm, at, used, given in duckdb.execute(query, [str(usage)]).fetchall():
        provisioned[vm] = max(given / unit, provisioned.get(vm, 0.0))
        if used is not None:
            samples[vm, int(at) // DAY_S].append(used / unit)
    rows = duckdb.execute(
        "SELECT rule, dial, risk, vm, epoch(origin)::BIGINT, allocated FROM read_parquet(?) WHERE resource = ?"
        " ORDER BY rule, dial, risk, vm, origin",
        [str(sizes), resource],
    ).fetchall()
    sums: dict[Key, list[float]] = defaultdict(lambda: [0.0] * 4)
    last: dict[tuple[Key, str], float] = {}
    for rule, dial, risk, vm, at, amount in rows:
        key = rule, dial, risk
        last[key, vm] = amount if amount is not None else last.get((key, vm), provisioned[vm])
        day = at // DAY_S
        came = samples[vm, day]
        if sum(bool(samples[vm, day - back]) for back in range(1, 15)) < 7 or len(came) < 12:
            continue
        size = min(last[key, vm], provisioned[vm])
        short = sum(use > size for use in came) - sum(use > provisioned[vm] for use in came)
        sums[key] = [a + b for a, b in zip(sums[key], [size, provisioned[vm], short, len(came)], strict=True)]
    return {key: (100 * a / b, 100 * c / d) for key, (a, b, c, d) in sums.items()}


@pytest.mark.parametrize(
    ("resource", "column", "unit"), [("cpu_cores", "cpu_cores", 1.0), ("memory_gb", "memory_bytes", 2.0**30)]
)
def test_anyone_can_score_the_sizes(
    usage: Path, done: tuple[dict[str, Any], Path], resource: str, column: str, unit: float
) -> None:
    plain, folder = done
    found = scored_from_the_files(usage, folder / "sizes.parquet", resource, column, unit)
    rules = plain["resources"][resource]["rules"]
    assert len(found) == len(rules)
    for each in rules:
        allocated, short = found[each["rule"], each["dial"], each["risk"]]
        assert each["allocated_percent"] == pytest.approx(allocated, rel=1e-9)
        assert each["short_percent"] == pytest.approx(short, rel=1e-9, abs=1e-12)


def test_one_resource_some_rules_and_other_times(usage: Path) -> None:
    asked = ["--resource", "memory_gb", "--rules", "crane,peak", "--from", "2024-01-18", "--lead-in", "7d", "--resize", "12h"]
    result = run(usage, "--step", "1h", *asked, "--risk", "pooled", "--output", "json")
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert list(plain["resources"]) == ["memory_gb"]
    assert [each["rule"] for each in plain["resources"]["memory_gb"]["rules"]][:2] == ["crane", "peak"]
    assert plain["origins"][:2] == ["2024-01-18T00:00:00Z", "2024-01-18T12:00:00Z"]
    assert (plain["resize_s"], plain["horizon_s"], plain["risks"]) == (43_200, 43_200, ["pooled"])


def test_prices_of_ones_own(one_vm: Usages, tmp_path: Path) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text("resource,usd_per_hour\ncpu_cores,0.5\n")
    file = tmp_path / "one.csv"
    file.write_text(as_csv(one_vm))
    result = run(file, "--rules", "declared", "--prices", prices, "--output", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["resources"]
    declared = found["cpu_cores"]["rules"][0]
    assert declared["cost"]["allocated"] == pytest.approx(0.5 * 730 * 4), "one VM of 4 cores"
    assert found["memory_gb"]["rules"][0]["cost"] is None


REFUSED = [
    (["absent.csv"], InputError, "absent.csv"),
    (["USAGE", "--rules", "aws"], InputError, "no rule named 'aws'"),
    (["USAGE", "--shortfall", "0%"], InputError, "--shortfall: '0%': give shares above 0 %"),
    (["USAGE", "--from", "soon"], InputError, "--from: 'soon' is no date"),
    (["USAGE", "--from", "2024-01-02"], InputError, "before the end of the lead-in"),
    (["USAGE", "--from", "2025-01-02"], TooLittleDataError, "leaves no 1 d to score"),
    (["USAGE", "--resize", "1"], InputError, "--resize: '1' has no unit"),
    (["USAGE", "--resize", "1d", "--horizon", "1h"], InputError, "no shorter than --resize"),
    (["USAGE", "--resource", "gpu"], InputError, "gpu"),
    (["USAGE", "--resource", "storage_gb"], InputError, "storage_gb"),
    (["USAGE", "--lead-in", "19d", "--resize", "2d"], TooLittleDataError, "a shorter --lead-in"),
    (["USAGE", "--prices", "absent.csv"], InputError, "absent.csv can't be read"),
    (["USAGE", "--allocations", "absent/sizes.parquet"], InputError, "give a file in a folder that is there"),
    (["USAGE", "--until", "tomorrow"], InputError, "--until: 'tomorrow' is no date"),
    (["USAGE", "--until", "2024-01-14"], TooLittleDataError, "leaves no 1 d to score"),
    (["network:lab", "USAGE"], InputError, "is read alone, and whole"),
    (["network:lab", "--until", "1d"], InputError, "is read alone, and whole"),
    (["USAGE", "--out", "USAGE"], InputError, "can't be the report's folder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "says"), REFUSED)
def test_refusals(usage: Path, arguments: list[str], error: type[AdumbraError], says: str) -> None:
    result = run(*[str(usage) if each == "USAGE" else each for each in arguments], "--step", "1h")
    assert isinstance(result.exception, error), result.output
    assert says in str(result.exception)
    assert result.exception.exit_status == (2 if error is InputError else 1)
    assert result.stdout == ""


def test_a_hostile_name_stays_text_in_the_table(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(as_csv(usages(vms=("[red]x[/red]", *VMS[1:]))))
    result = run(file, "--step", "1h", "--rules", "peak", "--resource", "cpu_cores", "--out", tmp_path / "[bold]out")
    assert result.exit_code == 0, result.output
    assert "[bold]out/report.html" in result.stderr
    assert not math.isnan((tmp_path / "[bold]out" / "report.html").stat().st_size)
