"""The hand-over as the service begins it: nothing is loaded, touched or kept where there is nothing to do, or no right to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from adumbra.schema.errors import NotFoundError
from adumbra.schema.live import LivePort
from adumbra.schema.mirrors import HandOver, HostState, Method, MirrorSpec, Place, Scope
from adumbra.schema.state import MirrorState
from adumbra.service import handover, mirrors, networks, recovery
from adumbra.service.workspace import Workspace
from adumbra.tap import mirror
from adumbra.tap.mirrors.plan import sink_plan

SPEC = """\
name: lab
cidrs: [10.20.0.0/16]
subnets: [{name: a, cidr: 10.20.1.0/24}]
vms: [{name: web, count: 3, subnet: a, addresses: 10.20.1.10-10.20.1.12, role: web, type: m7i.large}]
donors: [{from: 192.168.6.0/24, to: 10.20.1.0/24}]
"""


def now() -> int:
    return 1_700_000_000_000_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", now())
        yield opened


def test_what_a_networks_mirrors_are_about(workspace: Workspace) -> None:
    about = mirrors.subject_of(workspace, "lab")
    assert about.vms == {"web-1": ("10.20.1.10/32",), "web-2": ("10.20.1.11/32",), "web-3": ("10.20.1.12/32",)}
    assert about.members == ("10.20.1.10/31", "10.20.1.12/32")
    assert (about.prefixes, about.donors) == (("10.20.0.0/16", "192.168.6.0/24"), ("192.168.6.0/24",))


def test_without_the_privilege_nothing_is_changed_and_the_command_is_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "may_administer", lambda: False)
    done = handover.hand_over(workspace, "lab", [LivePort("web-1", "lo")], now, Random(1))
    command = f"sudo env ADUMBRA_HOME={workspace.home.absolute()} adumbra mirror handover lab"
    assert done == handover.HandedOver(
        "lab", told=(f"the mirrors of lab stay as they are, as this user hasn't CAP_NET_ADMIN: run `{command}`",)
    )
    assert workspace.state.mirrors.of() == ()


def test_where_nothing_was_handed_over_nothing_comes_back(workspace: Workspace) -> None:
    assert handover.hand_back(workspace, "lab", now, Random(1)) == handover.HandedOver("lab")
    assert handover.ports_of(workspace, "lab") == ()
    with pytest.raises(NotFoundError):
        handover.hand_over(workspace, "nobody", (), now, Random(1))


def test_one_of_another_namespace_is_left_to_that(workspace: Workspace) -> None:
    """Interrupted there: this process can neither finish nor undo it, and says nothing of it."""
    spec = MirrorSpec("lab", 1, "", None, Method.TC, (), Scope.SINK)
    elsewhere = Place(mirror.this_place().boot, "4:1")
    plan = sink_plan(spec, HostState(()), elsewhere, HandOver((LivePort("web-1", "vnet0"),)), Random(1))
    workspace.state.mirrors.begin("lab", plan.to_dict(), 1)
    assert recovery.recover(workspace, now()) == ()
    assert [record.state for record in workspace.state.mirrors.of()] == [MirrorState.INSTALLING]


def test_a_kept_plan_can_be_kept_anew(workspace: Workspace) -> None:
    record = workspace.state.mirrors.begin("lab", {"a": 1}, 1)
    kept = workspace.state.mirrors.revise(record.id, {"a": 2}, MirrorState.INSTALLED, 2, "another")
    assert (dict(kept.plan), kept.state, kept.created_ns, kept.updated_ns) == ({"a": 2}, MirrorState.INSTALLED, 1, 2)
    assert workspace.state.events("lab")[0].message == "another"


def test_other_commands_load_nothing_for_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from adumbra.service import handover, networks, recovery\n"
        "from adumbra.service.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])) as opened:\n"
        "    networks.create(opened, sys.argv[2], 'lab.yaml', 1)\n"
        "    assert recovery.recover(opened, 1) == () and not handover.hand_back(opened, 'lab', lambda: 1, None).changed\n"
        "sys.exit(', '.join({'pyroute2', 'adumbra.tap.mirror', 'adumbra.service.taps'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "home"), SPEC], check=True, env=os.environ)
