"""`make demo-libvirt`: from captured traffic to real VMs that answer, and back, at a hypervisor of the demo's own. Root only.

Everything is done by the commands that users have; each is shown, with what it took. What was found is given as a Story.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.hypervisor import Hypervisor, missing

ROOT = Path(__file__).parents[1]
SPEC, CAPTURE = ROOT / "examples" / "duo" / "duo.yaml", ROOT / "examples" / "shop" / "shop.pcap.zst"
PLACES = {"web": ("10.20.1.10", 80), "db": ("10.20.2.10", 5432)}
OUTSIDE, INSIDE = "198.51.100.2", "198.51.100.1"
LARGE_BYTES = 16 << 20
LIVE_S = int(os.environ.get("ADUMBRA_DEMO_LIVE_S", "60"))
"""How long the shadow is held against the machines; from LEARN_S on it also learns from them."""
LEARN_S = 330
_OURS = re.compile(r"\bad[bti][0-9a-f]{10}")
SETTLED_S = 90


@dataclass
class Story:
    """What was found: sizes by VM as profiled, by the guests' and by libvirt's word, bandwidths in Mbps each way, and more.

    took_s: what each act took; left: what was found after deactivation that hadn't been there before activation.
    """

    profiled: dict[str, dict[str, Any]] = field(default_factory=dict)
    guests: dict[str, dict[str, Any]] = field(default_factory=dict)
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    mbps: dict[str, dict[str, float]] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    steps: list[tuple[str, float]] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)
    shut: bool = False
    planned_again: list[Any] = field(default_factory=list)
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Lab:
    """A hypervisor, a client outside of it, and Adumbra's commands run beside the hypervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hypervisor = Hypervisor(folder / "hv", f"adumbra-hv-{os.getpid()}")
        self.client = f"adumbra-client-{os.getpid()}"
        self.environment = {
            **self.hypervisor.environment, "ADUMBRA_HOME": str(folder / "home"), "ADUMBRA_SERVE_WATCH_EVERY": "2s",
            "ADUMBRA_SERVE_TRAIN_EVERY": "never", "ADUMBRA_SERVE_CALIBRATE_EVERY": "never", "COLUMNS": "120",
        }  # fmt: skip
        self.said = self.sink = ""
        self._open = ExitStack()

    def __enter__(self) -> Lab:
        with ExitStack() as opened:
            opened.enter_context(self.hypervisor)
            opened.callback(subprocess.run, ["ip", "netns", "del", self.client], check=False)
            name = self.hypervisor.name
            for command in (
                f"ip netns add {self.client}",
                f"ip -n {self.client} link set lo up",
                f"ip -n {name} link add outside type veth peer name eth0 netns {self.client}",
                f"ip -n {name} addr add {INSIDE}/24 dev outside",
                f"ip -n {name} link set outside up",
                f"ip -n {self.client} addr add {OUTSIDE}/24 dev eth0",
                f"ip -n {self.client} link set eth0 up",
                f"ip -n {self.client} route add default via {INSIDE}",
            ):
                subprocess.run(command.split(), check=True)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def adumbra(self, *words: str) -> str:
        """What a command prints. Raises RuntimeError with what it complained of."""
        command = self.hypervisor.inside(sys.executable, "-m", "adumbra", *words)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"adumbra {' '.join(words)}: {done.stderr.strip()} {done.stdout.strip()}")
        self.said = done.stderr
        return done.stdout

    def show(self, *words: str) -> None:
        """Runs a command, and shows it with what it prints."""
        print(f"$ adumbra {' '.join(words)}")
        print(self.adumbra(*words) + self.said, flush=True)

    def told(self, *words: str) -> Any:
        """The same as data."""
        return json.loads(self.adumbra(*words, "--output", "json"))

    def fetch(self, address: str, port: int, path: str, *more: str, timeout_s: float = 30.0) -> str:
        """What the client gets of a VM; "" where it doesn't answer."""
        url = f"http://{address}:{port}{path}"
        command = ["ip", "netns", "exec", self.client, "wget", "-q", "-T", "5", "-t", "1", "-O", "-", *more, url]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""

    def answer(self, vm: str, path: str, patience_s: float = 90.0) -> str:
        """What a VM answers, once it does. Raises RuntimeError where it never does."""
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            said = self.fetch(*PLACES[vm], path)
            if said:
                return said
            time.sleep(0.3)
        raise RuntimeError(f"{vm} does not answer at {PLACES[vm][0]}")

    def standing(self) -> dict[str, tuple[str, ...]]:
        """All that stands at the hypervisor, by kind, to compare before and after."""
        virsh, run = self.hypervisor.virsh, self._lines
        return {
            "domains": tuple(virsh("list", "--all", "--name").split()),
            "networks": tuple(virsh("net-list", "--all", "--name").split()),
            "pools": tuple(virsh("pool-list", "--all", "--name").split()),
            "filters": tuple(virsh("nwfilter-list").split()),
            "devices": tuple(sorted(line.split()[0] for line in run("ip", "-br", "link"))),
            # Without their handles, which the kernel counts up.
            "queues": tuple(sorted(re.sub(r" [0-9a-f]*: ", " ", line) for line in run("tc", "qdisc", "show"))),
            # libvirtd keeps chains of its own, which name nothing once no network is there.
            "packet filters": tuple(line for line in run("nft", "-s", "list", "ruleset") if _OURS.search(line)),
            "files": tuple(sorted(str(path) for path in (self.folder / "hv" / "images").rglob("*"))),
        }

    def _lines(self, *command: str) -> list[str]:
        done = subprocess.run(self.hypervisor.inside(*command), capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line.strip()]

    @contextmanager
    def server(self) -> Iterator[None]:
        """A server beside the hypervisor, which commands talk to from here on."""
        secret = self.told("token", "create", "demo", "--role", "admin")["secret"]
        command = self.hypervisor.inside(sys.executable, "-m", "adumbra", "serve", "--port", "8642")
        log = self.folder / "server.log"
        with log.open("wb") as file, subprocess.Popen(command, env=self.environment, stdout=file, stderr=file) as process:
            self.environment |= {"ADUMBRA_SERVER": "http://127.0.0.1:8642", "ADUMBRA_TOKEN": secret}
            try:
                yield
            finally:
                for name in ("ADUMBRA_SERVER", "ADUMBRA_TOKEN"):
                    del self.environment[name]
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                process.kill()

    @contextmanager
    def going_on(self, *words: str) -> Iterator[None]:
        """A command that doesn't end by itself."""
        print(f"$ adumbra {' '.join(words)} &", flush=True)
        command = self.hypervisor.inside(sys.executable, "-m", "adumbra", *words)
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.terminate()

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Somebody who asks both VMs for something, again and again."""
        over = threading.Event()

        def ask(vm: str) -> None:
            while not over.is_set():
                self.fetch(*PLACES[vm], "/cgi-bin/facts", timeout_s=10)
                over.wait(0.2)

        threads = [threading.Thread(target=ask, args=(vm,)) for vm in PLACES]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def run(folder: Path) -> Story:
    """The whole path. folder: for all that it makes; short, as sockets lie in it."""
    story = Story()
    with Lab(folder) as lab:
        before = lab.standing()
        with _timed(story, "a spec becomes a network and its shadow; captured traffic, models, sizes"):
            _shadow(lab, story)
        with _timed(story, "activate --provider libvirt"):
            lab.show("activate", "duo", "--provider", "libvirt")
        lab.sink = re.search(r"live:\S+", lab.said)[0].rstrip(",;.")
        story.steps = _steps(lab)
        with _timed(story, "until both VMs answer"):
            story.guests = {vm: json.loads(lab.answer(vm, "/cgi-bin/facts")) for vm in PLACES}
        with _timed(story, "until their balloons have taken what memory is head-room"):
            story.guests = {vm: _settled(lab, vm, story.profiled[vm]) for vm in PLACES}
        story.domains = {vm: _domain(lab, vm) for vm in PLACES}
        _sizes(story)
        story.shut = lab.fetch(PLACES["web"][0], 81, "/") == ""
        with _timed(story, "bandwidth, out of each VM and into it"):
            story.mbps = {vm: _bandwidths(lab, vm) for vm in PLACES}
        for vm, found in story.mbps.items():
            limit = story.profiled[vm]["bandwidth_mbps"]
            print(f"{vm}: {found['out']:.1f} Mbps out, {found['in']:.1f} Mbps in, limited to {limit}")
        story.planned_again = lab.told("activate", "duo", "--provider", "libvirt", "--dry-run")["plan"]["steps"]
        with lab.server(), lab.clients(), _timed(story, f"the shadow goes on beside them, {LIVE_S} s"):
            story.live = _live(lab)
        with _timed(story, "deactivate"):
            lab.show("deactivate", "duo")
        after = lab.standing()
        story.left = {kind: tuple(each for each in after[kind] if each not in before[kind]) for kind in after}
        print("left behind:", {kind: names for kind, names in story.left.items() if names} or "nothing")
        lab.show("network", "list")
    return story


def _shadow(lab: Lab, story: Story) -> None:
    lab.show("network", "create", str(SPEC))
    lab.show("observe", "duo", f"pcap:{CAPTURE}")
    lab.adumbra("train", "duo")
    print(lab.adumbra("profile", "duo"))
    story.profiled = {each["vm"]: each for each in lab.told("profile", "duo")["vms"]}
    lab.show("activate", "duo", "--provider", "libvirt", "--dry-run")


def _steps(lab: Lab) -> list[tuple[str, float]]:
    """Each step of the newest plan with the seconds that it took, as the plan's record has them."""
    code = (
        "import json\nfrom adumbra.service.workspace import Workspace\nfrom adumbra.settings import load_settings\n"
        "with Workspace(load_settings().home) as opened:\n"
        "    plan = opened.state.plans.newest('duo')\n"
        "    ends = [plan.created_ns, *(step.recorded_ns for step in plan.steps)]\n"
        "    names = [f\"{s['act']} {s['item']['kind']} {s['item']['name']}\" for s in plan.plan['steps']]\n"
        "    print(json.dumps([(n, (b - a) / 1e9) for n, a, b in zip(names, ends, ends[1:])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=lab.environment, capture_output=True, text=True, check=True)
    steps = [(name, took_s) for name, took_s in json.loads(done.stdout)]
    for name, took_s in steps:
        print(f"{took_s:7.2f} s  {name}")
    return steps


def _domain(lab: Lab, vm: str) -> dict[str, Any]:
    """A domain's sizes by libvirt's word."""
    name = f"adumbra-duo-{vm}"
    info = dict(line.split(":", 1) for line in lab.hypervisor.virsh("dominfo", name).splitlines() if ":" in line)
    disk = re.search(r"Capacity:\s+(\d+)", lab.hypervisor.virsh("domblkinfo", name, "vda"))
    device = lab.hypervisor.virsh("domiflist", name).split()[0]
    queues = json.loads("".join(lab._lines("tc", "-json", "qdisc", "show", "dev", device)))  # noqa: SLF001
    rates = [each["options"]["rate"] * 8 / 1e6 for each in queues if each["kind"] == "tbf"]
    return {
        "cores": int(info["CPU(s)"]), "memory_kib": int(info["Used memory"].split()[0]),
        "disk_bytes": int(disk[1]) if disk else 0, "mbps": rates[0] if rates else None,
    }  # fmt: skip


def _sizes(story: Story) -> None:
    for vm, profiled in story.profiled.items():
        guest, domain = story.guests[vm], story.domains[vm]
        print(
            f"{vm}: profiled {profiled['cpu_cores']} cores, {profiled['memory_gb']} GB, {profiled['storage_gb']} GB disk, "
            f"{profiled['bandwidth_mbps']} Mbps; libvirt says {domain['cores']}, {domain['memory_kib'] / 2**20:g} GB, "
            f"{domain['disk_bytes'] / 2**30:g} GB, {domain['mbps']} Mbps; the guest {guest['cores']}, "
            f"{guest['memory_kib'] / 2**20:.2f} GB beside its kernel, {guest['disk_bytes'] / 2**30:g} GB, {guest['addresses']}"
        )


def _settled(lab: Lab, vm: str, profiled: Mapping[str, Any]) -> dict[str, Any]:
    """What a guest sees of itself, once its balloon has taken all but the memory it was given."""
    until_s = time.monotonic() + SETTLED_S
    while True:
        if _domain(lab, vm)["memory_kib"] == round(profiled["memory_gb"] * 2**20) or time.monotonic() > until_s:
            facts: dict[str, Any] = json.loads(lab.answer(vm, "/cgi-bin/facts"))
            return facts
        time.sleep(0.5)


def _bandwidths(lab: Lab, vm: str) -> dict[str, float]:
    """What a client gets out of a VM and into it, in megabits of payload a second."""
    sent = lab.folder / "large"
    sent.write_bytes(bytes(LARGE_BYTES))
    found = {}
    for way, path, more in (("out", "/large", ()), ("in", "/cgi-bin/take", (f"--post-file={sent}",))):
        began_s = time.monotonic()
        said = lab.fetch(*PLACES[vm], path, *more, timeout_s=120)
        took_s = time.monotonic() - began_s
        size = len(said) if way == "out" else int(said or 0)
        if size != LARGE_BYTES:
            raise RuntimeError(f"{vm}: {size} bytes of {LARGE_BYTES} came through, {way}")
        found[way] = size * 8 / took_s / 1e6
    return found


def _live(lab: Lab) -> Mapping[str, Any]:
    """What was predicted against what is measured, once some of both is there."""
    with lab.going_on("observe", "duo", lab.sink):
        lab.answer("web", f"/cgi-bin/burn?1,{LIVE_S // 3}")
        time.sleep(LIVE_S)
        lab.show("live", "duo")
        if LIVE_S >= LEARN_S:
            lab.show("calibrate", "duo", "live:")
            time.sleep(LIVE_S // 4)
            lab.show("live", "duo")
        told: Mapping[str, Any] = lab.told("live", "duo")
    return told


@contextmanager
def _timed(story: Story, what: str) -> Iterator[None]:
    print(f"\n── {what}", flush=True)
    began_s = time.monotonic()
    yield
    story.took_s[what] = time.monotonic() - began_s
    print(f"── took {story.took_s[what]:.1f} s", flush=True)


def main() -> int:
    why = missing()
    if why:
        print(f"the demo makes real VMs at a hypervisor of its own, which can't be had here: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="adumbra-", dir="/tmp") as folder:
        run(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
