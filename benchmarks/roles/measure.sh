#!/usr/bin/env bash
# Measures what a role costs by itself: nginx, PostgreSQL and Redis, each alone at
# steady rates, in the namespaces of examples/shop. Writes measured.json. About 4 minutes.
set -euo pipefail

OUT= LENGTH=3
while [ $# -gt 0 ]; do
  case $1 in
    --out) OUT=$2; shift 2;;
    --length) LENGTH=$2; shift 2;;
    *) echo "usage: measure.sh [--out FILE] [--length SECONDS_A_RUN]" >&2; exit 2;;
  esac
done
ROLES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HERE=$(cd "$ROLES/../../examples/shop" && pwd)
OUT=${OUT:-$ROLES/measured.json}
P=roles$$-
# shellcheck source=../../examples/shop/harness.sh
. "$HERE/harness.sh"
need
export PYTHONDONTWRITEBYTECODE=1
TMP=$(mktemp -d /tmp/roles.XXXXXX)
trap 'harness_down' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$PY" "$HERE/seed.py" "$TMP" 1
head -c 2000 /dev/zero > "$TMP/www/static/small"
head -c 60000 /dev/zero > "$TMP/www/static/large"
groups_up
net_up
start_web web-1 static
start_redis
start_postgres
usage_config > "$TMP/config.json"
nice -n -12 "$PY" "$ROLES/measure.py" "$HERE" "$TMP/config.json" "$P" "$LENGTH" "$OUT"
