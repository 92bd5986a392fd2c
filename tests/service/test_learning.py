"""What models are told of a network's VMs beside their use: what the spec declares, and nothing that it doesn't."""

from __future__ import annotations

import numpy as np

from adumbra.schema.sizing import RESOURCES
from adumbra.schema.spec import expand_vms
from adumbra.schema.state import NetworkRecord, NetworkState
from adumbra.service import learning, networks

SPEC = """
name: shop
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms:
  - {name: web, subnet: web, addresses: [10.20.1.10], role: web, type: m7i.large}
  - name: db
    subnet: web
    addresses: [10.20.1.20]
    role: postgresql
    resources: {cpu_cores: 3, memory_gb: 6, bandwidth_mbps: 500, storage_gb: 9}
  - {name: new, subnet: web, addresses: [10.20.1.30], role: web}
"""


def test_sizes_and_roles_are_those_that_the_spec_declares_in_the_order_asked_for():
    spec = networks.check(SPEC, "shop.yaml")
    network = networks.Network(NetworkRecord(1, "shop", SPEC, 1, NetworkState.SHADOWING, 0, 0), spec, expand_vms(spec))
    told = learning.beside(network, ("new", "db", "web"))
    assert set(told) == set(RESOURCES)
    assert told["storage_gb"].declared is None
    assert all(each.roles == ("web", "postgresql", "web") for each in told.values())
    np.testing.assert_array_equal(told["cpu_cores"].declared, [np.nan, 3, 2])
    np.testing.assert_array_equal(told["memory_gb"].declared, [np.nan, 6, 8])
