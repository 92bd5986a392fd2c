"""The OpenAPI says what the API does: schemathesis asks a real server by it, with all of its checks.

SCHEMATHESIS_EXAMPLES=50 tries more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.serving import Serving, served

from adumbra.api.context import Care
from adumbra.schema.access import Role

CONFIG = """
headers = {{ Authorization = "Bearer ${{ADUMBRA_TEST_TOKEN}}" }}
request-timeout = 30
[generation]
max-examples = {examples}
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
    with served(home, care=Care(stream_s=0.05)) as running:
        yield running


def test_what_is_asked_by_the_openapi_is_answered_by_it(quick: Serving, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "st"
    if not program.exists():
        pytest.skip("schemathesis is not installed")
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(examples=os.environ.get("SCHEMATHESIS_EXAMPLES", "2")))
    command = [
        str(program), "--config-file", "schemathesis.toml", "run", f"{quick.url}/v1/openapi.json", "--checks", "all", "--seed",
        "1", "--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none",
    ]  # fmt: skip
    environment = os.environ | {"ADUMBRA_TEST_TOKEN": quick.token(Role.ADMIN), "NO_PROXY": "127.0.0.1"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
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
