"""What children are told: a tap reads what strangers send, and so knows no password of the server's stores."""

from __future__ import annotations

import time
from pathlib import Path

from adumbra.daemon.commands import Commands
from adumbra.daemon.insiders import Insiders
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.service.workspace import Workspace


def test_a_tap_is_told_of_no_store(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home") as workspace:
        commands = Commands(workspace, Insiders(), lambda: "http://127.0.0.1:1")
        source = SourceRecord(
            1, "shop", "live:eth1", {}, Place.SERVER, SourceState.WAITING, "", "", "", 0, "", {}, time.time_ns(), None, None
        )
        command = commands.tap(source).command
    assert set(command.environment) == {"ADUMBRA_HOME", "ADUMBRA_TOKEN", "ADUMBRA_DRAIN_S"}
    assert {"ADUMBRA_STATE", "ADUMBRA_STORE", "ADUMBRA_SERVER"} <= set(command.without)
