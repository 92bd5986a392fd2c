"""Mirrors by Open vSwitch: a real ovsdb-server and ovs-vswitchd with the datapath in user space, in a namespace."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.mirror_host import Host, host, needed
from tests.netns.test_mirror_traffic import IN4, OUT4, frame

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = [tool for tool in ("ovs-vsctl", "ovsdb-tool", "ovsdb-server", "ovs-vswitchd") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    needed,
    pytest.mark.skipif(bool(TOOLS) or not SCHEMA.exists(), reason=f"needs Open vSwitch ({', '.join(TOOLS) or SCHEMA})"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun for the datapath in user space"),
]
START = """\
ovsdb-tool create conf.db {schema}
ovsdb-server conf.db --remote=punix:db.sock --pidfile=db.pid --detach --log-file=db.log --unixctl=db.ctl
ovs-vsctl --no-wait init
ovs-vswitchd unix:db.sock --pidfile=vs.pid --detach --disable-system --log-file=vs.log --unixctl=vs.ctl
ip link add w0 type veth peer name wire2; ip link set w0 up; ip link set wire2 up
ovs-vsctl --timeout=10 add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 v0 -- add-port br0 w0
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    folder = tmp_path / "ovs"
    folder.mkdir()
    for variable in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"):
        monkeypatch.setenv(variable, str(folder))
    with host(tmp_path / "home") as made:
        tried = made.run("sh", "-ec", f"cd {folder}; exec >{folder}/out 2>&1; {START.format(schema=SCHEMA)}", check=False)
        try:
            if tried.returncode:
                pytest.skip(f"Open vSwitch does not start here: {(folder / 'out').read_text().strip()[-200:]}")
            yield made
        finally:
            made.shell(f"cd {folder}; for f in vs.pid db.pid; do [ ! -e $f ] || kill $(cat $f); done")


def rows(lab: Host) -> str:
    return lab.shell(
        "ovs-vsctl --columns=name,select_all,select_src_port,external_ids list Mirror; ovs-vsctl list-ports br0; "
        "ovs-vsctl get Bridge br0 mirrors"
    )


def test_all_that_crosses_the_port_is_copied_and_only_ours_is_removed(lab: Host) -> None:
    lab.shell(
        "ip link add o0 type veth peer name o1; ip link set o0 up; ip link set o1 up\n"
        "ovs-vsctl --timeout=10 add-port br0 o0 -- --id=@o get Port o0 -- --id=@m create Mirror name=adumbra-lab "
        "select_all=true output_port=@o -- add Bridge br0 mirrors @m"
    )
    bare = rows(lab)
    told = lab.adumbra("mirror", "install", "lab", "--from", "v0", "--method", "ovs").stderr
    assert "Open vSwitch copies all that crosses v0" in told
    assert "adumbra-lab-2" in rows(lab)
    assert "nothing to do" in lab.adumbra("mirror", "install", "lab", "--from", "v0", "--method", "ovs").stdout
    frames = [("in", "wire", frame(OUT4, IN4)), ("out", "wire2", frame(IN4, OUT4)), ("another's", "wire", frame(OUT4, OUT4))]
    assert lab.copies(frames, "adm1a") == {"in": 1, "out": 1, "another's": 1}
    [mirror] = lab.mirrors()
    assert (mirror["state"], mirror["method"]) == ("stands", "ovs")
    for _ in range(12):  # Open vSwitch tells its counts every 5 s
        if (mirror["packets"] or 0) >= len(frames):
            break
        time.sleep(1)
        [mirror] = lab.mirrors()
    assert mirror["packets"] >= len(frames)
    lab.adumbra("mirror", "remove", "lab")
    assert rows(lab) == bare
    assert "adm1" not in str(lab.stands()["devices"])


def test_a_row_that_somebody_removed_is_told_and_the_rest_is_taken_away(lab: Host) -> None:
    lab.adumbra("mirror", "install", "lab", "--from", "v0", "--method", "ovs")
    lab.shell("ovs-vsctl --timeout=10 clear Bridge br0 mirrors")
    [mirror] = lab.mirrors()
    assert (mirror["state"], "the Open vSwitch mirror adumbra-lab is gone" in mirror["detail"]) == ("changed", True)
    lab.adumbra("network", "delete", "lab")
    assert "adm1" not in rows(lab)
    assert "adm1" not in str(lab.stands()["devices"])
