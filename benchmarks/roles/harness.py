"""Namespaces, control groups and what the kernel accounts in them. Starts no server and knows no role.

Four namespaces hang on one bridge: the server's (measured), the load's, a backend's, and the bridge's own. Received packets
are worked on by kernel threads (threaded NAPI), one an interface, and the server's stands in the server's control group. So
the server pays for receiving its packets and nobody else's: without it, that work is charged to whoever sent them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SERVER, LOAD, BACKEND = "10.77.0.1", "10.77.0.2", "10.77.0.3"
ADDRESSES = {"server": SERVER, "load": LOAD, "backend": BACKEND}
FRAME_HEADER_BYTES = 14
NICE = -10
TOOLS = ("ip", "ethtool", "nsenter", "sysctl", "setpriv")


class MeasureError(Exception):
    """A measurement that can't be made; says why and what to do."""


def sh(*words: str) -> str:
    """Runs a command and gives what it printed. Raises MeasureError with its complaint."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasureError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def check_machine() -> None:
    """Raises MeasureError where this can't run: no root, no tools, no usable control groups."""
    if os.geteuid() != 0:
        raise MeasureError("namespaces and control groups need root; run it as root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise MeasureError(f"missing: {', '.join(missing)}; apt-get install iproute2 ethtool util-linux procps")
    _roots("check")


def cores() -> tuple[int, int]:
    """The core that the server has, and the one that all else has: two different ones where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def _roots(name: str) -> tuple[int, Path, Path, Path | None]:
    """The version of control groups (1 or 2), and the folders for CPU, memory and storage accounts of a group."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return 2, top / name, top / name, top / name
    if not (top / "cpuacct").is_dir() or not (top / "memory").is_dir():
        raise MeasureError("no control groups with cpuacct and memory; mount them (version 1 or 2)")
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {controller: path.strip("/") for _, names, path in lines for controller in names.split(",")}
    folders = {kind: top / kind / own.get(kind, "") / name for kind in ("cpuacct", "memory", "blkio")}
    return 1, folders["cpuacct"], folders["memory"], folders["blkio"] if (top / "blkio").is_dir() else None


def _fields(path: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in (line.split() for line in path.read_text().splitlines()) if len(words) == 2}


@dataclass
class Group:
    """A control group: CPU, memory and storage operations of the processes in it."""

    name: str
    version: int = 0
    _cpu: Path = Path()
    _memory: Path = Path()
    _storage: Path | None = None

    def __enter__(self) -> Group:
        self.version, self._cpu, self._memory, self._storage = _roots(self.name)
        if self.version == 2:
            (self._cpu.parent / "cgroup.subtree_control").write_text("+cpu +memory +io")
        for folder in self._folders():
            folder.mkdir(parents=True, exist_ok=True)
        if self.version == 1 and self._storage is not None:  # operations are counted only where there is a limit: one never met
            device = os.stat(tempfile.gettempdir()).st_dev
            for way in ("read", "write"):
                with contextlib.suppress(OSError):  # a file system without a device of its own: then they count as 0
                    limit = f"{os.major(device)}:{os.minor(device)} 1000000"
                    (self._storage / f"blkio.throttle.{way}_iops_device").write_text(limit)
        return self

    def __exit__(self, *_exc: object) -> None:
        for signal_number in (15, 9):
            for pid in self.user_pids():
                _kill(pid, signal_number)
            for _ in range(60):
                if not self.user_pids():
                    break
                time.sleep(0.1)
        for folder in self._folders():
            _remove_group(folder)

    def _folders(self) -> set[Path]:
        return {folder for folder in (self._cpu, self._memory, self._storage) if folder is not None}

    def add(self, pid: int) -> None:
        """Puts a process into the group. A kernel thread only where its CPU is accounted: it has no memory of its own."""
        kernel_thread = not Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid()
        for folder in {self._cpu} if kernel_thread else self._folders():
            (folder / "cgroup.procs").write_text(str(pid))

    def user_pids(self) -> list[int]:
        """The processes in the group, kernel threads left out."""
        try:
            pids = [int(line) for line in (self._memory / "cgroup.procs").read_text().split()]
        except OSError:
            return []
        return [pid for pid in pids if _command(pid)]

    def cpu_s(self) -> float:
        """User and system seconds used since the group was made."""
        if self.version == 1:
            return int((self._cpu / "cpuacct.usage").read_text()) / 1e9
        return _fields(self._cpu / "cpu.stat")["usage_usec"] / 1e6

    def memory(self) -> dict[str, int]:
        """Bytes of the group's memory: `own` (anonymous, shared and the kernel's for it) and `page_cache`."""
        stat = _fields(self._memory / "memory.stat")
        if self.version == 1:
            kernel = int((self._memory / "memory.kmem.usage_in_bytes").read_text())
            return {"own": stat["rss"] + stat["shmem"] + kernel, "page_cache": stat["cache"] - stat["shmem"]}
        return {"own": stat["anon"] + stat["shmem"] + stat["kernel"], "page_cache": stat["file"] - stat["shmem"]}

    def storage(self) -> dict[str, int]:
        """`write_ops`, `ops`: those the group's own processes issued (write-back by the kernel's threads isn't among them in
        version 1). `written`: bytes that they caused to be written, from /proc/PID/io (of ended children by their parents)."""
        written = 0
        for pid in self.user_pids():
            try:
                written += _fields_colon(Path(f"/proc/{pid}/io"))["write_bytes"]
            except OSError:
                continue
        ops = write_ops = 0
        if self.version == 1 and self._storage is not None:
            for line in (self._storage / "blkio.throttle.io_serviced").read_text().splitlines():
                words = line.split()
                if len(words) == 3 and words[1] in {"Read", "Write"}:
                    ops += int(words[2])
                    write_ops += int(words[2]) if words[1] == "Write" else 0
        elif self.version == 2:
            for line in (self._cpu / "io.stat").read_text().splitlines():
                stat = dict(word.split("=") for word in line.split()[1:])
                ops += int(stat.get("rios", 0)) + int(stat.get("wios", 0))
                write_ops += int(stat.get("wios", 0))
        return {"written": written, "ops": ops, "write_ops": write_ops}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int, signal: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal)


def _remove_group(folder: Path) -> None:
    for _ in range(30):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return


def _fields_colon(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split(": ") for line in path.read_text().splitlines())}


@dataclass
class Net:
    """The namespaces and their wires. `prefix` makes their names; they are gone at the end of `with`."""

    prefix: str
    threaded: bool = True
    _made: list[str] = field(default_factory=list)

    def __enter__(self) -> Net:
        try:
            self._up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        self._made.clear()

    @property
    def interface(self) -> str:
        """The server's interface: of a name that no other has, as its kernel thread is found by it."""
        return f"r{os.getpid()}"

    def _up(self) -> None:
        switch = f"{self.prefix}-switch"
        for name in (switch, *(f"{self.prefix}-{role}" for role in ADDRESSES)):
            sh("ip", "netns", "add", name)
            self._made.append(name)
            self._in(name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", switch, "link", "set", "br0", "up")
        for role, address in ADDRESSES.items():
            name, end = f"{self.prefix}-{role}", self.interface if role == "server" else "eth0"
            port = f"p-{role}"
            sh("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", end, "netns", name)
            sh("ip", "-n", switch, "link", "set", port, "master", "br0")
            sh("ip", "-n", name, "addr", "add", f"{address}/24", "dev", end)
            for where, interface in ((switch, port), (name, end)):
                self._wire(where, interface)
        load = f"{self.prefix}-load"
        self._in(load, "sysctl", "-qw", "net.ipv4.ip_local_port_range=2000 65000", "net.ipv4.tcp_tw_reuse=1")
        self._in(f"{self.prefix}-server", "sysctl", "-qw", "net.core.somaxconn=4096")

    def _wire(self, name: str, interface: str) -> None:
        """Packets of a wire's size, with checksums; received ones merged as a network card's driver does (GRO)."""
        off = [word for what in ("tso", "gso", "tx", "rx", "sg") for word in (what, "off")]
        self._in(name, "ethtool", "-K", interface, *off, "gro", "on")
        sh("ip", "-n", name, "link", "set", interface, "up")
        if self.threaded:
            sh("ip", "netns", "exec", name, "sh", "-c", f"echo 1 > /sys/class/net/{interface}/threaded")

    def _in(self, name: str, *words: str) -> str:
        return sh("nsenter", f"--net=/run/netns/{name}", *words)

    def inside(self, role: str) -> list[str]:
        """The words that begin a command to be run in a namespace."""
        return ["nsenter", f"--net=/run/netns/{self.prefix}-{role}"]

    def receiver_pid(self) -> int | None:
        """The kernel thread that receives the server's packets."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "comm").read_text().startswith(f"napi/{self.interface}-"):
                        return int(entry.name)
                except OSError:
                    continue
        return None

    def counters(self) -> dict[str, int]:
        """Bytes at the IP layer and packets, into and out of the server."""
        for line in self._in(f"{self.prefix}-server", "cat", "/proc/net/dev").splitlines():
            name, _, rest = line.partition(":")
            if name.strip() == self.interface:
                v = [int(word) for word in rest.split()]
                return {
                    "bytes_in": v[0] - FRAME_HEADER_BYTES * v[1],
                    "bytes_out": v[8] - FRAME_HEADER_BYTES * v[9],
                    "packets_in": v[1],
                    "packets_out": v[9],
                }
        raise MeasureError(f"the server's namespace has no interface {self.interface}")


@dataclass
class Place:
    """Where a server runs: namespace, group, core and folder. Ends what it started."""

    net: Net
    group: Group
    folder: Path
    core: int
    role: str = "server"
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, words: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Starts a server in its place; what it says goes to a file in the folder."""
        with (self.folder / "log").open("ab") as log:
            child = subprocess.Popen(
                [*self.net.inside(self.role), *words], preexec_fn=self._settle(),  # noqa: PLW1509 - no threads
                stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={**os.environ, **(env or {})}, cwd=cwd or self.folder,
            )  # fmt: skip
        self._children.append(child)

    def run(self, words: Sequence[str], text: str = "") -> str:
        """Runs a command in the namespace, outside the group, with `text` on its standard input."""
        done = subprocess.run(
            [*self.net.inside(self.role), *words], input=text, capture_output=True, text=True, cwd="/", check=False
        )
        if done.returncode:
            raise MeasureError(f"{words[0]}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _settle(self) -> Callable[[], None]:
        def settle() -> None:
            self.group.add(os.getpid())
            os.sched_setaffinity(0, {self.core})
            os.nice(NICE)

        return settle

    def alive(self) -> bool:
        return all(child.poll() is None for child in self._children)

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-800:]

    def stop(self) -> None:
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
