"""What was learned of a network, and what follows from it, by the API: trainings, forecasts, profiles, what-if."""

from __future__ import annotations

from tests.api import lives
from tests.api.serving import Serving

from adumbra.schema.state import NewTraining


def test_a_training_is_queued_once_however_often_it_is_asked_for(lived: Serving) -> None:
    asked = {"json": {"seed": 7}, "headers": {"Idempotency-Key": "train-once"}}
    first = lived.operator("shop").post("/v1/networks/shop/trainings", **asked)
    assert first.status_code == 202
    job = first.json()
    assert (job["kind"], job["state"], job["asked"]) == ("train", "queued", {"seed": 7})
    assert first.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert lived.operator("shop").post("/v1/networks/shop/trainings", **asked).json()["id"] == job["id"]
    other = lived.operator("shop").post("/v1/networks/shop/trainings", json={"seed": 8}, headers=asked["headers"])
    assert other.status_code == 422
    assert lived.woken
    assert lived.viewer("shop").post("/v1/networks/shop/trainings").status_code == 403


def test_versions_serve_are_taken_back_and_forgotten(lived: Serving) -> None:
    operator = lived.operator("shop")
    state = lived.workspace.state
    kept = state.training("shop")
    assert kept is not None
    state.save_training("shop", NewTraining(kept.summary, kept.artifact, kept.origin, None, True, 1), lived.server.now())
    assert [(each["version"], each["serves"]) for each in operator.get("/v1/networks/shop/trainings").json()] == [
        (2, True), (1, False),
    ]  # fmt: skip
    assert operator.delete("/v1/networks/shop/trainings/2").status_code == 409
    back = operator.post("/v1/networks/shop/trainings/rollback", headers={"Idempotency-Key": "back"})
    assert (back.json()["version"], back.json()["serves"]) == (1, True)
    again = operator.post("/v1/networks/shop/trainings/rollback", headers={"Idempotency-Key": "back"})
    assert again.json()["version"] == 1
    assert operator.post("/v1/networks/shop/trainings/2/serve").json()["serves"]
    assert operator.post("/v1/networks/shop/trainings/1/serve").json()["serves"]
    assert operator.delete("/v1/networks/shop/trainings/2").status_code == 204
    assert operator.get("/v1/networks/shop/trainings/2").status_code == 404
    shown = operator.get("/v1/networks/shop/trainings/1").json()
    assert shown["origin"]["vms"] == list(lives.VMS)
    assert lived.viewer("shop").delete("/v1/networks/shop/trainings/1").status_code == 403


def test_a_forecast_of_some_vms_and_resources(lived: Serving) -> None:
    asked = {"horizon_s": 60, "resource": "cpu_cores", "vm": ["db", "web-1"]}
    told = lived.viewer("shop").get("/v1/networks/shop/forecast", params=asked).json()
    cpu = told["resources"]["cpu_cores"]
    assert list(told["resources"]) == ["cpu_cores"]
    assert (cpu["unit"], set(cpu["vms"])) == ("cores", {"db", "web-1"})
    assert len(cpu["vms"]["db"]) == cpu["steps"]
    assert cpu["vms"]["db"][0] == sorted(cpu["vms"]["db"][0])
    assert len(cpu["vms"]["db"][0]) == len(cpu["levels"])
    assert lived.viewer().get("/v1/networks/shop/forecast", params={"vm": "nope"}).status_code == 404
    assert lived.viewer().get("/v1/networks/shop/forecast", params={"horizon_s": 1e9}).status_code == 422
    untrained = lived.viewer().get("/v1/networks/bare/forecast")
    assert (untrained.status_code, untrained.json()["title"]) == (409, "bare has no trained model yet")


def test_a_profile_is_made_at_once_and_read_only_where_it_is_news(lived: Serving) -> None:
    operator = lived.operator("shop")
    before = operator.get("/v1/networks/shop/profile")
    made = operator.post(
        "/v1/networks/shop/profile", json={"shortfall": 0.05, "horizon_s": 3600}, headers={"Idempotency-Key": "dial"}
    )
    assert (made.status_code, made.json()["shortfall"], made.json()["version"]) == (201, 0.05, before.json()["version"] + 1)
    again = operator.post(
        "/v1/networks/shop/profile", json={"shortfall": 0.05, "horizon_s": 3600}, headers={"Idempotency-Key": "dial"}
    )
    assert again.json() == made.json()
    newest = operator.get("/v1/networks/shop/profile", headers={"If-None-Match": before.headers["ETag"]})
    assert newest.json() == made.json()
    known = operator.get("/v1/networks/shop/profile", headers={"If-None-Match": newest.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")
    rows = operator.get("/v1/networks/shop/profiles").json()
    assert [each["version"] for each in rows] == [2, 1]
    assert rows[0]["vms"] == 3
    assert operator.get(made.headers["Location"]).json() == made.json()
    assert operator.get("/v1/networks/shop/profiles/9").status_code == 404


def test_what_is_not_learned_has_no_profile(lived: Serving) -> None:
    operator = lived.operator()
    assert operator.get("/v1/networks/bare/profile").status_code == 404
    assert operator.post("/v1/networks/bare/profile").status_code == 409
    assert operator.post("/v1/networks/shop/profile", json={"shortfall": 0.9}).status_code == 422
    assert operator.post("/v1/networks/shop/profile", json={"shortfal": 0.01}).status_code == 422
    week = operator.get("/v1/networks/shop/profile/by-hour")
    assert (week.status_code, week.json()["type"]) == (409, "urn:adumbra:problem:too-little-data")


def test_what_if_is_answered_at_once_for_a_few_vms_and_as_a_job_for_much(lived: Serving) -> None:
    viewer = lived.viewer("shop")
    asked = {"traffic": 2.0, "vms": ["web-1"], "type": "m7i.xlarge", "last_s": 60}
    told = viewer.post("/v1/networks/shop/whatif", json=asked)
    assert told.status_code == 200, told.text
    (answer,) = told.json()["vms"]
    assert answer["declared"]["tried"]["cpu_utilization"] > answer["now"]["tried"]["cpu_utilization"]
    assert answer["choices"][0]["type"] == "m7i.xlarge"
    swept = viewer.post("/v1/networks/shop/whatif", json={"sweep": True, "last_s": 60})
    assert (swept.status_code, swept.json()["kind"]) == (202, "whatif")
    wished = viewer.post("/v1/networks/shop/whatif", json=asked, headers={"Prefer": "respond-async"})
    assert wished.json()["asked"] == asked | {"sweep": False}


def test_what_if_says_what_is_missing(lived: Serving) -> None:
    viewer = lived.viewer()
    for asked, status in (({"vms": ["nope"]}, 404), ({"traffic": 0}, 422), ({"type": "m99.huge"}, 404)):
        assert viewer.post("/v1/networks/shop/whatif", json={"last_s": 10, **asked}).status_code == status
    assert viewer.post("/v1/networks/bare/whatif", json={}).status_code == 409
