"""The client against a real server: who may what, what was changed meanwhile, a server that is asked too often, jobs, docs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.lives import observe
from tests.api.serving import SPEC, Serving, served
from tests.client.answering import ask

from adumbra.api.context import Care
from adumbra.client import Access, Client
from adumbra.schema.access import NewUser, Role
from adumbra.schema.errors import (
    AccessError,
    AdumbraError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    TooLittleDataError,
)
from adumbra.schema.jobs import JobKind, JobState
from adumbra.schema.problems import plain_of

DOCS = Path(__file__).parents[2] / "docs" / "client.md"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home")) as running:
        running.make("shop")
        observe(running, "shop")
        yield running


def client(serving: Serving, token: str) -> Client:
    return Client(access=Access(serving.url, token, give_up_s=0.0))


def test_who_may_not_is_told_so_and_learns_nothing(serving: Serving) -> None:
    with client(serving, serving.token(Role.VIEWER, "shop")) as asked:
        assert [network.name for network in asked.networks()] == ["shop"]
        with pytest.raises(ForbiddenError, match="and this needs operator; ask an administrator"):
            asked.train("shop")
        with pytest.raises(NotFoundError):
            asked.network("other")
    with client(serving, "adu_" + "x" * 43) as asked, pytest.raises(AccessError, match="not accepted; make one with"):
        asked.network("shop")
    with client(serving, "") as asked, pytest.raises(AccessError, match="asks who you are; give a token by ADUMBRA_TOKEN"):
        asked.network("shop")


def test_a_command_tells_of_that_in_one_line(serving: Serving) -> None:
    token = serving.token(Role.VIEWER)
    said = ask({"ADUMBRA_SERVER": serving.url, "ADUMBRA_TOKEN": token}, "train", "shop")
    assert said.status == 1
    assert "this needs operator" in said.told
    said = ask({"ADUMBRA_SERVER": serving.url, "ADUMBRA_TOKEN": f"{token}x"}, "network", "list")
    assert (said.status, token in said.told) == (1, False)


def test_tokens_and_users_are_made_through_the_server(serving: Serving) -> None:
    environment = {"ADUMBRA_SERVER": serving.url, "ADUMBRA_TOKEN": serving.token(Role.ADMIN)}
    made = json.loads(ask(environment, "token", "create", "grafana", "--network", "shop", "-o", "json").shown)
    assert (made["name"], made["role"], made["networks"], made["state"]) == ("grafana", "viewer", ["shop"], "holds")
    with client(serving, made["secret"]) as asked:
        assert asked.network("shop").name == "shop"
    listed = json.loads(ask(environment, "token", "list", "-o", "json").shown)
    assert made["id"] in [each["id"] for each in listed]
    assert "secret" not in listed[0]
    assert json.loads(ask(environment, "token", "revoke", str(made["id"]), "-o", "json").shown)["state"] == "revoked"
    with client(serving, made["secret"]) as asked, pytest.raises(AccessError):
        asked.network("shop")
    with client(serving, environment["ADUMBRA_TOKEN"]) as asked:
        assert asked.add_user(NewUser("ada", Role.OPERATOR, ("shop",)), "a long one, of 12 characters").name == "ada"
        assert asked.set_disabled("ada", disabled=True).disabled_ns is not None
        assert asked.set_disabled("ada", disabled=False).disabled_ns is None
        assert asked.set_rights("ada", Role.VIEWER).networks is None
        asked.set_password("ada", "another long one, of 12 characters")
    assert [each["name"] for each in json.loads(ask(environment, "user", "list", "-o", "json").shown)] == ["ada"]


def test_a_network_that_was_changed_meanwhile_stays(serving: Serving) -> None:
    with client(serving, serving.token(Role.OPERATOR)) as asked:
        made = asked.create_network(SPEC.format(name="twice"))
        again = asked.update_network("twice", SPEC.format(name="twice").replace("count: 2", "count: 1"), made.record.version)
        assert again.record.version == made.record.version + 1
        with pytest.raises(PreconditionError):
            asked.update_network("twice", SPEC.format(name="twice"), made.record.version)
        assert len(asked.network("twice").vms) == 2
        with pytest.raises(ConflictError):
            asked.create_network(SPEC.format(name="twice"))
        asked.delete_network("twice")


def test_whoever_asks_too_often_waits_or_is_told(tmp_path: Path) -> None:
    with served(tmp_path, care=Care(requests_per_s=2.0, burst=3)) as serving:
        token = serving.token(Role.VIEWER)
        with Client(access=Access(serving.url, token, give_up_s=30.0)) as patient:
            assert [len(list(patient.networks())) for _ in range(6)] == [0] * 6
        with client(serving, token) as asked, pytest.raises(AdumbraError) as raised:
            [list(asked.networks()) for _ in range(20)]
    assert raised.value.exit_status == 1
    assert raised.value.mend


def test_a_job_is_followed_and_its_error_is_the_very_one(serving: Serving) -> None:
    jobs = serving.workspace.state.jobs
    with client(serving, serving.token(Role.OPERATOR)) as asked:
        job = asked.train("shop", seed=3)
        assert (job.kind, job.state, dict(job.asked)) == (JobKind.TRAIN, JobState.QUEUED, {"seed": 3})
        told: list[tuple[float | None, str]] = []

        def tell(share: float | None, doing: str) -> None:
            told.append((share, doing))
            if len(told) == 1:
                jobs.take(job.id, serving.server.now())
                jobs.tell(job.id, 0.5, "half of it")
            elif doing == "half of it":
                jobs.finish(job.id, JobState.DONE, serving.server.now(), {"version": 1})

        assert asked.follow(job, tell).result == {"version": 1}
        assert (0.5, "half of it") in told
        failing = asked.train("shop")
        error = TooLittleDataError("nothing was observed", "observe it")
        jobs.finish(failing.id, JobState.FAILED, serving.server.now(), {"problem": plain_of(error)}, str(error))
        with pytest.raises(TooLittleDataError, match="nothing was observed; observe it"):
            asked.follow(failing)
        dropped = asked.train("shop")
        assert asked.cancel(dropped).state is JobState.CANCELLED
        with pytest.raises(AdumbraError, match=r"train of shop, was cancelled"):
            asked.follow(dropped)


def test_the_example_of_the_docs_runs(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.setenv("ADUMBRA_TOKEN", serving.token(Role.OPERATOR))
    exec(compile(code.replace("https://adumbra.example:8642", serving.url), str(DOCS), "exec"), {})
    assert "shop is shadowing: web-1, web-2, db" in capsys.readouterr().out
