"""What fuzzing has found worth keeping harms nobody, compiled; and a few seconds of fuzzing find nothing that does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.fuzz import records, targets
from tests.fuzz.replay import CORPUS, replay
from tests.thorough import tries

ROOT = CORPUS.parents[2]
MOST_FILES, MOST_BYTES = 400, 300_000
SECONDS = tries(4, thorough=60)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meters as small as those that were fuzzed."""
    for module, name, least in records.SMALL:
        monkeypatch.setattr(module, name, least)


def process(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def uncompiled() -> dict[str, dict[str, str]]:
    """What the uncompiled kernels, whose every index is checked, told of each input."""
    run = process("tests.fuzz.replay")
    assert run.returncode == 0, run.stderr[-3000:]
    told: dict[str, dict[str, str]] = json.loads(run.stdout)
    return told


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_compiled_kernels_tell_the_same_of_the_corpus_and_memory_stays(
    name: str, small: None, uncompiled: dict[str, dict[str, str]]
) -> None:
    assert replay(name) == uncompiled[name]
    before = resident_bytes()
    for _ in range(3):
        replay(name)
    assert resident_bytes() - before < 16 << 20


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus_is_small_and_named_by_its_content(name: str) -> None:
    paths = list((CORPUS / name).iterdir())
    assert 0 < len(paths) <= MOST_FILES
    assert sum(path.stat().st_size for path in paths) <= MOST_BYTES
    for path in paths:
        content = path.read_bytes()
        assert len(content) <= targets.MOST_BYTES
        assert path.name == sha1(content, usedforsecurity=False).hexdigest()


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python and machine")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_few_seconds_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    run = process("tests.fuzz.fuzz", name, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "DONE" in run.stderr
