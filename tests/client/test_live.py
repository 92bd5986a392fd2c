"""A source that goes on, observed through a server: it is tapped on this host, and ends when it is to."""

from __future__ import annotations

import json
from pathlib import Path

from tests.api.serving import served
from tests.client.answering import ask
from tests.servers import free_port

from adumbra.schema.access import Role


def test_a_source_that_goes_on_is_tapped_through_the_server(tmp_path: Path) -> None:
    with served(tmp_path / "home") as serving:
        serving.make("shop")
        environment = {
            "ADUMBRA_SERVER": serving.url, "ADUMBRA_TOKEN": serving.token(Role.OPERATOR, "shop"),
            "ADUMBRA_HOME": str(tmp_path / "tap"), "ADUMBRA_DRAIN_S": "5",
        }  # fmt: skip
        source = f"netflow:{free_port()}"
        said = ask(environment, "observe", "shop", source, "--for", "1s", "-o", "json")
        assert said.status == 0, said.told
        assert json.loads(said.shown)["accounts"]["offered"] == 0
        listed = json.loads(ask(environment, "sources", "shop", "-o", "json").shown)
        assert [(each["source"].partition(":")[0], each["place"]) for each in listed] == [("netflow", "remote")]
        missing = ask(environment, "observe", "nobody", source, "--for", "1s")
        assert (missing.status, "there is no network" in missing.told) == (2, True)
