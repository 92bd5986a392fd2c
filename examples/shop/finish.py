#!/usr/bin/env python3
"""Crops the capture to the recorded seconds, checks it, and writes recording.json.

usage: finish.py TMP OUT SEED START SECONDS KERNEL_DROPS CAPTURED LEVEL
"""

import csv
import json
import os
import platform
import re
import struct
import subprocess
import sys
from collections import Counter, defaultdict

VM = {"10.20.1.10": "web-1", "10.20.1.11": "web-2", "10.20.2.10": "db", "10.20.2.11": "cache"}


def packets(path):
    with open(path, "rb") as f:
        head = f.read(24)
        magic = struct.unpack("<I", head[:4])[0]
        if magic not in (0xA1B2C3D4, 0xA1B23C4D):
            raise SystemExit("not a little-endian pcap")
        unit = 1e-6 if magic == 0xA1B2C3D4 else 1e-9
        yield head, unit
        while len(h := f.read(16)) == 16:
            s, frac, caplen, length = struct.unpack("<IIII", h)
            yield s, frac, length, f.read(caplen)


def crop(source, target, start, seconds):
    it = packets(source)
    head, unit = next(it)
    kept = [p for p in it if start <= p[0] < start + seconds]
    turned = sum(a[:2] > b[:2] for a, b in zip(kept, kept[1:]))
    kept.sort(key=lambda p: p[:2])
    with open(target, "wb") as f:
        f.write(head)
        for s, frac, length, data in kept:
            f.write(struct.pack("<IIII", s, frac, len(data), length) + data)
    return kept, turned, unit


def check(kept, unit, usage):
    """Each packet once, headers whole, checksums of IP headers right, bytes as the interfaces counted."""
    found = Counter()
    seen, rx, tx, per_second = {}, defaultdict(Counter), defaultdict(Counter), Counter()
    for s, frac, length, data in kept:
        per_second[s] += 1
        found["bytes_on_wire"] += length
        if len(data) < min(96, length):
            found["cut_short"] += 1
        found["largest_frame"] = max(found["largest_frame"], length)
        t = s + frac * unit
        kind = data[12:14]
        if kind == b"\x08\x00" and seen.get(data, (-9,))[0] > t - 1.0 and seen[data][1] == length:
            # a reset host answers every segment still under way with the same RST
            found["repeated_rst" if data[23] == 6 and data[47] & 4 else "identical_ip_within_1_s"] += 1
        seen[data] = (t, length)
        if kind == b"\x08\x06":
            found["arp"] += 1
            continue
        if kind != b"\x08\x00":
            found["other"] += 1
            continue
        ihl = (data[14] & 15) * 4
        header = data[14 : 14 + ihl]
        total = sum(struct.unpack(f"!{ihl // 2}H", header))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        if total != 0xFFFF:
            found["bad_ip_checksum"] += 1
        if struct.unpack("!H", header[2:4])[0] + 14 > length:
            found["bad_ip_length"] += 1
        src, dst = (".".join(map(str, header[i : i + 4])) for i in (12, 16))
        if src in VM:
            tx[VM[src]][s] += length
        if dst in VM:
            rx[VM[dst]][s] += length
        if header[9] == 6:
            found["tcp"] += 1
            flags = data[14 + ihl + 13]
            if flags & 0x12 == 0x02:
                found["tcp_syn"] += 1
            if flags & 0x12 == 0x12:
                found["tcp_syn_ack"] += 1
            if flags & 0x04:
                found["tcp_rst"] += 1
            if flags & 0x01:
                found["tcp_fin"] += 1
        elif header[9] == 1:
            found["icmp"] += 1
        else:
            found["other_ip"] += 1
    for k in ("cut_short", "identical_ip_within_1_s", "bad_ip_checksum", "bad_ip_length", "other", "other_ip"):
        found.setdefault(k, 0)
    # captured bytes against the kernel's interface counters, over the seconds both have
    ratio = {}
    for vm in VM.values():
        rows = [r for r in usage if r["vm"] == vm]
        ratio[vm] = {}
        for name, got in (("rx", rx), ("tx", tx)):
            counted = sum(float(r[f"{name}_bytes_per_s"]) for r in rows)
            ratio[vm][name] = round(sum(got[vm][int(r["time"])] for r in rows) / counted, 5) if counted else None
    return dict(found), ratio, per_second


def correlation(x, y):
    n = len(x)
    mx, my = sum(x) / n, sum(y) / n
    sxy = sum((a - mx) * (b - my) for a, b in zip(x, y))
    sx, sy = sum((a - mx) ** 2 for a in x), sum((b - my) ** 2 for b in y)
    return round(sxy / (sx * sy) ** 0.5, 3) if sx and sy else None


def command(*words):
    r = subprocess.run(words, capture_output=True, text=True)
    return (r.stdout + r.stderr).strip()


def machine():
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) * 1024
    system = re.search(r'PRETTY_NAME="(.*)"', open("/etc/os-release").read())
    names = [
        "nginx",
        "nginx-light",
        "postgresql-15",
        "redis-server",
        "python3.11",
        "tcpdump",
        "libpcap0.8",
        "iproute2",
        "ethtool",
        "zstd",
    ]
    versions = {}
    for name in names:
        v = command("dpkg-query", "-W", "-f", "${Version}", name)
        if v and "no packages found" not in v:
            versions[name] = v
    return {
        "cpu_model": cpu.group(1) if cpu else None,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": "Linux " + re.match(r"[0-9.]+", platform.release()).group(0),
        "system": system.group(1) if system else None,
        "packages": versions,
    }


def main():
    tmp, out, seed, start, seconds, drops, captured, level = sys.argv[1:]
    start, seconds = int(start), int(seconds)
    with open(f"{tmp}/usage.csv") as f:
        usage = list(csv.DictReader(f))
    kept, turned, unit = crop(f"{tmp}/raw.pcap", f"{tmp}/shop.pcap", start, seconds)
    found, ratio, per_second = check(kept, unit, usage)
    subprocess.run(["zstd", "-q", "-f", *level.split(), f"{tmp}/shop.pcap", "-o", f"{out}/shop.pcap.zst"], check=True)
    with open(f"{tmp}/usage.csv", "rb") as a, open(f"{out}/usage.csv", "wb") as b:
        b.write(a.read())
    vms = {}
    for vm in VM.values():
        rows = [r for r in usage if r["vm"] == vm]
        if not rows:
            raise SystemExit(f"no usage of {vm}")
        cpu = [float(r["cpu_cores"]) for r in rows]
        memory = [int(r["memory_bytes"]) for r in rows]
        vms[vm] = {
            "seconds": len(rows),
            "cpu_cores_mean": round(sum(cpu) / len(cpu), 4),
            "cpu_cores_peak": round(max(cpu), 4),
            "cpu_cores_p99": round(sorted(cpu)[int(0.99 * len(cpu))], 4),
            "memory_bytes_mean": round(sum(memory) / len(memory)),
            "memory_bytes_peak": max(memory),
            "cpu_to_packets_correlation": correlation(cpu, [per_second[int(r["time"])] for r in rows]),
        }
    total = defaultdict(float)
    for r in usage:
        total[r["time"]] += float(r["cpu_cores"])
    with open(f"{tmp}/load.json") as f:
        load = json.load(f)
    with open(f"{tmp}/busy.json") as f:
        busy = json.load(f)
    doc = {
        "seed": int(seed),
        "start": start,
        "seconds": seconds,
        "packets": len(kept),
        "capture": {
            "file": "shop.pcap.zst",
            "snap_length": 96,
            "link_type": "Ethernet",
            "time_unit_s": unit,
            "captured_before_crop": int(captured),
            "dropped_by_kernel": int(drops),
            "out_of_order_before_sort": turned,
            "first": kept[0][0] + kept[0][1] * unit,
            "last": kept[-1][0] + kept[-1][1] * unit,
            "size_bytes": os.path.getsize(f"{out}/shop.pcap.zst"),
            "compression": "zstd " + level,
        },
        "checks": {**found, "captured_to_interface_bytes": ratio},
        "usage": {
            "file": "usage.csv",
            "rows": len(usage),
            "rows_left_out": seconds * len(VM) - len(usage),
            "all_servers_cpu_cores_mean": round(sum(total.values()) / len(total), 4),
            "all_servers_cpu_cores_peak": round(max(total.values()), 4),
            "vms": vms,
        },
        "load": load,
        "machine": machine(),
        "machine_busy": busy,
    }
    with open(f"{out}/recording.json", "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")
    print(json.dumps({k: doc[k] for k in ("packets", "capture", "checks", "usage", "machine_busy")}, indent=1))
    print(json.dumps({"all": load["all"], "results": load["results"], "deliberate": load["deliberate_failures"]}, indent=1))


if __name__ == "__main__":
    main()
