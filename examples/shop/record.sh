#!/usr/bin/env bash
# Records the shop: builds it in network namespaces, runs a day squeezed into
# 15 minutes, and keeps the packets' headers and what the kernel accounted.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: record.sh [--seconds N] [--out DIR] [--seed N] [--level "ZSTD OPTIONS"]
  --seconds N  length of the recording; the day's shape is squeezed (default 900)
  --out DIR    where shop.pcap.zst, usage.csv and recording.json go (default: this folder)
  --seed N     seed of contents and load (default 20)
  --level O    options of zstd (default -19)
Needs root, Linux with namespaces, TAP devices, tc mirred and control groups, and:
apt-get install iproute2 ethtool tcpdump zstd nginx-light redis-server postgresql python3
TEXT
}

SECONDS_RUN=900 OUT= SEED=20 LEVEL=-19
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) SECONDS_RUN=$2; shift 2;;
    --out) OUT=$2; shift 2;;
    --seed) SEED=$2; shift 2;;
    --level) LEVEL=$2; shift 2;;
    -h|--help) usage; exit 0;;
    *) usage >&2; exit 2;;
  esac
done
case $SECONDS_RUN in ''|*[!0-9]*) echo "error: --seconds takes a whole number" >&2; exit 2;; esac
case $SEED in ''|*[!0-9]*) echo "error: --seed takes a whole number" >&2; exit 2;; esac

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OUT=${OUT:-$HERE}
P=shop$$-
# shellcheck source=harness.sh
. "$HERE/harness.sh"
need
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$OUT"
TMP=$(mktemp -d /tmp/shop.XXXXXX)
trap 'harness_down' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "contents (seed $SEED)"
"$PY" "$HERE/seed.py" "$TMP" "$SEED"
say "namespaces and control groups"
groups_up
net_up
say "servers"
start_redis
start_postgres
start_web web-1
start_web web-2
usage_config > "$TMP/config.json"

say "capture"
exec_net router nice -n -12 tcpdump -i mon1 -n -s 96 -B 65536 -Z root -w "$TMP/raw.pcap" 2>"$TMP/tcpdump.log" &
TCPDUMP=$!; PIDS+=("$TCPDUMP")
for _ in $(seq 50); do grep -q 'listening on' "$TMP/tcpdump.log" && break; sleep 0.1; done
grep -q 'listening on' "$TMP/tcpdump.log" || die "tcpdump did not start: $(cat "$TMP/tcpdump.log")"

START=$(( $(date +%s) + 5 ))
say "load: $SECONDS_RUN s from $START"
nice -n -12 "$PY" "$HERE/usage.py" "$TMP/config.json" "$START" "$SECONDS_RUN" "$TMP/usage.csv" &
USAGE=$!; PIDS+=("$USAGE")
"$PY" - "$START" "$SECONDS_RUN" "$TMP/busy.json" <<'PYTHON' &
import json, sys, time
start, seconds, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def ticks():
    v = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(v), v[3] + v[4], v[7]
time.sleep(max(0, start - time.time()))
first = last = ticks()
busy = []
while time.time() < start + seconds - 0.5:
    time.sleep(1)
    now = ticks()
    busy.append(1 - (now[1] - last[1]) / max(1, now[0] - last[0]))
    last = now
total = max(1, last[0] - first[0])
busy.sort()
json.dump({"meaning": "share of all cores of the machine in use by anything, other work included", "mean": round(1 - (last[1] - first[1]) / total, 4),
           "p99": round(busy[int(0.99 * len(busy))], 4), "max": round(busy[-1], 4), "stolen": round((last[2] - first[2]) / total, 5)}, open(out, "w"))
PYTHON
BUSY=$!; PIDS+=("$BUSY")
exec_net clients nice -n "$NICE" "$PY" "$HERE/load.py" --seed "$SEED" --seconds "$SECONDS_RUN" --start "$START" --out "$TMP/load.json" &
LOAD=$!; PIDS+=("$LOAD")
wait "$LOAD" || die "the load generator failed"
wait "$USAGE" || die "the usage reader failed"
wait "$BUSY" || true
sleep 1
kill -TERM "$TCPDUMP"; wait "$TCPDUMP" || true
say "capture: $(tr '\n' ' ' < "$TMP/tcpdump.log")"
DROPS=$(awk '/dropped by kernel/ {print $1}' "$TMP/tcpdump.log")
CAPTURED=$(awk '/packets captured/ {print $1}' "$TMP/tcpdump.log")
for f in "$TMP"/app-*.log "$TMP"/web-*/error.log "$TMP/wire.log"; do
  [ ! -s "$f" ] || { say "in $(basename "$f"):"; tail -5 "$f" >&2; }
done
say "checks and compression"
"$PY" "$HERE/finish.py" "$TMP" "$OUT" "$SEED" "$START" "$SECONDS_RUN" "${DROPS:--1}" "${CAPTURED:--1}" "$LEVEL"
[ "${DROPS:-x}" = 0 ] || say "warning: the kernel dropped packets of the capture: ${DROPS:-unknown}"
ls -l "$OUT/shop.pcap.zst" "$OUT/usage.csv" "$OUT/recording.json" >&2
