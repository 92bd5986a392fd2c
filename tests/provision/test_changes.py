"""A plan as a diff: what is made, changed, made anew and taken away, setting by setting."""

from __future__ import annotations

from adumbra.provision.changes import SettingChange, changes, lines
from adumbra.schema.plans import Act, Item, Kind, Plan, Step


def machine(**settings: object) -> Item:
    return Item(Kind.MACHINE, "web-1", settings)


SMALL, LARGE = machine(type="m7i.large", disk_gb=20), machine(type="m7i.xlarge", disk_gb=20)


def test_only_what_differs_is_told() -> None:
    assert changes(Step(Act.UPDATE, LARGE, SMALL)) == (SettingChange("type", "m7i.large", "m7i.xlarge"),)
    assert changes(Step(Act.CREATE, SMALL)) == (
        SettingChange("disk_gb", None, 20), SettingChange("type", None, "m7i.large"),
    )  # fmt: skip
    assert changes(Step(Act.DELETE, SMALL, SMALL)) == changes(Step(Act.DELETE, SMALL))
    assert [each.after for each in changes(Step(Act.DELETE, SMALL, SMALL))] == [None, None]


def test_the_lines_of_a_plan() -> None:
    steps = (
        Step(Act.DELETE, machine(type="m7i.large"), machine(type="m7i.large"), "it is destroyed"),
        Step(Act.CREATE, SMALL),
        Step(Act.UPDATE, LARGE, SMALL, "it is restarted"),
        Step(Act.REPLACE, machine(type=None, disk_gb=20), SMALL),
    )
    assert lines(Plan("shop", "terraform", steps, None)) == (
        "- machine web-1  (it is destroyed)",
        '    - type: "m7i.large"',
        "+ machine web-1",
        "    + disk_gb: 20",
        '    + type: "m7i.large"',
        "~ machine web-1  (it is restarted)",
        '    ~ type: "m7i.large" -> "m7i.xlarge"',
        "-/+ machine web-1",
        '    ~ type: "m7i.large" -> -',
    )
