"""The client: one method a use case, over one server. Gives the records that the use cases of service/ give.

Knows the routes; how they are asked is asking.py's, what they answer records.py's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from adumbra.client import following, records
from adumbra.client.access import Access, token_of_environment
from adumbra.client.asking import Asker, Request, data
from adumbra.client.following import Progress, job_of
from adumbra.schema.access import NewToken, NewUser, Role, TokenRecord, UserRecord
from adumbra.schema.errors import AdumbraError, NotFoundError
from adumbra.schema.jobs import JobRecord, SourceRecord
from adumbra.schema.plain import of_plain
from adumbra.schema.sizing import NetworkProfile
from adumbra.schema.state import EventRecord, ObservationRecord, PlanRecord, TrainingVersion
from adumbra.schema.units import format_time

if TYPE_CHECKING:
    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.records import MetricBatch, Quantiles, Series, SeriesQuery
    from adumbra.service.access import Issued
    from adumbra.service.activations import Activation
    from adumbra.service.calibrations import Calibrated
    from adumbra.service.live import Comparison
    from adumbra.service.networks import Network
    from adumbra.service.policies import KeptPolicy
    from adumbra.service.profiles import Asked
    from adumbra.service.whatif import Answers, Question
    from adumbra.settings import ClientSettings

_PACKED = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "vnd.apache.parquet": b"PAR1"}


class Client:
    """A server's use cases. Opened by `with`; threads may share it.

    url: the server's address; token: by which it knows us, None for that of the environment (ADUMBRA_TOKEN, or the file
    ADUMBRA_TOKEN_FILE). access: how it is asked, in place of both. say: is told, in a sentence, when it waits for the server.

    Every method raises the error that the use case raises on the server's own host (schema.errors, with `what` and `mend`);
    AccessError and ForbiddenError where the token doesn't do; and ServerError where the server can't be reached, or isn't one.
    Reading, and changing by a key that is made for each change, is tried again for access.give_up_s.
    """

    def __init__(
        self,
        url: str = "",
        token: str | None = None,
        *,
        access: Access | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
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
        found = records.told(records.network, self._asker.get(_network(name)))
        kept = self._calibration(name)
        return found if kept is None else replace(found, calibration=kept[0].calibration)

    def create_network(self, spec: str) -> Network:
        """Creates a network, and its shadow. spec: YAML or JSON. Raises SpecError, ConflictError."""
        return records.told(records.network, self._change("POST", "/networks", json={"spec": spec}))

    def update_network(self, name: str, spec: str, was: int | None = None) -> Network:
        """Replaces a network's spec. Raises SpecError, NotFoundError, and PreconditionError where its version isn't `was`."""
        return records.told(records.network, self._change("PUT", _network(name), json={"spec": spec}, version=was))

    def delete_network(self, name: str, *, force: bool = False) -> None:
        """Deletes a network, its shadow, and what was learned of it. Raises NotFoundError, ConflictError."""
        self._asker.ask(Request("DELETE", _network(name), {"force": force}))

    def observations(self, name: str) -> tuple[ObservationRecord, ...]:
        """What its shadow has seen, newest first: as many as are kept, up to 1,000."""
        told = self._asker.get(f"{_network(name)}/observations", limit=1000)
        return records.told(lambda each: _all(each, ObservationRecord, network=name, fingerprint=""), told)

    # Traffic

    def sources(self, name: str) -> Iterator[SourceRecord]:
        """The sources that are observed for a network, newest first."""
        for each in self._asker.pages(f"{_network(name)}/sources"):
            yield records.told(_source, each)

    def ship(self, batch: MetricBatch) -> int:
        """Stores a batch of metrics of a network. Again is harmless. Gives how many rows replaced what was stored."""
        from adumbra.store.batch_bytes import MEDIA_TYPE, pack_batch
        from adumbra.store.served import parts_of

        replaced = 0
        for part in parts_of(batch):
            headers = {"Content-Type": MEDIA_TYPE}
            said = self._asker.ask(
                Request("POST", f"{_network(batch.network)}/batches", content=pack_batch(part), headers=headers)
            )
            replaced += int(data(said)["replaced"])
        return replaced

    def note_observation(
        self, name: str, source: str, fingerprint: str, accounts: Mapping[str, Any], *, failed: bool = False
    ) -> None:
        """Notes that a source was observed on this host, once that is over and its metrics are shipped."""
        asked = {"source": source, "fingerprint": fingerprint, "accounts": accounts, "failed": failed}
        self._change("POST", f"{_network(name)}/observations", json=asked)

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
        from adumbra.store.batch_bytes import MEDIA_TYPE, unpack_series

        asked = {
            "columns": list(query.columns), "vms": list(query.vms), "start_ns": query.start_ns, "end_ns": query.end_ns,
            "step_s": query.step_s, "origin": query.origin.value,
        }  # fmt: skip
        said = self._asker.ask(Request("POST", f"{_network(query.network)}/series", json=asked, accept=f"{MEDIA_TYPE}, */*"))
        found = unpack_series(said.body)
        return replace(found, values={name: found.values[name] for name in dict.fromkeys(query.columns)})

    def metrics(self, name: str, **query: Any) -> Series:
        """Stored metrics of a network, every column that people read. query: as in schema.records.SeriesQuery."""
        from adumbra.schema.metrics import TOLD
        from adumbra.schema.records import SeriesQuery

        return self.read(SeriesQuery(network=name, columns=TOLD, **query))

    # Calibration

    def calibration(self, name: str) -> tuple[Calibrated, bool] | None:
        """What measured use said of the network's VMs, and whether what is stored was emulated by it; None: nothing, they
        follow their roles' priors. Raises NotFoundError for a network that isn't there."""
        kept = self._calibration(name)
        if kept is None:
            self._asker.get(_network(name))
        return kept

    def _calibration(self, name: str) -> tuple[Calibrated, bool] | None:
        try:
            told = self._asker.get(f"{_network(name)}/calibration")
        except NotFoundError:
            return None
        return records.told(records.calibrated, told), told["emulated"] is not None

    def calibrate(
        self,
        name: str,
        usage: Path | str,
        *,
        update: bool = False,
        train_share: float | None = None,
        measured_on: str | None = None,
    ) -> JobRecord:
        """Begins to fit the network's VMs to measured use: a file, which is sent, a Prometheus server's URL, which the server
        asks, or "live:", the live readings that it has. See service.calibrations. Raises InputError for a file that can't be
        read."""
        from adumbra.service.live_usage import is_live
        from adumbra.service.usage_csv import readable
        from adumbra.service.usage_prometheus import is_url

        how = {"update": update, "train_share": train_share, "measured_on": measured_on}
        path = f"{_network(name)}/calibration"
        told = {key: value for key, value in how.items() if value is not None}
        if isinstance(usage, str) and is_live(usage):
            return self._job("POST", f"{path}/from-live", json=told)
        if isinstance(usage, str) and is_url(usage):
            return self._job("POST", f"{path}/from-prometheus", json={"url": usage, **told})
        with readable(Path(usage)):
            content = Path(usage).read_bytes()
        headers = {"Content-Type": _type_of(content)}
        key = secrets.token_hex(16)
        wanted = Request("POST", path, {**how, "called": str(usage)}, content=content, headers=headers, key=key)
        return records.told(job_of, data(self._asker.ask(wanted)))

    def calibrate_from_traffic(self, name: str, measured_on: str | None = None) -> JobRecord:
        """Begins to correct the network's VMs by observed response times."""
        return self._job("POST", f"{_network(name)}/calibration/from-traffic", json={"measured_on": measured_on})

    def reset_calibration(self, name: str) -> JobRecord:
        """Begins to take the network's VMs back to their roles' priors."""
        return self._job("DELETE", f"{_network(name)}/calibration")

    # Jobs

    def job(self, number: int) -> JobRecord:
        """A job as it is now. Raises NotFoundError."""
        return following.read(self._asker, number)

    def follow(self, job: JobRecord, tell: Progress = lambda *_: None) -> JobRecord:
        """Waits until a job is over. tell: is told how much of it is done, 0 to 1 or None, and what is being done. Raises the
        job's own error where it failed."""
        return following.follow(self._asker, job, tell)

    def cancel(self, job: JobRecord) -> JobRecord:
        """Cancels a job. Raises ConflictError where it is over."""
        return self._job("POST", f"/jobs/{job.id}/cancel")

    # What is learned

    def train(self, name: str, seed: int = 1) -> JobRecord:
        """Begins a training; its result is a service.learning.Found as plain data."""
        return self._job("POST", f"{_network(name)}/trainings", json={"seed": seed})

    def versions(self, name: str) -> tuple[TrainingVersion, ...]:
        """The versions of what was learned that are kept, newest first."""
        told = self._asker.get(f"{_network(name)}/trainings")
        return records.told(lambda each: tuple(map(records.version, each)), told)

    def version(self, name: str, number: int) -> TrainingVersion:
        """One of them. Raises NotFoundError."""
        return records.told(records.version, self._asker.get(f"{_network(name)}/trainings/{number}"))

    def rollback(self, name: str, number: int | None = None) -> TrainingVersion:
        """Lets another version serve: that one, or (None) the newest earlier one that served before."""
        which = "rollback" if number is None else f"{number}/serve"
        return records.told(records.version, self._change("POST", f"{_network(name)}/trainings/{which}"))

    def forget(self, name: str, number: int) -> None:
        """Removes a version for good. Raises NotFoundError, and ConflictError for the one that serves."""
        self._asker.ask(Request("DELETE", f"{_network(name)}/trainings/{number}"))

    def forecast(self, name: str, horizon_s: float = 86_400.0) -> Mapping[str, Quantiles]:
        """Calibrated quantiles of what VMs will use, by resource."""
        told = self._asker.get(f"{_network(name)}/forecast", horizon_s=horizon_s)
        return records.told(records.forecast, told)

    def profile(self, name: str) -> NetworkProfile:
        """The newest profile that is kept. Raises NotFoundError where there is none."""
        return records.told(lambda told: of_plain(NetworkProfile, told), self._asker.get(f"{_network(name)}/profile"))

    def make_profile(self, name: str, asked: Asked | None = None) -> NetworkProfile:
        """Makes a profile of the models that serve, and keeps it."""
        body = {} if asked is None else {"shortfall": asked.shortfall, "horizon_s": asked.horizon_s, "risk": asked.risk.value}
        told = self._change("POST", f"{_network(name)}/profile", json=body)
        return records.told(lambda answer: of_plain(NetworkProfile, answer), told)

    def by_hour(self, name: str, shortfall: float | None = None) -> Mapping[str, HourlySizes]:
        """Sizes for each hour of the week to come, of what throttles, by resource."""
        return records.told(records.by_hour, self._asker.get(f"{_network(name)}/profile/by-hour", shortfall=shortfall))

    def what_if(self, name: str, question: Question, tell: Progress = lambda *_: None) -> Answers:
        """What VMs would need with other traffic, or on other machines; a job is followed where it is much work."""
        from adumbra.service.whatif import Answers

        asked = {
            "traffic": question.factor, "vms": list(question.vms), "type": question.type, "last_s": question.last_s,
            "sweep": question.every_type,
        }  # fmt: skip
        key = secrets.token_hex(16)
        said = self._asker.ask(Request("POST", f"{_network(name)}/whatif", json=asked, key=key))
        told = data(said)
        if said.status == 202:
            told = self.follow(records.told(job_of, told), tell).result
        return records.told(Answers.from_dict, told)

    # What becomes real

    def policy(self, name: str) -> KeptPolicy:
        """What a network's plans are held to. Raises NotFoundError where it has no policy."""
        return records.told(records.policy, self._asker.get(f"{_network(name)}/policy"))

    def set_policy(self, name: str, policy: str, was: int | None = None) -> KeptPolicy:
        """Gives a network a policy: YAML or JSON. Raises SpecError, and PreconditionError where its version isn't `was`."""
        told = self._change("PUT", f"{_network(name)}/policy", json={"policy": policy}, version=was)
        return records.told(records.policy, told)

    def clear_policy(self, name: str) -> None:
        """Takes a network's policy away. Raises NotFoundError where it has none."""
        key = secrets.token_hex(16)
        self._asker.ask(Request("DELETE", f"{_network(name)}/policy", key=key))

    def plans(self, name: str, most: int | None = None) -> Iterator[PlanRecord]:
        """The plans that were carried out, are, or wait for approval, newest first. Of their steps' outcomes, the last ones."""
        for each in self._asker.pages(f"{_network(name)}/plans", most):
            yield records.told(records.plan, each)

    def kept_plan(self, name: str, number: int | None = None) -> PlanRecord:
        """The newest plan, or the one of that number. Raises NotFoundError."""
        which = "plan" if number is None else f"plans/{number}"
        return records.told(records.plan, self._asker.get(f"{_network(name)}/{which}"))

    def approve(self, name: str, number: int) -> JobRecord:
        """Approves a plan that waits, and begins to carry it out. Raises ForbiddenError, ConflictError."""
        return self._job("POST", f"{_network(name)}/plans/{number}/approval")

    def reject(self, name: str, number: int) -> PlanRecord:
        """Says that a plan which waits for approval won't be carried out. Raises ConflictError."""
        return records.told(records.plan, self._change("POST", f"{_network(name)}/plans/{number}/rejection"))

    def undo_plan(self, name: str) -> JobRecord:
        """Begins to take back what the newest plan, which failed, has done."""
        return self._job("POST", f"{_network(name)}/plans/rollback")

    def plan(
        self, name: str, provider: str | None = None, *, deactivate: bool = False, rollback: bool = False
    ) -> Activation:  # fmt: skip
        """What an activation, a deactivation, or taking back what failed would do now. Touches nothing. provider None: who made
        it last."""
        from adumbra.service.activations import Activation

        asked = {"provider": provider, "deactivate": deactivate} | ({"rollback": True} if rollback else {})
        told = data(self._asker.ask(Request("POST", f"{_network(name)}/plans/dry-run", json=asked)))
        return records.told(lambda each: Activation.from_dict({**each, "carried_out": False}), told)

    def activate(self, name: str, provider: str = "terraform", *, approve: bool = False) -> JobRecord:
        """Begins to make a network real; its result is a service.activations.Activation as plain data. approve: the plan in the
        same act, where that is needed. Raises ForbiddenError."""
        asked = {"provider": provider} | ({"approve": True} if approve else {})
        return self._job("POST", f"{_network(name)}/activations", json=asked)

    def deactivate(self, name: str, provider: str | None = None) -> JobRecord:
        """Begins to take away what an activation made; the shadow stays. provider None: whoever made it."""
        return self._job("POST", f"{_network(name)}/deactivations", json={"provider": provider})

    def live(self, name: str, last_s: float = 3600.0, step_s: float | None = None) -> Comparison:
        """What was predicted of the network's VMs against what was measured of the real ones, over the last so many seconds."""
        from adumbra.service.live import Comparison

        told = self._asker.get(f"{_network(name)}/live", last_s=last_s, step_s=step_s)
        return records.told(lambda each: records.record(Comparison, each), told)

    def events(self, name: str | None = None, most: int | None = None) -> Iterator[EventRecord]:
        """What happened to a network, or (None) to all that the token lets see, newest first; `most` of them at most."""
        for each in self._asker.pages("/events", most, network=name):
            yield records.told(lambda told: records.record(EventRecord, told), each)

    # Access

    def issue_token(self, new: NewToken) -> Issued:
        """Makes a token; its secret is told this once. Raises ForbiddenError for rights beyond one's own."""
        from adumbra.service.access import Issued

        expires = None if new.expires_ns is None else format_time(new.expires_ns)
        asked = {"name": new.name, "role": new.role.value, "networks": new.networks, "expires": expires}
        told = self._change("POST", "/tokens", json=asked)
        made = records.told(lambda each: records.record(TokenRecord, each["token"]), told)
        if told.get("secret") is None:
            raise AdumbraError(
                f"token {made.id} was made, and its secret was lost on the way",
                f"`adumbra token revoke {made.id}`, make another",
            )
        return Issued(made, str(told["secret"]))

    def tokens(self, most: int | None = None) -> Iterator[TokenRecord]:
        """The tokens that one may see, newest first, revoked ones too."""
        for each in self._asker.pages("/tokens", most):
            yield records.told(lambda told: records.record(TokenRecord, told), each)

    def revoke_token(self, number: int) -> TokenRecord:
        """Revokes a token: it is refused from this moment on. Raises NotFoundError."""
        return records.told(lambda told: records.record(TokenRecord, told), self._change("DELETE", f"/tokens/{number}"))

    def users(self, most: int | None = None) -> Iterator[UserRecord]:
        """The users that one may see, by name."""
        for each in self._asker.pages("/users", most):
            yield records.told(_user, each)

    def add_user(self, new: NewUser, password: str) -> UserRecord:
        """Adds a user who signs in with a password. Raises ConflictError where the name is taken."""
        asked = {"name": new.name, "role": new.role.value, "networks": new.networks, "password": password}
        return records.told(_user, self._change("POST", "/users", json=asked))

    def set_rights(self, name: str, role: Role, networks: tuple[str, ...] | None = None) -> UserRecord:
        """Gives a user another role or other networks."""
        asked = {"role": role.value, "networks": networks}
        return records.told(_user, self._change("PUT", f"/users/{quote(name, safe='')}/rights", json=asked))

    def set_disabled(self, name: str, *, disabled: bool) -> UserRecord:
        """Lets a user sign in no more, or again."""
        path = f"/users/{quote(name, safe='')}/{'disable' if disabled else 'enable'}"
        return records.told(_user, self._change("POST", path))

    def set_password(self, name: str, password: str) -> None:
        """Gives a user another password, and ends their sign-ins."""
        self._change("PUT", f"/users/{quote(name, safe='')}/password", json={"password": password})

    def _job(self, method: str, path: str, json: Any = None) -> JobRecord:
        return records.told(job_of, self._change(method, path, json=json))

    def _change(self, method: str, path: str, *, json: Any = None, version: int | None = None) -> Any:
        """A change, by a key of its own: asked again, it is made once."""
        return data(self._asker.ask(Request(method, path, json=json, key=secrets.token_hex(16), version=version)))


def _network(name: str) -> str:
    return f"/networks/{quote(name, safe='')}"


def _all(told: Any, kind: type[ObservationRecord], **known: Any) -> tuple[ObservationRecord, ...]:
    return tuple(records.record(kind, each, **known) for each in told)


def _user(told: Any) -> UserRecord:
    return records.record(UserRecord, told)


def _source(told: Any) -> SourceRecord:
    return records.record(SourceRecord, told, process="")


def _type_of(content: bytes) -> str:
    """The media type of a usage file, by its first bytes."""
    for kind, begins in _PACKED.items():
        if content.startswith(begins):
            return f"application/{kind}"
    return "text/csv"
