"""A libvirt hypervisor of one's own, to try things at: libvirtd in namespaces of its own, which end with it. Root only.

Nothing of the host's own libvirt is touched. Its machines are emulated (no KVM), and boot Debian's cloud kernel and busybox.
`python tools/hypervisor.py FOLDER COMMAND...` runs a command beside one; its environment names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_GUEST = Path(__file__).parents[1] / "tests" / "guest" / "build.sh"
_NEEDED = ("libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq", "busybox", "cpio", "ip", "tc", "unshare", "nft", "iptables")
_START = """
set -e
# Without /dev/kvm: where it is there and doesn't work, libvirt tries it again and again.
mkdir -p "$1/dev"
mount -t tmpfs tmpfs "$1/dev"
mkdir -p "$1/dev/net" "$1/dev/pts" "$1/dev/shm"
ln -s pts/ptmx "$1/dev/ptmx"
for node in null zero full random urandom tty net/tun; do touch "$1/dev/$node" && mount --bind "/dev/$node" "$1/dev/$node"; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
mount --rbind "$1/dev" /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/lock "$1/cgroup"
for folder in lib cache etc; do
    case $folder in etc) there=/etc/libvirt ;; *) there=/var/$folder/libvirt ;; esac
    mkdir -p "$1/$folder" "$there"
    mount --bind "$1/$folder" "$there"
done
libvirtd --config "$1/libvirtd.conf" &
trap 'kill $!; wait $!; exit' TERM
# As the first process of its own it gathers emulators that have ended: libvirtd waits until they are.
wait $!
"""
_DAEMON = 'unix_sock_dir = "{0}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "3:file:{1}/libvirtd.log"\n'
_QEMU = (
    'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\nstdio_handler = "file"\n'
    "cgroup_controllers = []\nremember_owner = 0\n"
)


def missing() -> str:
    """What this machine lacks to have a hypervisor, "" for nothing."""
    if os.geteuid() != 0:
        return "it takes root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    return f"these are not installed: {', '.join(lacking)}" if lacking else ""


class Hypervisor:
    """A libvirtd in a network namespace `name`. folder: for all that is its; short, as its socket's path must be."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/libvirt-sock"

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which Adumbra works at it."""
        guest = self.folder.parent / "guest"
        told = {
            "URI": self.uri, "STORAGE": str(self.folder / "images"), "IMAGE": str(guest / "base.qcow2"),
            "KERNEL": str(guest / "vmlinuz"), "INITRD": str(guest / "initrd"),
            "KERNEL_ARGUMENTS": "console=ttyS0 quiet", "ACCELERATION": "tcg", "STOP_S": "2",
        }  # fmt: skip
        return {**os.environ, **{f"ADUMBRA_LIBVIRT_{key}": value for key, value in told.items()}}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(_GUEST), str(self.folder.parent / "guest")], check=True)
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "qemu.conf").write_text(_QEMU)
        (self.folder / "libvirtd.conf").write_text(_DAEMON.format(self.folder, self.folder))
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def start(self) -> None:
        """Starts libvirtd, and waits until it answers. Raises RuntimeError with its log."""
        command = [
            "ip",
            "netns",
            "exec",
            self.name,
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "sh",
            "-c",
            _START,
        ]
        with (self.folder / "start.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "start", str(self.folder)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        until_s = time.monotonic() + 120
        while subprocess.run(self.inside("virsh", "-c", self.uri, "list"), capture_output=True, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > until_s:
                said = [path.read_text()[-1000:] for path in self.folder.glob("*.log")]
                raise RuntimeError(f"libvirtd did not start: {' '.join(said)}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends libvirtd and its machines: all processes of its namespace go with the first."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def inside(self, *command: str) -> list[str]:
        """A command as it runs in the hypervisor's network namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def virsh(self, *words: str) -> str:
        """What virsh says."""
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    folder, *command = arguments
    with Hypervisor(Path(folder) / "hv", f"adumbra-{os.getpid()}") as hypervisor:
        return subprocess.run(hypervisor.inside(*command), env=hypervisor.environment, check=False).returncode


if __name__ == "__main__":
    why = missing()
    if why:
        sys.exit(f"a hypervisor can't be had here: {why}")
    sys.exit(main(sys.argv[1:]))
