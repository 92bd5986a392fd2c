"""The client: one method a use case, over one server. Gives the records that the use cases of service/ give.

Knows the routes; how they are asked is asking.py's, what they answer records.py's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from adumbra.client import following, records
from adumbra.client.access import Access, token_of_environment
from adumbra.client.asking import Asker, Request
from adumbra.client.following import Progress, job_of
from adumbra.schema.jobs import JobRecord, SourceRecord
from adumbra.schema.state import EventRecord, ObservationRecord, TrainingVersion

if TYPE_CHECKING:
    from adumbra.schema.records import Series, SeriesQuery
    from adumbra.service.calibrations import Calibrated
    from adumbra.service.networks import Network
    from adumbra.settings import ClientSettings


class Client:
    """A server's use cases. Opened by `with`; threads may share it.

    url: the server's address; token: by which it knows us, None for that of the environment (ADUMBRA_TOKEN, or the file
    ADUMBRA_TOKEN_FILE). access: how it is asked, in place of both. say: is told, in a sentence, when it waits for the server.

    Every method raises the error that the use case raises on the server's own host (schema.errors, with `what` and `mend`);
    AccessError and ForbiddenError where the token doesn't do; and ServerError where the server can't be reached, or isn't one.
    Reading, and changing by a key that is made for each change, is tried again for access.give_up_s.
    """

    def __init__(
        self, url: str = "", token: str | None = None, *, access: Access | None = None, say: Callable[[str], None] = lambda _: None
    ) -> None:  # fmt: skip
        if access is None:
            given, file = (token, None) if token is not None else token_of_environment()
            access = Access(url, given, file)
        self.access = access
        self._asker = Asker(access, say)

    @classmethod
    def of(cls, settings: ClientSettings, say: Callable[[str], None] = lambda _: None) -> Client:
        """A client by the settings of the environment."""
        access = Access(
            settings.server, settings.token.get_secret_value().strip(), settings.token_file, settings.server_ca,
            settings.server_insist, settings.server_timeout_s, give_up_s=settings.server_give_up_s,
        )  # fmt: skip
        return cls(access=access, say=say)

    def __enter__(self) -> Self:
        self._asker.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._asker.__exit__(*exc)

    # Networks

    def networks(self) -> Iterator[Network]:
        """The networks that the token lets see, by name, a page at a time as they are wanted."""
        for each in self._asker.pages("/networks", specs=True):
            yield records.told(records.network, each)

    def network(self, name: str) -> Network:
        """A network, with what measured use said of its VMs. Raises NotFoundError."""
        answer = self._asker.get(_network(name))
        kept = self.calibration(name)
        network = records.told(records.network, answer)
        return records.calibrated(network, kept.calibration if kept else None)

    def create_network(self, spec: str) -> Network:
        """Creates a network, and its shadow. spec: YAML or JSON. Raises SpecError, ConflictError."""
        return records.told(records.network, self._change("POST", "/networks", json={"spec": spec}))

    def update_network(self, name: str, spec: str, was: int | None = None) -> Network:
        """Replaces a network's spec. Raises SpecError, NotFoundError, and PreconditionError where its version isn't `was`."""
        return records.told(records.network, self._change("PUT", _network(name), json={"spec": spec}, version=was))

    def delete_network(self, name: str, *, force: bool = False) -> None:
        """Deletes a network, its shadow, and what was learned of it. Raises NotFoundError, ConflictError."""
        self._change("DELETE", _network(name), params={"force": force})

    def observations(self, name: str) -> Iterator[ObservationRecord]:
        """What its shadow has seen, newest first."""
        for each in self._asker.pages(f"{_network(name)}/observations"):
            yield records.told(lambda told: records.record(ObservationRecord, told, network=name, fingerprint="", id=0), each)

    def sources(self, name: str) -> Iterator[SourceRecord]:
        """The sources that are observed for a network, newest first."""
        for each in self._asker.pages(f"{_network(name)}/sources"):
            yield records.told(lambda told: records.record(SourceRecord, told, network=name, process=""), each)

    # Metrics

    def span(self, name: str) -> tuple[int, int] | None:
        """From when to when metrics are stored, in ns since the epoch; None: nothing is."""
        told = self._asker.get(f"{_network(name)}/series")
        start_ns, end_ns = told.get("start_ns"), told.get("end_ns")
        return None if start_ns is None or end_ns is None else (int(start_ns), int(end_ns))

    def vms(self, name: str) -> tuple[str, ...]:
        """The VMs of which metrics are stored."""
        return tuple(map(str, self._asker.get(f"{_network(name)}/series")["vms"]))

    def read(self, query: SeriesQuery) -> Series:
        """Stored metrics on a regular grid: see store.protocol.MetricStore.read."""
        from dataclasses import replace

        from adumbra.store.batch_bytes import MEDIA_TYPE, unpack_series

        asked = {
            "columns": list(query.columns), "vms": list(query.vms), "start_ns": query.start_ns, "end_ns": query.end_ns,
            "step_s": query.step_s, "origin": query.origin.value,
        }  # fmt: skip
        said = self._asker.ask(Request("POST", f"{_network(query.network)}/series", json=asked, accept=f"{MEDIA_TYPE}, */*"))
        found = records.told(unpack_series, said.body)
        return replace(found, values={name: found.values[name] for name in dict.fromkeys(query.columns)})

    def metrics(self, name: str, query: Mapping[str, Any]) -> Series:
        """The columns that people read, for what `query` has of a SeriesQuery."""
        from adumbra.schema.metrics import TOLD
        from adumbra.schema.records import SeriesQuery

        return self.read(SeriesQuery(network=name, columns=TOLD, **query))

    # Calibration

    def calibration(self, name: str) -> Calibrated | None:
        """What measured use said of the network's VMs; None: they follow their roles' priors."""
        return records.told(records.calibration, self._asker.get(f"{_network(name)}/calibration"))[0]

    # Jobs

    def job(self, number: int) -> JobRecord:
        """A job as it is now. Raises NotFoundError."""
        return following.read(self._asker, number)

    def follow(self, job: JobRecord, tell: Progress = lambda *_: None) -> JobRecord:
        """Waits until a job is over. tell: is told how much of it is done, 0 to 1 or None, and what is being done. Raises the
        job's own error where it failed."""
        return following.follow(self._asker, job, tell)

    def cancel(self, job: JobRecord) -> JobRecord:
        """Cancels a job, unless it is over."""
        return records.told(job_of, self._change("POST", f"/jobs/{job.id}/cancel"))

    def train(self, name: str, seed: int = 1) -> JobRecord:
        """Begins a training; its result is a service.learning.Found as plain data."""
        return records.told(job_of, self._change("POST", f"{_network(name)}/trainings", json={"seed": seed}))

    # What is learned

    def versions(self, name: str) -> Iterator[TrainingVersion]:
        """The versions that are kept, newest first."""
        for each in self._asker.pages(f"{_network(name)}/models"):
            yield records.told(records.version, each)

    def events(self, name: str | None = None, most: int | None = None) -> Iterator[EventRecord]:
        """What happened to a network, or (None) to all that the token lets see, newest first; `most` of them at most."""
        path = "/events" if name is None else f"{_network(name)}/events"
        for each in self._asker.pages(path, most):
            yield records.told(lambda told: records.record(EventRecord, told), each)

    def _change(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, version: int | None = None
    ) -> Any:  # fmt: skip
        """A change, by a key of its own: asked again, it is made once."""
        key = secrets.token_hex(16)
        return self._asker.ask(Request(method, path, params or {}, json, key=key, version=version)).data()


def _network(name: str) -> str:
    return f"/networks/{quote(name, safe='')}"
