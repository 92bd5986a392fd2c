"""Boots a minimal Debian under QEMU and reads, inside it, what an idle system takes: the priors' `system` entry.

usage: system.py [--out DIR]      (root; about 10 minutes, as QEMU interprets here; adds to DIR/measured.json)

Memory and space are the guest's own figures. CPU is the run time of all its tasks (schedstat, nanoseconds) over two
minutes, divided by how much slower a loop of system calls is inside than outside, for QEMU's interpreter is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import MeasureError, check_machine, sh
from measure import HERE, write

import servers

PACKAGES = ("debootstrap", "qemu-system-x86", "e2fsprogs")
GUEST_PACKAGES = ("linux-image-cloud-amd64", "openssh-server", "dbus", "systemd-timesyncd", "cron", "perl-base")
MEMORY_MB, DISK_MB = 1024, 3072
SETTLE_S, WATCH_S = 120, 120
PATIENCE_S = 1500
LOOP = """my ($u, $s) = times;
for (1..1000000) { my @stat = stat("/etc/passwd"); my $p = getppid; $p = "$p$_"; }
my ($v, $t) = times;
printf("%.3f", $v + $t - $u - $s);
"""
REPORT = f"""#!/bin/bash
# Reads the idle system and says it on the serial line.
tasks() {{ cat /proc/[0-9]*/task/*/schedstat 2>/dev/null | awk '{{s+=$1}} END {{printf "%.0f", s}}'; }}
sleep {SETTLE_S}
a=$(tasks); s=$(date +%s.%N); sleep {WATCH_S}; e=$(date +%s.%N); b=$(tasks)
free=$(awk '/^(MemTotal|MemFree|Buffers|Cached|Shmem|SReclaimable):/ {{printf "\\"%s\\": %.0f, ", substr($1,1,length($1)-1), $2*1024}}' /proc/meminfo)
disk=$(df -B1 --output=used / | tail -1 | tr -d ' ')
loop=$(perl /usr/local/sbin/loop)
count=$(ls -d /proc/[0-9]* | wc -l)
echo "RESULT {{$free\\"task_ns\\": $((b-a)), \\"from\\": $s, \\"to\\": $e, \\"disk\\": $disk, \\"loop_s\\": $loop, \\"tasks\\": $count}}" > /dev/ttyS0
systemctl poweroff
"""
UNIT = """[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/local/sbin/report
[Install]
WantedBy=multi-user.target
"""


def mirror() -> tuple[str, str]:
    """The archive that this machine's own apt uses, and its release."""
    said = sh("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages")
    for line in said.splitlines():
        site, _, codename = line.partition(" ")
        if re.fullmatch(r"[a-z]+", codename) and "security" not in site:
            return site, codename
    raise MeasureError("apt has no Debian archive; add one to its sources")


def build(folder: Path) -> Path:
    """A root folder with a kernel, and the report that it makes once it has booted."""
    site, release = mirror()
    root = folder / "root"
    sh(
        "debootstrap",
        "--variant=minbase",
        f"--include=systemd-sysv,udev,procps,{','.join(GUEST_PACKAGES)}",
        release,
        str(root),
        site,
    )
    script = root / "usr/local/sbin/report"
    script.write_text(REPORT)
    script.chmod(0o755)
    (root / "usr/local/sbin/loop").write_text(LOOP)
    (root / "etc/systemd/system/report.service").write_text(UNIT)
    (root / "etc/systemd/system/multi-user.target.wants/report.service").symlink_to("/etc/systemd/system/report.service")
    (root / "etc/fstab").write_text("/dev/vda / ext4 rw 0 1\n")
    image = folder / "disk"
    sh("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), f"{DISK_MB}M")
    return image


def _politely() -> None:
    os.nice(10)


def boot(folder: Path, image: Path) -> dict[str, Any]:
    """Boots the image, waits for its report. Raises MeasureError where none comes."""
    kernel, first = (sorted((folder / "root/boot").glob(f"{name}-*"))[-1] for name in ("vmlinuz", "initrd.img"))
    words = [
        "qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY_MB), "-smp", "1", "-display", "none", "-monitor", "none",
        "-serial", f"file:{folder}/serial", "-kernel", str(kernel), "-initrd", str(first), "-append",
        "root=/dev/vda rw console=ttyS0 quiet", "-drive", f"file={image},format=raw,if=virtio", "-nic", "user,restrict=on",
        "-no-reboot",
    ]  # fmt: skip
    with subprocess.Popen(words, preexec_fn=_politely) as process:  # noqa: PLW1509 - no threads
        end = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(2)
                said = (folder / "serial").read_text(errors="replace") if (folder / "serial").exists() else ""
                if found := re.search(r"RESULT (\{.*\})", said):
                    report: dict[str, Any] = json.loads(found.group(1))
                    return report
        finally:
            process.kill()
    raise MeasureError(f"the guest said nothing within {PATIENCE_S} s; its end: {said[-500:]}")


def entry(report: dict[str, Any], host_loop_s: float, kernel: str) -> dict[str, Any]:
    """The `system` entry from what the guest said."""
    slower = report["loop_s"] / host_loop_s
    inside_cores = report["task_ns"] / 1e9 / (report["to"] - report["from"])
    cache = report["Buffers"] + report["Cached"] - report["Shmem"] + report["SReclaimable"]
    return {
        "idle_cores": float(f"{inside_cores / slower:.3g}"),
        "memory_bytes": float(MEMORY_MB * 2**20 - report["MemFree"] - cache),
        "storage_bytes": float(report["disk"]),
        "source": f"measured, see benchmarks/roles: a minimal Debian ({kernel}, {report['tasks']} tasks, with SSH, cron and time "
        f"synchronisation) {SETTLE_S} to {SETTLE_S + WATCH_S} s after its boot in QEMU with {MEMORY_MB} MiB and one core; memory "
        f"without page cache, with all that the kernel keeps of the {MEMORY_MB} MiB; CPU is its tasks' run time "
        f"({inside_cores:.4f} cores inside) over {slower:.1f}, by which QEMU's interpreter is slower; interrupts that find it "
        "idle are not in it. Agents for monitoring or backup come on top",
    }


def measure(folder: Path) -> dict[str, Any]:
    image = build(folder)
    kernel = "Linux " + sorted((folder / "root/boot").glob("vmlinuz-*"))[-1].name.split("-")[1]
    report = boot(folder, image)
    return {"report": report, "host_loop_s": (host := float(sh("perl", "-e", LOOP))), "entry": entry(report, host, kernel)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what an idle Debian takes (root; about 10 minutes).")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of measured.json")
    out = parser.parse_args().out
    check_machine()
    servers.install(list(PACKAGES))
    folder = Path(tempfile.mkdtemp(prefix="roles-system-"))
    try:
        found = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "measured.json"
    document = json.loads(file.read_text()) if file.exists() else {"roles": {}}
    document["system_run"], document["system"] = found, found["entry"]
    write(file, document)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except MeasureError as error:
        sys.exit(f"error: {error}")
