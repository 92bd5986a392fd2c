"""A machine's bandwidth, by tc on its port at the hypervisor: what goes in by a token bucket, what comes out by one at an ifb.

For hypervisors whose kernel lacks what libvirt's own setting takes (sfq, police). Runs commands on its host or, by ssh, there.
Sources: tc-tbf(8), tc-mirred(8), tc-u32(8).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adumbra.schema.errors import ProvisionError

PRIORITY = 60_000
"""Of the filter that sends what comes out of a machine through its ifb: behind all others, so that mirrors see it first, also
behind those whose priority the kernel chooses: 49152, or less."""
QUEUE_S = 0.05
"""How long a packet waits at most."""
LEAST_BURST_BYTES = 131_072
"""Of a token bucket: two packets as large as segmentation offload makes them."""
BURST_S = 0.01
TIMEOUT_S = 30.0
_DEVICE = re.compile(r"[a-z0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Host:
    """Where commands run. ssh: the arguments of ssh that lead there, () for this host."""

    ssh: tuple[str, ...] = ()

    def run(self, *command: str) -> str:
        """What a command prints. Raises ProvisionError with what it complained of."""
        whole = (*self.ssh, shlex.join(command)) if self.ssh else command
        try:
            done = subprocess.run(
                whole, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise ProvisionError(f"running {whole[0]}", "install it at the hypervisor (Debian: iproute2)") from None
        except subprocess.TimeoutExpired:
            raise ProvisionError(f"running {command[0]} took longer than {TIMEOUT_S:.0f} s", "look at the hypervisor") from None
        if done.returncode:
            said = " ".join(done.stderr.split())[:300]
            raise ProvisionError(f"`{shlex.join(command)}` failed: {said}", "mend that, then run the same command again")
        return done.stdout

    def tells(self, *command: str) -> str:
        """What a command prints, "" where it fails: for questions about what may not be there."""
        try:
            return self.run(*command)
        except ProvisionError:
            return ""


def behind(device: str) -> str:
    """The ifb through which what comes out of a port goes."""
    return "adi" + device.removeprefix("adt")


def commands(device: str, bandwidth_mbps: int, *, hook: bool, ifb: bool, led: bool) -> tuple[tuple[str, ...], ...]:
    """What shapes a port to so much each way. Pure.

    hook, ifb, led: whether the hook, the ifb and the filter that leads through it are there already.
    """
    if not _DEVICE.fullmatch(device) or bandwidth_mbps <= 0:
        raise ValueError(f"{device!r} can't be shaped to {bandwidth_mbps} Mbps")
    other = behind(device)
    bucket = _bucket(bandwidth_mbps)
    made: list[tuple[str, ...]] = []
    if not ifb:
        made.append(("ip", "link", "add", other, "type", "ifb"))
    made.append(("ip", "link", "set", other, "up"))
    made.append(("tc", "qdisc", "replace", "dev", other, "root", *bucket))
    made.append(("tc", "qdisc", "replace", "dev", device, "root", *bucket))
    if not hook:
        made.append(("tc", "qdisc", "add", "dev", device, "clsact"))
    if not led:  # without a handle: others' u32 filters of the same hook have taken the usual ones
        made.append((
            "tc", "filter", "add", "dev", device, "ingress", "pref", str(PRIORITY), "protocol", "all",
            "u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", other,
        ))  # fmt: skip
    return tuple(made)


def _bucket(bandwidth_mbps: int) -> tuple[str, ...]:
    burst = max(LEAST_BURST_BYTES, round(bandwidth_mbps * 1e6 / 8 * BURST_S))
    return ("tbf", "rate", f"{bandwidth_mbps}mbit", "burst", f"{burst}b", "latency", f"{round(QUEUE_S * 1000)}ms")


def shape(host: Host, device: str, bandwidth_mbps: int) -> None:
    """Shapes a port to so many megabits a second each way. Again is harmless. Raises ProvisionError."""
    hook = any(each.get("kind") in {"clsact", "ingress"} for each in _queues(host, device))
    ifb, led = _has_ifb(host, device), _leads(host, device)
    if led is not None and not (led and ifb):  # to an ifb that is no more: all that comes out would be lost
        _unlead(host, device)
    for command in commands(device, bandwidth_mbps, hook=hook, ifb=ifb, led=bool(led and ifb)):
        host.run(*command)


def shaped_mbps(host: Host, device: str) -> int | None:
    """To how much a port is shaped, where both ways are alike; None where it isn't."""
    rates = [_rate_mbps(_queues(host, each)) for each in (device, behind(device))]
    return rates[0] if _leads(host, device) and rates[0] == rates[1] else None


def unshape(host: Host, device: str) -> None:
    """Takes away what `shape` made; the rest goes with the port, where it is gone already. Raises ProvisionError."""
    if _leads(host, device) is not None:  # first, or what comes out of the machine is lost
        _unlead(host, device)
    kinds = {each.get("kind") for each in _queues(host, device)}
    if "tbf" in kinds:
        host.run("tc", "qdisc", "del", "dev", device, "root")
    if _has_ifb(host, device):
        host.run("ip", "link", "del", behind(device))
    others = any(host.tells("tc", "filter", "show", "dev", device, way).strip() for way in ("ingress", "egress"))
    if "clsact" in kinds and not others:
        host.run("tc", "qdisc", "del", "dev", device, "clsact")


def _has_ifb(host: Host, device: str) -> bool:
    return bool(host.tells("ip", "-json", "link", "show", "dev", behind(device)).strip("[]{} \n"))


def _leads(host: Host, device: str) -> bool | None:
    """Whether our filter leads through the ifb; False where that is gone, None where there is no filter of ours."""
    told = host.tells("tc", "filter", "show", "dev", device, "ingress", "pref", str(PRIORITY))
    if f"(Egress Redirect to device {behind(device)})" in told:
        return True
    return False if "(Egress Redirect to device *)" in told else None


def _unlead(host: Host, device: str) -> None:
    host.run("tc", "filter", "del", "dev", device, "ingress", "pref", str(PRIORITY))


def _queues(host: Host, device: str) -> Sequence[dict[str, Any]]:
    told = host.tells("tc", "-json", "qdisc", "show", "dev", device)
    try:
        found = json.loads(told or "[]")
    except ValueError:
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _rate_mbps(queues: Sequence[dict[str, Any]]) -> int | None:
    """The rate of a token bucket: tc tells it in bytes a second."""
    for each in queues:
        rate = each.get("options", {}).get("rate") if each.get("kind") == "tbf" else None
        if isinstance(rate, int | float):
            return round(rate * 8 / 1e6)
    return None
