"""Runs the corpus through its targets, the kernels uncompiled, and prints what was told of each input, as JSON of hashes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def replay(name: str) -> dict[str, str]:
    """What a target told of each input of its corpus. Raises AssertionError with the input's name where it fails."""
    from tests.fuzz import targets

    told = {}
    for path in sorted((CORPUS / name).iterdir()):
        try:
            told[path.name] = targets.run(name, path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{name}/{path.name}") from error
    return told


if __name__ == "__main__":
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    from tests.fuzz import records, targets

    records.let_python_read_records()
    records.be_small()
    sys.stdout.write(json.dumps({name: replay(name) for name in targets.TARGETS}))
