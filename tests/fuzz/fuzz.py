"""Fuzzes one target, guided by coverage: python -m tests.fuzz.fuzz TARGET [FOLDER] [libFuzzer's options]. Needs atheris.

The kernels run uncompiled. The corpus in tests/fuzz/corpus/TARGET is read, never written: what a run finds goes to FOLDER, or
nowhere. An input that takes over 5 seconds, or memory that grows by 800 MB, is a failure like any other. As Atheris itself
loses some 40 KB an input, a long run is one of many with -runs=12000.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris

with atheris.instrument_imports(include=["adumbra.tap", "adumbra.decode", "adumbra.meter"]):
    from tests.fuzz import records, targets

CORPUS = Path(__file__).parent / "corpus"
BEGUN_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # the highest so far, that of who began this included
BOUNDS = ("-timeout=5", f"-rss_limit_mb={BEGUN_MB + 800}", f"-max_len={targets.MOST_BYTES}")


def mutated(name: str, data: bytes, most: int, seed: int) -> bytes:
    """The input changed anywhere, or, of what is cut into pieces, mostly one piece of it, so that the others stay whole."""
    chance = random.Random(seed)
    parts = targets.pieces(name, data) if name in targets.IN_PIECES and data else []
    if not parts or chance.random() < 0.2:
        return bytes(atheris.Mutate(data, most))
    act = chance.choice(("change", "change", "change", "change", "drop", "double", "swap", "first"))
    at, first = chance.randrange(len(parts)), data[0]
    if act == "change":
        parts[at] = bytes(atheris.Mutate(parts[at], max(len(parts[at]), min(256, most))))
    elif act == "drop":
        del parts[at]
    elif act == "double":
        parts.insert(chance.randrange(len(parts) + 1), parts[at])
    elif act == "first":
        first = chance.randrange(256)
    else:
        other = chance.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    return targets.joined(name, first, parts)[:most]


def main() -> None:
    name, *given = sys.argv[1:]
    found = [each for each in given if not each.startswith("-")]
    records.let_python_read_records()
    records.be_small()

    def tried(data: bytes) -> None:
        targets.run(name, data)

    with tempfile.TemporaryDirectory() as nowhere:
        folders = [*(found or [nowhere]), str(CORPUS / name)]  # libFuzzer writes to the first
        options = [each for each in given if each.startswith("-")]
        again = f"{sys.executable} -m tests.fuzz.fuzz {name}"  # what libFuzzer runs for its parts, as of -merge=1
        atheris.Setup(
            [again, *BOUNDS, *options, *folders],
            tried,
            custom_mutator=lambda data, most, seed: mutated(name, data, most, seed),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
