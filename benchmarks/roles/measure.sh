#!/usr/bin/env bash
# Measures what each role costs (root; about 20 minutes). See README.md.
set -euo pipefail
exec /usr/bin/python3 -B "$(dirname "${BASH_SOURCE[0]}")/measure.py" "$@"
