"""In which order files are run. Several processes take a file each: long ones first, so that none is left alone with one.

A file not named here comes after those that are, as pytest finds it. No test depends on any of this.
"""

from __future__ import annotations

import pytest

FIRST = (
    # In a fresh clone these compile kernels for minutes, on disk for all that come after: first, one after the other ...
    "meter/test_connections.py",
    # ... while another process runs those that need none.
    "netns/test_mirror_crashes.py",
    "daemon/test_killed.py",
    "store/test_crashes.py",
    "meter/test_flow_records.py",
    "emulate/test_generate.py",
    "forecast/test_demand.py",
    "property/test_data_plane.py",
    "test_fanout.py",
    "e2e/test_tour.py",
    "client/test_same_output.py",
    "api/test_openapi.py",
    "console/test_pages.py",
    "daemon/test_takeover.py",
    "netns/test_live_tap.py",
    "store/test_totals_of_taps.py",
    "e2e/test_shop.py",
    "fuzz/test_fuzz.py",
    "meter/test_time.py",
    "cli/test_commands.py",
    "cli/test_calibrate.py",
    "e2e/test_generate.py",
    "benchmarks/test_role_priors.py",
    "tap/test_compression.py",
    "netns/test_mirror_traffic.py",
    "netns/test_before_any_vm.py",
    "cli/test_model.py",
    "store/test_same_as_duckdb.py",
    "store/test_state_store.py",
    "store/test_levels.py",
    "forecast/test_gru.py",
    "service/test_stores.py",
    "service/test_calibrations.py",
    "store/test_metric_store.py",
    "forecast/test_gate.py",
    "forecast/risk/test_model.py",
    "e2e/test_outage.py",
    "store/test_spool.py",
    "e2e/test_generate_shop.py",
    "decode/test_tunnels.py",
    "netns/test_mirror_ovs.py",
)
_PLACE = {f"tests/{name}": place for place, name in enumerate(FIRST)}


def sort(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _PLACE.get(item.nodeid.partition("::")[0], len(_PLACE)))
