"""The contract of the state store, on each of the databases that conftest.DATABASES names."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.schema.errors import ConflictError, InputError, NotFoundError, PreconditionError
from adumbra.schema.jobs import JobKind, JobQuery, JobState
from adumbra.schema.state import EventQuery, NetworkQuery, NetworkState, NewTraining, ObservationState, PlanState
from adumbra.store import processes
from adumbra.store.plans import KEPT_ATTEMPTS, KEPT_PLANS
from adumbra.store.processes import has_died, this_process
from adumbra.store.rows import plain
from adumbra.store.state import KEPT_CALIBRATIONS, KEPT_PROFILES, KEPT_SPECS, StateStore

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def store(place: Path | str) -> Iterator[StateStore]:
    with StateStore(place) as store:
        yield store


@pytest.fixture
def shop(store: StateStore) -> str:
    return store.create_network("shop", "name: shop", 100).name


def kinds(store: StateStore, network: str | None = None) -> list[str]:
    return [event.kind for event in store.events(network)]


class TestNetworks:
    def test_a_network_comes_with_its_shadow_and_an_event(self, store: StateStore) -> None:
        made = store.create_network("shop", "name: shop", 100)
        assert (made.name, made.spec_text, made.version, made.state) == ("shop", "name: shop", 1, NetworkState.SHADOWING)
        assert (made.created_ns, made.updated_ns) == (100, 100)
        assert store.network("shop") == made
        assert (store.shadow("shop").network, store.shadow("shop").created_ns) == ("shop", 100)
        (event,) = store.events("shop")
        assert (event.time_ns, event.network, event.kind) == (100, "shop", "network.created")

    def test_a_name_that_is_taken_is_refused_and_nothing_changes(self, store: StateStore, shop: str) -> None:
        before = (store.network(shop), store.shadow(shop), store.events())
        with pytest.raises(ConflictError, match="already; change it with `adumbra network update`"):
            store.create_network(shop, "another", 200)
        assert (store.network(shop), store.shadow(shop), store.events()) == before

    def test_networks_are_listed_by_name(self, store: StateStore) -> None:
        for name in ("web", "app", "mid"):
            store.create_network(name, "", 1)
        assert [network.name for network in store.networks()] == ["app", "mid", "web"]

    def test_an_update_keeps_what_was_before(self, store: StateStore, shop: str) -> None:
        assert store.update_network(shop, "two", 200).version == 2
        third = store.update_network(shop, "three", 300)
        assert (third.spec_text, third.version, third.created_ns, third.updated_ns) == ("three", 3, 100, 300)
        earlier = [(v.version, v.spec_text, v.created_ns, v.replaced_ns) for v in store.network_versions(shop)]
        assert earlier == [(2, "two", 200, 300), (1, "name: shop", 100, 200)]
        assert kinds(store)[:2] == ["network.updated", "network.updated"]

    def test_a_state_comes_with_its_reason(self, store: StateStore, shop: str) -> None:
        assert store.set_network_state(shop, NetworkState.READY, 200, "no quota").state is NetworkState.READY
        assert store.network(shop).updated_ns == 200
        event = store.events(shop)[0]
        assert "no quota" in event.message
        assert event.data == {"was": "shadowing", "state": "ready", "reason": "no quota"}

    def test_a_deleted_network_takes_all_with_it_but_its_events(self, store: StateStore, shop: str) -> None:
        store.update_network(shop, "two", 1)
        other = store.create_network("other", "", 1)
        running = store.begin_observation(shop, "pcap:x", "f", 1)
        store.save_training(shop, NewTraining({}, b""), 1)
        store.save_profile(shop, {}, 1)
        plan = store.plans.begin(shop, {}, 1)
        store.plans.record_step(plan.id, 0, {}, 1)
        store.delete_network(shop, 200)
        assert (store.networks(), store.plans.open()) == ((other,), ())
        assert kinds(store, shop)[0] == "network.deleted"
        assert kinds(store, shop)[-1] == "network.created"
        with pytest.raises(NotFoundError, match="its network was deleted"):
            store.finish_observation(running.id, ObservationState.DONE, {}, 300)
        with pytest.raises(NotFoundError, match="its network was deleted"):
            store.plans.record_step(plan.id, 1, {}, 300)
        again = store.create_network(shop, "anew", 400)
        assert (again.version, store.training(shop), store.profile(shop), store.plans.newest(shop)) == (1, None, None, None)
        assert (store.observations(shop), store.network_versions(shop)) == ((), ())

    def test_a_network_that_is_not_there_is_named_with_close_ones(self, store: StateStore, shop: str) -> None:
        acts: list[Callable[[str], object]] = [
            store.network, store.shadow, store.network_versions, store.observations, store.training, store.profile,
            store.profiles, store.plans.of, store.mirrors.of, store.trainings, lambda name: store.serve_training(name, 1, 1),
            lambda name: store.forget_training(name, 1, 1),
            lambda name: store.update_network(name, "", 1), lambda name: store.delete_network(name, 1),
            lambda name: store.set_network_state(name, NetworkState.READY, 1, ""), lambda name: store.plans.begin(name, {}, 1),
            lambda name: store.begin_observation(name, "", "", 1),
            lambda name: store.save_training(name, NewTraining({}, b""), 1),
            lambda name: store.save_profile(name, {}, 1), store.calibration,
            store.policies.newest, lambda name: store.policies.save(name, "", 1), lambda name: store.plans.ask(name, {}, 1, ""),
            lambda name: store.save_calibration(name, {}, "", 1), lambda name: store.note_emulated(name, 1, 1),
        ]  # fmt: skip
        before = store.events()
        for act in acts:
            with pytest.raises(NotFoundError, match="no network 'shpo'; did you mean 'shop'"):
                act("shpo")
        assert store.events() == before

    def test_the_first_network_is_helped_into_being(self, store: StateStore) -> None:
        with pytest.raises(NotFoundError, match="make one with `adumbra network create`"):
            store.network("shop")

    def test_old_specs_are_bounded(self, store: StateStore, shop: str) -> None:
        for number in range(KEPT_SPECS + 5):
            store.update_network(shop, "spec", number)
        assert [v.version for v in store.network_versions(shop)] == list(range(KEPT_SPECS + 5, 5, -1))


class TestObservations:
    def test_an_observation_is_told_from_beginning_to_end(self, store: StateStore, shop: str) -> None:
        begun = store.begin_observation(shop, "pcap:shop.pcap", "sha256:1", 200)
        assert (begun.network, begun.source, begun.fingerprint) == (shop, "pcap:shop.pcap", "sha256:1")
        assert (begun.state, begun.accounts, begun.started_ns, begun.finished_ns) == (ObservationState.RUNNING, {}, 200, None)
        done = store.finish_observation(begun.id, ObservationState.DONE, {"offered": 7, "outcomes": {"parsed": 7}}, 300)
        assert (done.state, done.finished_ns) == (ObservationState.DONE, 300)
        assert done.accounts == {"offered": 7, "outcomes": {"parsed": 7}}
        failed = store.begin_observation(shop, "pcap:b.pcap", "sha256:2", 400)
        store.finish_observation(failed.id, ObservationState.FAILED, {}, 500)
        assert [(o.id, o.state) for o in store.observations(shop)] == [(failed.id, "failed"), (done.id, "done")]
        assert kinds(store)[:4] == ["observation.failed", "observation.begun", "observation.done", "observation.begun"]

    def test_an_observation_ends_once(self, store: StateStore, shop: str) -> None:
        begun = store.begin_observation(shop, "pcap:x", "f", 1)
        store.finish_observation(begun.id, ObservationState.DONE, {}, 2)
        with pytest.raises(ConflictError, match="finished before"):
            store.finish_observation(begun.id, ObservationState.FAILED, {}, 3)
        assert store.observations(shop)[0].finished_ns == 2

    def test_a_source_with_an_odd_name_is_kept(self, store: StateStore, shop: str) -> None:
        assert store.begin_observation(shop, "pcap:caf\udce9.pcap", "f", 1).source == "pcap:caf\\udce9.pcap"

    def test_what_a_dead_process_left_is_found_and_marked(
        self, store: StateStore, shop: str, place: Path | str, spawn: Spawn
    ) -> None:
        dead, alive = spawn("die_observing", place), spawn("observe", place)
        assert alive.stdout is not None
        dead_id = int(dead.communicate(timeout=20)[0].split()[1])
        alive_id = int(alive.stdout.readline().split()[1])
        own_id = store.begin_observation(shop, "pcap:x", "f", 5).id
        assert [o.id for o in store.interrupted_observations()] == [dead_id]
        assert [(o.id, o.state, o.finished_ns) for o in store.mark_interrupted(700)] == [(dead_id, "interrupted", 700)]
        assert (store.interrupted_observations(), store.mark_interrupted(800)) == ((), ())
        states = {o.id: o.state for o in store.observations(shop)}
        assert states == {dead_id: "interrupted", alive_id: "running", own_id: "running"}
        assert [e.data["id"] for e in store.events(shop) if e.kind == "observation.interrupted"] == [dead_id]

    def test_one_thought_dead_may_still_finish(self, store: StateStore, shop: str, place: Path | str, spawn: Spawn) -> None:
        dead_id = int(spawn("die_observing", place).communicate(timeout=20)[0].split()[1])
        store.mark_interrupted(6)
        assert store.finish_observation(dead_id, ObservationState.DONE, {"offered": 1}, 7).state is ObservationState.DONE


class TestProcesses:
    def test_this_process_lives_and_a_number_given_out_again_is_another(self) -> None:
        here = this_process()
        place, boot, number, started = here.rsplit(" ", 3)
        assert not has_died(here, other_hosts=False)
        assert has_died(f"{place} {boot} {number} {int(started) - 1}", other_hosts=False)
        assert has_died(f"{place} 0 {number} {started}", other_hosts=False)
        assert has_died(f"{place} {boot} 4194999 {started}", other_hosts=False)

    def test_another_host_is_believed_where_there_may_be_one(self) -> None:
        assert not has_died("elsewhere 0 1 2", other_hosts=True)
        assert has_died("elsewhere 0 1 2", other_hosts=False)

    def test_after_a_reboot_of_this_host_its_processes_are_dead(self) -> None:
        place, _, number, started = this_process().rsplit(" ", 3)
        assert has_died(f"{place} 0 {number} {started}", other_hosts=True)

    @pytest.mark.parametrize("differs", ["host", "machine", "container"])
    def test_hosts_and_containers_of_one_name_are_not_taken_for_each_other(
        self, store: StateStore, shop: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, differs: str
    ) -> None:
        """On a file they are: there it is this very host that has another name now."""
        boot, machine, namespace = tmp_path / "boot", tmp_path / "machine", tmp_path / "namespace"
        boot.write_text("another boot\n")
        machine.write_text("another machine\n")
        namespace.symlink_to("pid:[7]")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(processes, "_BOOT_ID", boot)
            if differs == "host":
                elsewhere.setattr(processes.socket, "gethostname", lambda: "elsewhere")
            elif differs == "machine":
                elsewhere.setattr(processes, "_MACHINE_ID", machine)
            else:
                elsewhere.setattr(processes, "_NAMESPACE", namespace)
            begun = store.begin_observation(shop, "pcap:x", "f", 1)
        dead = [observation.id for observation in store.interrupted_observations()]
        assert dead == ([begun.id] if store.on_one_host else [])


class TestTrainingsAndProfiles:
    def test_the_newest_calibration_stands_and_tells_whether_stored_time_follows_it(self, store: StateStore, shop: str) -> None:
        assert store.calibration(shop) is None
        for version in range(1, KEPT_CALIBRATIONS + 4):
            saved = store.save_calibration(shop, {"vms": [version]}, "Calibrated 1 of 4 VMs.", version)
            assert (saved.version, saved.emulated_ns) == (version, None)
        store.note_emulated(shop, KEPT_CALIBRATIONS + 3, 99)
        newest = store.calibration(shop)
        assert newest is not None
        assert (newest.version, newest.calibration, newest.emulated_ns) == (
            KEPT_CALIBRATIONS + 3, {"vms": [KEPT_CALIBRATIONS + 3]}, 99,
        )  # fmt: skip
        told = store.events(shop)[0]
        assert (told.kind, told.message) == ("calibration.saved", "Calibrated 1 of 4 VMs.")
        store.delete_network(shop, 200)
        assert store.calibration(store.create_network(shop, "anew", 300).name) is None

    def test_profiles_are_kept_for_a_while(self, store: StateStore, shop: str) -> None:
        assert store.profile(shop) is None
        for version in range(1, KEPT_PROFILES + 4):
            assert store.save_profile(shop, {"vms": [{"vm": "db", "n": version}]}, version).version == version
        newest = store.profile(shop)
        assert newest is not None
        assert (newest.version, newest.profile) == (KEPT_PROFILES + 3, {"vms": [{"vm": "db", "n": KEPT_PROFILES + 3}]})
        assert [p.version for p in store.profiles(shop)] == list(range(KEPT_PROFILES + 3, 3, -1))

    def test_networks_do_not_share(self, store: StateStore, shop: str) -> None:
        store.create_network("other", "", 1)
        store.save_training(shop, NewTraining({}, b"a"), 1)
        assert (store.training("other"), store.save_training("other", NewTraining({}, b"b"), 2).kept.version) == (None, 1)


class TestPlans:
    def test_outcomes_are_kept_in_the_order_in_which_they_came(self, store: StateStore, shop: str) -> None:
        assert store.plans.newest(shop) is None
        plan = store.plans.begin(shop, {"steps": [1, 2]}, 10)
        assert (plan.state, plan.plan, plan.steps, plan.finished_ns) == (PlanState.EXECUTING, {"steps": [1, 2]}, (), None)
        for index, done in ((0, True), (1, False), (1, True)):
            store.plans.record_step(plan.id, index, {"done": done, "detail": ""}, 20 + index)
        assert [p.id for p in store.plans.open()] == [plan.id]
        done = store.plans.finish(plan.id, PlanState.DONE, 30)
        assert (done.state, done.finished_ns) == (PlanState.DONE, 30)
        assert [(s.index, s.outcome["done"], s.recorded_ns) for s in done.steps] == [
            (0, True, 20),
            (1, False, 21),
            (1, True, 21),
        ]
        assert (store.plans.newest(shop), store.plans.open()) == (done, ())
        assert store.plans.finish(plan.id, PlanState.UNDONE, 40).state is PlanState.UNDONE
        assert kinds(store)[:3] == ["plan.undone", "plan.done", "plan.begun"]

    def test_the_newest_plan_is_the_networks_plan(self, store: StateStore, shop: str) -> None:
        first = store.plans.begin(shop, {}, 1)
        store.plans.finish(first.id, PlanState.FAILED, 2)
        second = store.plans.begin(shop, {}, 3)
        newest = store.plans.newest(shop)
        assert newest is not None
        assert newest.id == second.id

    def test_attempts_are_bounded(self, store: StateStore, shop: str) -> None:
        plan = store.plans.begin(shop, {}, 1)
        store.plans.record_step(plan.id, 0, {"first": True}, 1)
        for number in range(KEPT_ATTEMPTS + 3):
            store.plans.record_step(plan.id, 1, {"number": number}, number)
        kept = store.plans.open()[0].steps
        assert [s.outcome for s in kept] == [{"first": True}, *({"number": n} for n in range(3, KEPT_ATTEMPTS + 3))]

    def test_a_plan_waits_until_somebody_decides(self, store: StateStore, shop: str) -> None:
        first = store.plans.ask(shop, {"n": 1}, 10, "it costs much")
        second = store.plans.ask(shop, {"n": 2}, 20, "it costs more")
        assert store.plans.get(first.id).state is PlanState.REJECTED  # another one took its place
        assert (store.plans.newest(shop), store.plans.newest(shop, (PlanState.DONE,))) == (second, None)
        assert (store.plans.open(), store.network(shop).state) == ((), NetworkState.SHADOWING)
        approved = store.plans.approve(second.id, "ada", 30, "ada approved it")
        assert (approved.state, approved.decided_by, approved.decided_ns) == (PlanState.EXECUTING, "ada", 30)
        assert store.network(shop).state is NetworkState.ACTIVATING
        assert kinds(store)[:2] == ["network.state", "plan.approved"]
        for decide in (lambda: store.plans.approve(second.id, "bob", 40, ""), lambda: store.plans.reject(first.id, "bob", 40)):
            with pytest.raises(ConflictError, match="waits for nobody"):
                decide()

    def test_a_plan_that_undoes_another_says_so_in_the_same_act(self, store: StateStore, shop: str) -> None:
        failed = store.plans.begin(shop, {}, 1)
        store.plans.finish(failed.id, PlanState.FAILED, 2)
        back = store.plans.begin(shop, {}, 3)
        store.plans.finish(back.id, PlanState.DONE, 4, undoes=failed.id)
        assert [each.state for each in store.plans.of(shop)] == [PlanState.DONE, PlanState.UNDONE]

    def test_a_plan_that_waits_is_never_removed_to_make_room(self, store: StateStore, shop: str) -> None:
        waits = store.plans.ask(shop, {}, 1, "why")
        for _ in range(KEPT_PLANS + 2):
            store.plans.finish(store.plans.begin(shop, {}, 1).id, PlanState.DONE, 2)
        assert store.plans.get(waits.id).state is PlanState.AWAITING
        assert len(store.plans.of(shop, KEPT_PLANS + 5)) <= KEPT_PLANS + 2

    def test_a_plan_that_is_not_there(self, store: StateStore) -> None:
        with pytest.raises(NotFoundError, match="no plan 7"):
            store.plans.finish(7, PlanState.DONE, 1)


class TestPolicies:
    def test_the_newest_one_holds_until_it_is_cleared(self, store: StateStore, shop: str) -> None:
        assert store.policies.newest(shop) is None
        first = store.policies.save(shop, "budget: $1/h", 10, was=0)
        assert (store.policies.newest(shop), first.version) == (first, 1)
        assert store.policies.save(shop, "", 20, was=1).version == 2
        assert store.policies.newest(shop) is None
        with pytest.raises(PreconditionError, match="of version 0, not 1"):
            store.policies.save(shop, "budget: $2/h", 30, was=1)
        assert kinds(store)[:2] == ["policy.cleared", "policy.set"]
        store.delete_network(shop, 40)
        store.create_network(shop, "", 50)
        assert store.policies.newest(shop) is None


class TestEvents:
    def test_events_come_newest_first_and_page_by_page(self, store: StateStore) -> None:
        for number in range(5):
            store.add_event("shop" if number % 2 else None, "tap.lost", f"lost {number}", {"kind": "x", "n": number}, number)
        assert [e.data["n"] for e in store.events()] == [4, 3, 2, 1, 0]
        assert [(e.data["n"], e.network) for e in store.events("shop")] == [(3, "shop"), (1, "shop")]
        page = store.events(limit=2)
        assert [e.data["n"] for e in store.events(limit=2, before_id=page[-1].id)] == [2, 1]
        assert store.events("nobody") == ()

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    def test_a_page_is_bounded(self, store: StateStore, limit: int) -> None:
        with pytest.raises(InputError, match="ask for 1 to 1000"):
            store.events(limit=limit)

    def test_old_events_go_as_new_ones_come(self, store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("adumbra.store.statements.KEPT_EVENTS", 20)
        store.add_event("other", "k", "m", {}, 0)
        for number in range(250):
            store.add_event("shop", "k", "m", {"n": number}, number)
        kept = [e.data["n"] for e in store.events("shop", limit=1000)]
        assert kept == list(range(249, 249 - len(kept), -1))
        assert 20 <= len(kept) <= 120
        assert len(store.events("other")) == 1


def record_steps(store: StateStore, plan_id: int, ready: threading.Barrier, into: list[BaseException]) -> None:
    ready.wait(10)
    try:
        for index in range(5):
            store.plans.record_step(plan_id, index, {}, 2)
    except BaseException as error:  # noqa: BLE001 whoever called looks at it
        into.append(error)


class TestTogether:
    def test_two_stores_see_the_same(self, store: StateStore, shop: str, place: Path | str) -> None:
        with StateStore(place) as other:
            other.update_network(shop, "two", 2)
            assert store.network(shop).version == 2
            store.delete_network(shop, 3)
            assert other.networks() == ()

    def test_processes_and_threads_take_turns(self, store: StateStore, shop: str, place: Path | str, spawn: Spawn) -> None:
        processes = [spawn("count_up", place, 30) for _ in range(2)]
        threads = [
            threading.Thread(target=lambda: [store.update_network(shop, "spec", 1) for _ in range(20)]) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * 2
        assert store.network(shop).version == 1 + 2 * 30 + 3 * 20

    def test_what_may_be_done_once_is_done_by_one_of_several(self, store: StateStore, shop: str, place: Path | str) -> None:
        observations = [store.begin_observation(shop, "pcap:x", "f", 1).id for _ in range(10)]
        outcomes: list[str] = []

        def finish(own: StateStore, ready: threading.Barrier) -> None:
            for number in observations:
                ready.wait(10)
                try:
                    own.finish_observation(number, ObservationState.DONE, {}, 2)
                    outcomes.append("done")
                except ConflictError:
                    outcomes.append("late")

        with StateStore(place) as other:
            ready = threading.Barrier(2)
            threads = [threading.Thread(target=finish, args=(own, ready)) for own in (store, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(outcomes) == ["done"] * 10 + ["late"] * 10
        assert kinds(store).count("observation.done") == 10

    def test_a_deletion_and_acts_on_what_it_deletes_take_turns(self, store: StateStore, place: Path | str) -> None:
        for number in range(10):
            name = store.create_network(f"n{number}", "", 1).name
            plan, ready = store.plans.begin(name, {}, 1), threading.Barrier(2)
            troubles: list[BaseException] = []
            thread = threading.Thread(target=record_steps, args=(store, plan.id, ready, troubles))
            thread.start()
            ready.wait(10)
            store.delete_network(name, 3)
            thread.join()
            assert all(isinstance(error, NotFoundError) for error in troubles), troubles
        assert (store.networks(), store.plans.open()) == ((), ())

    def test_processes_that_open_a_new_store_at_once_make_it_once(self, place: Path | str, spawn: Spawn) -> None:
        processes = [spawn("write_state", place, number * 100_000) for number in range(4)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            assert process.stdout.readline().startswith("created")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.é", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(_JSON)
def test_json_data_is_kept_as_it_is(value: object) -> None:
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == value


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ((1, [2.5, (3,)]), [1, [2.5, [3]]]),
        ({"a": float("nan"), "b": float("-inf"), 3: None}, {"a": None, "b": None, "3": None}),
        (np.float32(0.5), 0.5),
        (np.int64(2**60), 2**60),
        (np.bool_(True), True),
        (np.array([[1.0, np.nan]]), [[1.0, None]]),
        (NetworkState.READY, "ready"),
        ("a\0\udcff", "a\\x00\\udcff"),
    ],
)
def test_what_is_nearly_json_becomes_it(value: object, want: object) -> None:
    assert plain(value) == want
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == want


def test_what_is_no_json_is_refused(store: StateStore, shop: str) -> None:
    with pytest.raises(TypeError, match="a set is no JSON data"):
        store.save_profile(shop, {"vms": {1, 2}}, 1)
    assert store.profile(shop) is None


def test_networks_are_listed_a_page_at_a_time(store: StateStore) -> None:
    for name in ("a", "b", "c_", "d"):
        store.create_network(name, "", 1)
    store.set_network_state("d", NetworkState.READY, 2, "it has a profile")

    def names(query: NetworkQuery) -> list[str]:
        return [each.name for each in store.networks_of(query)]

    assert names(NetworkQuery(limit=2)) == ["a", "b"]
    assert names(NetworkQuery(after="b")) == ["c_", "d"]
    assert names(NetworkQuery(("a", "d", "nope"))) == ["a", "d"]
    assert names(NetworkQuery(state=NetworkState.READY)) == ["d"]
    assert names(NetworkQuery(())) == []
    assert names(NetworkQuery(after="b\0")) == ["c_", "d"]
    with pytest.raises(InputError):
        store.networks_of(NetworkQuery(limit=0))


def test_events_are_chosen_by_network_kind_and_time(store: StateStore) -> None:
    for number, (network, kind) in enumerate(
        [("a", "job.done"), ("b", "job.done"), (None, "server.started"), ("a", "jobs"), ("a", "job"), ("a", "job_x.done")]
    ):
        store.add_event(network, kind, f"event {number}", {}, number)

    def told(query: EventQuery) -> list[int]:
        return [int(each.message.removeprefix("event ")) for each in store.events_of(query)]

    assert told(EventQuery()) == [5, 4, 3, 2, 1, 0]
    assert told(EventQuery(kinds=("job",))) == [4, 1, 0]
    assert told(EventQuery(("a",), ("job", "jobs"))) == [4, 3, 0]
    assert told(EventQuery(since_ns=4)) == [5, 4]
    third = store.events_of(EventQuery(limit=3))[-1].id
    assert told(EventQuery(before_id=third)) == [2, 1, 0]
    assert told(EventQuery(after_id=third, limit=1)) == [4]
    assert store.newest_event() == store.events(limit=1)[0].id


def test_jobs_and_plans_are_listed_newest_first(store: StateStore, shop: str) -> None:
    store.create_network("mall", "", 1)
    jobs = [store.jobs.add(name, kind, {}, "ann", 1) for name, kind in
            [(shop, JobKind.TRAIN), ("mall", JobKind.TRAIN), (shop, JobKind.WHATIF)]]  # fmt: skip
    store.jobs.finish(jobs[0].id, JobState.CANCELLED, 2)

    def told(query: JobQuery) -> list[int]:
        return [jobs.index(next(job for job in jobs if job.id == each.id)) for each in store.jobs.listing(query)]

    assert told(JobQuery()) == [2, 1, 0]
    assert told(JobQuery((shop,))) == [2, 0]
    assert told(JobQuery(kinds=(JobKind.TRAIN,), states=(JobState.QUEUED,))) == [1]
    assert told(JobQuery(before_id=jobs[2].id, limit=1)) == [1]
    plans = [store.plans.begin(shop, {"n": n}, 1).id for n in range(3)]
    assert [each.id for each in store.plans.of(shop)] == plans[::-1]
    assert [each.id for each in store.plans.of(shop, 1, plans[2])] == [plans[1]]
