"""CloudWatch's exports as people have them: the CLI's JSON, CSV of one metric each, and what they don't say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.schema.backtests import Usages
from adumbra.schema.errors import InputError
from adumbra.service.usage_cloudwatch import of_name, series_of_json
from adumbra.service.usages import Told, read_usages

TIMES = ("2026-01-31T12:00:00+00:00", "2026-01-31T12:05:00+00:00", "2026-01-31T12:10:00+00:00")
ALL = Told(machines={"*": "m7i.large"})  # 2 cores, 8 GB


def statistics(label: str, **columns: list[float]) -> str:
    points = [
        {"Timestamp": time, **{name: values[number] for name, values in columns.items()}, "Unit": "Percent"}
        for number, time in enumerate(TIMES)
    ]
    return json.dumps({"Label": label, "Datapoints": points[::-1]})  # they come in no order


def written(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def used(usages: Usages, resource: str, vm: str) -> list[float]:
    panel = usages.resources[resource].panel
    return [round(value, 9) for value in panel.values[panel.vms.index(vm)]]


def test_series_of_one_vm_come_together(tmp_path: Path) -> None:
    files = {
        "i-0abcdef12_CPUUtilization.json": statistics("CPUUtilization", Maximum=[90.0, 90, 90], Average=[10.0, 20, 50]),
        "i-0abcdef12_NetworkIn.json": statistics("NetworkIn", Sum=[3e8, 6e8, 9e8]),
        "i-0abcdef12_NetworkOut.json": statistics("NetworkOut", Sum=[6e8, 3e8, 3e8]),
        "mem.json": json.dumps({
            "MetricDataResults": [
                {"Id": "m1", "Label": "i-0abcdef12 mem_used_percent", "Timestamps": TIMES, "Values": [25, 50, 75]},
                {"Id": "m2", "Label": "mem_used i-99999999", "Timestamps": TIMES[:1], "Values": [2**31]},
            ]
        }),
    }  # fmt: skip
    usages = read_usages(written(tmp_path, files), None, None, ALL)
    assert usages.resources["cpu_cores"].panel.vms == ("i-0abcdef12", "i-99999999")
    assert used(usages, "cpu_cores", "i-0abcdef12") == [0.2, 0.4, 1.0]  # the mean of what throttles
    assert used(usages, "bandwidth_mbps", "i-0abcdef12") == [16, 16, 24]
    assert used(usages, "memory_gb", "i-0abcdef12") == [2, 4, 6]
    assert used(usages, "memory_gb", "i-99999999")[0] == 2
    assert usages.resources["memory_gb"].provisioned.tolist() == [8, 8]
    assert not any("repeat" in note for note in usages.notes)
    assert "CloudWatch exports of 2 VMs (5 series)" in usages.notes


def test_csv_of_one_metric_each(tmp_path: Path) -> None:
    files = {
        "ec2_cpu_utilization_24ae8d.csv": "timestamp,value\n2014-02-14 14:30:00,50\n2014-02-14 14:35:00,25\n",
        "ec2_network_in_24ae8d.csv": "timestamp,value\n2014-02-14 14:30:00,3e8\n2014-02-14 14:35:00,0\n",
        "db1 CPUUtilization.csv": "Timestamp,Average,Unit\n2014-02-14T14:30:00Z,100,Percent\n2014-02-14T14:35:00Z,,Percent\n",
    }
    usages = read_usages(written(tmp_path, files), None, None, Told(machines={"*": "4"}))
    assert usages.resources["cpu_cores"].panel.vms == ("db1", "ec2_24ae8d")
    assert used(usages, "cpu_cores", "ec2_24ae8d") == [2, 1]
    assert np.array_equal(used(usages, "cpu_cores", "db1"), [4, np.nan], equal_nan=True)
    assert used(usages, "bandwidth_mbps", "ec2_24ae8d") == [8, 0]
    assert any("networkin is taken as bytes in 300 s" in note for note in usages.notes)


CPU, ONE = "a_CPUUtilization.csv", "timestamp,value\n2014-02-14 14:30:00,50\n"
REFUSED: list[tuple[str, str, Told, str]] = [
    (CPU, ONE, Told(), "it isn't known how many cores a has; say it: --machine"),
    ("a_mem_used_percent.csv", ONE, Told(machines={"a": "4"}), "how much memory a has"),
    ("elb_request_count.csv", ONE, ALL, "neither its name nor what is in it tells a metric"),
    (CPU, "timestamp,value\n9999-01-01,50\n", ALL, "CPUUtilization.csv:2: the time '9999-01-01' is no time"),
    (CPU, "timestamp,value\nyesterday,50\n", ALL, "CPUUtilization.csv:2: the time 'yesterday' is no time"),
    (CPU, "timestamp,value\n2014-02-14 14:30:00,much\n", ALL, "CPUUtilization.csv:2: 'much' is no number"),
    (CPU, "timestamp,value\n2014-02-14 14:30:00\n", ALL, ":2: 1 values under 2 columns"),
    (CPU, "timestamp,value\n2014-02-14 14:30:00,-50\n", ALL, "which no machine has"),
    ("a_NetworkIn.csv", "timestamp,maximum\n2014-02-14 14:30:00,50\n", ALL, "of networkin there is neither sum nor average"),
    ("a.json", "{", ALL, "is no JSON"),
    ("a.json", "[1]", ALL, "is not what `aws cloudwatch"),
    ("a.json", '{"MetricDataResults": [{"Id": "cpuutilization", "Timestamps": [1.7e9], "Values": []}]}', ALL, "is not what"),
    ("a.json", "[" * 100_000, ALL, "is no JSON"),
    ("a.json", '{"Label": "CPUUtilization", "Datapoints": []}', ALL, "has no rows"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "told", "what"), REFUSED)
def test_what_an_export_cannot_say_is_refused(tmp_path: Path, name: str, text: str, told: Told, what: str) -> None:
    with pytest.raises(InputError) as refused:
        read_usages(written(tmp_path, {name: text}), None, None, told)
    assert what in str(refused.value)
    assert "\n" not in str(refused.value)


NAMED = [
    ("iio_us-east-1_i-a2eb1cd9_NetworkIn.csv", "", ("i-a2eb1cd9", "networkin")),
    ("rds_cpu_utilization_cc0c53.csv", "", ("rds_cc0c53", "cpuutilization")),
    ("ec2_disk_write_bytes_1ef3de.csv.gz", "", ("ec2_1ef3de", "diskwritebytes")),
    ("web.json", "CPUUtilization", ("web", "cpuutilization")),
    ("all.json", "web-1 NetworkOut", ("web-1", "networkout")),
    ("all.json", "mem_used web-1", ("web-1", "memused")),
    ("mem_used_percent_web.csv", "", ("web", "memusedpercent")),
]


@pytest.mark.parametrize(("name", "label", "want"), NAMED)
def test_vm_and_metric_by_name(name: str, label: str, want: tuple[str, str]) -> None:
    assert of_name(Path(name), label) == want


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.sampled_from(TIMES),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.sampled_from(
        ["Label", "Datapoints", "MetricDataResults", "Timestamps", "Values", "Timestamp", "Average", "Id"]), each, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(anything, anything)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_json_there_is_it_is_read_or_refused(tmp_path: Path, one: Any, other: Any) -> None:
    path = tmp_path / "x_CPUUtilization.json"
    for told in (one, {"Datapoints": other, "Label": "CPUUtilization"}, {"MetricDataResults": other}):
        path.write_text(json.dumps(told))
        try:
            series = list(series_of_json(path))
        except InputError as refused:
            assert "\n" not in str(refused)  # noqa: PT017
            continue
        assert all(len(each.time_ns) == len(each.values) for each in series)
