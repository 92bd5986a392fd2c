"""The rules against slow readings of what their makers publish, and what must hold of any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.profile.rules import (
    RULES,
    VPA,
    Buckets,
    Past,
    peaks_of_blocks,
    percentile_of,
    rules_named,
    tomorrows_maximum,
)
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import RESOURCES

NAN = math.nan
SIZED = [(name, resource) for name, rule in RULES.items() for resource in rule.resources]
STEPS_S = (60.0, 150.0, 300.0, 900.0, 3600.0)


def past(values, resource="cpu_cores", step_s=300.0, provisioned=None):
    values = np.atleast_2d(np.asarray(values, np.float64))
    if provisioned is None:
        provisioned = np.full(len(values), 64.0)
    return Past(resource, values, step_s, np.asarray(provisioned, np.float64))


def drawn(seed, vms=3, steps=400, gaps=0.2, scale=1.0):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0.0, 1.5, (vms, steps)) * scale
    values[rng.random((vms, steps)) < gaps] = NAN
    return values


# Slow readings, a VM and a sample at a time.


def slow_percentile(samples, percent):
    there = sorted(x for x in samples if not math.isnan(x))
    if not there:
        return NAN
    place = percent / 100 * (len(there) - 1)
    below = math.floor(place)
    above = min(below + 1, len(there) - 1)
    return there[below] + (there[above] - there[below]) * (place - below)


def slow_max(samples):
    return max((x for x in samples if not math.isnan(x)), default=NAN)


def slow_blocks(samples, step_s, block_s):
    """Largest of each block of time, by age: a step that begins `age` before the end lies in block ceil(age / block) - 1."""
    blocks = {}
    for i, sample in enumerate(samples):
        age_s = (len(samples) - i) * step_s
        blocks.setdefault(math.ceil(age_s / max(block_s, step_s) - 1e-9) - 1, []).append(sample)
    return [(number, slow_max(blocks[number])) for number in sorted(blocks, reverse=True)]


def slow_histogram(weighted, first, share):
    """VPA: bucket n begins at first * (1.05^n - 1) / 0.05; the percentile is where the bucket that reaches it ends."""
    starts = [0.0]
    while len(starts) < 1000:
        starts.append(starts[-1] + first * 1.05 ** (len(starts) - 1))
    weight = [0.0] * len(starts)
    for value, amount in weighted:
        if not math.isnan(value):
            weight[max(n for n, start in enumerate(starts) if start <= value)] += amount
    if not any(weight):
        return NAN
    reached = 0.0
    for n, amount in enumerate(weight):
        reached += amount
        if reached >= share * sum(weight) * (1 - 1e-12):
            return starts[n + 1]
    raise AssertionError


def slow_vpa(samples, step_s, resource):
    samples = samples[-round(8 * 86400 / step_s) :]
    if resource == "cpu_cores":
        weighted = [(x, 2.0 ** (-(len(samples) - i) * step_s / 86400)) for i, x in enumerate(samples)]
        target = slow_histogram(weighted, 0.01, 0.9) * 1.15
        return target if math.isnan(target) else max(target, 0.025)
    weighted = [(x * 2**30, 2.0**-age) for age, x in slow_blocks(samples, step_s, 86400)]
    target = slow_histogram(weighted, 1e7, 0.9) * 1.15
    return target if math.isnan(target) else max(target, 250 * 1024 * 1024) / 2**30


def slow(name, samples, step_s, resource):
    def days(count):
        return samples[-round(count * 86400 / step_s) :]

    if name == "vpa":
        return slow_vpa(samples, step_s, resource)
    if name == "aws-compute-optimizer" and resource == "cpu_cores":
        return slow_percentile([x for _, x in slow_blocks(days(14), step_s, 300)], 99.5) / 0.8
    if name == "aws-compute-optimizer":
        return slow_max(days(14)) / 0.8
    if name == "krr" and resource == "cpu_cores":
        return slow_percentile(days(14), 95)
    if name in {"krr", "peak"}:
        return slow_max(days(14)) * 1.15
    if name == "crane":
        return slow_percentile(days(7), 99) * 1.15
    return slow_percentile(days({"azure-1d": 1, "azure-14d": 14}[name]), 95) * 1.3


@pytest.mark.parametrize(("name", "resource"), [pair for pair in SIZED if pair[0] != "declared"])
@pytest.mark.parametrize("step_s", [300.0, 3600.0])
def test_a_rule_gives_what_its_makers_describe(name, resource, step_s):
    steps = round(15 * 86400 / step_s)  # a day more than any rule looks at, with other use in it
    values = drawn(7, vms=2, steps=steps)
    values[:, : round(86400 / step_s)] *= 50
    got = RULES[name].allocate(past(values, resource, step_s))
    want = [slow(name, list(row), step_s, resource) for row in values]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@settings(max_examples=60)
@given(
    st.sampled_from([p for p in SIZED if p[0] != "declared"]), st.sampled_from(STEPS_S), st.integers(0, 2**32 - 1), st.data()
)
def test_a_rule_gives_what_its_makers_describe_for_any_use(pair, step_s, seed, data):
    name, resource = pair
    steps = data.draw(st.integers(0, 300))
    values = drawn(seed, vms=2, steps=steps, gaps=data.draw(st.sampled_from([0.0, 0.3, 0.95, 1.0])))
    if data.draw(st.booleans()):
        values = np.round(values)  # ties, zeros
    got = RULES[name].allocate(past(values, resource, step_s))
    np.testing.assert_allclose(got, [slow(name, list(row), step_s, resource) for row in values], rtol=1e-12)


# Stories with known ends.


def test_one_sample_decides_alone():
    got = {name: RULES[name].allocate(past([[2.0]]))[0] for name in RULES}
    # VPA's bucket of 2 cores ends at 0.01 * (1.05^50 - 1) / 0.05.
    want = {"azure-1d": 2.6, "azure-14d": 2.6, "krr": 2.0, "crane": 2.3, "aws-compute-optimizer": 2.5, "peak": 2.3}
    assert got == pytest.approx(want | {"declared": 64.0, "vpa": 0.2 * (1.05**50 - 1) * 1.15}, rel=1e-12)


def test_a_vm_that_does_nothing_gets_nothing_but_vpas_least():
    zeros = np.zeros((1, 100))
    for name, resource in SIZED:
        got = RULES[name].allocate(past(zeros, resource, provisioned=[0.0]))[0]
        least = {"cpu_cores": 0.025, "memory_gb": 250 / 1024}[resource] if name == "vpa" else 0.0
        assert got == pytest.approx(least), (name, resource)


def test_vpa_forgets_half_each_day():
    steps = np.full((1, 2 * 288), 1.0)
    steps[0, :288] = 8.0  # the day before weighs a third, more than a tenth: the target is near 8
    assert RULES["vpa"].allocate(past(steps))[0] > 8
    quiet = np.concatenate([np.full((1, 288), 8.0), np.full((1, 4 * 288), 1.0)], axis=1)  # a 31st of the weight is left
    assert RULES["vpa"].allocate(past(quiet))[0] < 1.3


def test_vpas_memory_looks_at_peaks_of_days_not_at_samples():
    day = np.full(288, 1.0)
    day[100] = 6.0  # one sample a day
    assert RULES["vpa"].allocate(past(np.tile(day, 8)[None], "memory_gb"))[0] > 6
    assert RULES["vpa"].allocate(past(np.tile(day, 8)[None], "cpu_cores"))[0] < 1.3


@pytest.mark.parametrize(("step_s", "each"), [(60.0, 5), (100.0, 3), (150.0, 2), (300.0, 1)])
def test_aws_takes_the_largest_of_each_five_minutes(step_s, each):
    """Use peaks in 1 % of the blocks of 5 minutes, one step each: too seldom for a p99.5 of shorter steps."""
    blocks = np.full((400, each), 0.8)
    blocks[::100, 0] = 4.0
    got = RULES["aws-compute-optimizer"].allocate(past(blocks.reshape(1, -1), step_s=step_s))
    assert got[0] == pytest.approx(4.0 / 0.8)


def test_steps_longer_than_five_minutes_are_taken_as_they_are():
    values = drawn(3, steps=200)
    got = RULES["aws-compute-optimizer"].allocate(past(values, step_s=3600.0))
    np.testing.assert_allclose(got, np.nanpercentile(values, 99.5, axis=1) / 0.8)


def test_blocks_are_counted_back_from_the_end():
    values = np.array([[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, NAN]])
    np.testing.assert_array_equal(peaks_of_blocks(values, 100.0, 300.0), [[9.0, 3.0, 5.0]])
    np.testing.assert_array_equal(peaks_of_blocks(np.full((1, 5), NAN), 100.0, 300.0), [[NAN, NAN]])
    np.testing.assert_array_equal(peaks_of_blocks(values, 200.0, 300.0), [[9.0, 2.0, 3.0, 5.0, NAN]])  # of 1, 2, 1, 2, 1 steps


def test_blocks_hold_as_many_steps_though_seconds_are_not_whole():
    values = np.arange(900.0)[None]
    np.testing.assert_array_equal(peaks_of_blocks(values, 300 / 9, 300.0), values[:, 8::9])


def test_buckets_are_kubernetes():
    cpu, memory = VPA["cpu_cores"].buckets, VPA["memory_gb"].buckets
    assert (cpu.number, memory.number) == (176, 176)  # up to 1000 cores, 1 TB
    ends = cpu.ends()
    assert ends[:3] == pytest.approx([0.01, 0.0205, 0.031525])
    assert ends[-1] == ends[-2] >= 1000
    assert memory.ends()[0] * 2**30 == pytest.approx(1e7)
    assert list(cpu.index(np.array([0.0, 0.0099, 0.0101, 5000.0]))) == [0, 0, 1, 175]


def test_a_great_many_vms_are_taken_some_at_a_time(monkeypatch):
    values = drawn(11, vms=7, steps=50)
    whole = RULES["vpa"].allocate(past(values))
    monkeypatch.setattr("adumbra.profile.rules._AT_ONCE", 100)
    np.testing.assert_array_equal(RULES["vpa"].allocate(past(values)), whole)


# What must hold of every rule.


@settings(max_examples=80)
@given(st.sampled_from(SIZED), st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(STEPS_S))
def test_more_use_never_gives_less(pair, seed, gaps, step_s):
    name, resource = pair
    values = drawn(seed, gaps=gaps)
    rng = np.random.default_rng(seed + 1)
    more = values + rng.exponential(1.0, values.shape) * (rng.random(values.shape) < 0.3)
    before = RULES[name].allocate(past(values, resource, step_s))
    after = RULES[name].allocate(past(more, resource, step_s))
    np.testing.assert_array_equal(np.isnan(before), np.isnan(after))
    assert not (after < before * (1 - 1e-12)).any()


@settings(max_examples=60)
@given(st.sampled_from([p for p in SIZED if p[0] not in {"vpa", "declared"}]), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_twice_the_use_gives_twice_the_size_but_for_vpas_buckets(pair, seed, factor):
    name, resource = pair
    values = drawn(seed)
    rule = RULES[name]
    np.testing.assert_allclose(
        rule.allocate(past(values * factor, resource)), rule.allocate(past(values, resource)) * factor, rtol=1e-9
    )


@settings(max_examples=60)
@given(st.sampled_from(SIZED), st.integers(0, 2**32 - 1))
def test_a_vms_size_is_its_own_affair(pair, seed):
    name, resource = pair
    values = drawn(seed, vms=4)
    values[2] = NAN
    together = RULES[name].allocate(past(values, resource))
    alone = np.concatenate([RULES[name].allocate(past(row[None], resource)) for row in values])
    np.testing.assert_array_equal(together, alone)


@settings(max_examples=60)
@given(st.sampled_from([p for p in SIZED if p[0] != "declared"]), st.integers(0, 2**32 - 1))
def test_gaps_before_the_first_sample_change_nothing(pair, seed):
    name, resource = pair
    values = drawn(seed, steps=200)
    padded = np.concatenate([np.full((3, 50), NAN), values], axis=1)
    rule = RULES[name]
    np.testing.assert_array_equal(rule.allocate(past(padded, resource)), rule.allocate(past(values, resource)))


@pytest.mark.parametrize(("name", "resource"), SIZED)
def test_no_samples_no_vms_no_steps(name, resource):
    rule = RULES[name]
    known = name == "declared"
    for values in (np.full((2, 30), NAN), np.empty((2, 0))):
        assert list(np.isnan(rule.allocate(past(values, resource)))) == [not known] * 2
    assert rule.allocate(Past(resource, np.empty((0, 30)), 300.0, np.empty(0))).shape == (0,)


def test_a_day_without_samples_gives_azures_one_day_no_size():
    values = np.ones((1, 3 * 288))
    values[0, -288:] = NAN
    assert math.isnan(RULES["azure-1d"].allocate(past(values))[0])
    assert RULES["azure-14d"].allocate(past(values))[0] == pytest.approx(1.3)


def test_what_was_declared_is_not_touched():
    provisioned = np.array([4.0, NAN])
    got = RULES["declared"].allocate(past(np.ones((2, 3)), provisioned=provisioned))
    np.testing.assert_array_equal(got, provisioned)
    assert got is not provisioned


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 100), st.floats(0, 1), st.integers(0, 60))
def test_percentiles_are_numpys(seed, percent, gaps, steps):
    values = drawn(seed, vms=4, steps=steps, gaps=gaps)
    want = [np.percentile(row[~np.isnan(row)], percent) if (~np.isnan(row)).any() else NAN for row in values]
    np.testing.assert_allclose(percentile_of(values, percent), want, rtol=1e-12)


def test_the_oracle_sees_the_future_and_is_no_rule():
    held = np.array([[1.0, NAN, 3.0], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(tomorrows_maximum(held), [3.0, NAN])
    assert not [name for name, rule in RULES.items() if rule.allocate is tomorrows_maximum or "oracle" in name]


# Names, and what is refused.


def test_rules_by_name():
    assert list(RULES) == [
        "azure-1d",
        "vpa",
        "krr",
        "azure-14d",
        "crane",
        "aws-compute-optimizer",
        "peak",
        "declared",
    ]
    assert all(rule.name == name and rule.title and rule.source for name, rule in RULES.items())
    assert rules_named("all") == tuple(RULES.values()) == rules_named(["all", "vpa"])
    assert [rule.name for rule in rules_named(["peak", "vpa", "peak"])] == ["peak", "vpa"]
    assert [rule.name for rule in rules_named("krr")] == ["krr"]
    assert rules_named([]) == ()


@pytest.mark.parametrize(("name", "hint"), [("vpaa", "did you mean vpa"), ("", "use all, or some of"), ("x" * 900, "azure-1d")])
def test_an_unknown_rule_is_refused(name, hint):
    with pytest.raises(InputError, match="no rule named") as refused:
        rules_named(["krr", name])
    assert hint in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["vpa", "krr", "crane", "aws-compute-optimizer"])
@pytest.mark.parametrize("resource", ["bandwidth_mbps", "storage_gb"])
def test_a_rule_refuses_what_it_does_not_size(name, resource):
    assert resource not in RULES[name].resources
    with pytest.raises(InputError, match=f"doesn't size {resource}"):
        RULES[name].allocate(past([[1.0]], resource))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"resource": "watts"}, "no rule sizes 'watts'"),
        ({"values": np.ones(3)}, "don't fit"),
        ({"provisioned": np.ones(3)}, "don't fit"),
        ({"step_s": 0.0}, "no time"),
        ({"step_s": NAN}, "no time"),
        ({"values": np.array([[1.0, math.inf], [1.0, 1.0]])}, "infinite"),
    ],
)
def test_a_past_that_is_none_is_refused(change, match):
    right = {"resource": "cpu_cores", "values": np.ones((2, 4)), "step_s": 300.0, "provisioned": np.ones(2)}
    Past(**right)
    with pytest.raises(InputError, match=match):
        Past(**(right | change))


def test_every_resource_has_rules():
    assert {resource for rule in RULES.values() for resource in rule.resources} == set(RESOURCES)
    assert isinstance(VPA["cpu_cores"].buckets, Buckets)
