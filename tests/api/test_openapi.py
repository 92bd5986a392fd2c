"""The OpenAPI says what the API does: schemathesis asks a real server by it, with all of its checks.

Each time every operation by a few examples, and by what its description covers of good requests; with THOROUGH=1 by many,
and by what it covers of bad ones too. --examples N tries N of each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.api.hashing import cheap_hashes
from tests.api.serving import AT_EASE, Serving, served
from tests.thorough import THOROUGH, tries

from adumbra.schema.access import Principal, Role, Through

SECRET = f"adu_{'s' * 43}"
CONFIG = """
headers = {{ Authorization = "Bearer ${{ADUMBRA_TEST_TOKEN}}" }}
request-timeout = 120
[generation]
max-examples = {examples}
[phases.coverage.generation]
mode = "{covered}"
[checks.positive_data_acceptance]
# What is well-formed may still be wrong, or come too late: a spec is a text with rules of its own, an ETag gets old.
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "429"]
[phases.stateful]
enabled = false
[phases.coverage]
unexpected-methods = ["PATCH"]
"""


@pytest.fixture(scope="module")
def quick(lived_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server whose streams end at once."""
    home = tmp_path_factory.mktemp("openapi") / "home"
    shutil.copytree(lived_home, home)
    given = {"care": replace(AT_EASE, stream_s=0.05), "exposition": lambda: b"up 1\n", "insider": _insider}
    with cheap_hashes(), served(home, **given) as running:
        yield running


def _insider(secret: str) -> Principal | None:
    """Whoever asks here has a token that no request can revoke: else all that comes after it would be refused."""
    return Principal("schemathesis", Role.ADMIN, None, Through.LOCAL) if secret == SECRET else None


def test_what_is_asked_by_the_openapi_is_answered_by_it(quick: Serving, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    program = Path(sysconfig.get_path("scripts")) / "st"
    if not program.exists():
        pytest.skip("schemathesis is not installed")
    examples = pytestconfig.getoption("--examples") or tries(1, 50)
    config = CONFIG.format(examples=examples, covered="all" if THOROUGH else "positive")
    (tmp_path / "schemathesis.toml").write_text(config)
    # Both take their time on a busy machine: the description is written, and the first answer's kernels are compiled.
    patient = httpx.Timeout(300.0)
    (tmp_path / "openapi.json").write_bytes(quick.nobody().get("/v1/openapi.json", timeout=patient).content)
    assert quick.viewer().post("/v1/networks/shop/whatif", json={}, timeout=patient).status_code in {200, 202}
    command = [
        str(program), "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", quick.url, "--checks", "all",
        "--seed", os.environ.get("SCHEMATHESIS_SEED", "1"), "--phases", "examples,coverage,fuzzing", "--no-color",
        "--generation-database", "none",
    ]  # fmt: skip
    environment = os.environ | {
        "ADUMBRA_TEST_TOKEN": SECRET, "NO_PROXY": "127.0.0.1",
        "SCHEMATHESIS_HOOKS": "tests.api.openapi_hooks", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    (tmp_path / "told.txt").write_text(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]


def test_every_operation_says_what_it_does_who_may_and_what_may_go_wrong(quick: Serving) -> None:
    told = quick.nobody().get("/v1/openapi.json").json()
    names = []
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            if path.startswith("/v1/") and operation["operationId"] != "sessions_sign_in":
                assert operation["security"], (method, path)
                assert {"401", "403", "404", "422", "503"} <= operation["responses"].keys()
                assert set(operation["responses"]["404"]["content"]) == {"application/problem+json"}, (method, path)
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+_[a-z_]+", name) for name in names)
    assert "trainings_train" in names
    assert re.search(r"adu_[A-Za-z0-9]{20}", str(told)) is None
