"""Units, containers and compose files: as far as they can be tried without systemd as the first process, and without images."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tools.monitoring.outputs import ROOT

DEPLOY = ROOT / "deploy"
UNITS = ("adumbra.service", "adumbra-tap@.service")
COMPOSE = ("container", "several-servers")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(unit: str) -> dict[str, list[str]]:
    """A unit's settings, each with its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def told(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def loaded(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
class TestUnits:
    def test_systemd_takes_them(self, unit: str, tmp_path: Path) -> None:
        copy = tmp_path / unit.replace("@", "@shop")
        text = (DEPLOY / "systemd" / unit).read_text()
        copy.write_text(text.replace("/opt/adumbra/.venv/bin/adumbra", shutil.which("true") or "/bin/true"))
        done = told(["systemd-analyze", "verify", "--man=no", str(copy)])
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if copy.name in line] == []  # a setting that it doesn't know

    def test_little_is_exposed(self, unit: str) -> None:
        done = told(["systemd-analyze", "security", "--offline=true", "--threshold=25", str(DEPLOY / "systemd" / unit)])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_only_the_tap_has_a_capability() -> None:
    assert settings("adumbra.service")["CapabilityBoundingSet"] == [""]
    assert settings("adumbra-tap@.service")["CapabilityBoundingSet"] == ["CAP_NET_RAW"]
    assert settings("adumbra-tap@.service")["AmbientCapabilities"] == ["CAP_NET_RAW"]


@pytest.mark.parametrize("unit", UNITS)
def test_no_secret_is_on_a_command_line(unit: str) -> None:
    (command,) = settings(unit)["ExecStart"]
    assert "--token " not in command
    assert "TOKEN}" not in command


@pytest.mark.parametrize("folder", COMPOSE)
def test_what_a_compose_file_mounts_and_builds_is_there(folder: str) -> None:
    file = DEPLOY / folder / "compose.yaml"
    composed = loaded(file)
    for name, service in composed["services"].items():
        build = service.get("build")
        if build:
            assert (file.parent / build["context"] / build["dockerfile"]).is_file(), name
        for mounted in service.get("volumes", []):
            source = mounted.partition(":")[0]
            if source.startswith("."):
                assert (file.parent / source).exists(), mounted
            else:
                assert source in composed["volumes"], mounted
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port
        assert set(service.get("depends_on", [])) <= set(composed["services"])


def test_the_image_copies_what_is_there() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER adumbra$", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "container" / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules.yml", str(DEPLOY / "prometheus" / "rules.yml")))
    done = told(["promtool", "check", "config", str(config)])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    text = (DEPLOY / "several-servers" / "haproxy.cfg").read_text()
    config.write_text(text.replace(" a:8642", " 127.0.0.1:8642").replace(" b:8642", " 127.0.0.1:8643"))
    done = told(["haproxy", "-c", "-f", str(config)])
    assert done.returncode == 0, done.stdout + done.stderr
