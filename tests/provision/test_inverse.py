"""Taking back a plan that ended half-way: what stood before stands again, but for what is said to be left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.provision.aws_rules import AwsRules
from adumbra.provision.inverse import inverse
from adumbra.provision.plan import apply_step, check_plan, in_order, make_plan
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Actual, Desired, Item, Kind, Plan, Step

RULES = AwsRules("terraform")
NOTHING = Actual("shop", ())


def carried_out(items: tuple[Item, ...], plan: Plan, steps: int) -> tuple[Item, ...]:
    for step in plan.steps[:steps]:
        items = apply_step(items, step)
    return items


def stood(network) -> tuple[Item, ...]:
    return carried_out((), make_plan(network.desired, NOTHING, RULES), 10**6)


def settings_of(items: tuple[Item, ...]) -> dict[tuple[str, str], dict[str, object]]:
    return {item.key: dict(item.settings) for item in items}


class TestOverRandomNetworks:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_what_was_made_from_nothing_is_all_gone_however_far_it_came(self, networks, data) -> None:
        network = data.draw(networks)
        plan = make_plan(network.desired, NOTHING, RULES)
        done = data.draw(st.integers(0, len(plan.steps)))
        there = carried_out((), plan, done)
        back = inverse(plan, data.draw(st.sampled_from([done, min(done + 1, len(plan.steps))])), Actual("shop", there), RULES)
        assert carried_out(there, back, 10**6) == ()
        assert back.notes == {}

    @settings(max_examples=120, deadline=None)
    @given(st.data())
    def test_a_change_is_taken_back_but_for_what_is_said(self, networks, data) -> None:
        old, new = data.draw(networks), data.draw(networks)
        before = stood(old)
        plan = make_plan(new.desired, Actual("shop", before), RULES)
        done = data.draw(st.integers(0, len(plan.steps)))
        there = carried_out(before, plan, done)
        back = inverse(plan, done, Actual("shop", there), RULES)
        check_plan(back, Actual("shop", there))
        after = carried_out(there, back, 10**6)
        was, now = settings_of(before), settings_of(after)
        differ = {key[1] for key in was.keys() | now.keys() if was.get(key) != now.get(key)}
        assert differ <= set(back.notes)
        if not any(step.item.kind is Kind.MACHINE and step.act is not Act.CREATE for step in plan.steps[:done]):
            assert now == was
        assert inverse(plan, done, Actual("shop", after), RULES).empty  # again is harmless

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_no_machine_that_stood_before_is_destroyed(self, networks, data) -> None:
        old, new = data.draw(networks), data.draw(networks)
        before = stood(old)
        plan = make_plan(new.desired, Actual("shop", before), RULES)
        done = data.draw(st.integers(0, len(plan.steps)))
        back = inverse(plan, done, Actual("shop", carried_out(before, plan, done)), RULES)
        made = {step.item.key for step in plan.steps[:done] if step.act is Act.CREATE}
        assert all(step.item.key in made for step in back.steps if step.act is Act.DELETE)
        assert not any(step.act is Act.REPLACE for step in back.steps)


class TestStories:
    def test_a_larger_type_goes_back_and_a_larger_disk_stays_and_is_said(self, network, shop_text) -> None:
        old = network(shop_text, {"web-1": ("m7i.large", 20)})
        new = network(shop_text, {"web-1": ("c6a.large", 30)})
        before = stood(old)
        plan = make_plan(new.desired, Actual("shop", before), RULES)
        there = carried_out(before, plan, 1)
        back = inverse(plan, 1, Actual("shop", there), RULES)
        (step,) = back.steps
        assert (step.act, step.item.name, step.item.settings["type"]) == (Act.UPDATE, "web-1", "m7i.large")
        assert step.item.settings["storage_gb"] == 30
        assert back.notes == {"web-1": ("machine web-1: storage_gb can't be taken back and stays",)}
        assert "stopped" in step.interrupts

    def test_a_deactivation_that_failed_brings_back_all_but_the_machines(self, shop) -> None:
        before = stood(shop)
        plan = make_plan(Desired("shop", ()), Actual("shop", before), RULES)
        back = inverse(plan, len(plan.steps), NOTHING, RULES)
        after = carried_out((), back, 10**6)
        assert after == in_order(item for item in before if item.kind is not Kind.MACHINE)
        assert set(back.notes) == {"web-1", "web-2", "db"}
        assert all("can't be brought back" in said for (said,) in back.notes.values())

    def test_what_somebody_changed_since_is_left_alone(self, shop) -> None:
        plan = make_plan(shop.desired, NOTHING, RULES)
        there = carried_out((), plan, len(plan.steps))
        edited = tuple(
            replace(item, settings=dict(item.settings) | {"ingress": []}) if item.key == ("firewall", "web") else item
            for item in there
        )
        back = inverse(plan, len(plan.steps), Actual("shop", edited), RULES)
        after = {item.key for item in carried_out(edited, back, 10**6)}
        assert after == {("network", "shop"), ("firewall", "web")}
        assert "somebody changed it" in back.notes["web"][0]
        assert "needs it" in back.notes["shop"][0]

    @pytest.mark.parametrize(("network", "provider"), [("lab", "terraform"), ("shop", "libvirt")])
    def test_another_network_or_provider_is_refused(self, network, provider) -> None:
        with pytest.raises(ProvisionError, match="where it was carried out"):
            inverse(Plan(network, provider, (Step(Act.CREATE, Item(Kind.NETWORK, network, {})),), None), 1, NOTHING, RULES)
