"""What keeps some waiting, a store that is slow, a provider that hangs, doesn't keep everybody else waiting with them."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.serving import AT_EASE, SPEC
from tests.daemon.running import until

from adumbra.api import oidc
from adumbra.api.app import make_app
from adumbra.api.context import Server
from adumbra.api.oidc import Flow, Oidc
from adumbra.api.routes import batches
from adumbra.schema.access import NewToken, Role
from adumbra.schema.errors import BusyError
from adumbra.service import access, networks
from adumbra.service.workspace import Workspace
from adumbra.settings import OidcSettings, RoleRule
from adumbra.store.batch_bytes import MEDIA_TYPE

WAITING = 60
"""More than there are threads."""


def test_batches_that_wait_for_their_turn_hold_no_thread(tmp_path: Path) -> None:
    async def story(app: Any, headers: dict[str, str]) -> list[int]:
        turns = [batches._UNPACKED.acquire(timeout=10) for _ in range(batches._AT_ONCE)]  # as while a store is slow
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client:
                ship = {"content": b"no batch", "headers": {"Content-Type": MEDIA_TYPE}}
                read = {"json": {"columns": ["rx_bytes"]}}
                path = "/v1/networks/shop"
                waiting = [
                    asyncio.create_task(
                        client.post(f"{path}/{'series' if each % 2 else 'batches'}", **(read if each % 2 else ship))
                    )
                    for each in range(WAITING)
                ]
                other = await asyncio.wait_for(client.get(path), 15.0)  # before any of the others gives up
                assert not any(each.done() for each in waiting)
                while turns:
                    turns.pop()
                    batches._UNPACKED.release()
                return [other.status_code, *[(await each).status_code for each in waiting]]
        finally:
            for _ in turns:
                batches._UNPACKED.release()

    with Workspace(tmp_path / "home") as workspace:
        networks.create(workspace, SPEC.format(name="shop"), "spec", time.time_ns())
        secret = access.issue(workspace, NewToken("tap", Role.OPERATOR), time.time_ns()).secret
        app = make_app(Server(workspace, time.time_ns, AT_EASE))
        found = asyncio.run(story(app, {"Authorization": f"Bearer {secret}"}))
    assert found == [200, *([422, 200] * (WAITING // 2))]


def test_a_provider_that_hangs_holds_nobody_but_the_first_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = [], threading.Event()

    def hangs(url: str, *_: object, **__: object) -> dict[str, Any]:
        asked.append(url)
        assert over.wait(60)
        raise BusyError("the provider can't be reached")

    def begin() -> None:
        with pytest.raises(BusyError):
            signs_in.begin("https://here/return", Flow.new(), 1.0)

    monkeypatch.setattr(oidc, "_json", hangs)
    settings = OidcSettings(issuer="https://provider.example", client_id="adumbra", roles=(RoleRule("all", Role.VIEWER),))
    signs_in = Oidc(settings)
    first = threading.Thread(target=begin)
    first.start()
    try:
        until(lambda: bool(asked), 10.0, "the first to ask")
        begin()
        begin()
        assert first.is_alive()  # it alone still waits
    finally:
        over.set()
        first.join(10)
    begin()  # nor is it asked again at once
    assert len(asked) == 1
    monkeypatch.setattr(oidc, "REST_S", 0.0)
    signs_in._rests_until_s = 0.0
    begin()
    assert len(asked) == 2
