"""How a store's server is reached by HTTP: TLS, who we are, bounds on time and size, another try where that may help.

Knows no database. No secret is ever in a repr, an error or a log.
"""

from __future__ import annotations

import email.utils
import random
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import stamina

from adumbra.schema.errors import InputError, StoreError, StoreUnavailableError
from adumbra.schema.version import __version__

TELLING_BYTES = 4096
"""The most that is read of an answer that only says whether it went well."""
_WAIT_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """A server's address and what it is to be shown. `url`: scheme, host, port and perhaps a path, without user or query.

    A token file is read again whenever it changes; auth_scheme stands before the token. headers: more of them, such as a
    tenant's. ca: a file of the authorities to be trusted in place of the system's; cert, key: files by which the server knows
    us (the key may be in the cert's).
    give_up_s: for how long a request is tried again before StoreUnavailableError is raised.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    auth_scheme: str = "Bearer"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    give_up_s: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InputError("a store's address begins with neither http:// nor https:// and a host", "see docs/stores.md")
        if parts.username is not None or parts.query or parts.fragment:
            raise InputError(f"the address of {parts.hostname} has a user or a query in it", "give user and password apart")

    def joined(self, path: str) -> str:
        """The address of a path below the server's; a whole address stays what it is."""
        return path if path.startswith(("http://", "https://")) else f"{self.url.rstrip('/')}/{path.lstrip('/')}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: anything but that it can't now, that it doesn't know us, or that we shall ask elsewhere."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class TryLaterError(StoreUnavailableError):
    """Another try may help, at the earliest after `after_s` where the server says so. said: what it said."""

    def __init__(self, what: str, mend: str = "", said: str = "", after_s: float | None = None) -> None:
        super().__init__(what, mend)
        self.said = said
        self.after_s = after_s


class NotLetInError(StoreUnavailableError):
    """The server refuses us as such: our user, password or token. What was to be written is kept until that is mended."""


class HttpClient:
    """Asks one server. Opened by `with`; threads may share it. `on_retry` is called before every further try."""

    def __init__(self, access: HttpAccess, on_retry: Callable[[], None] = lambda: None) -> None:
        self.access = access
        self._on_retry = on_retry
        self._auth = _Auth(access)
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        access = self.access
        self._client = httpx.Client(
            verify=_tls(access),
            auth=self._auth,
            headers={**access.headers, "User-Agent": f"adumbra/{__version__}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(access.timeout_s, connect=access.connect_timeout_s),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )
        return self

    def __exit__(self, *exc: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        form: Mapping[str, str | list[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = TELLING_BYTES,
        give_up_s: float | None = None,
    ) -> Answer:
        """Sends a request until the server has answered it, with growing pauses, and reads at most `most_bytes` of the answer.

        Raises StoreUnavailableError where it can't be reached, is too busy (429, 5xx), or refuses us as such (401, 403) or
        for now; StoreError for an answer that is longer.
        """
        until = self.access.give_up_s if give_up_s is None else give_up_s
        began = time.monotonic()

        def later(error: Exception) -> bool | float:
            """Whether to try again, and when; after what a server asks for, not all of us at once."""
            if not isinstance(error, TryLaterError):
                return False
            left_s = until - (time.monotonic() - began)
            if (error.after_s or 0.0) >= left_s:
                return False
            self._on_retry()
            return True if error.after_s is None else error.after_s * random.uniform(1.0, 1.1)  # noqa: S311 no secret

        often = {"attempts": None, "timeout": until} if until > 0 else {"attempts": 1, "timeout": None}
        for attempt in stamina.retry_context(on=later, wait_max=_WAIT_MAX_S, wait_jitter=0.5, **often):
            with attempt:
                how = {"params": form} if method == "GET" else {"data": form}
                return self._ask_once(method, url, most_bytes, content=content, headers=headers, **how)
        raise AssertionError  # the last try raises what it met

    def _ask_once(self, method: str, url: str, most_bytes: int, **request: Any) -> Answer:
        client = self._client
        if client is None:
            raise RuntimeError("the store isn't open: use it in a `with` block")
        place = _place(url)
        try:
            with client.stream(method, url, **request) as response:
                until = time.monotonic() + self.access.timeout_s
                body = _body(response, most_bytes, until, place)
        except httpx.TimeoutException as error:
            raise TryLaterError(f"{place} did not answer in time", "is it overloaded, or is something in between?") from error
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise TryLaterError(f"{place} broke off or does not speak HTTP", "is the port right?") from error
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            what = self.hidden(_short(str(error)))
            if "certificate" in what.lower():  # another try meets the same
                raise NotLetInError(
                    f"{place} can't be trusted: {what}", "give what signed its certificate as its CA"
                ) from error
            raise TryLaterError(f"{place} can't be reached: {what}", "does it run there?") from error
        return self._judged(Answer(response.status_code, body, dict(response.headers)), place)

    def _judged(self, answer: Answer, place: str) -> Answer:
        said = self.told(answer)
        if answer.status in {401, 403}:
            raise NotLetInError(f"{place} does not let us in ({answer.status} {said})", "check user, password or token")
        if 300 <= answer.status < 400:
            to = _place(answer.headers.get("location", ""))
            raise StoreUnavailableError(f"{place} sends us to {to or 'another place'}", "give the address that it is at")
        if answer.status in {408, 429} or answer.status >= 500:
            raise TryLaterError(f"{place} can't now ({answer.status} {said})", "", said, _retry_after_s(answer.headers))
        return answer

    def told(self, answer: Answer) -> str:
        """The first line of what a server said, to be shown."""
        return self.hidden(_short(answer.body[:TELLING_BYTES].decode("utf-8", "replace")))

    def hidden(self, text: str) -> str:
        """The same text with whatever is secret of ours taken out, should a server or library repeat it."""
        for secret in self._auth.secrets():
            text = text.replace(secret, "***")
        return text


class _Auth(httpx.Auth):
    """Adds what tells who we are to each request. Kept apart from the headers, which libraries may show."""

    def __init__(self, access: HttpAccess) -> None:
        self._access = access
        self._basic = httpx.BasicAuth(access.user, access.password) if access.user or access.password else None
        self._token = access.token
        self._seen: tuple[int, int] | None = None
        self._turn = threading.Lock()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._access.token_file is not None:
            self._read(self._access.token_file)
        if self._token:
            request.headers["Authorization"] = f"{self._access.auth_scheme} {self._token}"
        elif self._basic is not None:
            yield from self._basic.auth_flow(request)
            return
        yield request

    def secrets(self) -> list[str]:
        header = self._basic._auth_header if self._basic is not None else ""  # noqa: SLF001 it may be what is repeated
        values = [header.removeprefix("Basic "), self._access.password, self._token, *self._access.headers.values()]
        return sorted((value for value in values if len(value) > 3), key=len, reverse=True)

    def _read(self, file: Path) -> None:
        with self._turn:
            try:
                about = file.stat()
                seen = about.st_mtime_ns, about.st_size
                if seen != self._seen:
                    self._token = file.read_text(encoding="ascii").strip()
                    self._seen = seen
            except (OSError, UnicodeDecodeError) as error:
                if self._token:  # it is being replaced; the one before may still do
                    return
                raise StoreUnavailableError(f"the token file {file} can't be read", "check its path and rights") from error


def _tls(access: HttpAccess) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
        if access.cert is not None:
            context.load_cert_chain(access.cert, access.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"a certificate or key for {access.url} can't be read: {error.strerror or error}", "check ca, cert and key"
        ) from error
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _body(response: httpx.Response, most_bytes: int, until: float, place: str) -> bytes:
    """What was answered. Of errors the beginning is enough; of good answers that are longer nothing is any good."""
    if response.headers.get("content-encoding", "identity") != "identity":  # might become any length
        raise StoreError(f"{place} sends a compressed answer that was not asked for", "is a proxy in between?")
    good, pieces, size = response.is_success, list[bytes](), 0
    for piece in response.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > (most_bytes if good else TELLING_BYTES):
            if good and most_bytes > TELLING_BYTES:
                raise StoreError(f"{place} answers with more than {most_bytes:,} bytes", "is it the server that you mean?")
            break
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the answer takes too long")
    return b"".join(pieces)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date, by the server's own clock."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at, now = email.utils.parsedate_to_datetime(text), email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (at - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _place(url: str) -> str:
    """An address to show: no query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else ""


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return "".join(char if char.isprintable() else " " for char in line)[:200]
