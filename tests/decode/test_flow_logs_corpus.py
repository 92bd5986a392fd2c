"""The flow logs of ../shared/data/flows: every line is read, or refused with a reason; totals as a plain reading gives them."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest
from tests.decode.flow_log_lines import DATA, counted, decoded

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the flow logs of ../shared are not there")
CONN_LOGS = sorted(DATA.glob("rita-conn/*/*.log.gz"))
ATTEMPTED = {"S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "SH"}


@needs_shared
@pytest.mark.parametrize(
    ("name", "accounts", "size", "packets"),
    [
        ("elastic-custom-nat-gateway.log", {"header": 1, "unsupported": 2}, 0, 0),  # no times
        (
            "elastic-extra-samples-v2.log",
            {"parsed": 5, "nodata": 1, "skipdata": 1},
            8855 + 2 * 4249 + 2 * 336,
            54 + 2 * 20 + 2 * 4,
        ),
        ("elastic-tcp-flag-v3.log", {"header": 1, "parsed": 1}, 568, 8),
        ("elastic-v5-all-fields.log", {"parsed": 1}, 1, 52),
    ],
)
def test_samples_of_vpc_flow_logs(name: str, accounts: dict[str, int], size: int, packets: int) -> None:
    rows, decoder = decoded((DATA / "vpcflow" / name).read_bytes().splitlines())
    assert counted(decoder) == accounts
    assert (sum(row["bytes"] for row in rows), sum(row["packets"] for row in rows)) == (size, packets)


@needs_shared
@pytest.mark.parametrize("path", CONN_LOGS[::6], ids=lambda path: path.name)
def test_two_days_of_a_server_in_zeeks_logs(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines()
    want: Counter[str] = Counter()
    with gzip.open(path, "rt", newline="") as text:
        fields = next(line for line in text if line.startswith("#fields")).rstrip("\n").split("\t")[1:]
        for row in csv.DictReader((line for line in text if line[0] != "#"), fields, delimiter="\t", quoting=csv.QUOTE_NONE):
            want["rows"] += 2
            want["bytes"] += int(row["orig_ip_bytes"]) + int(row["resp_ip_bytes"])
            want["packets"] += int(row["orig_pkts"]) + int(row["resp_pkts"])
            want["attempted"] += row["proto"] == "tcp" and row["conn_state"] in ATTEMPTED
    rows, decoder = decoded(lines)
    assert counted(decoder) == {"header": 9, "parsed": want["rows"]}
    for name in ("bytes", "packets", "attempted"):
        assert sum(row[name] for row in rows) == want[name]
