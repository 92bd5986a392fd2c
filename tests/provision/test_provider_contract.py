"""What every provider must do: come to rest, survive a crash at any step, leave strangers alone, leave nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.provision.terraform_places import TERRAFORM_PLACES

from adumbra.provision.execute import execute
from adumbra.provision.plan import make_plan
from adumbra.provision.protocol import Finishing
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Desired, Item, Kind, Plan, Step, StepOutcome

try:
    from tests.provision.hypervisor_places import HYPERVISOR_PLACES
except pytest.skip.Exception:  # where libvirt's library isn't installed
    HYPERVISOR_PLACES = {}

PLACES = {**TERRAFORM_PLACES, **HYPERVISOR_PLACES}
"""Places to be provided for. sampled: every how manieth step a crash is tried at."""


@pytest.fixture(params=sorted(PLACES))
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


class Crash(BaseException):
    """The process dies here."""


class Crashing:
    """A provider whose process dies at one performance, before or after the work is done."""

    def __init__(self, provider, at, after):
        self.provider, self.left, self.after = provider, at, after

    @property
    def rules(self):
        return self.provider.rules

    def actual(self, network):
        return self.provider.actual(network)

    def perform(self, step):
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Crash
        outcome = self.provider.perform(step)
        if self.left < 0:
            raise Crash
        return outcome

    def finish(self, plan):
        """The last act, where the provider has one, is one more performance."""
        if not isinstance(self.provider, Finishing):
            return None
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Crash
        outcome = self.provider.finish(plan)
        if self.left < 0:
            raise Crash
        return outcome


class Failing(Crashing):
    """A provider that refuses one step, as a quota would."""

    def perform(self, step):
        self.left -= 1
        if self.left == -1:
            raise ProvisionError("the quota of machines is used up", "raise the quota")
        return self.provider.perform(step)


def plan_for(network, provider):
    return make_plan(network.desired, provider.actual("shop"), provider.rules, network.prices)


def plan_away(provider):
    return make_plan(Desired("shop", ()), provider.actual("shop"), provider.rules)


def run(plan, provider, done=frozenset()):
    outcomes = {}
    execute(plan, provider, outcomes.__setitem__, done)
    outcomes.pop(len(plan.steps), None)  # of the last act, where the provider has one
    return outcomes


def stands(provider):
    return {item.key: item for item in provider.actual("shop").items}


@pytest.fixture
def changed(shop_text, network):
    """The shop with another type, address, CIDR, port, group and subnet: every kind of step."""
    text = shop_text
    for old, new in {
        "[10.20.0.0/16]": "[10.20.0.0/16, 10.40.0.0/16]", "cidr: 10.20.2.0/24": "cidr: 10.40.2.0/24",
        "[10.20.2.10]": "[10.40.2.10]", "ports: [80, 443]": "ports: [8080]", "10.20.1.10-10.20.1.11": "10.20.1.11-10.20.1.12",
        "  - {name: db": "  - {name: new, subnet: web, addresses: [10.20.1.10]}\n  - {name: db",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    return network(text, {"web-2": ("c6a.large", 25)})


def test_what_was_planned_stands_and_planning_again_is_empty(place, shop, changed):
    provider = place.open()
    for network in (shop, changed, shop):
        plan = plan_for(network, provider)
        outcomes = run(plan, provider)
        assert outcomes.keys() == set(range(len(plan.steps)))
        assert all(outcome.done for outcome in outcomes.values())
        assert plan_for(network, place.open()).empty
        assert stands(place.open()).keys() == {item.key for item in provider.rules.settle(network.desired).items}


def test_each_step_done_again_changes_nothing(place, shop, changed):
    provider = place.open()
    for plan in (plan_for(shop, provider),):
        for step in plan.steps:
            assert provider.perform(step).done
            before = stands(provider)
            assert place.open().perform(step).done
            assert stands(provider) == before
    for step in plan_for(changed, provider).steps:
        assert provider.perform(step).done
        before = stands(provider)
        assert provider.perform(step).done
        assert stands(provider) == before


@pytest.mark.parametrize("after", [False, True], ids=["before the work", "after the work, before it is recorded"])
@pytest.mark.parametrize("again", ["the same plan", "a new plan"])
def test_a_crash_at_any_step_and_another_run_end_where_no_crash_ends(again, after, place, shop, changed):
    provider = place.open()
    run(plan_for(shop, provider), provider)
    reference = plan_for(changed, provider)
    run(reference, provider)
    want = stands(provider)
    for at in range(0, len(reference.steps) + isinstance(provider, Finishing), getattr(place, "sampled", 1)):
        run(plan_away(provider), provider)
        run(plan_for(shop, provider), provider)
        plan = plan_for(changed, place.open())
        assert plan == reference
        done = {}
        with pytest.raises(Crash):
            execute(plan, Crashing(place.open(), at, after), done.__setitem__)
        assert len(done) == at
        if again == "the same plan":
            second = run(plan, place.open(), frozenset(done))
            assert second.keys() == set(range(at, len(plan.steps)))
        else:
            run(plan_for(changed, place.open()), place.open())
        assert plan_for(changed, place.open()).empty
        assert stands(place.open()) == want


def test_a_step_that_fails_is_recorded_and_the_next_run_goes_on_from_it(place, shop):
    plan = plan_for(shop, place.open())
    outcomes, count = {}, len(plan.steps)
    told = rf"step {count - 1} of {count}, create machine web-2: the quota .* used up; raise the quota"
    with pytest.raises(ProvisionError, match=told):
        execute(plan, Failing(place.open(), count - 2, after=False), outcomes.__setitem__)
    assert [outcome.done for outcome in outcomes.values()] == [True] * (count - 2) + [False]
    assert "quota" in outcomes[count - 2].detail
    done = frozenset(index for index, outcome in outcomes.items() if outcome.done)
    assert run(plan, place.open(), done).keys() == {count - 2, count - 1}
    assert plan_for(shop, place.open()).empty


def test_an_outcome_is_recorded_before_the_next_step_is_begun(place, shop):
    provider = place.open()
    plan = plan_for(shop, provider)

    def record(index, outcome):
        assert len(stands(provider)) == index + 1
        if index == 3:
            raise Crash

    with pytest.raises(Crash):
        execute(plan, provider, record)
    assert len(stands(provider)) == 4


def test_strangers_are_untouched_and_nothing_is_left_behind(place, shop, changed):
    strangers = place.strangers()
    provider = place.open()
    for network in (shop, changed):
        run(plan_for(network, provider), provider)
        assert place.strangers() == strangers
    run(plan_away(provider), provider)
    assert place.is_empty()
    assert place.strangers() == strangers
    assert plan_away(place.open()).empty
    assert provider.actual("shop").items == ()


def test_a_plan_that_time_has_passed_by_is_refused(place, shop, changed):
    provider = place.open()
    late = plan_for(changed, provider)
    run(plan_for(shop, provider), provider)
    before = stands(provider)
    with pytest.raises(ProvisionError, match=r"step [12] of .* stands with other settings than .*; plan again"):
        run(late, provider)
    assert stands(provider) == before


def test_anothers_network_in_the_same_place_is_not_taken_over(place, shop):
    provider = place.open()
    run(plan_for(shop, provider), provider)
    before = stands(provider)
    blog = Item(Kind.NETWORK, "blog", {"cidrs": ["10.50.0.0/16"]})
    with pytest.raises(ProvisionError, match="shop"):
        provider.perform(Step(Act.CREATE, blog))
    assert stands(provider) == before


def test_a_plan_for_another_provider_is_refused(place, shop):
    plan = plan_for(shop, place.open())
    with pytest.raises(ProvisionError, match="give the provider that the plan names"):
        run(Plan("shop", "elsewhere", plan.steps, None), place.open())
    assert place.is_empty()


def test_a_plan_that_cannot_be_carried_out_is_refused_before_its_first_step(place, shop):
    plan = plan_for(shop, place.open())
    with pytest.raises(ProvisionError, match="checking the plan"):
        run(Plan("shop", plan.provider, plan.steps[::-1], None), place.open())
    assert place.is_empty()


def test_an_outcome_that_says_not_done_stops_the_plan(place, shop):
    class Reluctant(Crashing):
        def perform(self, step):
            return StepOutcome(done=False, detail="no machine is free")

    with pytest.raises(ProvisionError, match=r"step 1 of [0-9]+, create network shop: no machine is free"):
        run(plan_for(shop, place.open()), Reluctant(place.open(), 0, after=False))


@pytest.mark.parametrize("kind", sorted(PLACES))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=8)
@given(st.data())
def test_any_network_becomes_any_other_in_place(kind, networks, data):
    with tempfile.TemporaryDirectory() as folder:
        place = PLACES[kind](Path(folder))
        for network in (data.draw(networks), data.draw(networks)):
            run(plan_for(network, place.open()), place.open())
            assert plan_for(network, place.open()).empty
        run(plan_away(place.open()), place.open())
        assert place.is_empty()
