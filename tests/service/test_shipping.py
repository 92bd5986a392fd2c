"""Metrics that come while their network is deleted: nothing is left of them for the next one of that name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.store.conftest import make_batch

from adumbra.schema.errors import NotFoundError
from adumbra.schema.records import MetricBatch
from adumbra.service import networks, shipping
from adumbra.service.workspace import Workspace

SPEC = """name: shop
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: db, subnet: web, addresses: [10.20.1.20]}]
"""


@pytest.mark.parametrize("instance", ["", "a-tap"])
def test_a_deletion_that_comes_between_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str) -> None:
    with Workspace(tmp_path / "home") as workspace:
        networks.create(workspace, SPEC, "spec", time.time_ns())
        store = workspace.metrics
        real = store.write

        def late(batch: MetricBatch) -> int:
            networks.delete(workspace, "shop", time.time_ns())
            return real(batch)

        monkeypatch.setattr(store, "write", late)
        batch = make_batch([10, 11], ("db",), network="shop")
        with pytest.raises(NotFoundError):
            shipping.accept(workspace, "shop", batch, shipping.Sender(instance), time.time_ns())
        networks.create(workspace, SPEC, "spec", time.time_ns())
        assert workspace.metrics.span("shop") is None
