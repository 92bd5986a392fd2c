"""Commands asked in this process, with a home of their own: what they print, and what their JSON says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from adumbra.cli.main import app


def shown(home: Path, *arguments: str) -> str:
    done = CliRunner(env={"ADUMBRA_HOME": str(home), "COLUMNS": "100"}).invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def told(home: Path, *arguments: str) -> Any:
    return json.loads(shown(home, *arguments, "-o", "json"))
