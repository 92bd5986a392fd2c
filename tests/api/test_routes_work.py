"""What is worked on, and what happened, by the API: calibration, jobs, plans, activations, events."""

from __future__ import annotations

import httpx
from tests.api.serving import Serving

from adumbra.client import following
from adumbra.schema.access import Role
from adumbra.schema.jobs import JobRecord, JobState
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import activations, jobs, uploads

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
    assert (kept["finished_done"], kept["finished_detail"]) == (drawn["finished_done"], "") == (None, "")  # only a file
    assert operator.get("/v1/networks/shop/plans").json()["items"] == [kept]
    assert operator.post("/v1/networks/shop/plans/dry-run").json()["steps"] == []
    away = operator.post("/v1/networks/shop/plans/dry-run", json={"deactivate": True}).json()
    assert any(line.startswith("- machine web-1 ") for line in away["diff"])
    assert operator.post("/v1/networks/shop/deactivations").json()["kind"] == "deactivate"
    assert operator.get("/v1/networks/shop").json()["state"] == "active"


def test_what_the_last_act_came_to_is_shown_beside_the_steps(lived: Serving) -> None:
    plans, now_ns = lived.workspace.state.plans, lived.server.now()
    whole = {"network": "shop", "provider": "terraform", "steps": [], "price_per_hour": None, "aim": "active"}
    number = plans.begin("shop", whole, now_ns, "it began").id
    plans.record_step(number, 0, {"done": False, "detail": "tofu apply: no credentials"}, now_ns)
    plans.finish(number, PlanState.FAILED, now_ns, (NetworkState.FAILED, "no credentials"))
    kept = lived.operator("shop").get(f"/v1/networks/shop/plans/{number}").json()
    assert (kept["steps"], kept["finished_done"]) == ([], False)
    assert kept["finished_detail"] == "tofu apply: no credentials"
    from adumbra.client import records

    assert records.plan(kept).steps[0].outcome == {"done": False, "detail": "tofu apply: no credentials"}


def test_what_has_no_profile_is_not_activated(lived: Serving) -> None:
    operator = lived.operator("bare")
    assert operator.post("/v1/networks/bare/activations").status_code == 409
    assert operator.post("/v1/networks/bare/plans/dry-run").status_code == 409
    assert operator.post("/v1/networks/bare/activations", json={"provider": "abacus"}).status_code == 422


def test_a_policy_is_set_by_administrators_of_the_network_and_shown_to_whoever_may_look(lived: Serving) -> None:
    operator, admin = lived.operator("shop"), lived.with_token(lived.token(Role.ADMIN, "shop"))
    route = "/v1/networks/shop/policy"
    assert operator.get(route).status_code == 404
    asked = {"policy": "budget: $9/h\nvms: {web: {caps: {cpu_cores: 64}}}"}
    assert operator.put(route, json=asked).status_code == 403
    made = admin.put(route, json=asked, headers={"If-Match": '"0"'})
    assert (made.status_code, made.json()["version"], made.json()["budget_per_hour"]) == (200, 1, 9.0), made.text
    assert operator.get(route).json() == made.json()
    assert admin.put(route, json=asked, headers={"If-Match": '"7"'}).status_code == 412
    wrong = admin.put(route, json={"policy": "budget: $9/h\nvms:\n  wbe: {}"})
    assert (wrong.status_code, wrong.json()["problems"][0].partition(":")[0]) == (422, "policy")
    assert "policy:3:" in wrong.json()["problems"][0]
    assert admin.delete(route).status_code == 204
    assert admin.delete(route).status_code == 404
    done = [each.what for each in lived.workspace.state.access.acts() if each.network == "shop"]
    assert {"PUT /v1/networks/{name}/policy", "DELETE /v1/networks/{name}/policy"} <= set(done)


def test_a_plan_above_the_limit_is_asked_by_an_operator_and_approved_by_an_administrator(lived: Serving) -> None:
    operator, admin, now = lived.operator("shop"), lived.with_token(lived.token(Role.ADMIN, "shop")), lived.server.now
    activations.deactivate(lived.workspace, "shop", None, now)
    assert admin.put("/v1/networks/shop/policy", json={"policy": "approval: {above: $0.001/h}"}).status_code == 200
    assert operator.post("/v1/networks/shop/plans/dry-run").json()["approval"].startswith("the machines will cost")
    assert operator.post("/v1/networks/shop/activations", json={"approve": True}).status_code == 403
    worked = jobs.perform(lived.workspace, job_of(operator.post("/v1/networks/shop/activations")), now, lambda *_: None)
    waits = operator.get("/v1/networks/shop/plan").json()
    assert (waits["id"], waits["state"], waits["decided_by"]) == (worked["awaiting"], "awaiting", None)
    path = f"/v1/networks/shop/plans/{waits['id']}"
    assert operator.get(path).json() == waits
    assert operator.post(f"{path}/approval").status_code == 403
    assert lived.with_token(lived.token(Role.ADMIN, "bare")).post(f"{path}/approval").status_code == 404
    assert admin.post("/v1/networks/bare/plans/1/approval").status_code == 404
    queued = admin.post(f"{path}/approval")
    assert queued.status_code == 202, queued.text
    assert queued.json()["asked"] == {"provider": "terraform", "plan": waits["id"]}
    jobs.perform(lived.workspace, job_of(queued), now, lambda *_: None)
    done = operator.get(path).json()
    assert (done["state"], done["decided_by"]) == ("done", queued.json()["by"])
    assert admin.post(f"{path}/rejection").status_code == 409
    who = [each.who for each in lived.workspace.state.access.acts() if each.what.endswith("/approval")]
    assert who == [queued.json()["by"]]  # in the audit log
    assert operator.post("/v1/networks/shop/plans/dry-run", json={"rollback": True}).status_code == 409
    assert operator.post("/v1/networks/shop/plans/rollback").json()["kind"] == "rollback"


def job_of(queued: httpx.Response) -> JobRecord:
    return following.job_of(queued.json())
