"""What is worked on, and what happened, by the API: calibration, jobs, plans, activations, events."""

from __future__ import annotations

from tests.api.serving import Serving

from adumbra.schema.jobs import JobState
from adumbra.service import activations, uploads

USAGE = b"vm,time,cpu_cores\nweb-1,1700000100,0.5\nweb-1,1700000160,0.6\n"
CSV = {"Content-Type": "text/csv"}


def test_measured_use_is_kept_until_its_job_ends(lived: Serving) -> None:
    operator, home = lived.operator("shop"), lived.workspace.home
    asked = {"content": USAGE, "headers": CSV | {"Idempotency-Key": "usage"}, "params": {"measured_on": "m7i.large"}}
    queued = operator.post("/v1/networks/shop/calibration", **asked)
    assert queued.status_code == 202, queued.text
    job = queued.json()
    name = job["asked"]["usage"]
    assert (home / name).read_bytes() == USAGE
    assert uploads.path(lived.workspace, name) == home / name
    assert (job["asked"]["measured_on"], job["asked"]["update"], job["asked"]["reset"]) == ("m7i.large", False, False)
    assert operator.post("/v1/networks/shop/calibration", **asked).json()["id"] == job["id"]
    assert len(list((home / uploads.FOLDER).iterdir())) == 1
    assert uploads.sweep(lived.workspace, lived.server.now() + 10**12) == 0
    assert operator.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert not (home / name).exists()


def test_what_is_no_measured_use_is_refused_and_nothing_is_kept(lived: Serving) -> None:
    operator = lived.operator("shop")
    kept = lived.workspace.home / uploads.FOLDER
    before = sorted(kept.iterdir()) if kept.is_dir() else []
    assert operator.post("/v1/networks/shop/calibration", content=b"", headers=CSV).status_code == 422
    assert operator.post("/v1/networks/shop/calibration", json={"vm": "web-1"}).status_code == 415
    assert lived.operator().post("/v1/networks/nope/calibration", content=USAGE, headers=CSV).status_code == 404
    url = {"url": "http://127.0.0.1:9090"}
    assert operator.post("/v1/networks/shop/calibration/from-prometheus", json=url).status_code == 403
    by_admin = lived.admin().post("/v1/networks/shop/calibration/from-prometheus", json=url)
    assert by_admin.json()["asked"]["usage"] == url["url"]
    assert (sorted(kept.iterdir()) if kept.is_dir() else []) == before


def test_a_calibration_is_shown_and_taken_back(lived: Serving) -> None:
    operator = lived.operator("shop")
    assert operator.get("/v1/networks/shop/calibration").status_code == 404
    vm = {"vm": "web-1", "fits": {}, "refused": {"cpu_cores": "too few rows"}, "measured_on": None}
    told = {"network": "shop", "usage": "use.csv", "start_ns": 10**18, "end_ns": 2 * 10**18, "vms": [vm], "notes": []}
    lived.workspace.state.save_calibration("shop", told, "Calibrated.", lived.server.now())
    shown = operator.get("/v1/networks/shop/calibration").json()
    assert (shown["version"], shown["usage"], shown["vms"]) == (1, "use.csv", [vm])
    assert shown["emulated"] is None
    assert operator.delete("/v1/networks/shop/calibration").json()["asked"]["reset"]
    assert operator.post("/v1/networks/shop/calibration/from-traffic").json()["asked"]["from_traffic"]


def test_jobs_are_told_to_those_whose_network_it_is(lived: Serving) -> None:
    job = lived.operator("bare").post("/v1/networks/bare/trainings").json()
    path = f"/v1/jobs/{job['id']}"
    assert lived.viewer("bare").get(path).json() == job
    assert lived.viewer("shop").get(path).status_code == 404
    assert lived.viewer("bare").post(f"{path}/cancel").status_code == 403
    assert lived.operator("shop").post(f"{path}/cancel").status_code == 404
    assert [each["id"] for each in lived.viewer("bare").get("/v1/jobs").json()["items"]] == [job["id"]]
    all_of = lived.admin().get("/v1/jobs", params={"network": "bare", "kind": "train", "state": "queued"}).json()["items"]
    assert [each["id"] for each in all_of] == [job["id"]]
    assert lived.viewer("bare").get("/v1/jobs", params={"network": "shop"}).status_code == 404
    lived.workspace.state.jobs.finish(job["id"], JobState.DONE, lived.server.now(), {"version": 1})
    assert lived.operator("bare").post(f"{path}/cancel").status_code == 409
    assert lived.viewer("bare").get(path).json()["result"] == {"version": 1}
    assert lived.admin().get("/v1/jobs/999999").status_code == 404


def test_jobs_and_events_come_in_pages(lived: Serving) -> None:
    for _ in range(3):
        lived.operator("bare").post("/v1/networks/bare/trainings")
    for route in ("/v1/jobs", "/v1/events"):
        first = lived.admin().get(route, params={"limit": 2}).json()
        second = lived.admin().get(route, params={"limit": 2, "after": first["next"]}).json()
        numbers = [each["id"] for each in (*first["items"], *second["items"])]
        assert numbers == sorted(set(numbers), reverse=True)
        assert len(numbers) == 4
        assert lived.admin().get(route, params={"after": "x"}).status_code == 422


def test_events_are_filtered_and_foreign_ones_are_not_told(lived: Serving) -> None:
    lived.workspace.state.add_event(None, "server.started", "The server started.", {}, lived.server.now())
    kinds = {each["kind"] for each in lived.viewer("shop").get("/v1/events", params={"kind": "network"}).json()["items"]}
    assert kinds == {"network.created", "network.state"}
    networks = {each["network"] for each in lived.viewer("shop").get("/v1/events").json()["items"]}
    assert networks == {"shop"}
    assert lived.viewer().get("/v1/events", params={"kind": "server.started"}).json()["items"]
    assert lived.viewer("shop").get("/v1/events", params={"network": "bare"}).status_code == 404
    late = lived.viewer().get("/v1/events", params={"since": "2999-01-01T00:00:00Z"}).json()
    assert late == {"items": [], "next": None}


def test_a_plan_is_shown_as_a_diff_before_and_after_it_is_carried_out(lived: Serving) -> None:
    operator = lived.operator("shop")
    assert operator.get("/v1/networks/shop/plan").status_code == 404
    drawn = operator.post("/v1/networks/shop/plans/dry-run").json()
    assert "+ machine web-1" in drawn["diff"]
    machine = next(each for each in drawn["steps"] if each["name"] == "web-1")
    changed = {each["setting"]: each["after"] for each in machine["changes"]}
    profile = operator.get("/v1/networks/shop/profile").json()
    assert changed["type"] == next(vm["type"] for vm in profile["vms"] if vm["vm"] == "web-1")
    job = operator.post("/v1/networks/shop/activations", json={"provider": "terraform"}).json()
    assert (job["kind"], job["asked"]) == ("activate", {"provider": "terraform"})
    activations.activate(lived.workspace, "shop", "terraform", lived.server.now)
    kept = operator.get("/v1/networks/shop/plan").json()
    assert (kept["state"], kept["diff"]) == ("done", drawn["diff"])
    assert all(step["done"] for step in kept["steps"])
    assert operator.get("/v1/networks/shop/plans").json()["items"] == [kept]
    assert operator.post("/v1/networks/shop/plans/dry-run").json()["steps"] == []
    away = operator.post("/v1/networks/shop/plans/dry-run", json={"deactivate": True}).json()
    assert "- machine web-1" in away["diff"]
    assert operator.post("/v1/networks/shop/deactivations").json()["kind"] == "deactivate"
    assert operator.get("/v1/networks/shop").json()["state"] == "active"


def test_what_has_no_profile_is_not_activated(lived: Serving) -> None:
    operator = lived.operator("bare")
    assert operator.post("/v1/networks/bare/activations").status_code == 409
    assert operator.post("/v1/networks/bare/plans/dry-run").status_code == 409
    assert operator.post("/v1/networks/bare/activations", json={"provider": "abacus"}).status_code == 422
