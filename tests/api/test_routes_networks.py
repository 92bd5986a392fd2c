"""Networks by the API: specs are checked, changed under an ETag, and remembered; health is told to whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.api.serving import SPEC, Serving, served

from adumbra.schema.errors import StoreError
from adumbra.schema.spec import NetworkSpec, parse_spec
from adumbra.schema.state import NetworkState
from adumbra.service import networks


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home")) as running:
        yield running


def test_a_spec_is_checked_without_making_anything(serving: Serving) -> None:
    right = serving.viewer().post("/v1/specs/check", json={"spec": SPEC.format(name="draft")}).json()
    assert right["valid"]
    assert (right["network"], [vm["name"] for vm in right["vms"]]) == ("draft", ["web-1", "web-2", "db"])
    wrong = serving.viewer().post("/v1/specs/check", json={"spec": "name: draft\nvmz: []"}).json()
    assert not wrong["valid"]
    assert any("unknown key 'vmz'" in problem for problem in wrong["problems"])
    assert serving.viewer().get("/v1/networks/draft").status_code == 404


def test_an_update_is_made_to_what_was_read_and_the_earlier_spec_is_kept(serving: Serving) -> None:
    serving.make("shop")
    admin = serving.admin()
    read = admin.get("/v1/networks/shop")
    assert admin.get("/v1/networks/shop", headers={"If-None-Match": read.headers["ETag"]}).status_code == 304
    larger = {"spec": SPEC.format(name="shop").replace("m7i.large", "m7i.xlarge")}
    again = {"If-Match": read.headers["ETag"]}
    assert admin.put("/v1/networks/shop", json=larger, headers=again).json()["version"] == 2
    late = admin.put("/v1/networks/shop", json=larger, headers=again)
    assert (late.status_code, late.json()["type"]) == (412, "urn:adumbra:problem:changed-meanwhile")
    assert admin.get("/v1/networks/shop", headers={"If-None-Match": read.headers["ETag"]}).status_code == 200
    versions = admin.get("/v1/networks/shop/versions").json()
    assert [(each["version"], each["replaced"] is None) for each in versions] == [(2, True), (1, False)]
    assert versions[0]["created"] == versions[1]["replaced"]
    assert "m7i.large" in versions[1]["spec_text"]


def test_a_spec_that_is_kept_as_json_is_the_spec_that_was_given(serving: Serving) -> None:
    spec = SPEC.format(name="kept") + "targets: {shortfall: 0.7%, latency_p99: 50ms, loss: 0.1%}\ninterval: 500ms\n"
    assert serving.admin().post("/v1/networks", json={"spec": spec}).status_code == 201
    record = serving.workspace.state.network("kept")
    assert NetworkSpec.model_validate(json.loads(record.spec_json)) == parse_spec(record.spec_text)
    by_text = networks.of_record(replace(record, spec_text=record.spec_text + "#", spec_json=""))
    by_json = networks.of_record(replace(record, spec_text=record.spec_text + "# "))
    odd = networks.of_record(replace(record, spec_text=record.spec_text + "#  ", spec_json='{"speed": 3}'))
    assert (by_text.spec, by_text.vms) == (by_json.spec, by_json.vms) == (odd.spec, odd.vms)


def test_the_etag_of_a_network_changes_with_its_state(serving: Serving) -> None:
    serving.make("mall")
    before = serving.admin().get("/v1/networks/mall").headers["ETag"]
    serving.workspace.state.set_network_state("mall", NetworkState.READY, serving.server.now(), "for the test")
    after = serving.admin().get("/v1/networks/mall", headers={"If-None-Match": before})
    assert (after.status_code, after.json()["state"]) == (200, "ready")
    changed = {"spec": SPEC.format(name="mall") + "interval: 2s\n"}
    assert serving.admin().put("/v1/networks/mall", json=changed, headers={"If-Match": before}).status_code == 200


def test_pages_of_networks_follow_each_other_and_hold_what_is_theirs(serving: Serving) -> None:
    for name in ("page-a", "page-b", "page-c"):
        serving.make(name)
    some = serving.viewer("page-a", "page-c", "page-b")
    first = some.get("/v1/networks", params={"limit": 2}).json()
    assert ([each["name"] for each in first["items"]], first["next"]) == (["page-a", "page-b"], "page-b")
    rest = some.get("/v1/networks", params={"limit": 2, "after": first["next"]}).json()
    assert ([each["name"] for each in rest["items"]], rest["next"]) == (["page-c"], None)
    assert some.get("/v1/networks", params={"state": "active"}).json()["items"] == []


def test_health_is_told_to_whoever_asks(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = serving.nobody()
    assert nobody.get("/healthz").json() == {"status": "alive"}
    assert nobody.get("/readyz").json() == {"status": "ready"}

    def fails() -> int:
        raise StoreError("could not read postgresql://shop:secret@host/state", "look there")

    monkeypatch.setattr(serving.workspace.state, "newest_event", fails)
    told = nobody.get("/readyz")
    assert (told.status_code, told.headers["Content-Type"]) == (503, "application/problem+json")
    assert "secret" not in told.text
    assert nobody.get("/healthz").status_code == 200


def test_a_server_whose_loops_do_not_run_is_not_ready(tmp_path_factory: pytest.TempPathFactory) -> None:
    with served(tmp_path_factory.mktemp("home"), ready=lambda: False) as running:
        assert running.nobody().get("/readyz").status_code == 503
        assert running.nobody().get("/healthz").status_code == 200
