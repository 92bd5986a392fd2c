"""A process that drops its capabilities has none, gains none by executing, and can't open what it could before."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adumbra.schema.errors import AdumbraError
from adumbra.tap import privileges
from adumbra.tap.privileges import Held

DROP = """
    import os, socket, subprocess, sys
    from adumbra.tap import privileges
    print(privileges.may_capture())
    privileges.drop_all()
    privileges.drop_all()  # again is harmless
    print(privileges.may_capture(), privileges.held())
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        print("refused")
    print(subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True).stdout.split()[1])
"""


def child(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others hold nothing to drop")
def test_nothing_is_left_after_the_drop() -> None:
    done = child(DROP)
    assert done.stderr == ""
    could, can, refused, executed = done.stdout.splitlines()
    assert could == "True"
    assert can == f"False {Held(0, 0, 0, 0, 0, no_new_privileges=True)}"
    assert refused == "refused"
    assert int(executed, 16) == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others hold nothing to drop")
@pytest.mark.parametrize(("limit", "stderr"), [({}, "threads of this process still hold capabilities"), (None, "")])
def test_threads_that_were_started_before_are_noticed(limit: dict[str, str] | None, stderr: str) -> None:
    """NumPy's libraries start threads when they are loaded, which keep what the process had."""
    program = """
        import threading, time
        from adumbra.tap import privileges
        if START:
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        import numpy
        privileges.drop_all()
    """.replace("START", str(limit is not None))
    done = child(program, **privileges.SINGLE_THREADED)
    assert stderr in done.stderr
    assert (done.returncode == 0) == (stderr == "")


def test_what_is_held_is_read_from_proc(tmp_path: Path) -> None:
    status = tmp_path / "status"
    lines = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000002000\nCapEff:\t0000000000002000\n"
    status.write_text(lines + "CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\n")
    told = privileges.held(status)
    assert told == Held(0, 1 << 13, 1 << 13, 0x1FFFFFFFFFF, 0, no_new_privileges=False)
    assert not told.nothing
    for broken in ("", "CapInh: x\n", lines):
        status.write_text(broken)
        with pytest.raises(AdumbraError, match="mount /proc"):
            privileges.held(status)


def test_the_command_names_the_python_that_runs() -> None:
    assert privileges.how_to_grant() == f"sudo setcap cap_net_raw+ep {os.path.realpath(sys.executable)}"
