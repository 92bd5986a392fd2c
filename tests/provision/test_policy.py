"""Sizes held to a policy: within floors and caps, never below use, never over the budget; and what must be approved."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.provision.policy import Held, Offer, Sized, allowed, hold, needs_approval, with_policy
from adumbra.schema.errors import AdumbraError, ConflictError, InputError
from adumbra.schema.plans import Act, Item, Kind, Plan, Step
from adumbra.schema.policy import GRAINS, SMALLEST, bounds_of, parse_policy
from adumbra.schema.sizing import RESOURCES

TYPES = {  # name -> (cores, GB, Mbps, price)
    "s.small": (2, 4, 500, 0.05), "s.large": (8, 16, 2000, 0.2), "m.large": (4, 32, 2000, 0.25),
    "m.huge": (64, 512, 50_000, 3.0),
}  # fmt: skip


def cheapest(each: Sized, patterns: tuple[str, ...]) -> Offer | None:
    gives = {name: dict(zip(RESOURCES, (*figures[:3], math.inf), strict=True)) for name, figures in TYPES.items()}
    fits = [
        name
        for name in TYPES
        if (not patterns or allowed(name, patterns)) and all(gives[name][r] >= each.sizes[r] for r in RESOURCES)
    ]
    best = min(fits, key=lambda name: TYPES[name][3], default=None)
    return None if best is None else Offer(best, TYPES[best][3])


def vm(name: str = "web-1", cores: float = 2, memory: float = 4.0, group: str = "web", **given) -> Sized:
    sizes = {"cpu_cores": cores, "memory_gb": memory, "bandwidth_mbps": 100, "storage_gb": 20} | given
    picked = cheapest(Sized(name, group, sizes, None, None), ())
    return Sized(name, group, sizes, picked.type if picked else None, picked.price_per_hour if picked else None)


def amounts(least: float, most: float) -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(RESOURCES), st.floats(least, most).map(lambda amount: round(amount, 3)), max_size=4)


@st.composite
def policies(draw):
    lines = [f"budget: ${draw(st.integers(1, 20))}/h"] if draw(st.booleans()) else []
    lines += [f"keep_above_use: {str(draw(st.booleans())).lower()}", f"use_margin: {draw(st.integers(0, 40))}%", "vms:"]
    for selector in draw(st.lists(st.sampled_from(["*", "web", "web-1", "db"]), min_size=1, unique=True)):
        floors, caps = draw(amounts(0.1, 64)), draw(amounts(8, 128))
        types = draw(st.sampled_from([[], ["s.*"], ["m.huge", "s.small"], ["*"]]))
        floors = {name: min(amount, caps.get(name, math.inf)) for name, amount in floors.items()}
        lines += [f'  "{selector}":', f"    floors: {floors}", f"    caps: {caps}", *([f"    types: {types}"] if types else [])]
    return parse_policy("\n".join(lines).replace("'", '"'))


def tried(fleet, policy, use) -> tuple[Held | None, AdumbraError | None]:
    try:
        return hold(fleet, policy, use, cheapest), None
    except AdumbraError as error:
        return None, error


machines = st.builds(
    vm, name=st.just("web-1"), cores=st.integers(1, 40), memory=st.integers(1, 80).map(lambda n: n / 2),
    bandwidth_mbps=st.integers(1, 3000), storage_gb=st.integers(8, 100),
)  # fmt: skip
fleets = machines.flatmap(lambda first: st.just((first, vm("web-2", 3, 6.0), vm("db", 4, 24.0, "db"))))
uses = st.dictionaries(st.sampled_from(["web-1", "web-2", "db"]), amounts(0, 60))


class TestWhatAlwaysHolds:
    @settings(max_examples=300, deadline=None)
    @given(fleets, policies(), uses)
    def test_within_bounds_above_use_within_the_budget_and_twice_is_once(self, fleet, policy, use) -> None:
        held, refused = tried(fleet, policy, use)
        if held is None:
            assert type(refused) is ConflictError
            assert refused.mend
            assert str(tried(fleet, policy, use)[1]) == str(refused)  # the same input, the same answer
            return
        assert held == hold(fleet, policy, use, cheapest)
        for each, given_ in zip(held.vms, fleet, strict=True):
            bounds = bounds_of(policy, each.vm, each.group)
            for name in RESOURCES:
                assert each.sizes[name] >= bounds.floors.get(name, (0, ""))[0]
                assert each.sizes[name] <= bounds.caps.get(name, (math.inf, ""))[0]
                if policy.keep_above_use:
                    assert each.sizes[name] >= use.get(each.vm, {}).get(name, 0) * (1 + policy.use_margin)
            if bounds.types:
                assert each.type is not None
                assert allowed(each.type, bounds.types)
            assert (each == given_) == (each.vm not in held.notes)
        if policy.budget is not None:
            assert math.fsum(each.price_per_hour for each in held.vms) <= policy.budget + 1e-6
        again = hold(held.vms, policy, use, cheapest)
        assert (again.vms, again.notes) == (held.vms, {})

    def test_the_grains_are_those_that_a_smallest_size_is_made_of(self) -> None:
        from adumbra.profile.size import ROUNDING

        assert {name: rule.minimum for name, rule in ROUNDING.items()} == SMALLEST
        assert set(GRAINS) == set(RESOURCES) == set(SMALLEST)


class TestStories:
    def test_the_most_specific_floor_counts_each_resource_by_itself(self) -> None:
        policy = parse_policy('vms: {"*": {floors: {cpu_cores: 8, memory_gb: 8}}, web: {floors: {cpu_cores: 4}}}')
        (held,) = hold([vm()], policy, {}, cheapest).vms
        assert (held.sizes["cpu_cores"], held.sizes["memory_gb"], held.type) == (4, 8, "s.large")

    def test_each_change_says_why(self) -> None:
        policy = parse_policy('vms: {web: {floors: {cpu_cores: 4}, caps: {memory_gb: 3.2}}, "*": {types: ["m.*"]}}')
        held = hold([vm()], policy, {"web-1": {"bandwidth_mbps": 100}}, cheapest)
        assert held.notes["web-1"] == (
            "CPU 4 cores in place of 2 cores: the floor of web",
            "memory 3 GB in place of 4 GB: the cap of web",
            "bandwidth 111 Mbps in place of 100 Mbps: what is used of it, with the margin",
            "m.large is the cheapest that the policy allows, in place of s.small",
        )

    def test_what_is_used_is_not_taken_away_unless_that_is_allowed(self) -> None:
        use = {"web-1": {"memory_gb": 6.0}}
        (held,) = hold([vm()], parse_policy("use_margin: 25%"), use, cheapest).vms
        assert held.sizes["memory_gb"] == 7.5
        assert hold([vm()], parse_policy("keep_above_use: false"), use, cheapest).vms == (vm(),)

    @pytest.mark.parametrize(
        ("text", "use", "kind", "says"),
        [
            (
                'vms: {"*": {floors: {cpu_cores: 8}}, web: {caps: {cpu_cores: 4}}}', {}, ConflictError,
                "web-1: its floor of 8 cores is above its cap of 4 cores; lower the floor of all VMs or raise the cap of web",
            ),
            (
                "vms: {web: {caps: {memory_gb: 4}}}", {"memory_gb": 5.0}, ConflictError,
                "web-1: what it uses, with the margin, 5.5 GB, is above its cap of 4 GB",
            ),
            (
                "vms: {web: {floors: {cpu_cores: 2.2}, caps: {cpu_cores: 2.8}}}", {}, ConflictError,
                "no whole size lies between its floor of 2.2 cores and its cap of 2.8",
            ),
            (
                "vms: {web: {types: [s.*], floors: {memory_gb: 17}}}", {}, ConflictError,
                r"of web \(s\.\*\) gives web-1 2 cores, 17 GB",
            ),
            (
                "budget: $0.04/h", {}, ConflictError,
                r"cost \$0.0500/h, which is over the budget of \$0.0400/h; web-1 costs the most",
            ),
            ("budget: $20/month", {}, ConflictError, "over the budget"),
            (
                "budget: $9/h\nvms: {web: {floors: {cpu_cores: 999}}}", {}, ConflictError,
                "what web-1 will cost isn't known",
            ),
            (
                "vms: {wbe: {floors: {cpu_cores: 1}}}", {}, InputError,
                "'wbe', and there is no such VM or VM group; did you mean 'we",
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused_by_name(self, text, use, kind, says) -> None:
        with pytest.raises(kind, match=says):
            hold([vm()], parse_policy(text), {"web-1": use}, cheapest)

    @pytest.mark.parametrize(
        ("approval", "before", "after", "says"),
        [
            ("{}", 0.0, 99.0, ""),
            ("{above: $1/h}", 0.0, 1.0, ""),
            ("{above: $1/h}", 0.0, 1.01, "will cost $1.0100/h, and more than $1.0000/h"),
            ("{above: $1/h}", 2.0, 1.5, ""),  # it costs less than what stands
            ("{above: $1/h}", 1.2, 1.5, "will cost $1.5000/h"),
            ("{above: $1/h}", None, 1.5, "will cost $1.5000/h"),
            ("{above: $1/h}", 0.0, None, "isn't known"),
            ("{increase: $0.5/h}", 5.0, 5.5, ""),
            ("{increase: $0.5/h}", 5.0, 5.6, "will cost $0.6000/h more"),
            ("{increase: $0.5/h}", None, 0.1, "so neither is the increase"),
            ("{above: $9/h, increase: $0.5/h}", 1.0, 2.0, "more than $0.5000/h"),
        ],
    )
    def test_what_must_be_approved(self, approval, before, after, says) -> None:
        told = needs_approval(parse_policy(f"approval: {approval}"), before, after)
        assert says in told
        assert bool(told) == bool(says)

    def test_an_empty_plan_needs_no_approval(self) -> None:
        policy = parse_policy("approval: {above: $1/h}")
        step = Step(Act.CREATE, Item(Kind.NETWORK, "shop", {}))
        assert with_policy(Plan("shop", "terraform", (step,), 2.0), 0.0, policy).approval
        assert not with_policy(Plan("shop", "terraform", (), 2.0), 0.0, policy).approval

    def test_plans_of_earlier_versions_are_read(self) -> None:
        told = {"network": "shop", "provider": "terraform", "steps": [], "price_per_hour": 0.5}
        assert Plan.from_dict(told) == Plan("shop", "terraform", (), 0.5)
        whole = Plan("shop", "terraform", (), 0.5, 0.25, "because", {"web-1": ("a", "b")})
        assert Plan.from_dict(whole.to_dict()) == whole
