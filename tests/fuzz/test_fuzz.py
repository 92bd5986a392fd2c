"""What fuzzing has found worth keeping harms nobody, compiled; and a few seconds of fuzzing find nothing that does."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.fuzz import records, targets

CORPUS = Path(__file__).parent / "corpus"
ROOT = CORPUS.parents[2]
MOST_FILES, MOST_BYTES = 300, 300_000
SECONDS = 8


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meters as small as those that were fuzzed."""
    for module, name, least in records.SMALL:
        monkeypatch.setattr(module, name, least)


def corpus(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def replay(name: str) -> None:
    for path in corpus(name):
        try:
            targets.run(name, path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{name}/{path.name}") from error


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus_harms_no_compiled_kernel_and_memory_stays(name: str, small: None) -> None:
    replay(name)
    before = resident_bytes()
    replay(name)
    replay(name)
    assert resident_bytes() - before < 16 << 20


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus_is_small_and_named_by_its_content(name: str) -> None:
    paths = corpus(name)
    assert 0 < len(paths) <= MOST_FILES
    assert sum(path.stat().st_size for path in paths) <= MOST_BYTES
    for path in paths:
        content = path.read_bytes()
        assert len(content) <= targets.MOST_BYTES
        assert path.name == sha1(content, usedforsecurity=False).hexdigest()


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python and machine")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_few_seconds_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    options = [f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", "tests.fuzz.fuzz", name, *options]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "DONE" in run.stderr
