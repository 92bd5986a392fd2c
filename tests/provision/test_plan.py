"""From what stands to what should stand: which steps, in which order, and what they interrupt."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adumbra.provision.aws_rules import AwsRules
from adumbra.provision.plan import apply_step, check_plan, describe, make_plan, needs
from adumbra.provision.protocol import Change, Effect
from adumbra.schema.addresses import parse_block, parse_prefix
from adumbra.schema.errors import InputError, ProvisionError
from adumbra.schema.plans import Act, Actual, Desired, Item, Kind, Plan, Step

RULES = AwsRules("terraform")


def words(plan):
    return [describe(step) for step in plan.steps]


def standing(network, performed):
    empty = Actual("shop", ())
    return Actual("shop", performed((), make_plan(network.desired, empty, RULES)))


def test_a_new_network_is_made_in_the_order_of_what_needs_what(shop, nothing):
    plan = make_plan(shop.desired, nothing[0], RULES, shop.prices)
    assert words(plan) == [
        "create network shop",
        "create subnet web", "create subnet data",
        "create gateway internet",
        "create routing web", "create routing data",
        "create firewall web", "create firewall db",
        "create machine web-1", "create machine web-2", "create machine db",
    ]  # fmt: skip
    assert plan.price_per_hour == pytest.approx(3 * 0.1008)
    assert {step.interrupts for step in plan.steps} == {""}


def test_planning_again_on_the_result_gives_an_empty_plan(shop, performed):
    assert make_plan(shop.desired, standing(shop, performed), RULES).empty


def test_taking_it_away_goes_the_other_way_round(shop, performed, nothing):
    plan = make_plan(nothing[1], standing(shop, performed), RULES)
    assert words(plan) == [
        "delete machine web-2", "delete machine web-1", "delete machine db",
        "delete firewall web", "delete firewall db",
        "delete routing web", "delete routing data",
        "delete gateway internet",
        "delete subnet web", "delete subnet data",
        "delete network shop",
    ]  # fmt: skip
    assert plan.steps[0].interrupts == "web-2 is destroyed, with its disk"
    assert plan.price_per_hour == 0.0


def test_a_price_that_is_not_known_for_one_machine_is_not_known_for_all(shop, nothing):
    known = {name: price for name, price in shop.prices.items() if name != "db"}
    assert make_plan(shop.desired, nothing[0], RULES, known).price_per_hour is None


def test_a_plan_survives_being_stored(shop, nothing):
    plan = make_plan(shop.desired, nothing[0], RULES, shop.prices)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


ANEW = "db is destroyed, with its disk, and made anew"
CHANGES = [
    pytest.param(
        {}, {"db": ("c6a.large", 20)}, [("update machine db", "db is stopped and started for its new type")], id="type"
    ),
    pytest.param({}, {"db": ("m7i.large", 30)}, [("update machine db", "")], id="a larger disk"),
    pytest.param({}, {"db": ("m7i.large", 10)}, [], id="a smaller disk is no reason to lose data"),
    pytest.param(
        {}, {"db": ("m7g.large", 20)}, [("replace machine db", ANEW)], id="architecture"
    ),
    pytest.param(
        {"[10.20.2.10]": "[10.20.2.12]"}, {}, [("replace machine db", ANEW)], id="address"
    ),
    pytest.param(
        {"[10.20.2.10]": "[10.20.1.12]", "name: db, subnet: data": "name: db, subnet: web"}, {},
        [
            ("update firewall db", "db no longer takes port 5432 from 10.20.1.0/24, port 5432 from 10.20.2.0/24"),
            ("replace machine db", ANEW),
        ],
        id="subnet",
    ),
    pytest.param(
        {"ports: [80, 443]": "ports: [443]"}, {},
        [("update firewall web", "web no longer takes port 80 from 0.0.0.0/0")], id="port",
    ),
    pytest.param({"role: postgresql": "role: mysql"}, {}, [("update machine db", "")], id="role"),
    pytest.param({"[10.20.0.0/16]": "[10.20.0.0/16, 10.30.0.0/16]"}, {}, [("update network shop", "")], id="another CIDR"),
    pytest.param(
        {"  - {between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}\n": ""}, {},
        [
            ("update routing web", "subnet web loses its way to the outside"),
            ("update firewall web", "web no longer takes port 80 from 0.0.0.0/0, port 443 from 0.0.0.0/0"),
            ("update machine web-1", ""), ("update machine web-2", ""),
            ("delete gateway internet", "the way to the outside is closed"),
        ],
        id="no internet: the gateway goes last",
    ),
    pytest.param(
        {"{name: db,": "{name: database,"}, {},
        [
            ("delete machine db", "db is destroyed, with its disk"), ("delete firewall db", ""),
            ("create firewall database", ""), ("create machine database", ""),
        ],
        id="another name is another machine, and its address is free before it is taken",
    ),
    pytest.param(
        {"cidr: 10.20.2.0/24": "cidr: 10.20.3.0/24", "[10.20.2.10]": "[10.20.3.10]"}, {},
        [
            ("delete machine db", "db is destroyed, with its disk"), ("delete routing data", ""), ("delete subnet data", ""),
            ("create subnet data", ""), ("create routing data", ""),
            ("update firewall db", "db no longer takes port 5432 from 10.20.2.0/24"), ("create machine db", ""),
        ],
        id="a subnet moves: what lives in it goes first",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "sizes", "want"), CHANGES)
def test_what_a_change_takes(edits, sizes, want, shop, shop_text, network, performed):
    text = shop_text
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    changed = network(text, sizes)
    there = standing(shop, performed)
    plan = make_plan(changed.desired, there, RULES)
    assert [(describe(step), step.interrupts) for step in plan.steps] == want
    assert make_plan(changed.desired, Actual("shop", performed(there.items, plan)), RULES).empty


def test_two_machines_that_swap_addresses_are_both_taken_down_first(shop, shop_text, network, performed):
    swapped = shop_text.replace("10.20.1.10-10.20.1.11", "[10.20.1.11, 10.20.1.10]")
    plan = make_plan(network(swapped).desired, standing(shop, performed), RULES)
    assert words(plan) == [
        "delete machine web-2", "delete machine web-1", "create machine web-1", "create machine web-2",
    ]  # fmt: skip


def test_a_machine_that_leaves_a_group_lets_go_of_its_firewall_before_that_goes(shop, shop_text, network, performed):
    alone = shop_text.replace("{name: web, count: 2,", "{name: web-1,").replace("10.20.1.10-10.20.1.11", "10.20.1.10")
    plan = make_plan(network(alone).desired, standing(shop, performed), RULES)
    assert words(plan) == [
        "delete machine web-2", "create firewall web-1", "update machine web-1", "delete firewall web",
    ]  # fmt: skip


def test_another_primary_cidr_makes_all_anew(shop, shop_text, network, performed):
    there = standing(shop, performed)
    plan = make_plan(network(shop_text.replace("[10.20.0.0/16]", "[10.30.0.0/16, 10.20.0.0/16]")).desired, there, RULES)
    assert [step.act for step in plan.steps] == [Act.DELETE] * 11 + [Act.CREATE] * 11


def test_another_networks_place_is_refused(shop):
    with pytest.raises(ProvisionError, match="choose another place"):
        make_plan(shop.desired, Actual("blog", ()), RULES)


def test_what_the_provider_cannot_hold_is_refused_before_anything_is_planned(shop, nothing):
    db = next(item for item in shop.desired.items if item.name == "db" and item.kind is Kind.MACHINE)
    without = dataclasses.replace(db, settings={**db.settings, "type": None})
    desired = Desired("shop", tuple(without if item is db else item for item in shop.desired.items))
    with pytest.raises(InputError, match=r"no instance type fits db.*adumbra profile shop"):
        make_plan(desired, nothing[0], RULES)


class FirewallsAreMadeAnew(AwsRules):
    """A provider that can't change a firewall while it stands."""

    def change(self, before, after):
        if before.kind is Kind.FIREWALL:
            return Change(Effect.REPLACE, after)
        return super().change(before, after)


def test_what_needs_something_that_is_made_anew_is_made_anew_too(shop, shop_text, network, performed):
    changed = network(shop_text.replace("ports: [80, 443]", "ports: [80]"))
    plan = make_plan(changed.desired, standing(shop, performed), FirewallsAreMadeAnew("elsewhere"))
    assert words(plan) == [
        "delete machine web-2", "delete machine web-1", "delete firewall web",
        "create firewall web", "create machine web-1", "create machine web-2",
    ]  # fmt: skip


NET = Item(Kind.NETWORK, "n", {"cidrs": ["10.0.0.0/16"]})
SUB = Item(Kind.SUBNET, "s", {"network": "n", "cidr": "10.0.1.0/24"})
SUB2 = Item(Kind.SUBNET, "s", {"network": "n", "cidr": "10.0.2.0/24"})


@pytest.mark.parametrize(
    ("steps", "actual", "why"),
    [
        ([Step(Act.CREATE, SUB)], (), "needs network n, which does not stand"),
        ([Step(Act.CREATE, SUB), Step(Act.CREATE, NET)], None, "needs network n, which does not stand"),
        ([Step(Act.CREATE, NET), Step(Act.CREATE, NET)], None, "touched 2 times"),
        ([Step(Act.CREATE, NET), Step(Act.DELETE, NET, NET)], None, "touched 2 times"),
        ([Step(Act.DELETE, NET, NET)], (NET, SUB), "takes away what subnet s needs"),
        ([Step(Act.DELETE, NET, NET), Step(Act.DELETE, SUB, SUB)], None, "takes away what subnet s needs"),
        ([Step(Act.CREATE, NET)], (NET,), "does not fit what stands"),
        ([Step(Act.CREATE, NET, NET)], None, "does not fit what stands"),
        ([Step(Act.UPDATE, SUB2)], (NET, SUB), "does not fit what stands"),
        ([Step(Act.UPDATE, SUB2, SUB2)], (NET, SUB), "does not fit what stands"),
        ([Step(Act.UPDATE, SUB, NET)], None, "does not fit what stands"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_found_before_it_is_tried(steps, actual, why):
    with pytest.raises(ProvisionError, match=why):
        check_plan(Plan("n", "terraform", tuple(steps), None), Actual("n", actual) if actual is not None else None)


def test_a_plan_alone_may_need_what_stood_before_it():
    check_plan(Plan("n", "terraform", (Step(Act.CREATE, SUB),), None))


def test_a_step_that_no_longer_fits_is_refused():
    assert apply_step((NET, SUB), Step(Act.CREATE, SUB)) == (NET, SUB)  # again is harmless
    with pytest.raises(ProvisionError, match=r"subnet s stands with other settings than .*plan again"):
        apply_step((NET, SUB2), Step(Act.CREATE, SUB))
    with pytest.raises(ProvisionError, match="subnet s does not stand any more"):
        apply_step((NET,), Step(Act.UPDATE, SUB, SUB2))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
@given(st.data())
def test_any_network_becomes_any_other(networks, performed, data):
    first, second = data.draw(networks), data.draw(networks)
    there = standing(first, performed)
    assert {item.key: item for item in there.items} == {item.key: item for item in first.desired.items}
    plan = make_plan(second.desired, there, RULES, second.prices)
    items = there.items
    for step in plan.steps:
        items = apply_step(items, step)
        assert apply_step(items, step) == items
        can_stand(items)
    anew = {step.item.key for step in plan.steps if step.act in {Act.CREATE, Act.REPLACE}}
    assert {item.key: item for item in items} == {
        item.key: item if item.key in anew else kept(item, there) for item in second.desired.items
    }
    assert make_plan(second.desired, Actual("shop", items), RULES).empty
    assert make_plan(second.desired, there, RULES, second.prices) == plan
    away = make_plan(Desired("shop", ()), Actual("shop", items), RULES)
    assert performed(items, away) == ()


def kept(item, there):
    """What stands for an item that was changed in place: a disk keeps the larger of its sizes."""
    before = next((other for other in there.items if other.key == item.key), None)
    if item.kind is not Kind.MACHINE or before is None:
        return item
    storage = max(before.settings["storage_gb"], item.settings["storage_gb"])
    return dataclasses.replace(item, settings={**item.settings, "storage_gb": storage})


def can_stand(items):
    """No moment at which a cloud would refuse what stands together."""
    keys = {item.key for item in items}
    assert all(need in keys for item in items for need in needs(item))
    cidrs = [parse_prefix(text) for item in items if item.kind is Kind.NETWORK for text in item.settings["cidrs"]]
    subnets = [parse_prefix(item.settings["cidr"]) for item in items if item.kind is Kind.SUBNET]
    assert all(any(sub.version == cidr.version and sub.subnet_of(cidr) for cidr in cidrs) for sub in subnets)
    taken = [parse_block(text) for item in items if item.kind is Kind.MACHINE for text in item.settings["addresses"]]
    for blocks in (taken, subnets):
        assert not any(a.version == b.version and a.overlaps(b) for i, a in enumerate(blocks) for b in blocks[:i])
