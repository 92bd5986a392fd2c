"""Role priors: what a VM of a role is believed to need before anything of it was measured. Reads one data file, checks it.

The figures are data (data/roles.json); better measured ones replace the file and no code.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adumbra.schema.errors import InputError

BUNDLED = Path(__file__).parent / "data" / "roles.json"
GENERIC = "generic"

Amount = Annotated[float, Field(ge=0)]
CpuTime = Annotated[float, Field(ge=0, le=3600)]


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CpuPrior(_Figures):
    """CPU seconds on a reference core per connection, request, byte and packet; cores in use while nothing comes.

    `wake_s`: on top of request_s for a request that finds the machine asleep and its caches cold (demand.wakes).
    `service_cv`: coefficient of variation of a request's service time, taken as lognormal. `servers`: the most requests that
    the software works on at once (1 for a single-threaded one); none: as many as there are cores. `discipline`: "fcfs",
    requests wait for a free server (an event loop a core), or "ps", all that are there share the cores (a process each).
    """

    idle_cores: Amount
    connection_s: CpuTime
    request_s: CpuTime
    byte_in_s: CpuTime
    byte_out_s: CpuTime
    packet_s: CpuTime
    wake_s: CpuTime = 0.0
    service_cv: Annotated[float, Field(ge=0, le=20)]
    servers: Annotated[int, Field(ge=1)] | None = None
    discipline: Literal["fcfs", "ps"] = "fcfs"


class MemoryPrior(_Figures):
    """Bytes of the software at rest and per open connection; seconds over which a closed one's are given back (0: at once).

    session_bytes: kept for each client (peer) for session_s after it was last there. A cache grows by cache_request_bytes
    with each request that is not in it, up to cache_bytes: cache_bytes x (1 - exp(-requests x cache_request_bytes /
    cache_bytes)) where all of what may be asked for is asked for alike (the coupon collector's problem).
    """

    base_bytes: Amount
    connection_bytes: Amount
    release_s: Amount
    session_bytes: Amount = 0.0
    session_s: Amount = 0.0
    cache_bytes: Amount = 0.0
    cache_request_bytes: Amount = 0.0

    @property
    def cache_requests(self) -> float:
        """For how many different requests the cache has room; 0: there is none."""
        return self.cache_bytes / self.cache_request_bytes if self.cache_request_bytes > 0 else 0.0


class StoragePrior(_Figures):
    """Bytes on disk at rest, what is written to stay there per byte received (data) and per request (logs), and operations per
    request.

    What is written has the software's own amplification in it (indices, logs). What is rewritten in place, such as a
    snapshot, doesn't stay. retention_s: for how long what was written is kept; none: for good.
    """

    base_bytes: Amount
    written_per_byte_in: Amount
    written_per_request: Amount = 0.0
    ops_per_request: Amount
    retention_s: Annotated[float, Field(gt=0)] | None = None


class UnseenPrior(_Figures):
    """What a connection would bring where only its SYN is seen."""

    requests_per_connection: Amount
    request_bytes: Amount
    response_bytes: Amount


class Spread(_Figures):
    """How unsure the prior is: standard deviation of the natural logarithm of each resource's figure as a whole.

    `costs`: that of each cost (of CPU, or memory) by itself, beside the whole's.
    """

    cpu: Annotated[float, Field(ge=0, le=10)]
    memory: Annotated[float, Field(ge=0, le=10)]
    storage: Annotated[float, Field(ge=0, le=10)]
    costs: Annotated[float, Field(ge=0, le=10)] = 0.0


class SystemPrior(_Figures):
    """What the operating system takes of every VM, beside its role's software."""

    idle_cores: Amount
    memory_bytes: Amount
    storage_bytes: Amount
    source: Annotated[str, Field(min_length=1)]


class RolePrior(_Figures):
    """The prior of one role. `source` says in words where its figures come from."""

    cpu: CpuPrior
    memory: MemoryPrior
    storage: StoragePrior
    unseen: UnseenPrior
    spread: Spread
    source: Annotated[str, Field(min_length=1)]


class Priors(_Figures):
    """All roles' priors, the operating system's share, and other names by which roles go."""

    reference_core: Annotated[str, Field(min_length=1)]
    system: SystemPrior
    aliases: dict[str, str]
    roles: dict[str, RolePrior]

    @model_validator(mode="after")
    def _names_hold(self) -> Priors:
        if GENERIC not in self.roles:
            raise ValueError(f"the role {GENERIC!r} is missing; add it, it stands for every role without figures")
        for alias, role in self.aliases.items():
            if role not in self.roles:
                raise ValueError(f"the alias {alias!r} means {role!r}, which has no figures; add them or mend the alias")
            if alias in self.roles:
                raise ValueError(f"{alias!r} is an alias and a role; remove one")
        return self

    def role_of(self, name: str) -> str:
        """The role whose prior a VM with this role name gets: itself, what its alias means, or the generic one."""
        role = self.aliases.get(name, name)
        return role if role in self.roles else GENERIC

    def prior(self, name: str) -> RolePrior:
        """The prior for a role name, with the operating system's share added; the generic one for an unknown role."""
        prior = self.roles[self.role_of(name)]
        return prior.model_copy(
            update={
                "cpu": prior.cpu.model_copy(update={"idle_cores": prior.cpu.idle_cores + self.system.idle_cores}),
                "memory": prior.memory.model_copy(update={"base_bytes": prior.memory.base_bytes + self.system.memory_bytes}),
                "storage": prior.storage.model_copy(
                    update={"base_bytes": prior.storage.base_bytes + self.system.storage_bytes}
                ),
            }
        )


def load_priors(path: Path = BUNDLED) -> Priors:
    """Reads and checks a file of role priors (JSON). Raises InputError naming file, place, what, and how to mend it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"role priors {path}: {error.strerror or error}", "give a file that can be read") from None
    try:
        return Priors.model_validate_json(text)
    except ValidationError as error:
        entry = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in entry["loc"])
        what = str(entry.get("ctx", {}).get("error", entry["msg"]))
        place = f"role priors {path}: {where}: {what}" if where else f"role priors {path}: {what}"
        raise InputError(place, f"correct it as in {BUNDLED.name}") from None


@cache
def bundled_priors() -> Priors:
    """The priors that come with this version, read once."""
    return load_priors()
