"""`adumbra report`: one page of a network, written whole, and refusals that say how to mend them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.service.lab import made_lab
from typer.testing import CliRunner

from adumbra.cli.main import app
from adumbra.schema.errors import InputError, NotFoundError
from adumbra.service.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("ADUMBRA_HOME", str(home))
    with Workspace(home) as opened:
        made_lab(opened)
    return home


def test_the_report_is_written_whole(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "lab.html"
    answer = CliRunner().invoke(app, ["report", "lab", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "written:" in answer.stderr
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.rstrip().endswith("</html>")
    assert "<script" not in text
    assert list(tmp_path.glob("*.new")) == []


def test_what_cannot_be_written_or_is_not_there_is_refused(home: Path, tmp_path: Path) -> None:
    for arguments, kind in (
        (["report", "lab", str(tmp_path)], InputError),
        (["report", "lab", str(tmp_path / "no" / "folder.html")], InputError),
        (["report", "nowhere", str(tmp_path / "x.html")], NotFoundError),
    ):
        answer = CliRunner().invoke(app, arguments)
        assert isinstance(answer.exception, kind), answer.output


def test_it_is_not_made_of_this_host_s_network_where_a_server_s_is_meant(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADUMBRA_SERVER", "http://127.0.0.1:1")
    answer = CliRunner().invoke(app, ["report", "lab", str(tmp_path / "x.html")])
    assert isinstance(answer.exception, InputError)
    assert "ADUMBRA_SERVER names a server" in str(answer.exception)
    assert not (tmp_path / "x.html").exists()
