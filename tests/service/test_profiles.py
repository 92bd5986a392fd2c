"""The public `generate_resource_profile`: a VM's history in, one entry of the documented profile out."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra import generate_resource_profile
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.sizing import RESOURCES


def history(steps: int = 600, cores: float = 0.5) -> dict[str, list[float]]:
    rng = np.random.default_rng(5)
    return {
        "cpu_seconds": list(60 * cores * rng.gamma(8, 1 / 8, steps)),
        "memory_bytes": list(2e9 + 1e7 * rng.random(steps)),
        "rx_bytes": list(60 * 1e6 * rng.gamma(8, 1 / 8, steps)),
        "tx_bytes": list(60 * 2e6 * rng.gamma(8, 1 / 8, steps)),
        "storage_bytes": list(8e9 + 1e4 * np.arange(steps)),
    }


def test_an_entry_in_the_documented_form() -> None:
    entry = generate_resource_profile("web-1", history(), interval_s=60)
    assert entry["vm"] == "web-1"
    assert set(entry["estimate"]) == set(RESOURCES)
    assert entry["confidence"] in {"low", "medium", "high"}
    assert entry["reasons"]
    for resource in RESOURCES:
        assert entry[resource] >= entry["estimate"][resource]["p90"] * (1 - 1e-9)
    assert entry["cpu_cores"] >= 1
    assert entry["type"] is not None


def test_more_use_never_gives_a_smaller_size() -> None:
    little = generate_resource_profile("vm", history(cores=0.2), interval_s=60)
    much = generate_resource_profile("vm", history(cores=6.0), interval_s=60)
    assert much["cpu_cores"] > little["cpu_cores"]
    assert much["price_per_hour"] > little["price_per_hour"]


def test_the_founding_document_s_names_are_taken() -> None:
    columns = history()
    entry = generate_resource_profile(
        "vm",
        {"bandwidth_usage": columns["rx_bytes"], "latency": [1.0] * 600, "cpu_usage": columns["cpu_seconds"]},
        interval_s=60,
    )
    assert any("memory_gb" in reason and "none of it" in reason for reason in entry["reasons"])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, InputError),
        ({"latency": [1.0]}, InputError),
        ({"cpu_seconds": [1.0, 2.0], "rx_bytes": [1.0]}, InputError),
        ({"cpu_seconds": ["many"]}, InputError),
        ({"cpu_seconds": [float("nan")] * 50}, InputError),
        ({"cpu_seconds": [0.1, 0.2]}, TooLittleDataError),
    ],
)
def test_what_is_no_history_is_refused(given, error) -> None:
    with pytest.raises(error):
        generate_resource_profile("vm", given)
