"""The command line as a user meets it: a real process, its output, its exit status. Nothing is replaced by a stand-in.

Most commands are forked from a process that has imported what they need (tests/forked.py); some are started from nothing.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import forked

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets:
  - {name: a, cidr: 10.9.1.0/24}
vms:
  - {name: web, count: 2, subnet: a, role: web, type: m7i.large, ports: [80]}
"""


def adumbra(home: Path, *arguments: str, status: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with its own state folder, and checks its exit status."""
    environment = os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"} | settings
    run = forked.run("adumbra", *arguments, env=environment)
    assert run.returncode == status, run.stdout + run.stderr
    return run


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr
    return lines[0]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(SPEC)
    return path


def test_help_loads_no_heavy_library() -> None:
    program = (
        "import sys; import adumbra, adumbra.cli.main\n"
        "heavy = {'numba', 'numpy', 'duckdb', 'lightgbm', 'sqlalchemy', 'alembic', 'pydantic', 'ray', 'jax'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_started_from_nothing_it_does_what_it_does_when_forked(home: Path, spec: Path) -> None:
    environment = os.environ | {"ADUMBRA_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}
    acts: tuple[tuple[str, ...], ...] = (
        ("--help",),
        ("--version",),
        ("network", "create", str(spec)),
        ("network", "create", str(spec)),
        ("network", "list", "-o", "json"),
    )

    def told(run: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
        return run.returncode, re.sub("20[0-9-]+T[0-9:.]+Z?", "", run.stdout), run.stderr

    forked_ones = [told(forked.run("adumbra", *act, env=environment)) for act in acts]
    shutil.rmtree(home)
    for act, want in zip(acts, forked_ones, strict=True):
        command = [sys.executable, "-m", "adumbra", *act]
        assert told(subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)) == want
    assert [status for status, _, _ in forked_ones] == [0, 0, 0, 2, 0]


def test_each_command_has_help(home: Path) -> None:
    listed = adumbra(home, "--help").stdout
    commands = (
        "demo",
        "check",
        "observe",
        "metrics",
        "train",
        "forecast",
        "profile",
        "activate",
        "deactivate",
        "events",
        "network",
    )
    for command in commands:
        assert command in listed
        assert "Usage" in adumbra(home, command, "--help").stdout


def test_check_says_yes_or_names_the_line(home: Path, spec: Path) -> None:
    assert json.loads(adumbra(home, "check", str(spec), "--output", "json").stdout)["valid"] is True
    spec.write_text(SPEC.replace("subnet: a, role", "subnet: b, role"))
    assert one_line(adumbra(home, "check", str(spec), status=2)) == (
        f"adumbra: {spec}:6: vms[0].subnet: there is no subnet 'b'; there are: a"
    )
    spec.write_text(SPEC.replace("m7i.large", "m7i.lorge"))
    assert ":6: vms[0].type: " in one_line(adumbra(home, "check", str(spec), status=2))
    assert "m7i.large" in one_line(adumbra(home, "check", str(spec), status=2))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00\x01" * 100, "UTF-8"),
        (("\n".join(f"%!@ {i} }}{{ ][ : - ? \x07" for i in range(10_000))).encode(), ":1:"),
    ],
)
def test_a_spec_that_is_noise_gives_one_line(home: Path, tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "noise.yaml"
    path.write_bytes(content)
    assert told in one_line(adumbra(home, "network", "create", str(path), status=2))
    assert json.loads(adumbra(home, "network", "list", "--output", "json").stdout) == []


def test_a_network_lives_and_dies(home: Path, spec: Path) -> None:
    created = json.loads(adumbra(home, "network", "create", str(spec), "-o", "json").stdout)
    assert (created["name"], created["state"], created["version"]) == ("lab", "shadowing", 1)
    assert [vm["addresses"] for vm in created["vms"]] == [["10.9.1.10"], ["10.9.1.11"]]
    assert "lab" in one_line(adumbra(home, "network", "create", str(spec), status=2))
    spec.write_text(SPEC.replace("count: 2", "count: 3"))
    updated = json.loads(adumbra(home, "network", "update", str(spec), "-o", "json").stdout)
    assert (updated["version"], len(updated["vms"])) == (2, 3)
    assert "lab" in adumbra(home, "network", "show", "lab").stdout
    adumbra(home, "network", "delete", "lab")
    assert "lab" in one_line(adumbra(home, "network", "show", "lab", status=2))
    kinds = [event["kind"] for event in json.loads(adumbra(home, "events", "lab", "-o", "json").stdout)]
    assert kinds[0] == "network.created"
    assert "network.deleted" in kinds


def test_yaml_output_reads_back_as_the_json_does(home: Path, spec: Path) -> None:
    from ruamel.yaml import YAML

    adumbra(home, "network", "create", str(spec))
    as_yaml = YAML(typ="safe", pure=True).load(adumbra(home, "network", "show", "lab", "-o", "yaml").stdout)
    assert as_yaml == json.loads(adumbra(home, "network", "show", "lab", "-o", "json").stdout)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["observe", "lab", "pcap:/no/such/file"], "not there"),
        (["observe", "lab", "nonsense"], "no source"),
        (["observe", "nobody", "pcap:x"], "nobody"),
        (["metrics", "nobody"], "nobody"),
        (["metrics", "lab", "--step", "7parsecs"], "--step"),
        (["metrics", "lab", "--since", "yesterday-ish"], "--since"),
        (["profile", "lab"], "train"),
        (["profile", "lab", "--shortfall", "1"], "--shortfall"),
        (["forecast", "lab"], "train"),
        (["activate", "lab", "--provider", "terraform"], "profile"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(home: Path, spec: Path, arguments: list[str], told: str) -> None:
    adumbra(home, "network", "create", str(spec))
    assert told in one_line(adumbra(home, *arguments, status=2))


def test_training_on_nothing_says_what_to_do(home: Path, spec: Path) -> None:
    adumbra(home, "network", "create", str(spec))
    assert "adumbra observe lab" in one_line(adumbra(home, "train", "lab", status=1))


@pytest.mark.parametrize(("content", "told"), [(b"", "empty"), (b"GET / HTTP/1.1\r\n" * 9, "no capture")])
def test_a_file_that_is_no_capture_leaves_no_trace(home: Path, spec: Path, tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    adumbra(home, "network", "create", str(spec))
    assert told in one_line(adumbra(home, "observe", "lab", f"pcap:{path}", status=2))
    shown = json.loads(adumbra(home, "network", "show", "lab", "-o", "json").stdout)
    assert shown["observations"] == []


def test_a_full_disk_is_one_line_and_undoes_the_write(home: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk's end: a write beyond it fails as one on a full disk does."""
    adumbra(home, "network", "create", str(SHOP / "shop.yaml"))
    grown = max(path.stat().st_size for path in home.iterdir() if path.is_file())
    environment = os.environ | {"ADUMBRA_HOME": str(home)}

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (grown + 4096, grown + 4096))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    run = subprocess.run(
        [sys.executable, "-m", "adumbra", "observe", "shop", f"pcap:{SHOP / 'shop.pcap.zst'}"],
        capture_output=True, text=True, env=environment, preexec_fn=little_room, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    one_line(run)
    rows = json.loads(adumbra(home, "metrics", "shop", "-o", "json").stdout)["rows"]
    assert rows == []
    adumbra(home, "observe", "shop", f"pcap:{SHOP / 'shop.pcap.zst'}")


def test_killed_while_observing_nothing_is_lost_or_doubled(home: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    adumbra(whole, "network", "create", str(SHOP / "shop.yaml"))
    adumbra(whole, "observe", "shop", f"pcap:{SHOP / 'shop.pcap.zst'}")
    want = json.loads(adumbra(whole, "metrics", "shop", "-o", "json").stdout)["rows"]

    adumbra(home, "network", "create", str(SHOP / "shop.yaml"))
    environment = os.environ | {"ADUMBRA_HOME": str(home)}
    command = [sys.executable, "-m", "adumbra", "observe", "shop", f"pcap:{SHOP / 'shop.pcap.zst'}"]
    for after_s in (0.9, 1.2, 1.5):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(after_s)
            process.kill()
        rows = json.loads(adumbra(home, "metrics", "shop", "-o", "json").stdout)["rows"]
        assert [row for row in rows if row not in want] == []
        assert len({(row["vm"], row["time"]) for row in rows}) == len(rows)
    again = adumbra(home, *command[3:])
    assert "900 intervals" in again.stdout
    assert json.loads(adumbra(home, "metrics", "shop", "-o", "json").stdout)["rows"] == want
