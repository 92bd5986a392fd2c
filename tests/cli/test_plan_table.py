"""A plan on a terminal: what each step makes, and what a change changes, from what to what."""

from __future__ import annotations

import io

from rich.console import Console

from adumbra.cli.live import plan_table
from adumbra.schema.plans import Act, Item, Kind, Plan, Step


def machine(**settings: object) -> Item:
    plain = {
        "network": "shop",
        "addresses": ["10.0.0.1"],
        "cpu_cores": 2,
        "memory_gb": 1.0,
        "storage_gb": 20,
        "bandwidth_mbps": 100,
    }
    return Item(Kind.MACHINE, "web-1", plain | settings)


def shown(*steps: Step) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(plan_table(Plan("shop", "libvirt", steps, None)))
    return console.file.getvalue()


def test_a_change_shows_what_becomes_of_what() -> None:
    said = shown(Step(Act.UPDATE, machine(cpu_cores=4, memory_gb=1.5), machine(), "web-1 is stopped"))
    assert "cpu_cores 2 -> 4, memory_gb 1.0 -> 1.5" in said
    assert "web-1 is stopped" in said
    assert "bandwidth" not in said


def test_what_fits_no_line_is_named() -> None:
    leases = [{"name": f"web-{number}", "address": f"10.0.0.{number}"} for number in range(9)]
    subnet = Item(Kind.SUBNET, "web", {"network": "shop", "forward": "route", "leases": leases})
    before = Item(Kind.SUBNET, "web", {"network": "shop", "forward": "nat", "leases": []})
    assert "forward nat -> route, other leases" in shown(Step(Act.UPDATE, subnet, before))


def test_what_is_made_or_taken_away_shows_its_sizes() -> None:
    for step in (Step(Act.CREATE, machine()), Step(Act.DELETE, machine(), machine())):
        assert "2 cores, 1 GB, 20 GB disk, 100 Mbps 10.0.0.1" in shown(step)
