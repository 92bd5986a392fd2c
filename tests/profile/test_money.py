"""Unit prices against a library's least squares, and costs told by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from tests.profile.scores import per_vm, point

from adumbra.profile.catalog import Catalog, load_catalog
from adumbra.profile.money import HOURS_PER_MONTH, UnitPrices, cost, fit_prices
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import InstanceType

PRICES = UnitPrices({"cpu_cores": 0.04, "memory_gb": 0.005}, "by hand")


def a_type(number, cores, gb, price, arch="x86_64", burstable=False):
    return InstanceType("aws", f"t{number}", arch, cores, gb, 1000.0, 1000.0, burstable, price, None)


def catalog_of(types):
    return Catalog("aws", {each.name: each for each in types}, tuple(types))


def test_prices_that_add_up_are_found_again():
    shapes = [(2, 4), (2, 16), (8, 16), (64, 512)]
    types = [a_type(i, cores, gb, 0.03 * cores + 0.004 * gb) for i, (cores, gb) in enumerate(shapes)]
    odd = [a_type(8, 2, 4, 99.0, arch="arm64"), a_type(9, 2, 4, 99.0, burstable=True)]
    got = fit_prices(catalog_of(types + odd))
    assert got.per_hour == pytest.approx({"cpu_cores": 0.03, "memory_gb": 0.004})
    assert got.types == 4
    assert got.median_error == pytest.approx(0, abs=1e-12)


@given(
    st.lists(
        st.tuples(st.sampled_from([1.0, 2.0, 8.0, 64.0]), st.sampled_from([1.0, 4.0, 32.0, 600.0]), st.floats(0.01, 30)),
        min_size=2,
        max_size=12,
    ).filter(lambda rows: len({gb / cores for cores, gb, _ in rows}) > 1)
)
def test_prices_are_the_non_negative_least_squares_of_relative_errors(rows):
    types = [a_type(i, *row) for i, row in enumerate(rows)]
    got = fit_prices(catalog_of(types))
    table = np.array(rows)
    scaled = table[:, :2] / table[:, 2:]
    want, residual = nnls(scaled, np.ones(len(rows)))
    found = np.array([got.per_hour["cpu_cores"], got.per_hour["memory_gb"]])
    assert (found >= 0).all()
    assert np.linalg.norm(scaled @ found - 1) == pytest.approx(residual, abs=1e-7)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-9)


def test_the_bundled_types_tell_what_a_core_and_a_gb_cost():
    for arch in ("x86_64", "arm64"):
        got = fit_prices(load_catalog(), arch)
        assert 0.02 < got.per_hour["cpu_cores"] < 0.06
        assert 0.002 < got.per_hour["memory_gb"] < 0.01
        assert got.types > 300
        assert got.median_error < 0.25
        assert arch in got.source


def test_types_that_can_not_tell_cores_from_memory_are_refused():
    for types in ([], [a_type(0, 2, 4, 0.1)], [a_type(0, 2, 4, 0.1), a_type(1, 4, 8, 0.2)]):
        with pytest.raises(InputError, match="don't tell cores from memory"):
            fit_prices(catalog_of(types))


def test_a_months_cost_told_by_hand():
    sums = per_vm([50, 25], [10, 30], capacity=8.0, measured=1000.0)  # 4 and 2 of 8 cores; short in 1 and 3 % of the time
    got = cost(point(sums, "peak"), PRICES, short_vm_hour=2.0)
    assert (got.rule, got.resource, got.vms) == ("peak", "cpu_cores", 2)
    assert got.provisioned == pytest.approx(16 * 0.04 * 730)
    assert got.allocated == pytest.approx(6 * 0.04 * 730)
    assert got.saved == pytest.approx(10 * 0.04 * 730)
    assert got.short_vm_hours == pytest.approx(0.04 * HOURS_PER_MONTH)
    assert got.short == pytest.approx(0.04 * HOURS_PER_MONTH * 2)
    assert got.total == pytest.approx(got.allocated + got.short)
    free = cost(point(sums, resource="memory_gb"), PRICES)
    assert (free.short, free.total) == (None, free.allocated)
    assert free.allocated == pytest.approx(6 * 0.005 * 730)


@pytest.mark.parametrize(("resource", "price", "match"), [("storage_gb", None, "no price"), ("cpu_cores", -1.0, "is no price")])
def test_what_has_no_price_is_refused(resource, price, match):
    with pytest.raises(InputError, match=match):
        cost(point(per_vm([50], [0]), resource=resource), PRICES, price)
