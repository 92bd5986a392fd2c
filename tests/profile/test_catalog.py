"""The bundled instance types: what they say, how they are looked up, which is cheapest."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import pytest

from adumbra.profile import catalog as catalog_module
from adumbra.profile.catalog import DEFAULT_STORAGE_GB, load_catalog, shortages
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import RESOURCES, SizingPolicy

AWS = load_catalog()


def test_a_type_is_read_in_the_units_of_the_profile():
    m7i = AWS.type("m7i.large")  # 2 vCPUs, 8 GiB, 0.781 Gbit/s always, 12.5 Gbit/s in bursts
    assert (m7i.cpu_cores, m7i.arch, m7i.burstable, m7i.price_per_hour) == (2, "x86_64", False, 0.1008)
    assert m7i.memory_gb == 8
    assert m7i.bandwidth_mbps == pytest.approx(781)
    assert m7i.peak_bandwidth_mbps == pytest.approx(12_500)


def test_a_declared_machine_counts_on_the_baseline_bandwidth_not_the_burst():
    machine = AWS.machine("m7i.large")
    assert machine.bandwidth_mbps == pytest.approx(781)
    assert machine.storage_gb == DEFAULT_STORAGE_GB


@pytest.mark.parametrize(
    ("name", "hint"),
    [("m7i.lage", "m7i.large"), ("M7i.large", "m7i.large"), ("zzz", "such as m7i.large"), ("m7g.metal", "m7g")],
)
def test_an_unknown_type_is_refused_with_close_names(name, hint):
    with pytest.raises(InputError, match="no current instance type") as refused:
        AWS.type(name)
    assert hint in str(refused.value)


def test_an_unknown_provider_is_refused():
    with pytest.raises(InputError, match="use one of: aws"):
        load_catalog("nimbus")


def test_the_catalogue_is_read_once():
    assert load_catalog("aws") is load_catalog("aws")


def test_the_file_holds_what_its_sources_page_says():
    folder = Path(catalog_module.__file__).parent / "data"
    with (folder / "aws-us-east-1.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 1049 == len(AWS.types)
    sources = (folder / "SOURCES.md").read_text(encoding="utf-8")
    for word in ("getmoto/moto", "aws/karpenter-provider-aws", "2026-07-20", "us-east-1", *rows[0]):
        assert word in sources
    assert {row["arch"] for row in rows} == {"x86_64", "arm64"}
    assert all((row["arch"] == "arm64") == bool(re.match(r"[a-z]+\d+g", row["type"])) for row in rows)
    assert not [row["type"] for row in rows if "metal" in row["type"]]


@pytest.mark.parametrize(
    ("policy", "need", "want"),
    [
        (SizingPolicy(), {"cpu_cores": 2, "memory_gb": 4}, "c6a.large"),
        (SizingPolicy(arch="arm64"), {"cpu_cores": 2, "memory_gb": 4}, "c6g.large"),
        (SizingPolicy(allowed_types=("t3.medium", "m7i.large")), {"cpu_cores": 2, "memory_gb": 4}, "t3.medium"),
        (SizingPolicy(allowed_types=("t4g.medium", "m7i.large"), arch="x86_64"), {"cpu_cores": 2}, "m7i.large"),
        (SizingPolicy(allowed_types=("m7i.large",)), {"bandwidth_mbps": 782}, None),  # beyond the baseline
        (SizingPolicy(allowed_types=("hpc6a.48xlarge",)), {"cpu_cores": 1}, None),  # its price is not known
        (SizingPolicy(), {"storage_gb": 20_000}, None),
    ],
)
def test_the_cheapest_type_that_fits(policy, need, want):
    found = AWS.cheapest(need, policy)
    assert (found.name if found else None) == want


def test_nothing_cheaper_than_the_cheapest_would_fit():
    for need in itertools.product([1, 3, 40], [2, 30, 500], [10, 4000], [8]):
        wanted = dict(zip(RESOURCES, need, strict=True))
        found = AWS.cheapest(wanted, SizingPolicy())
        assert found is not None
        assert not found.burstable
        assert not shortages(found, wanted)
        cheaper = [
            t
            for t in AWS.types.values()
            if t.price_per_hour and (t.price_per_hour, t.name) < (found.price_per_hour, found.name)
        ]
        assert all(t.burstable or t.arch != "x86_64" or shortages(t, wanted) for t in cheaper)


def test_types_that_give_a_share_of_their_cores_count_as_burstable():
    assert all(AWS.type(name).burstable for name in ("t3.large", "t4g.nano", "m7i-flex.large", "c8i-flex.xlarge"))


def test_another_providers_policy_is_refused():
    with pytest.raises(InputError, match="one provider"):
        AWS.cheapest({}, SizingPolicy(provider="gcp"))
    with pytest.raises(InputError, match="did you mean"):
        AWS.cheapest({}, SizingPolicy(allowed_types=("m7i.lage",)))
