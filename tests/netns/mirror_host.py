"""A network namespace that stands for a host, for tests of mirrors: made with this process's number, and removed again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import forked

SPEC = """\
name: lab
cidrs: [10.20.0.0/16, "2001:db8:20::/48"]
subnets:
  - {name: a, cidr: 10.20.1.0/24}
vms:
  - {name: web, count: 2, subnet: a, role: web, type: m7i.large, ports: [80]}
donors:
  - {from: 192.168.7.0/24, to: 10.20.1.0/24}
"""
CAP_NET_ADMIN = 12
FRAMES = Path(__file__).with_name("mirror_frames.py")


def why_not() -> str:
    """Why namespaces, traffic control or nftables can't be tested here; "" where they can."""
    if os.geteuid():
        return "needs root"
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(["ip", "netns", "add", f"adt{os.getpid()}"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"can't make a network namespace: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"adt{os.getpid()}"], check=False)
    return ""


@dataclass(frozen=True)
class Host:
    """A namespace with the device `v0`, whose other end is `wire`, and the folder of an Adumbra that runs there."""

    namespace: str
    home: Path

    def run(self, *command: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        run = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            capture_output=True, text=True, env=self._environment(settings), timeout=120, check=False,
        )  # fmt: skip
        assert not check or run.returncode == 0, run.stdout + run.stderr
        return run

    def shell(self, script: str) -> str:
        return self.run("sh", "-ec", script).stdout

    def adumbra(self, *arguments: str, status: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = self._environment(settings)
        run = forked.run("adumbra", *arguments, namespace=self.namespace, env=environment, timeout=120)
        assert run.returncode == status, run.stdout + run.stderr
        assert "Traceback" not in run.stderr
        return run

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        return os.environ | {"ADUMBRA_HOME": str(self.home), "COLUMNS": "200", "NO_COLOR": "1"} | settings

    def mirrors(self) -> list[dict[str, Any]]:
        return list(json.loads(self.adumbra("mirror", "list", "--output", "json").stdout))

    def stands(self) -> dict[str, Any]:
        return standing(self.run)

    def copies(self, frames: list[tuple[str, str, bytes]], device: str) -> dict[str, int]:
        """How many copies of each frame came out of a device. A frame: its name, the device it is sent into, its bytes."""
        asked = json.dumps({"watch": device, "frames": [(name, into, frame.hex()) for name, into, frame in frames]})
        return dict(json.loads(self.run(sys.executable, str(FRAMES), asked).stdout))


def standing(run: Any) -> dict[str, Any]:
    """All filters, qdiscs, tables and devices of a namespace, as the tools that a host's owner uses tell them."""
    devices = json.loads(run("ip", "-j", "-d", "link", "show").stdout)
    found: dict[str, Any] = {
        "devices": sorted((d["ifname"], d["ifindex"], d.get("ifalias", ""), d["mtu"], d["flags"]) for d in devices),
        "tables": re.sub(r'"packets": [0-9]+, "bytes": [0-9]+', "", run("nft", "-j", "list", "ruleset").stdout),
        "qdiscs": sorted(run("tc", "qdisc", "show").stdout.splitlines()),
    }
    for device in devices:
        for hook in ("ingress", "egress"):
            name = device["ifname"]
            found[f"{name} {hook}"] = run("tc", "filter", "show", "dev", name, hook, check=False).stdout
    return found


@contextmanager
def space(home: Path, name: str) -> Iterator[Host]:
    """An empty namespace, removed at the end."""
    made = Host(f"adm{os.getpid()}{name}", home)
    subprocess.run(["ip", "netns", "add", made.namespace], check=True)
    try:
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.namespace], check=False)


@contextmanager
def host(home: Path, name: str = "h") -> Iterator[Host]:
    """A namespace with `v0` and `wire`, and a network "lab" created; all is removed at the end."""
    with space(home, name) as made:
        made.shell(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1\n"
            "ip link add v0 type veth peer name wire\n"
            "ip link set v0 up arp off; ip link set wire up arp off; ip link set lo up"
        )
        spec = home.parent / "lab.yaml"
        spec.write_text(SPEC)
        made.adumbra("network", "create", str(spec))
        yield made


OTHERS = """\
tc qdisc add dev v0 clsact
tc filter add dev v0 ingress prio 7 protocol ip handle 1: u32 divisor 4
tc filter add dev v0 ingress prio 7 protocol ip u32 ht 1:2 match ip dst 203.0.113.0/24 action mirred egress redirect dev lo
tc filter add dev v0 ingress prio 7 protocol ip u32 match ip src 203.0.113.0/24 link 1: hashkey mask 3 at 16
tc filter add dev v0 egress prio 100 protocol ipv6 u32 match ip6 dst 2001:db8:ffff::/48 action mirred egress mirror dev lo
nft -f - <<END
table netdev adumbra_lab {
  chain c {
    type filter hook ingress device "v0" priority 0; policy accept;
    counter
  }
}
table inet filter {
  chain input {
    type filter hook input priority 0; policy accept;
    tcp dport 22 accept
  }
}
END
"""
"""What a host's owner may have set up, in the way of ours: a priority and a hash table that we might have taken, a table's
name that is ours by rights."""

needed = pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")
