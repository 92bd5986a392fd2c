"""The server that tests ask runs, tells networks apart, and stops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.api.serving import Serving, served


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home")) as running:
        yield running


def test_a_network_is_made_listed_and_shown_to_those_who_may_see_it(serving: Serving) -> None:
    made = serving.make("shop")
    assert [vm["name"] for vm in made["vms"]] == ["web-1", "web-2", "db"]
    assert serving.woken
    assert [each["name"] for each in serving.viewer("shop").get("/v1/networks").json()["items"]] == ["shop"]
    assert serving.viewer("other").get("/v1/networks").json()["items"] == []
    assert serving.viewer("other").get("/v1/networks/shop").status_code == 404
    assert serving.nobody().get("/v1/networks/shop").status_code == 401
    assert serving.viewer("shop").delete("/v1/networks/shop").status_code == 403
    assert serving.operator("shop").delete("/v1/networks/shop").status_code == 204
