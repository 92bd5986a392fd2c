"""Who may act: passwords as they are kept and tried, what is bounded, whose rights cover whose, what the log leaves out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adumbra.schema.access import ActFilter, NewToken, NewUser, Principal, Role, Through
from adumbra.schema.errors import AccessError, BusyError, ConflictError, ForbiddenError, InputError, NotFoundError
from adumbra.service import access
from adumbra.service.workspace import Storage, Workspace
from adumbra.store import access as kept_access
from adumbra.store.database import VEIL, veiled

PASSWORD = "correct horse battery staple"
NOW = 1_800_000_000 * 10**9


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("home")) as opened:
        yield opened


def test_passwords_are_hashed_as_rfc_9106_recommends() -> None:
    kept = access.hash_password(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert access.hash_password(PASSWORD) != kept
    _, _, _, _, salt, digest = kept.split("$")
    assert (len(salt), len(digest)) == (22, 43)  # 16 and 32 bytes
    for wrong in ("", "x" * 11, "x" * 1_001):
        with pytest.raises(InputError, match="give 12 to 1000 characters"):
            access.hash_password(wrong)
    assert access.hash_password("pass\udcffword \u2603 \x00 and more")


def test_a_password_of_other_parameters_is_hashed_anew_when_it_is_right(workspace: Workspace) -> None:
    from argon2 import PasswordHasher

    access.add_user(workspace, NewUser("old", Role.VIEWER), PASSWORD, NOW)
    workspace.state.access.set_password("old", PasswordHasher(1, 8_192, 1).hash(PASSWORD))
    with pytest.raises(AccessError):
        access.sign_in(workspace, "old", "wrong wrong wrong", NOW)
    first = access.sign_in(workspace, "old", PASSWORD, NOW)
    found = workspace.state.access.user("old")
    assert found is not None
    assert "m=65536,t=3,p=4" in found[1]
    access.sign_in(workspace, "old", PASSWORD, NOW)
    assert access.by_session(workspace, first.secret, NOW)[0].name == "old"  # which ends no sign-in


def test_a_name_that_is_not_there_costs_what_a_wrong_password_costs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try, whatever is wrong with it, makes one hash, of the same parameters: what takes the time is the same."""
    access.add_user(workspace, NewUser("there", Role.VIEWER), PASSWORD, NOW)
    access.add_user(workspace, NewUser("off", Role.VIEWER), PASSWORD, NOW)
    workspace.state.access.set_disabled("off", NOW)
    access.add_user(workspace, NewUser("by-oidc", Role.VIEWER, None, "issuer|sub"), None, NOW)
    access._nobody()
    hashed: list[str] = []

    class Counting:
        def verify(self, kept: str, password: bytes) -> bool:
            hashed.append(kept.rsplit("$", 2)[0])
            return access.__dict__["_real"].verify(kept, password)  # type: ignore[no-any-return]

    monkeypatch.setitem(access.__dict__, "_real", access._hasher())
    monkeypatch.setattr(access, "_hasher", Counting)
    told = set()
    for name in ("there", "nobody", "off", "by-oidc", "x" * 100, ""):
        with pytest.raises(AccessError) as refusal:
            access.sign_in(workspace, name, "wrong wrong wrong", NOW)
        told.add(str(refusal.value))
    assert hashed == ["$argon2id$v=19$m=65536,t=3,p=4"] * 6
    assert len(told) == 1


def test_so_many_passwords_are_hashed_at_a_time(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    monkeypatch.setattr(access, "HASH_WAIT_S", 0.05)
    turns = threading.BoundedSemaphore(2)
    monkeypatch.setattr(access, "_HASHING", turns)
    access._nobody()
    with turns:
        access.hash_password(PASSWORD)
        with turns, pytest.raises(BusyError, match="too many sign in at this moment; try again"):
            access.sign_in(workspace, "nobody", PASSWORD, NOW)
    access.hash_password(PASSWORD)


def test_tokens_that_hold_no_more_make_room_and_those_that_hold_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(kept_access, "MAX_TOKENS", 3)
    monkeypatch.setattr(kept_access, "MAX_USERS", 1)
    with Workspace(tmp_path) as workspace:
        ended = access.issue(workspace, NewToken("ended", Role.VIEWER, None, NOW + 1), NOW)
        revoked = access.issue(workspace, NewToken("revoked", Role.VIEWER), NOW)
        holds = access.issue(workspace, NewToken("holds", Role.VIEWER), NOW)
        workspace.state.access.revoke_token(revoked.record.id, NOW)
        for _ in range(2):
            access.issue(workspace, NewToken("new", Role.VIEWER), NOW + 10)
        assert {each.name for each in workspace.state.access.tokens()} == {"holds", "new"}
        with pytest.raises(ConflictError, match="revoke those that nobody uses"):
            access.issue(workspace, NewToken("new", Role.VIEWER), NOW + 10)
        assert access.by_token(workspace, holds.secret, NOW + 10).name == "holds"
        assert ended.record.id not in {each.id for each in workspace.state.access.tokens()}
        access.add_user(workspace, NewUser("one", Role.VIEWER), PASSWORD, NOW)
        with pytest.raises(ConflictError, match="no room for more"):
            access.add_user(workspace, NewUser("two", Role.VIEWER), PASSWORD, NOW)


def test_so_many_sign_ins_of_a_user_are_kept(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        user = access.add_user(workspace, NewUser("ada", Role.VIEWER), None, NOW)
        made = [access.signed_in(workspace, user, NOW + i) for i in range(103)]
        for gone in made[:3]:
            with pytest.raises(AccessError, match="you are not signed in"):
                access.by_session(workspace, gone.secret, NOW + 200)
        assert access.by_session(workspace, made[3].secret, NOW + 200)[0].name == "ada"


COVERS = [
    (Role.ADMIN, None, Role.ADMIN, None, True), (Role.ADMIN, None, Role.VIEWER, ("a",), True),
    (Role.ADMIN, ("a", "b"), Role.ADMIN, ("a",), True), (Role.ADMIN, ("a", "b"), Role.VIEWER, ("a", "b"), True),
    (Role.ADMIN, ("a",), Role.VIEWER, None, False), (Role.ADMIN, ("a",), Role.VIEWER, ("b",), False),
    (Role.ADMIN, ("a",), Role.VIEWER, ("a", "b"), False), (Role.OPERATOR, None, Role.ADMIN, ("a",), False),
    (Role.OPERATOR, None, Role.VIEWER, ("a",), True),
]  # fmt: skip


@pytest.mark.parametrize(("role", "networks", "given", "of", "wanted"), COVERS)
def test_rights_cover_what_is_within_them(role: Role, networks: Any, given: Role, of: Any, wanted: bool) -> None:
    who = Principal("who", role, networks, Through.TOKEN)
    assert who.covers(given, of) is wanted
    if wanted:
        access.check_gives(who, given, of)
    else:
        with pytest.raises(ForbiddenError, match="can give no rights beyond these"):
            access.check_gives(who, given, of)


def test_whoever_began_something_long_goes_on_while_they_hold(workspace: Workspace) -> None:
    token = access.issue(workspace, NewToken("long", Role.VIEWER, None, NOW + 100), NOW)
    by_token = access.by_token(workspace, token.secret, NOW)
    assert access.now_of(workspace, by_token, NOW)
    assert not access.now_of(workspace, by_token, NOW + 100)
    workspace.state.access.revoke_token(token.record.id, NOW)
    assert not access.now_of(workspace, by_token, NOW)
    user = access.add_user(workspace, NewUser("long", Role.VIEWER), None, NOW)
    by_session = access.by_session(workspace, access.signed_in(workspace, user, NOW).secret, NOW)[0]
    assert access.now_of(workspace, by_session, NOW)
    assert not access.now_of(workspace, by_session, NOW + access.SESSION_S * 10**9)
    access.disable(workspace, access.local_user(), "long", NOW)
    assert not access.now_of(workspace, by_session, NOW)
    assert access.now_of(workspace, access.local_user(), NOW)


def test_two_of_the_same_name_share_nothing() -> None:
    marks = {Principal("a", Role.VIEWER, None, Through.TOKEN, token_id=i).mark for i in (1, 2)}
    marks |= {
        Principal("a", Role.VIEWER, None, Through.SESSION, user_id=1).mark,
        Principal("a", Role.VIEWER, None, Through.LOCAL).mark,
    }
    assert len(marks) == 4


def test_the_log_leaves_out_what_is_secret_by_its_name() -> None:
    told = {
        "password": "p", "options": [{"bearer_token": "t", "url": "u", "api_key": "k"}], "token": "", "tokens": 3,
        "client_secret": {"a": 1}, "name": "secretary",
    }  # fmt: skip
    assert veiled(told) == {
        "password": VEIL, "options": [{"bearer_token": VEIL, "url": "u", "api_key": VEIL}], "token": "", "tokens": 3,
        "client_secret": VEIL, "name": "secretary",
    }  # fmt: skip


def test_a_user_whom_a_provider_knows_is_found_by_that_and_nothing_else(workspace: Workspace) -> None:
    made = access.external_user(workspace, NewUser("oda", Role.VIEWER, ("shop",), "https://i|1"), NOW)
    again = access.external_user(workspace, NewUser("renamed", Role.OPERATOR, None, "https://i|1"), NOW)
    assert (again.id, again.name, again.role, again.networks) == (made.id, "oda", Role.OPERATOR, None)
    with pytest.raises(ConflictError):
        access.external_user(workspace, NewUser("oda", Role.ADMIN, None, "https://i|2"), NOW)
    with pytest.raises(NotFoundError):
        access.user(workspace, "renamed")


@pytest.mark.parametrize("networks", [(), ("x",) * 1_001, ("UPPER",), ("",), ("a b",)])
def test_networks_that_can_be_none_are_refused(workspace: Workspace, networks: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        access.issue(workspace, NewToken("a", Role.VIEWER, networks), NOW)
    with pytest.raises(InputError):
        access.add_user(workspace, NewUser("a", Role.VIEWER, networks), None, NOW)


def test_access_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    """What the API and the commands do, on the database that several servers share."""
    with Workspace(tmp_path, Storage(state=postgresql_url)) as workspace:
        act = access.LocalAct(workspace, "adumbra token create", NOW)
        made = act.make(lambda: access.issue(workspace, NewToken("pg", Role.ADMIN), NOW), {"name": "pg", "secret": "s"})
        assert access.by_token(workspace, made.secret, NOW).token_id == made.record.id
        user = access.external_user(workspace, NewUser("pg", Role.VIEWER, ("shop",), "https://i|pg"), NOW)
        assert access.external_user(workspace, NewUser("pg", Role.ADMIN, None, "https://i|pg"), NOW).id == user.id
        signed = access.signed_in(workspace, user, NOW, "192.0.2.1")
        assert access.now_of(workspace, access.by_session(workspace, signed.secret, NOW)[0], NOW)
        with pytest.raises(ConflictError):
            access.external_user(workspace, NewUser("pg", Role.ADMIN, None, "https://i|other"), NOW)
        (sign_in,) = workspace.state.access.acts(ActFilter(through=Through.SESSION, what="sign in", since_ns=NOW))
        assert (sign_in.who, sign_in.origin, sign_in.by_id) == ("pg", "192.0.2.1", user.id)
        (created,) = workspace.state.access.acts(ActFilter(what="adumbra token", until_ns=NOW + 1))
        assert created.asked == {"name": "pg", "secret": VEIL}
        assert workspace.state.access.acts(ActFilter(("shop",), of_networks=True)) == ()
        assert [each.id for each in access.tokens_for(workspace, access.local_user(), 10)] == [made.record.id]
        assert workspace.state.access.revoke_token(made.record.id, time.time_ns()).revoked_ns is not None
