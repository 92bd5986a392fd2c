#!/bin/sh
# Installs libvirt's Python library into the environment of tools/libvirt.sh PYTHON. It is compiled against Debian's libvirt, so it
# comes after tools/debian.sh. Never fails: what takes it is skipped without it, and says so.
set -u
"$1" -c 'import libvirt, pycdlib' 2>/dev/null && exit 0
cd "$(dirname "$0")/.." || exit 0
echo "compiling libvirt's Python library"
"$1" -m pip install --quiet --disable-pip-version-check -c constraints.txt libvirt-python pycdlib ||
    echo "libvirt's Python library can't be had; what takes it is skipped" >&2
exit 0
