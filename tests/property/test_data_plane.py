"""Whatever is offered, the data plane takes it, reads nothing beyond it, and its accounts balance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.captures import SHARED, corpus, needs_shared
from tests.property import data_plane

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process says in which every index is checked. Its kernels have a cache of their own: the key lacks the flag."""
    cache = Path(tempfile.gettempdir()) / f"adumbra-boundscheck-{os.getuid()}"
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.property.data_plane", str(tmp_path_factory.mktemp("damaged"))]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def test_the_checks_are_on() -> None:
    """Without them an index beyond an array is silent: this shows that the other tests would notice."""
    script = "import numpy as np\nfrom numba import njit\nprint(njit(lambda a, i: a[i])(np.zeros(3), 5))"
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert "IndexError" in run.stderr


def test_mutated_frames_of_every_link_type(checked: dict[str, Any]) -> None:
    assert checked["mutations"] == {"frames": 30_000, "wrong": [""]}
    assert data_plane.mutations(13, 30_000) == {"frames": 30_000, "wrong": [""]}


def test_damaged_files(checked: dict[str, Any], tmp_path: Path) -> None:
    for told in (checked["files"], data_plane.damaged_files(14, 400, tmp_path)):
        assert sum(told.values()) == 400
        assert min(told.values()) > 0


@needs_shared
def test_every_capture_of_the_corpora(checked: dict[str, Any]) -> None:
    rows = data_plane.captures()
    assert [row for row in rows if row["wrong"]] == []
    assert len([path for path in corpus() if path.parent == SHARED / "tcpdump-tests"]) == 830
    assert checked["captures"] == rows
    assert sum(row["frames"] for row in rows) > 60_000
