"""What the environment says: where state and metrics live, what is kept, what is logged, how a server is reached and by whom.

Reads environment variables only.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from adumbra.schema.access import Role
from adumbra.schema.errors import InputError
from adumbra.schema.units import parse_duration_s, parse_keep_s

_PREFIX = "ADUMBRA_"
DAY_S = 86_400.0
Kept = Annotated[float, BeforeValidator(parse_keep_s), Field(validate_default=False)]
"""Seconds, given as text."""


def _data_home() -> Path:
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "adumbra"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log is written. `auto`: lines where a person reads along, JSON in a pipe or file."""

    AUTO = "auto"
    LINES = "lines"
    JSON = "json"


class Settings(BaseSettings):
    """Settings from ADUMBRA_* variables.

    home: the folder of all state; by default the user's data folder (XDG Base Directory Specification). store: where metrics
    go, one or several URLs (store/urls.py); by default a DuckDB file in `home`. state: an SQLite file or a PostgreSQL URL
    for networks and what hangs on them; by default a file in `home`. spool_gb: how much waits on disk at most for each remote
    store, in 10^9 bytes. drain_s: how long a command that wrote waits at its end for that to be sent. keep_raw, keep_1m,
    keep_5m, keep_1h: how long the embedded store keeps intervals and their roll-ups, in seconds; written like 7d or 2y.
    log_level, log_format: of what is logged, on standard error. captures: the folder of files that a server observes where its
    API is asked to; by default it observes none.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore")
    home: Path = Field(default_factory=_data_home)
    store: SecretStr = SecretStr("")
    state: SecretStr = SecretStr("")
    spool_gb: float = Field(1.0, ge=0.001, allow_inf_nan=False)
    drain_s: float = Field(30.0, ge=0.0, allow_inf_nan=False)
    keep_raw: Kept = 7 * DAY_S
    keep_1m: Kept = 30 * DAY_S
    keep_5m: Kept = 180 * DAY_S
    keep_1h: Kept = 730 * DAY_S
    log_level: LogLevel = LogLevel.WARNING
    log_format: LogFormat = LogFormat.AUTO
    captures: Path | None = None


class ClientSettings(BaseSettings):
    """How commands reach a server, from ADUMBRA_* variables.

    server: its URL; without it commands work in this host's own workspace. token: by which it knows us, or token_file: the file
    that holds it. server_ca: a file of the authorities that are trusted in place of the system's. server_insist: send the token
    to another host without TLS. server_timeout_s: how long an answer may take; server_give_up_s: for how long a server that is
    away is tried again.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore")
    server: str = ""
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    server_ca: Path | None = None
    server_insist: bool = False
    server_timeout_s: float = Field(60.0, ge=1.0, le=3600.0, allow_inf_nan=False)
    server_give_up_s: float = Field(15.0, ge=0.0, le=3600.0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Whoever is of that group may do what the role may. networks: None for all."""

    group: str
    role: Role
    networks: tuple[str, ...] | None = None


def parse_role_rules(given: object) -> tuple[RoleRule, ...]:
    """Rules such as `admins=admin; net-ops=operator:shop,lab`. Raises ValueError saying how to write them."""
    several = given if isinstance(given, tuple) else str(given).split(";")
    return tuple(each if isinstance(each, RoleRule) else _role_rule(each.strip()) for each in several if str(each).strip())


def _role_rule(text: str) -> RoleRule:
    group, _, given = text.rpartition("=")
    role, colon, names = given.partition(":")
    networks = tuple(name.strip() for name in names.split(",") if name.strip()) if colon else None
    if not group.strip() or role.strip() not in set(Role) or networks == ():
        raise ValueError(f"{text[:60]!r} is no rule; write GROUP=ROLE or GROUP=ROLE:NETWORK,NETWORK, rules parted by ;")
    return RoleRule(group.strip(), Role(role.strip()), networks)


def _networks(given: object) -> tuple[IPv4Network | IPv6Network, ...]:
    several = given if isinstance(given, tuple) else str(given).split(",")
    return tuple(ip_network(str(each).strip()) for each in several if str(each).strip())


class OidcSettings(BaseSettings):
    """Who vouches for those who sign in at the console, from ADUMBRA_OIDC_* variables (OpenID Connect Core 1.0).

    issuer: its URL, empty for nobody. client_id, client_secret_file: by what it knows this server; without a file this is a
    public client. scopes: what is asked for. name_claim: what users are called by; groups_claim: where their groups stand, dots
    lead inwards. roles: what each group may; whoever is of none of them is turned away.
    """

    model_config = SettingsConfigDict(env_prefix=f"{_PREFIX}OIDC_", extra="ignore")
    issuer: str = ""
    client_id: str = ""
    client_secret_file: Path | None = None
    scopes: str = "openid profile email"
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    roles: Annotated[tuple[RoleRule, ...], NoDecode, BeforeValidator(parse_role_rules)] = Field((), validate_default=False)


class ServeSettings(BaseSettings):
    """How a server is reached, from ADUMBRA_SERVE_* variables.

    host, port: what it binds to. tls_cert, tls_key: files in PEM, the certificate with what it is signed by. insist: bind
    beyond this host without TLS. trusted_proxies: addresses and networks whose X-Forwarded-For and -Proto are believed. url:
    how browsers reach it, where a proxy stands before it. connections: how many are held at once.
    """

    model_config = SettingsConfigDict(env_prefix=f"{_PREFIX}SERVE_", extra="ignore")
    host: str = "127.0.0.1"
    port: int = Field(8642, ge=0, le=65_535)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insist: bool = False
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)] = Field(
        (), validate_default=False
    )
    url: str = ""
    connections: int = Field(1_200, ge=10, le=100_000)


class Shaping(StrEnum):
    """How bandwidth is limited at a hypervisor. `auto`: by libvirt where its kernel can, else by tc."""

    AUTO = "auto"
    LIBVIRT = "libvirt"
    TC = "tc"
    NONE = "none"


class Acceleration(StrEnum):
    """Whether a hypervisor's machines run on the processor itself. `auto`: where it can."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class LibvirtSettings(BaseSettings):
    """The hypervisor that networks are made at, from ADUMBRA_LIBVIRT_* variables.

    uri: libvirt's, local or qemu+ssh. storage: a folder there, in which each network gets one. image, image_format: what disks
    are cloned from, a path there; "" for blank ones. kernel, initrd, kernel_arguments: to boot these, not the disk. seed:
    whether machines get a disc for cloud-init; user_data: a file that goes into it. firewall: whether ports are kept shut.
    outside: how subnets linked to the internet reach it. headroom: cores and memory that a machine can be given while it runs,
    in multiples. stop_s: how long one that is to stop may take before it is switched off.
    """

    model_config = SettingsConfigDict(env_prefix=f"{_PREFIX}LIBVIRT_", extra="ignore")
    uri: str = "qemu:///system"
    storage: str = Field("/var/lib/libvirt/adumbra", pattern="^/")
    image: str = Field("", pattern="^(/|$)")
    image_format: Literal["qcow2", "raw"] = "qcow2"
    kernel: str = Field("", pattern="^(/|$)")
    initrd: str = Field("", pattern="^(/|$)")
    kernel_arguments: str = ""
    seed: bool = True
    user_data: Path | None = None
    firewall: bool = True
    outside: Literal["route", "nat"] = "route"
    shaping: Shaping = Shaping.AUTO
    acceleration: Acceleration = Acceleration.AUTO
    arch: str = "x86_64"
    machine: str = "q35"
    headroom: float = Field(2.0, ge=1.0, le=16.0, allow_inf_nan=False)
    stop_s: float = Field(60.0, ge=0.0, le=3600.0, allow_inf_nan=False)


def _period(text: object) -> float:
    return math.inf if str(text).strip().lower() == "never" else parse_duration_s(str(text))


Period = Annotated[float, BeforeValidator(_period), Field(validate_default=False)]
"""Seconds, given as text such as 24h, or never."""


class LoopSettings(BaseSettings):
    """What a server does by itself, from ADUMBRA_SERVE_* variables.

    jobs: how many it works at, at once; 0 leaves them to other servers. train_every: a network whose last training is older,
    and that has seen more since, is trained again; never: neither that nor a profile is made but by those who ask.
    train_first: how much must be seen to be learned from at all. train_growth: a network is trained earlier once so much more
    is there, as a share of what was learned from. watch_every: how often the machines of active networks are read; never: not
    at all. calibrate_every: how much live use that is new calibrates the demand model; never: only those who ask do.
    """

    model_config = SettingsConfigDict(env_prefix=f"{_PREFIX}SERVE_", extra="ignore")
    jobs: int = Field(2, ge=0, le=64)
    train_every: Period = DAY_S
    train_first: Period = 600.0
    train_growth: float = Field(0.5, ge=0.01, le=1_000.0)
    watch_every: Annotated[Period, Field(ge=0.5)] = 5.0
    calibrate_every: Annotated[Period, Field(ge=60.0)] = 3_600.0


class TerraformTarget(StrEnum):
    """Where the terraform provider's file leads."""

    AWS = "aws"
    OPENSTACK = "openstack"
    LIBVIRT = "libvirt"


class TerraformApply(StrEnum):
    """What is done with the terraform provider's file: nothing, a plan of tofu's beside it, or all that it says."""

    NEVER = "never"
    PLAN = "plan"
    APPLY = "apply"


class TerraformFlavors(StrEnum):
    """The flavors of OpenStack machines: made by size, or those that the profile's types name."""

    MADE = "made"
    NAMED = "named"


class ProvisionSettings(BaseSettings):
    """How providers make networks, from ADUMBRA_* variables.

    terraform_target: where the terraform provider's file leads. terraform_place: the region, the cloud of clouds.yaml or the
    URI there; without it the target's own (us-east-1, what OS_* variables say, qemu:///system). terraform_flavors: OpenStack's.
    terraform_apply: whether tofu or terraform is run on the file; terraform_timeout: how long one run of it may take.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore")
    terraform_target: TerraformTarget = TerraformTarget.AWS
    terraform_place: str | None = Field(None, max_length=500)
    terraform_flavors: TerraformFlavors = TerraformFlavors.MADE
    terraform_apply: TerraformApply = TerraformApply.NEVER
    terraform_timeout: Annotated[float, BeforeValidator(parse_duration_s), Field(validate_default=False)] = 3_600.0


_Loaded = TypeVar("_Loaded", bound=BaseSettings)


def load_settings() -> Settings:
    """The settings. Raises InputError naming the variable that is wrong, never its value."""
    return _load(Settings)


def load_client_settings() -> ClientSettings:
    """How a server is reached. Raises InputError naming the variable that is wrong, never its value."""
    return _load(ClientSettings)


def load_serve_settings() -> ServeSettings:
    """How a server is to be reached. Raises InputError naming the variable that is wrong, never its value."""
    return _load(ServeSettings)


def load_loop_settings() -> LoopSettings:
    """What a server does by itself. Raises InputError naming the variable that is wrong, never its value."""
    return _load(LoopSettings)


def load_libvirt_settings() -> LibvirtSettings:
    """The hypervisor that networks are made at. Raises InputError naming the variable that is wrong, never its value."""
    return _load(LibvirtSettings)


def load_provision_settings() -> ProvisionSettings:
    """How providers make networks. Raises InputError naming the variable that is wrong, never its value."""
    return _load(ProvisionSettings)


def load_oidc_settings() -> OidcSettings:
    """Who vouches for those who sign in. Raises InputError naming the variable that is wrong, never its value."""
    return _load(OidcSettings)


def _load(kind: type[_Loaded]) -> _Loaded:
    try:
        return kind.model_validate({})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        prefix = kind.model_config.get("env_prefix", _PREFIX)
        name = f"{prefix}{first['loc'][0]}".upper() if first["loc"] else "a setting"
        raise InputError(f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}", "correct it, or unset it") from None
