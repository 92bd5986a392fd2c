"""What tests fork is a process like any other: its surroundings are those it was given, and it ends as it would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import forked
from tests.netns.spaces import Spaces, needs

SCRIPT = """\
import os, sys
open_ones = sorted(map(int, os.listdir("/proc/self/fd")))
print(sys.argv[1:], os.getcwd(), os.environ["ADUMBRA_HOME"], "PATH" in os.environ, open_ones)
sys.stderr.write("told")
sys.exit(7)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def test_it_has_its_own_arguments_environment_folder_and_descriptors(script: Path, tmp_path: Path) -> None:
    script.write_text(SCRIPT)
    own = {name: value for name, value in os.environ.items() if name.startswith(forked.READ_AT_IMPORT)}
    run = forked.run(str(script), "a b", "", env=own | {"ADUMBRA_HOME": "here"}, cwd=tmp_path)
    assert run.stdout == f"{['a b', '']} {tmp_path} here False [0, 1, 2, 3]\n"  # 3: the folder that is listed
    assert (run.stderr, run.returncode) == ("told", 7)


def test_nothing_of_one_is_left_in_the_next(script: Path) -> None:
    script.write_text("import os, adumbra\nprint(hasattr(adumbra, 'left'), 'LEFT' in os.environ)\nadumbra.left = 1\n")
    assert {forked.run(str(script), env=os.environ | {"LEFT": "1"}).stdout} == {"False True\n"}
    assert forked.run(str(script)).stdout == "False False\n"


def test_it_reads_its_standard_input_and_an_error_is_shown(script: Path) -> None:
    script.write_text("import sys\nprint(sys.stdin.readline().upper(), flush=True)\nraise ValueError('so')\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with forked.Forked(str(script), text=True, **pipes) as process:
        assert process.communicate("words\n", timeout=60)[0] == "WORDS\n\n"
        assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(script: Path, number: signal.Signals) -> None:
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    with forked.Forked(str(script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(60) == -number
    assert not Path(f"/proc/{process.pid}").exists()


def test_what_its_interpreter_has_read_already_can_not_be_changed() -> None:
    with pytest.raises(AssertionError, match="NUMBA_DISABLE_JIT"):
        forked.run("adumbra", "--version", env=os.environ | {"NUMBA_DISABLE_JIT": "1"})


def test_all_end_with_the_process_that_asked(script: Path, tmp_path: Path) -> None:
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    asks = tmp_path / "asks.py"
    asks.write_text(
        "import os, signal, subprocess, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from tests import forked\n"
        f"process = forked.Forked({str(script)!r}, stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said = subprocess.run([sys.executable, str(asks)], stdout=subprocess.PIPE, text=True, check=False)
    assert said.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{said.stdout.strip()}/stat")
    for _ in range(600):  # init, which inherits it, may need a moment
        if not stat.exists() or " Z " in stat.read_text():
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


@pytest.mark.root
@needs()
def test_in_a_network_namespace(script: Path) -> None:
    script.write_text("import os, socket\nprint(sorted(os.listdir('/sys/class/net')), socket.if_nameindex())\n")
    with Spaces("a") as spaces:
        spaces.run("a", "ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
        told = forked.run(str(script), namespace=spaces.real("a"))
        asked = spaces.run("a", sys.executable, str(script))
        assert told.stdout == asked
        assert "here" in told.stdout
