"""A tap and a command that speak to a server over TLS: they trust the authority that they are given, and no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.guarding import certificate, guarded_server
from typer.testing import CliRunner, Result

from adumbra.api.app import make_app
from adumbra.api.context import Care, Server
from adumbra.cli.main import app
from adumbra.schema.access import NewToken, Role
from adumbra.schema.errors import AdumbraError
from adumbra.service import access, networks, tls
from adumbra.service.workspace import Workspace
from adumbra.settings import ServeSettings

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SOURCE = f"pcap:{SHOP / 'shop.pcap.zst'}"


@dataclass
class Secured:
    """A server that speaks TLS only, and what signed its certificate."""

    url: str
    token: str
    ca: Path
    other_ca: Path
    workspace: Workspace


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder, "ours")
    other, _ = certificate(folder, "other")
    with Workspace(folder / "home") as workspace:
        networks.create(workspace, (SHOP / "shop.yaml").read_text(), "spec", 1)
        token = access.issue(workspace, NewToken("tap", Role.OPERATOR), time.time_ns()).secret
        care = Care(requests_per_s=1e6, burst=10**6)
        served = make_app(Server(workspace, time.time_ns, care, secure=True))
        kept = tls.certificate(ServeSettings(tls_cert=cert, tls_key=key))
        assert kept is not None
        with guarded_server(served, care, tls=kept.context) as port:
            yield Secured(f"https://127.0.0.1:{port}", token, cert, other, workspace)


def asked(home: Path, environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner(env={"ADUMBRA_HOME": str(home), "ADUMBRA_DRAIN_S": "20", **environment}).invoke(app, arguments)


def test_a_tap_ships_over_tls_to_a_server_whose_authority_it_is_given(secured: Secured, tmp_path: Path) -> None:
    told = {"ADUMBRA_TOKEN": secured.token}
    done = asked(tmp_path, told, "tap", "shop", SOURCE, "--server", secured.url, "--ca", str(secured.ca), "-o", "json")
    assert done.exit_code == 0, done.output
    span = secured.workspace.metrics.span("shop")
    assert span is not None
    assert span[1] - span[0] == 900 * 10**9
    assert secured.token not in done.output


@pytest.mark.parametrize("ca", ["", "other"])
def test_a_tap_that_does_not_trust_the_certificate_sends_nothing(secured: Secured, tmp_path: Path, ca: str) -> None:
    told = {"ADUMBRA_TOKEN": secured.token}
    trusting = ("--ca", str(secured.other_ca)) if ca else ()
    before = len(secured.workspace.state.sources.of("shop"))
    done = asked(tmp_path, told, "tap", "shop", SOURCE, "--server", secured.url, *trusting, "--for", "1s")
    assert done.exit_code != 0
    assert isinstance(done.exception, AdumbraError), done.output
    assert "certificate" in str(done.exception).lower(), str(done.exception)
    assert len(secured.workspace.state.sources.of("shop")) == before


@pytest.mark.parametrize("ca", ["ours", "", "other"])
def test_a_command_asks_over_tls_where_it_trusts_the_server(secured: Secured, tmp_path: Path, ca: str) -> None:
    told = {"ADUMBRA_SERVER": secured.url, "ADUMBRA_TOKEN": secured.token}
    told |= {"ADUMBRA_SERVER_CA": str(secured.ca if ca == "ours" else secured.other_ca)} if ca else {}
    done = asked(tmp_path, told, "network", "list", "-o", "json")
    if ca == "ours":
        assert done.exit_code == 0, done.output
        assert '"shop"' in done.output
        return
    assert isinstance(done.exception, AdumbraError), done.output
    assert "can't be trusted" in str(done.exception)
    assert "ADUMBRA_SERVER_CA" in str(done.exception)
