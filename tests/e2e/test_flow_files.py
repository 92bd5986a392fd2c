"""Every flow export and flow log of ../shared through the whole metering: read, its accounts adding up, or said why not."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from tests.captures import SHARED

from adumbra.metering import Watch
from adumbra.schema.sources import parse_source
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.service.source_metering import metered
from adumbra.workers import Running

FLOWS = SHARED.parent / "flows"
EVERYONE = parse_spec(
    """
name: everyone
cidrs: [0.0.0.0/0, "::/0"]
subnets: [{name: four, cidr: 0.0.0.0/0}, {name: six, cidr: "::/0"}]
vms:
  - {name: four, subnet: four, addresses: [0.0.0.0/0]}
  - {name: six, subnet: six, addresses: ["::/0"]}
interval: 1m
"""
)
SUFFIXES = {".pcap", ".dat", ".log", ".gz"}
WITHOUT_TIMES = "elastic-custom-nat-gateway.log"


def files() -> list[tuple[str, Path]]:
    if not FLOWS.is_dir():
        return []
    exports, logs = (
        [path for folder in folders for path in sorted((FLOWS / folder).rglob("*")) if path.suffix in SUFFIXES]
        for folders in (("akvorado", "logstash-dat"), ("vpcflow", "rita-conn"))
    )
    return [("netflow", path) for path in exports] + [("flowlog", path) for path in logs[:12]]


@pytest.mark.skipif(not FLOWS.is_dir(), reason="the flows of ../shared are not there")
@pytest.mark.parametrize(("kind", "path"), files(), ids=lambda given: given.name if isinstance(given, Path) else given)
def test_every_file_is_read_or_refused(kind: str, path: Path) -> None:
    kind = "sflow" if kind == "netflow" and "sflow" in path.name else kind
    watch = Watch(EVERYONE, expand_vms(EVERYONE))
    with metered(watch, parse_source(f"{kind}:{path}"), Running(time.time_ns)) as metering:
        intervals = list(metering)
        accounts, notes = metering.accounts(), metering.notes()
    if path.name == WITHOUT_TIMES:
        assert (accounts.parsed, accounts.outcomes["unsupported"]) == (0, 2)
        assert "start" in notes[0]
    assert accounts.offered == sum(accounts.outcomes.values())
    assert accounts.attributed + accounts.foreign + accounts.unclaimed == accounts.parsed
    assert accounts.parsed or accounts.exports or accounts.outcomes or accounts.losses.ended
    if accounts.attributed > accounts.late:
        assert sum(np.nansum(each.columns["rx_packets"]) + np.nansum(each.columns["tx_packets"]) for each in intervals) > 0
    for each in intervals:
        assert np.isnan(each.columns["rtt_ms_p50"]).all()  # no flow tells of it
        assert np.isnan(each.columns["requests"]).all()
