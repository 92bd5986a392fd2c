"""What may be attached from the console: no file but those that were sent for the network, or lie in the server's folder."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adumbra.console.context import Console, Visitor
from adumbra.console.parts import attach
from adumbra.schema.access import NewUser, Role
from adumbra.schema.errors import AccessError, ConflictError, ForbiddenError
from adumbra.service import access, captures, networks
from adumbra.service.workspace import Workspace

SPEC = """name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.1.0/24}}]
vms: [{{name: web, subnet: web, addresses: [10.20.1.10], role: web, ports: [80]}}]
"""
PCAP = b"\xd4\xc3\xb2\xa1" + b"\0" * 20
PASSWORD = "a long enough one"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        for name in ("lab", "other"):
            networks.create(opened, SPEC.format(name=name), "spec", time.time_ns())
        access.add_user(opened, NewUser("olga", Role.OPERATOR, ("lab",)), PASSWORD, time.time_ns())
        yield opened


def olga(workspace: Workspace, folder: Path | None = None) -> Visitor:
    signed = access.sign_in(workspace, "olga", PASSWORD, time.time_ns())
    who, session = access.by_session(workspace, signed.secret, time.time_ns())
    return Visitor(Console(workspace, time.time_ns, captures=folder), who, signed.secret, session.csrf, "127.0.0.1")


def test_files_of_the_server_and_of_other_networks_are_not_attached(workspace: Workspace, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pcap"
    mine.write_bytes(PCAP)
    theirs = captures.keep(workspace, "other", "theirs.pcap", io.BytesIO(PCAP), 10_000)
    for source in (theirs, f"pcap:{mine}", "flowlog:/etc/passwd"):
        with pytest.raises(ForbiddenError):
            attach.attach(olga(workspace), "lab", source)
        with pytest.raises(ForbiddenError):
            attach.attach(olga(workspace, tmp_path / "allowed"), "lab", source)
    assert workspace.state.sources.of("lab") == ()
    assert attach.attach(olga(workspace, tmp_path), "lab", "pcap:mine.pcap").source == f"pcap:{mine.resolve()}"


def test_a_capture_that_is_sent_is_attached_and_logged(workspace: Workspace) -> None:
    made = attach.send(olga(workspace), "lab", "../../day.pcap", io.BytesIO(PCAP))
    kept = Path(made.source.removeprefix("pcap:"))
    assert kept.parent == captures.folder_of(workspace, "lab").resolve()
    assert kept.read_bytes() == PCAP
    attach.detach(olga(workspace), made.id)
    stopped, attached = (each for each in workspace.state.access.acts() if each.what.startswith("console"))
    assert (stopped.before, stopped.after) == ({"source": made.source, "state": "waiting"}, {"state": "stopped"})
    assert attached.after == {"source": made.id}


def test_a_capture_that_can_not_be_attached_is_not_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adumbra.store.sources.MAX_SOURCES", 0)
    with pytest.raises(ConflictError):
        attach.send(olga(workspace), "lab", "day.pcap", io.BytesIO(PCAP))
    gone = olga(workspace)
    access.sign_out(workspace, gone.secret)
    with pytest.raises(AccessError):
        attach.send(gone, "lab", "day.pcap", io.BytesIO(PCAP))
    assert list(captures.folder_of(workspace, "lab").iterdir()) == []
