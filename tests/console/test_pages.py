"""The pages without a browser: what somebody sees, what they may do, and that every change is logged with their name."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from nicegui import Client, core, ui
from nicegui.functions.download import download
from nicegui.functions.navigate import Navigate
from nicegui.functions.notify import notify
from nicegui.testing.general import prepare_simulation
from nicegui.testing.user import User
from tests.console.conftest import PASSWORD
from tests.service.lab import HOSTILE, SECONDS, SPEC, traffic

from adumbra.api import access as api_access
from adumbra.console import planner, rights
from adumbra.console.context import Console, Visitor
from adumbra.console.guard import COOKIE, Guard
from adumbra.console.pages import frontier, glance, register, tokens
from adumbra.console.parts import attach, plan
from adumbra.schema.access import ActFilter, ActRecord, NewToken, Principal, Role, Through
from adumbra.schema.errors import AccessError, AdumbraError, ConflictError, ForbiddenError, InputError, NotFoundError, SpecError
from adumbra.schema.jobs import JobKind, JobState, SourceState
from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import access, activations, captures, frontiers
from adumbra.service.workspace import Workspace

Story = Callable[[User], Awaitable[None]]


@contextlib.asynccontextmanager
async def _looking(workspace: Workspace, name: str) -> AsyncIterator[User]:
    """A user of NiceGUI's simulation who is signed in, behind the guard."""
    console = Console(workspace, time.time_ns)
    prepare_simulation()
    register()
    try:
        async with core.app.router.lifespan_context(core.app):
            transport = httpx.ASGITransport(Guard(core.app, console))  # type: ignore[arg-type]
            cookies = {COOKIE: access.sign_in(workspace, name, PASSWORD, time.time_ns()).secret}
            async with httpx.AsyncClient(transport=transport, base_url="http://test", cookies=cookies) as client:
                yield User(client)
    finally:
        ui.navigate, ui.notify, ui.download = Navigate(), notify, download
        Client.instances.clear()


def _as(workspace: Workspace, name: str, story: Story) -> None:
    async def run() -> None:
        async with _looking(workspace, name) as user:
            await story(user)

    asyncio.run(run())


def _acts(workspace: Workspace, network: str | None = None) -> list[ActRecord]:
    """What was done, newest first, but for signing in."""
    chosen = ActFilter(None if network is None else (network,))
    return [each for each in workspace.state.access.acts(chosen) if each.what != "sign in"]


def _visitor(workspace: Workspace, name: str) -> Visitor:
    console = Console(workspace, time.time_ns)
    signed = access.sign_in(workspace, name, PASSWORD, time.time_ns())
    who, session = access.by_session(workspace, signed.secret, time.time_ns())
    return Visitor(console, who, signed.secret, session.csrf, "127.0.0.1")


def test_the_networks_at_a_glance(lab: Workspace) -> None:
    async def story(user: User) -> None:
        await user.open("/")
        await user.should_see("$168")
        await user.should_see("Confidence")
        await user.should_see("5 min")
        await user.should_see('href="/networks/other"')
        await user.should_see("Create the network")

    _as(lab, "ada", story)


def test_a_viewer_of_one_network_sees_that_one_and_changes_nothing(lab: Workspace) -> None:
    async def story(user: User) -> None:
        await user.open("/")
        await user.should_see('href="/networks/lab"')
        await user.should_not_see('href="/networks/other"')
        await user.should_not_see("Create the network")
        await user.open("/networks/lab")
        await user.should_see("Sizes against what was declared")
        await user.should_see("c6a.large")
        await user.should_see("&lt;script&gt;")
        await user.should_not_see(HOSTILE)
        for button in ("Train", "Size the VMs", "Attach", "Activate…"):
            await user.should_not_see(kind=ui.button, content=button)

    _as(lab, "vera", story)


def test_a_network_is_created_from_a_pasted_spec_with_its_problems_by_line(lab: Workspace) -> None:
    fresh = SPEC.replace("name: lab", "name: fresh", 1)

    async def story(user: User) -> None:
        await user.open("/")
        (text,) = user.find(kind=ui.textarea).elements
        text.set_value(fresh.replace("subnet: back", "subnet: bakc"))
        await user.should_see("did you mean &#x27;back&#x27;?", retries=50)
        await user.should_see("Line 9")
        text.set_value(fresh)
        await user.should_see("is right", retries=50)
        user.find(kind=ui.button, content="Create the network").click()
        for _ in range(200):
            if any(each.name == "fresh" for each in lab.state.networks()):
                break
            await asyncio.sleep(0.05)
        await user.should_see("Topology, and what it carries now", retries=600)  # where they are led then

    _as(lab, "ada", story)
    (act,) = _acts(lab, "fresh")
    assert (act.who, act.what, act.subject, act.after) == ("ada", "console: create network", "network/fresh", {"version": 1})


def test_a_plan_that_waits_is_approved_by_an_administrator(lab: Workspace) -> None:
    whole = {"network": "lab", "provider": "terraform", "steps": [], "price_per_hour": 9.0, "approval": "it costs <much>"}
    number = lab.state.plans.ask("lab", whole, time.time_ns(), "it costs <much>").id

    async def onlooker(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_not_see(kind=ui.button, content="Approve it")

    async def story(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("waits for approval: it costs &lt;much&gt;", retries=100)
        await user.should_see(kind=ui.button, content="Approve it", retries=100)
        user.find(kind=ui.button, content="Approve it").click()
        for _ in range(200):
            if any("plan" in each.asked for each in lab.state.jobs.of("lab")):
                break
            await asyncio.sleep(0.05)

    _as(lab, "vera", onlooker)
    _as(lab, "ada", story)
    (job,) = [each for each in lab.state.jobs.of("lab") if "plan" in each.asked]
    assert (job.kind, job.asked, job.by) == (JobKind.ACTIVATE, {"provider": "terraform", "plan": number}, "ada")
    lab.state.jobs.finish(job.id, JobState.CANCELLED, time.time_ns())
    lab.state.plans.reject(number, "ada", time.time_ns())


@pytest.fixture
def deaf() -> Iterator[str]:
    """The URI of a hypervisor that takes a connection, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"qemu+tcp://127.0.0.1:{listening.getsockname()[1]}/system"


def _choose(user: User, provider: str) -> None:
    (chosen,) = [each for each in user.find(kind=ui.select).elements if "terraform" in each.options]
    chosen.set_value(provider)


async def _agree(user: User, words: str) -> None:
    """Presses a dialog's button, once the dialog is open."""
    for _ in range(100):
        if any(each.value for each in user.find(kind=ui.dialog).elements):
            break
        await asyncio.sleep(0.05)
    user.find(kind=ui.button, content=words).click()


def test_a_plan_is_made_by_whoever_is_chosen_and_what_fails_is_told_in_its_place(
    lab: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("ADUMBRA_LIBVIRT_URI", "qemu+unix:///system?socket=/nowhere")
    wrong = "connecting to qemu+unix:///system" if importlib.util.find_spec("libvirt") else "which isn&#x27;t installed"

    async def story(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("A dry run against what stands, by terraform", retries=100)
        await user.should_see(kind=ui.button, content="Activate…", retries=20)
        _choose(user, "libvirt")
        await user.should_see(wrong, retries=100)
        await user.should_not_see(kind=ui.button, content="Activate…")
        _choose(user, "terraform")
        await user.should_see("A dry run against what stands, by terraform", retries=100)
        user.find(kind=ui.button, content="Activate…").click()
        await user.should_see("by terraform.", retries=50)
        await _agree(user, "Carry out the plan")
        for _ in range(200):
            if lab.state.jobs.open():
                break
            await asyncio.sleep(0.05)

    _as(lab, "olga", story)
    (job,) = lab.state.jobs.open()
    assert (job.kind, job.asked, job.by) == (JobKind.ACTIVATE, {"provider": "terraform"}, "olga")


def test_what_stands_is_taken_away_by_whoever_made_it(lab: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libvirt")
    pytest.importorskip("pycdlib")
    for name, value in (("URI", "test:///default"), ("SHAPING", "none"), ("FIREWALL", "false"), ("SEED", "false")):
        monkeypatch.setenv(f"ADUMBRA_LIBVIRT_{name}", value)
    whole = {"network": "lab", "provider": "libvirt", "steps": [], "price_per_hour": None, "aim": "active"}
    made = lab.state.plans.begin("lab", whole, time.time_ns(), "it began")
    lab.state.plans.finish(made.id, PlanState.DONE, time.time_ns(), (NetworkState.ACTIVE, "it is done"))

    async def story(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("A dry run against what stands, by libvirt", retries=100)
        user.find(kind=ui.button, content="Deactivate…").click()
        await user.should_see("Deactivate lab?", retries=50)
        await user.should_see("nothing to do", retries=50)  # nothing of it stands there
        await _agree(user, "Take it away")
        for _ in range(200):
            if lab.state.jobs.open():
                break
            await asyncio.sleep(0.05)

    async def onlooker(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("A dry run against what stands, by libvirt", retries=100)
        await user.should_not_see(kind=ui.button, content="Deactivate…")

    _as(lab, "vera", onlooker)
    _as(lab, "olga", story)
    (job,) = lab.state.jobs.open()
    assert (job.kind, job.asked) == (JobKind.DEACTIVATE, {"provider": "libvirt"})


def test_a_hypervisor_that_never_answers_keeps_neither_the_page_nor_others_waiting(
    lab: Workspace, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libvirt")
    monkeypatch.setenv("ADUMBRA_LIBVIRT_URI", deaf)
    monkeypatch.setattr(plan, "PATIENCE_S", 0.1)

    async def story(user: User) -> None:
        await user.open("/networks/lab")
        _choose(user, "libvirt")
        await user.should_see("hasn’t answered yet", retries=100)
        lab.state.jobs.add("lab", JobKind.TRAIN, {}, "somebody", time.time_ns())
        await user.should_see("queued", retries=100)  # the page follows what happens meanwhile
        done = activations.activate(lab, "lab", "terraform", time.time_ns)  # and so does everybody else
        assert done.carried_out
        _choose(user, "terraform")
        await user.should_see("nothing to do: all stands as it should", retries=100)

    _as(lab, "olga", story)


def test_no_more_than_some_wait_for_a_hypervisor(lab: Workspace, deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libvirt")
    monkeypatch.setenv("ADUMBRA_LIBVIRT_URI", deaf)
    asking = planner.Planner(lab, time.time_ns)
    first = [asking.ask(planner.Question("lab", "libvirt", of=number)) for number in range(planner.AT_ONCE)]
    assert asking.ask(planner.Question("lab", "libvirt", of=0)) is first[0]
    with pytest.raises(ConflictError, match="libvirt hasn't answered for 3 other plans yet"):
        asking.ask(planner.Question("lab", "libvirt", of="one more"))
    assert asking.ask(planner.Question("lab", "terraform")).result(timeout=10).changes
    assert not any(each.done() for each in first)


def test_training_is_queued_and_a_source_attached(lab: Workspace) -> None:
    async def story(user: User) -> None:
        await user.open("/networks/lab")
        user.find(kind=ui.button, content="Train").click()
        for _ in range(200):
            if lab.state.jobs.open():
                break
            await asyncio.sleep(0.05)
        await user.should_see("queued", retries=50)

    _as(lab, "olga", story)
    (job,) = lab.state.jobs.open()
    assert (job.kind, job.network, job.by, job.asked) == (JobKind.TRAIN, "lab", "olga", {})


def test_sources_are_attached_and_stopped_in_the_log(lab: Workspace) -> None:
    olga, vera = _visitor(lab, "olga"), _visitor(lab, "vera")
    made = attach.attach(olga, "lab", " netflow:2055 ")
    assert (made.source, made.state) == ("netflow:2055", SourceState.WAITING)
    with pytest.raises(ConflictError):
        attach.attach(olga, "lab", "netflow:2055")
    with pytest.raises(InputError):
        attach.attach(olga, "lab", "nonsense")
    with pytest.raises(ForbiddenError):
        attach.attach(vera, "lab", "netflow:2056")
    with pytest.raises(NotFoundError):
        attach.attach(olga, "other", "netflow:2056")
    attach.detach(olga, made.id)
    assert lab.state.sources.get(made.id).state is SourceState.STOPPED
    assert [each.what for each in _acts(lab, "lab")] == ["console: stop source", "console: attach source"]


def test_what_is_measured_of_real_vms_stands_beside_what_was_predicted(lab: Workspace) -> None:
    async def before(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("Nothing is measured", retries=20)

    _as(lab, "vera", before)
    made = traffic()
    columns = {"cpu_seconds": np.full((SECONDS, 1), 3.0), "memory_bytes": np.full((SECONDS, 1), 2.0 * 2**30)}
    sided = np.zeros((SECONDS, 1), np.bool_)
    lab.metrics.write(MetricBatch("lab", 1.0, ("web",), made.start_ns, columns, sided, "libvirt", Origin.LIVE))

    async def after(user: User) -> None:
        await user.open("/networks/lab")
        await user.should_see("short of CPU", retries=20)
        await user.should_see("0 % (0 to 11) inside, 100 % short")
        await user.should_see("100 % (89 to 100) inside")
        await user.should_see("not measured")

    _as(lab, "vera", after)


def test_who_signed_out_or_lost_a_role_changes_nothing_from_a_page_that_is_still_open(lab: Workspace) -> None:
    olga = _visitor(lab, "olga")
    access.sign_out(lab, olga.secret)
    with pytest.raises(AccessError):
        attach.attach(olga, "lab", "netflow:2055")
    ada = _visitor(lab, "ada")
    lab.state.access.set_disabled("ada", 5)
    with pytest.raises(AccessError):
        tokens.make_token(ada, "x", Role.VIEWER, "", 0)
    assert _acts(lab) == []


def test_creating_without_the_right_makes_nothing(lab: Workspace) -> None:
    fresh = SPEC.replace("name: lab", "name: fresh", 1)
    with pytest.raises(NotFoundError):  # not one of olga's
        glance.create(_visitor(lab, "olga"), fresh)
    with pytest.raises(SpecError):
        glance.create(_visitor(lab, "ada"), "name: [")
    assert {each.name for each in lab.state.networks()} == {"lab", "other"}


def test_a_token_is_made_by_an_administrator_alone_and_revoked(lab: Workspace) -> None:
    ada = _visitor(lab, "ada")
    made = tokens.make_token(ada, "grafana", Role.VIEWER, "lab, other", 30)
    assert made.record.networks == ("lab", "other")
    assert access.by_token(lab, made.secret, time.time_ns()).name == "grafana"
    assert made.secret not in str([(each.asked, each.after) for each in lab.state.access.acts()])
    tokens.revoke(ada, made.record.id)
    with pytest.raises(AccessError):
        access.by_token(lab, made.secret, time.time_ns())
    with pytest.raises(InputError):
        tokens.make_token(ada, "x", Role.VIEWER, "nowhere", 0)
    for name in ("olga", "vera"):
        with pytest.raises(ForbiddenError):
            tokens.make_token(_visitor(lab, name), "x", Role.ADMIN, "", 0)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("networks", [None, ("lab",), ()])
@pytest.mark.parametrize("wanted", list(Role))
@pytest.mark.parametrize("network", [None, "lab", "other"])
def test_rights_are_those_of_the_api(
    role: Role, networks: tuple[str, ...] | None, wanted: Role, network: str | None
) -> None:  # fmt: skip
    who = Principal("x", role, networks, Through.SESSION)

    def verdict(check: Callable[[Principal, Role, str | None], object]) -> type[AdumbraError] | None:
        try:
            check(who, wanted, network)
        except AdumbraError as error:
            return type(error)
        return None

    assert verdict(rights.allowed) is verdict(api_access.allowed)


def test_a_capture_is_kept_if_it_is_one_and_there_is_room(lab: Workspace, tmp_path: Path) -> None:
    good = b"\xd4\xc3\xb2\xa1" + b"x" * 1000
    source = captures.keep(lab, "lab", "../../etc/pass wd.pcap", io.BytesIO(good), 10_000)
    path = Path(source.removeprefix("pcap:"))
    assert path.parent == captures.folder_of(lab, "lab")
    assert path.name.endswith("-pass-wd.pcap")
    assert path.read_bytes() == good
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError):
        captures.keep(lab, "lab", "x.txt", io.BytesIO(b"hello"), 10_000)
    with pytest.raises(ConflictError):
        captures.keep(lab, "lab", "y.pcap", io.BytesIO(good * 20), 10_000)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    from adumbra.service import networks

    networks.delete(lab, "lab", time.time_ns())
    assert not path.parent.exists()


def test_reports_of_back_tests_are_listed_and_nothing_else_is_shown(lab: Workspace) -> None:
    folder = lab.home / frontiers.FOLDER
    (folder / "day").mkdir(parents=True)
    (folder / "day" / "report.html").write_text("<p>the report</p>")
    rule = {"rule": "p95", "dial": None, "risk": None, "allocated_percent": 60.0, "short_percent": 2.0}
    import json

    (folder / "day" / "report.json").write_text(json.dumps({"resources": {"cpu_cores": {"rules": [rule]}}}))
    (folder / "secret").mkdir()
    (folder / "secret" / "report.html").symlink_to("/etc/hostname")
    assert [each.name for each in frontiers.listing(lab)] == ["day"]
    assert frontiers.rules_of(lab, "day") == (frontiers.Rule("cpu_cores", "p95", None, None, 60.0, 2.0),)
    for name in ("secret", "..", "../../etc", "nothing", ""):
        with pytest.raises(NotFoundError):
            frontiers.page_of(lab, name)

    async def story(user: User) -> None:
        await user.open("/frontier")
        await user.should_see("The frontier as a table")
        await user.should_see("60 %")
        answer = await user.http_client.get("/backtests/day")
        assert answer.text == "<p>the report</p>"
        assert answer.headers["content-security-policy"] == frontier.REPORT_HEADERS["Content-Security-Policy"]
        assert (await user.http_client.get("/backtests/secret")).status_code == 404

    _as(lab, "ada", story)


def test_a_back_test_is_for_those_who_see_all(lab: Workspace, tmp_path: Path) -> None:
    usage = tmp_path / "usage.csv"
    usage.write_text("vm,time\n")
    wanted = frontiers.Usage(usage, 86_400.0)
    with pytest.raises(ForbiddenError):
        frontier.make(_visitor(lab, "olga"), "x", wanted, lambda *_: None)
    with pytest.raises(InputError):
        frontier.make(_visitor(lab, "ada"), "../x", wanted, lambda *_: None)
    with pytest.raises(InputError):
        frontier.make(_visitor(lab, "ada"), "x", wanted, lambda *_: None)
    assert frontiers.listing(lab) == ()


def test_tokens_show_what_becomes_of_them(lab: Workspace) -> None:
    now_ns = time.time_ns()
    held = access.issue(lab, NewToken("held", Role.VIEWER, ("lab",), now_ns + 10**15), now_ns).record
    cells = [str(each) for each in tokens.token_cells(held, now_ns)]
    assert cells[:3] == ["held", "viewer", "lab"]
    assert "holds" in cells[-1]
    gone = lab.state.access.revoke_token(held.id, now_ns)
    assert "revoked" in str(tokens.token_cells(gone, now_ns)[-1])
