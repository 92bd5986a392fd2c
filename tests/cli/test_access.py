"""`adumbra token` and `adumbra user`: what they print, what they keep, and that no password is an argument."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.asking import told
from typer.testing import CliRunner

from adumbra.cli.main import app
from adumbra.schema.access import Role, Through
from adumbra.schema.errors import AccessError, AdumbraError, ConflictError, InputError, NotFoundError
from adumbra.service import access
from adumbra.service.workspace import Workspace

PASSWORD = "correct horse battery staple"


def said(home: Path, *arguments: str, given: str = "") -> Any:
    """What a command prints as JSON, with that on its standard input."""
    done = CliRunner(env={"ADUMBRA_HOME": str(home)}).invoke(app, [*arguments, "-o", "json"], input=given)
    if isinstance(done.exception, AdumbraError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    made = told(tmp_path, "token", "create", "grafana", "--network", "shop", "--network", "lab", "--expires", "90d")
    assert (made["role"], made["networks"], made["state"]) == ("viewer", ["shop", "lab"], "holds")
    with Workspace(tmp_path) as workspace:
        who = access.by_token(workspace, made["secret"], time.time_ns())
        assert (who.role, who.networks) == (Role.VIEWER, ("shop", "lab"))
        assert access.first_token(workspace, time.time_ns()) is None  # somebody may act already
    listed = told(tmp_path, "token", "list")
    assert [each["name"] for each in listed] == ["grafana"]
    assert "secret" not in listed[0]
    assert told(tmp_path, "token", "revoke", str(made["id"]))["state"] == "revoked"
    assert told(tmp_path, "token", "list") == []
    assert [each["state"] for each in told(tmp_path, "token", "list", "--all")] == ["revoked"]
    with Workspace(tmp_path) as workspace, pytest.raises(AccessError):
        access.by_token(workspace, made["secret"], time.time_ns())
    with pytest.raises(NotFoundError, match="there is no token 99; `adumbra token list` shows"):
        said(tmp_path, "token", "revoke", "99")
    with pytest.raises(InputError, match="--expires"):
        said(tmp_path, "token", "create", "x", "--expires", "soon")


def test_the_table_shows_the_secret_whole(tmp_path: Path) -> None:
    done = CliRunner(env={"ADUMBRA_HOME": str(tmp_path), "COLUMNS": "30"}).invoke(app, ["token", "create", "x"])
    assert done.exit_code == 0
    secret = next(line for line in done.stdout.splitlines() if line.startswith("adu_"))
    with Workspace(tmp_path) as workspace:
        assert access.by_token(workspace, secret, time.time_ns()).name == "x"
    assert "this is the one time that the secret is shown" in done.stderr


def test_a_user_is_added_given_rights_disabled_and_let_in_again(tmp_path: Path) -> None:
    made = said(tmp_path, "user", "add", "ada", "--role", "operator", "--network", "shop", given=f"{PASSWORD}\n")
    assert (made["name"], made["role"], made["networks"], made["disabled"]) == ("ada", "operator", ["shop"], None)
    with Workspace(tmp_path) as workspace:
        access.sign_in(workspace, "ada", PASSWORD, time.time_ns())
    assert said(tmp_path, "user", "rights", "ada", "--role", "viewer")["networks"] is None
    assert said(tmp_path, "user", "disable", "ada")["disabled"] is not None
    with Workspace(tmp_path) as workspace, pytest.raises(AccessError):
        access.sign_in(workspace, "ada", PASSWORD, time.time_ns())
    assert said(tmp_path, "user", "enable", "ada")["disabled"] is None
    done = CliRunner(env={"ADUMBRA_HOME": str(tmp_path)}).invoke(app, ["user", "password", "ada"], input="another long one\r\n")
    assert done.exit_code == 0, done.output
    with Workspace(tmp_path) as workspace:
        access.sign_in(workspace, "ada", "another long one", time.time_ns())
    assert [each["name"] for each in said(tmp_path, "user", "list")] == ["ada"]
    with pytest.raises(ConflictError, match="there is a user 'ada' already"):
        said(tmp_path, "user", "add", "ada", given=f"{PASSWORD}\n")
    for command in ("disable", "enable", "rights"):
        with pytest.raises(NotFoundError, match="there is no user 'bob'"):
            said(tmp_path, "user", command, "bob", *(["--role", "viewer"] if command == "rights" else []))


@pytest.mark.parametrize(
    ("given", "why"), [("", "no password came"), ("short\n", "5 characters"), ("\n", "0 characters|no password")]
)
def test_a_password_that_does_not_do_is_refused(tmp_path: Path, given: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        said(tmp_path, "user", "add", "ada", given=given)
    assert said(tmp_path, "user", "list") == []


def test_a_password_is_no_argument(tmp_path: Path) -> None:
    for arguments in (
        ["user", "add", "ada", PASSWORD],
        ["user", "add", "ada", "--password", PASSWORD],
        ["user", "password", "ada", "x"],
    ):
        assert CliRunner(env={"ADUMBRA_HOME": str(tmp_path)}).invoke(app, arguments).exit_code == 2


def test_at_a_terminal_a_password_is_asked_for_twice_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adumbra.cli import user

    answers = iter([PASSWORD, PASSWORD, PASSWORD, "another long one"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert user._password() == PASSWORD
    with pytest.raises(InputError, match="the two passwords are not the same"):
        user._password()


def test_what_is_done_here_is_in_the_log(tmp_path: Path) -> None:
    number = told(tmp_path, "token", "create", "x")["id"]
    told(tmp_path, "token", "revoke", str(number))
    said(tmp_path, "user", "add", "ada", given=f"{PASSWORD}\n")
    said(tmp_path, "user", "disable", "ada")
    with Workspace(tmp_path) as workspace:
        acts = workspace.state.access.acts()
    assert [each.what for each in reversed(acts)] == [
        "adumbra token create", "adumbra token revoke", "adumbra user add", "adumbra user disable",
    ]  # fmt: skip
    assert {each.through for each in acts} == {Through.LOCAL}
    assert all(each.who and each.origin for each in acts)
    assert all(each.after for each in acts)
    assert (acts[0].before or {})["disabled_ns"] is None
    assert PASSWORD not in repr(acts)


def test_what_other_commands_change_is_in_the_log_too(tmp_path: Path) -> None:
    spec = tmp_path / "shop.yaml"
    spec.write_text(
        "name: shop\ncidrs: [10.0.0.0/16]\nsubnets: [{name: a, cidr: 10.0.1.0/24}]\n"
        "vms: [{name: w, subnet: a, addresses: [10.0.1.1]}]\n"
    )
    told(tmp_path, "network", "create", str(spec))
    told(tmp_path, "network", "list")
    assert CliRunner(env={"ADUMBRA_HOME": str(tmp_path)}).invoke(app, ["network", "delete", "shop"]).exit_code == 0
    with Workspace(tmp_path) as workspace:
        acts = [(each.what, each.network, each.through) for each in reversed(workspace.state.access.acts())]
    assert acts == [("adumbra network create", "shop", Through.LOCAL), ("adumbra network delete", "shop", Through.LOCAL)]
