"""Metric stores as their users name them: ADUMBRA_STORE's URLs, read and opened.

What is secret in them is in no repr, name or error: of a URL that can't be read nothing is shown that may be a password.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from adumbra.schema.errors import InputError
from adumbra.schema.units import parse_duration_s
from adumbra.store.names import suggest

if TYPE_CHECKING:
    from adumbra.http_asking import HttpAccess
    from adumbra.store.protocol import RemoteStore

VARIABLE = "ADUMBRA_STORE"
_GIVE_UP_S = 2.0  # of one try: who waits longer is the outbox, or the user


class Kind(StrEnum):
    """The kinds of metric stores."""

    DUCKDB = "duckdb"
    PROMETHEUS = "prometheus"
    VICTORIAMETRICS = "victoriametrics"
    MIMIR = "mimir"
    INFLUXDB = "influxdb"
    ADUMBRA = "adumbra"


_FORMS = {
    Kind.DUCKDB: "duckdb:///path",
    Kind.PROMETHEUS: "prometheus+http://host:9090",
    Kind.VICTORIAMETRICS: "victoriametrics+http://host:8428",
    Kind.MIMIR: "mimir+https://host",
    Kind.INFLUXDB: "influxdb+http://host:8086/database",
    Kind.ADUMBRA: "adumbra+https://host:8470",
}
SCHEMES: tuple[str, ...] = (
    Kind.DUCKDB.value,
    *(f"{kind}+{how}" for kind in _FORMS if kind != "duckdb" for how in ("http", "https")),
)
_HEADER = "header."
_TENANT = "X-Scope-OrgID"
_ENCODE = "write @ : / ? # , % and spaces within a user, password or option percent-encoded, such as %40 for @"
_SCHEME = re.compile(r"[a-z][a-z0-9+]{1,30}")
_FOLDER = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """One store. url: scheme, host, port and path of a remote one; path: of the embedded one's file, None for the usual place.

    options: as in docs/stores.md, each with a value that was found right.
    """

    kind: Kind
    url: str = ""
    path: Path | None = None
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_remote(self) -> bool:
        return self.kind is not Kind.DUCKDB

    @property
    def name(self) -> str:
        """What the store is called before people: its URL without user, password and options."""
        return f"{self.kind}+{self.url}" if self.is_remote else f"duckdb://{self.path or ''}"

    @property
    def folder(self) -> str:
        """The name of the folder in which waits what is to be sent there; the same by any password."""
        told = "\n".join((self.name, *(self.options.get(name, "") for name in ("write", "org", "bucket", "tenant"))))
        readable = _FOLDER.sub("-", self.name.lower()).strip("-")[:60]
        return f"{readable}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def number(self, option: str, otherwise: float) -> float:
        return float(self.options.get(option, otherwise))


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The stores that are written to, and which of them is read from."""

    addresses: tuple[StoreAddress, ...] = (StoreAddress(Kind.DUCKDB),)
    read: int = 0


def parse_stores(text: str) -> StoreChoice:
    """The stores that one or several URLs name, separated by spaces or commas; the embedded one where there are none.

    Read from is the one with `read=1`, or else the first. Raises InputError saying which URL is wrong, how, and what to write.
    """
    pieces = [piece for piece in re.split(r"[\s,]+", text) if piece]
    if not pieces:
        return StoreChoice()
    parsed = [_parse(piece, _ordinal(number, len(pieces))) for number, piece in enumerate(pieces)]
    marked = [number for number, (_, read) in enumerate(parsed) if read]
    if len(marked) > 1:
        raise InputError(f"{VARIABLE} has several stores with read=1", "metrics are read from one: leave it with that one")
    addresses = tuple(address for address, _ in parsed)
    folders = [address.folder for address in addresses]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InputError(f"{VARIABLE} names {addresses[number].name} twice", "leave one of them out")
    return StoreChoice(addresses, marked[0] if marked else 0)


def open_remote(address: StoreAddress) -> RemoteStore:
    """The store at an address, yet to be opened."""
    options = address.options
    told: dict[str, Any] = {name: options[name] for name in ("write", "read", "org", "bucket") if name in options}
    if "shards" in options:
        told["shards"] = int(options["shards"])
    if address.kind is Kind.INFLUXDB:
        from adumbra.store.influx import InfluxStore
        from adumbra.store.influx_client import InfluxConfig

        if "gzip" in options:
            told["gzip"] = options["gzip"] == "1"
        base, database = influx_database(address.url)
        return InfluxStore(InfluxConfig(access_to(address, base), database, **told))
    if address.kind is Kind.ADUMBRA:
        from adumbra.store.served import ServedConfig, ServedStore

        return ServedStore(ServedConfig((access_to(address, address.url),)))
    from adumbra.store.prometheus import PrometheusConfig, PrometheusStore

    usual = {"write": "/api/v1/push", "read": "/prometheus"} if address.kind is Kind.MIMIR else {}
    return PrometheusStore(PrometheusConfig(access_to(address, address.url), **{**usual, **told}))


def influx_database(url: str) -> tuple[str, str]:
    """A server's address and the database, which is the last part of its URL's path; "" where there is none."""
    if not urlsplit(url).path.strip("/"):
        return url, ""
    base, _, database = url.rpartition("/")
    return base, unquote(database)


def access_to(address: StoreAddress, url: str) -> HttpAccess:
    """How a remote store is reached."""
    from adumbra.http_asking import HttpAccess

    options = address.options
    told: dict[str, Any] = {name: Path(options[name]) for name in ("token_file", "ca", "cert", "key") if name in options}
    told["headers"] = {name.removeprefix(_HEADER): value for name, value in options.items() if name.startswith(_HEADER)}
    if "tenant" in options:
        told["headers"][_TENANT] = options["tenant"]
    if "timeout" in options:
        told["timeout_s"] = parse_duration_s(options["timeout"])
    return HttpAccess(
        url, user=address.user, password=address.password, token=options.get("token", ""),
        insecure=options.get("insecure") == "1", give_up_s=_GIVE_UP_S, **told,
    )  # fmt: skip


def _ordinal(number: int, of: int) -> str:
    return VARIABLE if of == 1 else f"URL {number + 1} of {VARIABLE}"


def _parse(piece: str, which: str) -> tuple[StoreAddress, bool]:
    scheme, colon, rest = piece.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme) or (scheme != Kind.DUCKDB and not rest.startswith("//")):
        raise InputError(f"{which} is no store's URL", f"write it like {', '.join(_FORMS.values())}; {_ENCODE}")
    if scheme not in SCHEMES:
        raise InputError(f"{which} begins with {scheme}:, which is no kind of store", suggest(scheme, SCHEMES, len(SCHEMES)))
    kind = Kind(scheme.partition("+")[0])
    try:
        parts = urlsplit(f"{scheme.rpartition('+')[2]}:{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InputError(f"the host or port in {which} can't be read", _ENCODE) from None
    if "#" in rest or "@" in parts.path + parts.query:
        raise InputError(f"{which} can be read in two ways", _ENCODE)
    if kind is Kind.DUCKDB:
        options, read = _options(parts.query, kind, which)
        if parts.netloc:
            raise InputError(f"{which} names a host, and DuckDB is a file", f"write {_FORMS[kind]}, with three slashes")
        return StoreAddress(kind, path=Path(unquote(parts.path)) if parts.path.strip("/") else None, options=options), read
    if not host:
        raise InputError(f"{which} names no host", f"write it like {_FORMS[kind]}")
    where = f"[{host}]" if ":" in host else host
    where += f":{port}" if port is not None else ""
    options, read = _options(parts.query, kind, f"{which} ({kind}+{parts.scheme}://{where})")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return StoreAddress(kind, f"{parts.scheme}://{where}{parts.path.rstrip('/')}", None, user, password, options), read


def _options(query: str, kind: Kind, which: str) -> tuple[dict[str, str], bool]:
    """The options in a URL, each checked, and whether it is to be read from."""
    found: dict[str, str] = {}
    read = False
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise InputError(f"{which} has an option without a value", f"write NAME=VALUE, with & between; {_ENCODE}") from None
    known = _OPTIONS[kind]
    for name, value in pairs:
        if name == "read" and value in {"0", "1"}:
            read = read or value == "1"
            continue
        check = known.get(_HEADER if name.startswith(_HEADER) else name)
        if check is None:
            shown = name if re.fullmatch(r"[\w.-]{1,40}", name) else "?"
            raise InputError(f"{which} has an option {shown}, which {kind} has not", suggest(shown, tuple(known), len(known)))
        if name in found:
            raise InputError(f"{which} has the option {name} twice", "leave one of them out")
        try:
            found[name] = check(value)
        except ValueError as error:
            raise InputError(f"{which}: the value of {name} is not right", str(error)) from None
    if "key" in found and "cert" not in found:
        raise InputError(f"{which} has a key without its cert", "give both; a cert's file may hold its key, too")
    return found, read


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("give some text")
    return value


def _path(value: str) -> str:
    if "@" in value or not value.startswith(("/", "http://", "https://")):
        raise ValueError("give a path that begins with /, or a whole address that begins with http:// or https://")
    return value


def _file(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("give a file's whole path, which begins with /")
    return value


def _switch(value: str) -> str:
    if value not in {"0", "1"}:
        raise ValueError("give 1 or 0")
    return value


def _shards(value: str) -> str:
    if not (value.isascii() and value.isdecimal() and 1 <= int(value[:6]) <= 64):
        raise ValueError("give a number from 1 to 64")
    return value


def _gigabytes(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) or float(value) < 0.001:
        raise ValueError("give a number of GB, 0.001 or more")
    return value


def _duration(value: str) -> str:
    try:
        seconds = parse_duration_s(value)
    except ValueError:  # which would show the value
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise ValueError("give a time from 100ms to 10m")
    return value


_Check = Callable[[str], str]
_REMOTE: Mapping[str, _Check] = {
    "read": _path, "write": _path, "token_file": _file, "token": _text, _HEADER: _text, "ca": _file, "cert": _file,
    "key": _file, "insecure": _switch, "shards": _shards, "timeout": _duration, "spool_gb": _gigabytes,
}  # fmt: skip
_OPTIONS: Mapping[Kind, Mapping[str, _Check]] = {
    Kind.DUCKDB: {},
    Kind.PROMETHEUS: {**_REMOTE, "tenant": _text},
    Kind.VICTORIAMETRICS: _REMOTE,
    Kind.MIMIR: {**_REMOTE, "tenant": _text},
    Kind.INFLUXDB: {**_REMOTE, "org": _text, "bucket": _text, "gzip": _switch},
    Kind.ADUMBRA: {name: check for name, check in _REMOTE.items() if name not in {"read", "write", "shards"}},
}
