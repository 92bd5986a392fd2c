"""A policy's text: what is read of it, and what is said, by line, of what can't be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.schema.errors import SpecError
from adumbra.schema.policy import NO_POLICY, parse_policy

WHOLE = """\
budget: $1460/month
approval: {above: $1/h, increase: $0.2 an hour}
keep_above_use: true
use_margin: 20%
vms:
  "*": {types: [m7i.*, c7i.large], caps: {cpu_cores: 8}}
  web:
    floors: {cpu_cores: 2, memory_gb: 4.5}
"""


def test_a_policy_is_read_and_told_in_dollars_an_hour() -> None:
    policy = parse_policy(WHOLE)
    assert policy.to_dict() == {
        "budget_per_hour": 2.0, "approval_above_per_hour": 1.0, "approval_increase_per_hour": 0.2, "keep_above_use": True,
        "use_margin": 0.2,
        "vms": {
            "*": {"caps": {"cpu_cores": 8}, "types": ["m7i.*", "c7i.large"]},
            "web": {"floors": {"cpu_cores": 2, "memory_gb": 4.5}},
        },
    }  # fmt: skip
    assert parse_policy("{}") == NO_POLICY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "p.yaml:1: the text is empty; write a policy"),
        ("[]", "p.yaml:1: this is not a policy"),
        ("budgets: 1", "p.yaml:1: budgets: unknown key 'budgets'; did you mean 'budget'?"),
        ("keep_above_use: true\nbudget: 2", "p.yaml:2: budget: '2' is no price over time; write it like $2.50/h"),
        ("budget: $1/day", "no price over time"),
        ("budget: -$1/h", "no price over time"),
        ("use_margin: 150%", "use_margin: 150% is not a share"),
        ("vms:\n  web:\n    floors:\n      cpu: 1", "p.yaml:4: vms.web.floors.cpu: unknown resource 'cpu'"),
        ("vms:\n  web: {floor: {cpu_cores: 1}}", "p.yaml:2: vms.web.floor: unknown key 'floor'; did you mean 'floors'?"),
        ("vms: {web: {floors: {cpu_cores: 0}}}", "greater than 0"),
        ("vms: {web: {floors: {cpu_cores: '1'}}}", "valid number"),
        ("vms: {web: 3}", "'3' is not a mapping"),
        ("vms: {web: {types: []}}", "at least 1 item"),
        ("vms: {web: {caps: {storage_gb: 4}}}", "less than any VM works with; give 8 or more"),
        (
            "vms:\n  web:\n    caps: {cpu_cores: 2}\n    floors: {cpu_cores: 4}",
            "p.yaml:4: vms.web.floors.cpu_cores: the floor",
        ),
        ("approval: {abov: $1/h}", "did you mean 'above'?"),
        ("keep_above_use: 1", "valid boolean"),
    ],
)
def test_what_is_wrong_is_said_by_line(text, says) -> None:
    with pytest.raises(SpecError) as refused:
        parse_policy(text, "p.yaml")
    assert says in refused.value.problems[0]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text) -> None:
    try:
        parse_policy(text)
    except SpecError as error:
        problems = error.problems
    else:
        return
    assert all(problem.startswith("policy:") for problem in problems)
