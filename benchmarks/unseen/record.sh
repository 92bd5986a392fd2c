#!/usr/bin/env bash
# Records a server that no role's prior knows: Apache with PHP and SQLite (a small forum),
# under a day squeezed into 10 minutes; packets' headers and what the kernel accounted.
set -euo pipefail

SECONDS_RUN=600 OUT= SEED=31
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) SECONDS_RUN=$2; shift 2;;
    --out) OUT=$2; shift 2;;
    --seed) SEED=$2; shift 2;;
    *) echo "usage: record.sh [--seconds N] [--out FOLDER] [--seed N]; needs root, and Debian's apache2, libapache2-mod-php, php-sqlite3, tcpdump, zstd, iproute2, ethtool" >&2; exit 2;;
  esac
done
UNSEEN=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HERE=$(cd "$UNSEEN/../../examples/shop" && pwd)
OUT=${OUT:-$UNSEEN}
P=unseen$$-
# shellcheck source=../../examples/shop/harness.sh
. "$HERE/harness.sh"
VMS=forum
address_of() { echo 10.20.2.20; }
[ "$(id -u)" = 0 ] || die "must run as root: it makes network namespaces and control groups"
for t in ip tc nsenter ethtool tcpdump zstd apache2; do command -v "$t" >/dev/null || die "missing: $t"; done
MODULES=/usr/lib/apache2/modules
PHP=$(ls "$MODULES"/libphp*.so | tail -1)
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$OUT"
TMP=$(mktemp -d /tmp/unseen.XXXXXX)
chmod 755 "$TMP"
trap 'harness_down' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

D=$TMP/forum
"$PY" "$UNSEEN/contents.py" "$D" "$SEED"
cp "$UNSEEN"/pages/*.php "$D/www/"
chown -R www-data: "$D/data"
cat > "$D/apache.conf" <<CONF
ServerName forum.example
ServerRoot $D
PidFile $D/apache.pid
Listen 10.20.2.20:80
LoadModule mpm_prefork_module $MODULES/mod_mpm_prefork.so
LoadModule authz_core_module $MODULES/mod_authz_core.so
LoadModule dir_module $MODULES/mod_dir.so
LoadModule mime_module $MODULES/mod_mime.so
LoadModule env_module $MODULES/mod_env.so
LoadModule deflate_module $MODULES/mod_deflate.so
LoadModule filter_module $MODULES/mod_filter.so
LoadModule php_module $PHP
TypesConfig /etc/mime.types
User www-data
Group www-data
DocumentRoot $D/www
DirectoryIndex index.php
SetEnv FORUM_DATA $D/data
AddOutputFilterByType DEFLATE text/html text/css
<FilesMatch "\.php$">
  SetHandler application/x-httpd-php
</FilesMatch>
<Directory $D/www>
  Require all granted
</Directory>
StartServers 8
MinSpareServers 5
MaxSpareServers 20
MaxRequestWorkers 100
KeepAlive On
KeepAliveTimeout 6
MaxKeepAliveRequests 500
ErrorLog $D/error.log
LogLevel warn
CONF
[ -f /etc/mime.types ] || { echo "image/jpeg jpg" > "$D/mime.types"; sed -i "s|/etc/mime.types|$D/mime.types|" "$D/apache.conf"; }

say "namespaces, control groups, server"
groups_up
net_up
# a session of its own: Apache ends with a signal to its whole process group, which would be this script too
in_vm forum setsid apache2 -d "$D" -f "$D/apache.conf" -D FOREGROUND >"$TMP/apache.log" 2>&1 &
PIDS+=($!)
wait_port forum 10.20.2.20 80
for page in index.php "thread.php?id=3" "search.php?q=raden" static/forum.css; do
  in_net clients "$PY" -c 'import sys,urllib.request; r=urllib.request.urlopen(sys.argv[1],timeout=5); b=r.read(); print(r.status,len(b),file=sys.stderr); sys.exit(b"Warning" in b or b"Fatal" in b)' \
    "http://10.20.2.20/$page" || die "the page $page doesn't work: $(tail -3 "$D/error.log")"
done
"$PY" - "$CG_KIND" "$CG_CPU/forum" "$CG_MEM/forum" "$D" > "$TMP/config.json" <<'PYTHON'
import json, sys
kind, cpu, mem, folder = sys.argv[1:]
print(json.dumps([{"vm": "forum", "kind": int(kind), "cpu": cpu, "mem": mem, "folder": folder, "cores": 2, "memory": 8 << 30}]))
PYTHON

exec_net router nice -n -12 tcpdump -i mon1 -n -s 96 -B 65536 -Z root -w "$TMP/raw.pcap" 2>"$TMP/tcpdump.log" &
TCPDUMP=$!; PIDS+=("$TCPDUMP")
for _ in $(seq 50); do grep -q 'listening on' "$TMP/tcpdump.log" && break; sleep 0.1; done
START=$(( $(date +%s) + 4 ))
say "load: $SECONDS_RUN s from $START"
nice -n -12 "$PY" "$HERE/usage.py" "$TMP/config.json" "$START" "$SECONDS_RUN" "$TMP/usage.csv" &
USAGE=$!; PIDS+=("$USAGE")
exec_net clients nice -n "$NICE" "$PY" "$UNSEEN/load.py" "$HERE" "$SEED" "$START" "$SECONDS_RUN" "$TMP/load.json" &
LOAD=$!; PIDS+=("$LOAD")
wait "$LOAD" || die "the load generator failed"
wait "$USAGE" || die "the usage reader failed"
sleep 1
kill -TERM "$TCPDUMP"; wait "$TCPDUMP" || true
DROPS=$(awk '/dropped by kernel/ {print $1}' "$TMP/tcpdump.log")
[ ! -s "$D/error.log" ] || tail -5 "$D/error.log" >&2
"$PY" "$UNSEEN/finish.py" "$HERE" "$TMP" "$OUT" "$SEED" "$START" "$SECONDS_RUN" "${DROPS:--1}"
ls -l "$OUT" >&2
