#!/usr/bin/env python3
"""Crops the capture to the recorded seconds, compresses it, and writes recording.json.

usage: finish.py SHOP_FOLDER TMP OUT SEED START SECONDS KERNEL_DROPS
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import finish as shop  # examples/shop/finish.py


def main() -> None:
    tmp, out, (seed, start, seconds, drops) = Path(sys.argv[2]), Path(sys.argv[3]), map(int, sys.argv[4:])
    kept, turned, _ = shop.crop(tmp / "raw.pcap", tmp / "unseen.pcap", start, seconds)
    subprocess.run(["zstd", "-q", "-f", "-19", tmp / "unseen.pcap", "-o", out / "unseen.pcap.zst"], check=True)
    shutil.copyfile(tmp / "usage.csv", out / "usage.csv")
    with open(tmp / "usage.csv") as file:
        cores = [float(row["cpu_cores"]) for row in csv.DictReader(file)]
    told = {
        "seed": seed, "start": start, "seconds": seconds, "packets": len(kept), "dropped_by_kernel": drops,
        "out_of_order_before_sort": turned, "snap_length": 96, "cpu_cores_mean": round(sum(cores) / len(cores), 4),
        "cpu_cores_peak": max(cores), "rows": len(cores), "load": json.loads((tmp / "load.json").read_text()),
        "versions": {
            name: shop.command("dpkg-query", "-W", "-f", "${Version}", name)
            for name in ("apache2", "libapache2-mod-php8.2", "php8.2-sqlite3")
        },
        "machine": {key: value for key, value in shop.machine().items() if key != "packages"},
    }  # fmt: skip
    (out / "recording.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
