#!/bin/sh
# Makes .venv with the pinned versions: tools/venv.sh STAMP PIP-ARGUMENTS. Installs what Debian must give, where it may.
set -eu
stamp=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

# "Where it may": as root, on a machine with apt. Elsewhere it says what is missing.
debian() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing from Debian: $*"
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        echo "missing: $*; install with: apt-get install $*" >&2
        return 1
    fi
}

if ! command -v python3 >/dev/null 2>&1; then
    debian python3 python3-venv
fi
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "python3 is older than 3.11, which this project needs" >&2
    exit 1
fi
if ! [ -x .venv/bin/pip ]; then
    rm -rf .venv
    python3 -m venv .venv 2>/dev/null || { rm -rf .venv; debian python3-venv && python3 -m venv .venv; }
fi
# LightGBM's wheel takes OpenMP's library from the system.
if ! .venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; then
    debian libgomp1
fi
# Dependency groups need a newer pip than Debian's.
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt pip
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "$@"
mkdir -p "$(dirname "$stamp")"
touch "$stamp"
