"""Two days of an internet server's connections, as Zeek logged them, metered: every total as a plain reading gives it."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from adumbra.decode.flow_logs import LogDecoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.flow_records import FlowMeter, FlowMeterSettings
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.tap.flow_log import FlowLogFile

DATA = Path(__file__).parents[3] / "shared" / "data" / "flows" / "rita-conn"
SERVER = "64.225.56.201"
SPEC = parse_spec(
    """
name: internet
cidrs: [64.225.56.0/24]
subnets: [{name: all, cidr: 64.225.56.0/24}]
vms: [{name: server, subnet: all, addresses: [64.225.56.201]}]
interval: 1m
"""
)
ESTABLISHED = {"S1", "SF", "S2", "S3", "RSTO", "RSTR"}
ATTEMPTED = ESTABLISHED | {"S0", "REJ", "RSTOS0", "SH"}


@pytest.mark.skipif(not DATA.is_dir(), reason="the flow logs of ../shared are not there")
def test_two_days_of_a_server() -> None:
    attribution = Attribution(SPEC, expand_vms(SPEC))
    meter = FlowMeter(1, SPEC.interval_ns, FlowMeterSettings(lateness_s=None, scan_memory_s=1e6))
    intervals, rows = [], 0
    for path in sorted(DATA.glob("*/*.log.gz")):
        decoder = LogDecoder()
        with FlowLogFile(path) as log:
            for lines in log:
                intervals += meter.add(attribution.assign_flows(decoder.decode(lines)))
        rows += decoder.accounts()["parsed"]
    intervals += meter.finish()
    got = {name: sum(int(np.nansum(each.columns[name])) for each in intervals) for name in intervals[0].columns}

    want, scanners, scanned = _plainly()
    for name, count in want.items():
        assert got[name] == count, name
    accounts = meter.accounts()
    assert accounts.attributed + accounts.foreign + accounts.unclaimed == accounts.parsed == rows
    assert (accounts.scanners, got["connections_scanned"]) == (scanners, scanned)
    assert accounts.late == accounts.uncounted == 0
    starts = np.concatenate([each.start_ns for each in intervals])
    assert len(starts) >= 48 * 60
    assert set(np.diff(starts)) == {SPEC.interval_ns}


def _plainly() -> tuple[Counter[str], int, int]:
    """The totals, how many foreign sources tried 20 ports and completed under a tenth, and how often these tried."""
    want: Counter[str] = Counter()
    tried: dict[str, set[tuple[str, str]]] = defaultdict(set)
    attempts: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    for path in sorted(DATA.glob("*/*.log.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            if line.startswith("#"):
                continue
            v = line.split("\t")
            client, server, proto, state = v[3], v[5], v[7], v[12]
            sent, got = ("tx", "rx") if client == SERVER else ("rx", "tx")
            if SERVER not in {client, server}:
                continue
            want[f"{sent}_packets"] += int(v[17])
            want[f"{sent}_bytes"] += int(v[18])
            want[f"{got}_packets"] += int(v[19])
            want[f"{got}_bytes"] += int(v[20])
            if proto == "tcp" and state in ATTEMPTED:
                want["connections_attempted"] += 1
                want["connections_initiated"] += client == SERVER
                if client != SERVER:
                    attempts[client] += 1
                    completed[client] += state in ESTABLISHED
                    tried[client].add((server, v[6]))
    scanners = [each for each in attempts if len(tried[each]) >= 20 and completed[each] * 10 < attempts[each]]
    return want, len(scanners), sum(attempts[each] for each in scanners)
