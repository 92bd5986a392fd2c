"""Mirrors as the service keeps them: refused early, recorded first, bounded; silent and light where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from adumbra.schema.errors import ConflictError, InputError, NotFoundError
from adumbra.schema.mirrors import Device, HostState, Method, MirrorPlan, MirrorSpec, Place
from adumbra.schema.spec import parse_spec
from adumbra.schema.state import MirrorState
from adumbra.service import mirrors, networks, recovery
from adumbra.service.workspace import Workspace
from adumbra.store.mirrors import MAX_MIRRORS
from adumbra.tap.mirrors.plan import Others, make_plan

SPEC = """\
name: lab
cidrs: [10.20.0.0/16, "2001:db8::/48"]
subnets: [{name: a, cidr: 10.20.1.0/24}]
vms: [{name: web, subnet: a, role: web, type: m7i.large}]
donors: [{from: 192.168.6.0/24, to: 10.20.0.0/24}, {from: 192.168.7.0/24, to: 10.20.1.0/24}]
"""


def now() -> int:
    return 1_700_000_000_000_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", now())
        yield opened


def plan_of(place: Place) -> MirrorPlan:
    spec = MirrorSpec("lab", 1, "eth0", None, Method.TC, ("10.20.0.0/16",))
    return make_plan(spec, HostState((Device("eth0", 2),)), place, Others(), Random(1))


def test_the_networks_prefixes_are_its_cidrs_and_where_its_donors_are_merged() -> None:
    assert mirrors.prefixes_of(parse_spec(SPEC)) == ("10.20.0.0/16", "192.168.6.0/23", "2001:db8::/48")


def test_what_is_kept_comes_back_and_goes(workspace: Workspace) -> None:
    plan = plan_of(Place("boot", "4:1"))
    record = workspace.state.mirrors.begin("lab", plan.to_dict(), 1)
    assert (record.state, MirrorPlan.from_dict(record.plan)) == (MirrorState.INSTALLING, plan)
    workspace.state.mirrors.move(record.id, MirrorState.INSTALLED, 2, "there")
    [kept] = workspace.state.mirrors.of("lab")
    assert (kept.state, kept.created_ns, kept.updated_ns) == (MirrorState.INSTALLED, 1, 2)
    workspace.state.mirrors.forget(record.id, 3, "gone")
    assert workspace.state.mirrors.of() == ()
    assert [event.kind for event in workspace.state.events("lab")][:2] == ["mirror.removed", "mirror.installed"]
    with pytest.raises(NotFoundError, match="adumbra mirror list"):
        workspace.state.mirrors.forget(record.id, 4, "gone")


def test_mirrors_of_a_network_have_a_bound(workspace: Workspace) -> None:
    for _ in range(MAX_MIRRORS):
        workspace.state.mirrors.begin("lab", {}, 1)
    with pytest.raises(ConflictError, match="adumbra mirror remove"):
        workspace.state.mirrors.begin("lab", {}, 1)


def test_unknown_names_are_told(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError):
        mirrors.install(workspace, mirrors.Wanted("nobody", "lo"), now, Random(1))
    with pytest.raises(NotFoundError):
        mirrors.remove(workspace, "nobody", now)
    with pytest.raises(InputError, match="lab has no mirror of eth7; there are: none"):
        mirrors.remove(workspace, "lab", now, "eth7")
    with pytest.raises(InputError, match="there is no device 'no-such'"):
        mirrors.install(workspace, mirrors.Wanted("lab", "no-such"), now, Random(1))
    assert workspace.state.mirrors.of() == ()


def test_where_there_are_no_mirrors_nothing_is_looked_at(tmp_path: Path) -> None:
    """Recovery, listing, removing and deleting load neither pyroute2 nor the tap."""
    program = (
        "import sys; from pathlib import Path\n"
        "from adumbra.service import mirrors, networks, recovery\n"
        "from adumbra.service.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])) as opened:\n"
        "    networks.create(opened, sys.argv[2], 'lab.yaml', 1)\n"
        "    assert recovery.recover(opened, 1) == mirrors.listing(opened) == mirrors.remove(opened, 'lab', lambda: 1) == ()\n"
        "sys.exit(', '.join({'pyroute2', 'adumbra.tap.mirror'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "home"), SPEC], check=True, env=os.environ)


def test_a_mirror_of_a_namespace_that_is_no_more_is_forgotten(workspace: Workspace) -> None:
    """Interrupted, and its namespace was removed with all that was in it: nothing of this host's is touched."""
    from adumbra.tap.mirror import this_place

    elsewhere = Place(this_place().boot, "4:1")
    workspace.state.mirrors.begin("lab", plan_of(elsewhere).to_dict(), 1)
    [told] = recovery.recover(workspace, now())
    assert "the installation of the mirror of eth0 for lab was interrupted, and is undone now" in told
    assert workspace.state.mirrors.of() == recovery.recover(workspace, now()) == ()
