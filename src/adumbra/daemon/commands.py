"""What children are begun with: the command of a job's worker and of a source's tap, and the environment of both.

Each has a token of its own, in its environment, good for its network and for as long as it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from adumbra.daemon.children import Begun, Command
from adumbra.daemon.insiders import Insiders
from adumbra.schema.jobs import JobRecord, SourceRecord
from adumbra.service.workspace import Workspace

NO_TAPS = ("ADUMBRA_STATE", "ADUMBRA_STORE")
"""What may hold passwords of the server's stores: a tap, which reads what strangers send, knows its server alone."""
ELSEWHERE = ("ADUMBRA_SERVER", "ADUMBRA_TOKEN", "ADUMBRA_TOKEN_FILE")
"""What the server's own environment may say of other servers, which is nothing to its children."""


DRAIN_S = 3.0
"""How long a tap that ends waits for the server: where that is gone, what it measured waits on disk for the next tap."""


class Commands:
    """url: where children reach the server, such as http://127.0.0.1:8642."""

    def __init__(self, workspace: Workspace, insiders: Insiders, url: Callable[[], str]) -> None:
        self._workspace, self._insiders, self._url = workspace, insiders, url

    def job(self, job: JobRecord) -> Begun:
        """The worker of a job. Where metrics are in a file, which the server has, it reads and writes them through the API."""
        token = self._insiders.admit(job.network, f"job/{job.id}")
        environment = self._environment()
        if any(not address.is_remote for address in self._workspace.storage.stores.addresses):
            environment["ADUMBRA_STORE"] = f"adumbra+{self._url()}?token={quote(token, safe='')}"
        argv = (sys.executable, "-m", "adumbra.daemon.work", str(job.id))
        return Begun(Command(argv, environment, ELSEWHERE), partial(self._insiders.dismiss, token))

    def tap(self, source: SourceRecord) -> Begun:
        """The tap of a source: the same as one on another host."""
        token = self._insiders.admit(source.network, f"tap/{source.id}")
        environment = {
            "ADUMBRA_HOME": self._home, "ADUMBRA_TOKEN": token, "ADUMBRA_DRAIN_S": str(DRAIN_S),
        }  # fmt: skip
        argv = [
            sys.executable, "-m", "adumbra", "tap", source.network, source.source, "--server", self._url(),
            "--source-number", str(source.id),
        ]  # fmt: skip
        for name in ("layer", "workers"):
            if (value := source.options.get(name)) is not None:
                argv += [f"--{name}", str(value)]
        return Begun(Command(tuple(argv), environment, (*ELSEWHERE, *NO_TAPS)), partial(self._insiders.dismiss, token))

    @property
    def _home(self) -> str:
        return str(self._workspace.home.resolve())

    def _environment(self) -> dict[str, str]:
        storage = self._workspace.storage
        home = {"ADUMBRA_HOME": self._home}
        return {**home, "ADUMBRA_STATE": storage.state} if storage.state else home
