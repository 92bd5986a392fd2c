"""How a server is asked by HTTP: TLS, who we are, bounds on time and size, another try where that may help.

Knows no server's ways: what becomes of an answer, and which error tells of trouble, say those who derive from HttpAsker. No
secret is ever in a repr, an error or a log.
"""

from __future__ import annotations

import email.utils
import random
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import httpx
import stamina

from adumbra.schema.errors import AdumbraError, InputError
from adumbra.schema.version import __version__

TELLING_BYTES = 4096
"""The most that is read of an answer that only says whether it went well."""
_MOST_TOKEN_BYTES = 4096
_WAIT_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """A server's address and what it is to be shown. `url`: scheme, host, port and perhaps a path, without user or query.

    A token file is read again whenever it changes; auth_scheme stands before the token. headers: more of them, such as a
    tenant's. ca: a file of the authorities to be trusted in place of the system's; cert, key: files by which the server knows
    us (the key may be in the cert's). insecure: to believe any certificate.
    timeout_s: how long an answer may take; give_up_s: for how long a request is tried again. Raises InputError for an address
    that can't be one.
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
        parts = self.parts
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            shown = f"{parts.scheme}:{parts.netloc.rpartition('@')[2] or parts.path.rpartition('@')[2]}"[:80]
            raise InputError(
                f"the server's address {shown!r} begins with neither http:// nor https:// and a host",
                "give one such as https://server.example:8642",
            )
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise InputError(
                f"the address of {parts.hostname} has a user or a query in it", "give user and password, or the token, apart"
            )

    @property
    def parts(self) -> SplitResult:
        """The address in its parts. Raises InputError, which doesn't repeat it."""
        try:
            parts = urlsplit(self.url.strip())
            _ = parts.port, parts.hostname
        except ValueError:
            raise InputError("the server's address is none", "give one such as https://server.example:8642") from None
        return parts

    def joined(self, path: str) -> str:
        """The address of a path below the server's; a whole address stays what it is."""
        base = self.url.strip().rstrip("/")
        return path if path.startswith(("http://", "https://")) else f"{base}/{path.lstrip('/')}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after_s(self) -> float | None:
        """When to ask again, where it says so (RFC 9110, 10.2.3: seconds, or a date by the server's own clock)."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdecimal():
            return float(text[:9])
        try:
            at, now = email.utils.parsedate_to_datetime(text), email.utils.parsedate_to_datetime(self.headers.get("date", ""))
            return max(0.0, (at - now).total_seconds())
        except (TypeError, ValueError):
            return None


class Trouble(Enum):
    """Why there is no answer."""

    LATE = auto()
    BROKEN = auto()
    AWAY = auto()
    UNTRUSTED = auto()
    PACKED = auto()
    LONG = auto()
    TOKEN = auto()
    FILES = auto()


_LATER = frozenset({Trouble.LATE, Trouble.BROKEN, Trouble.AWAY})
_MENDS = {
    Trouble.LATE: "is it overloaded, or is something in between?",
    Trouble.BROKEN: "is the port right?",
    Trouble.AWAY: "does it run there?",
    Trouble.UNTRUSTED: "name the file of those who signed its certificate by ca",
    Trouble.PACKED: "is a proxy in between?",
    Trouble.LONG: "is it the server that you mean?",
    Trouble.TOKEN: "check its path and rights: it holds the token and nothing else",
    Trouble.FILES: "check ca, cert and key",
}


class LaterError(Exception):
    """Another try may help, at the earliest after `after_s` where the server says so. error: what is raised where none does."""

    def __init__(self, error: AdumbraError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


class HttpAsker(ABC):
    """Asks one server; heirs say what answers mean. Opened by `with`; threads may share it.

    on_retry: told, before each further try, why.
    """

    mends: Mapping[Trouble, str] = {}
    """What to do about trouble, where there is more to say than of any server."""

    def __init__(self, access: HttpAccess, on_retry: Callable[[AdumbraError], None] = lambda _: None) -> None:
        self.access = access
        self._on_retry = on_retry
        self._auth = _Auth(access)
        self._client: httpx.Client | None = None

    @abstractmethod
    def error(self, trouble: Trouble, what: str, mend: str) -> AdumbraError:
        """The error that tells of trouble."""

    @abstractmethod
    def judge(self, answer: Answer, place: str) -> None:
        """Raises what an answer tells of, where it isn't one that the caller wants; as a LaterError where another try may
        help."""

    def place(self, url: str) -> str:
        """What an address is called: no query."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}" if host else ""

    def __enter__(self) -> Self:
        access = self.access
        self._client = httpx.Client(
            verify=self._tls(),
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
        form: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = TELLING_BYTES,
        telling_bytes: int = TELLING_BYTES,
        give_up_s: float | None = None,
        on_retry: Callable[[AdumbraError], None] | None = None,
        wanted: Callable[[Answer], bool] = lambda _: False,
    ) -> Answer:
        """Sends a request until the server has answered it, with growing pauses, and reads at most `most_bytes` of an answer
        that is good, of others the first `telling_bytes`.

        form: the query of a GET, or of any request that has content; else what is posted. wanted: which answers are given
        back though they would be judged. Raises what `error` and `judge` do.
        """
        until = self.access.give_up_s if give_up_s is None else give_up_s
        began, told = time.monotonic(), on_retry or self._on_retry
        how = {"params": form} if method != "POST" or content is not None else {"data": form}

        def later(error: Exception) -> bool | float:
            """Whether to try again, and when; after what a server asks for, not all of us at once."""
            if not isinstance(error, LaterError):
                return False
            if (error.after_s or 0.0) >= until - (time.monotonic() - began):
                return False
            told(error.error)
            return True if error.after_s is None else error.after_s * random.uniform(1.0, 1.2)  # noqa: S311 no secret

        often: Any = {"attempts": None, "timeout": until} if until > 0 else {"attempts": 1, "timeout": None}
        try:
            for attempt in stamina.retry_context(on=later, wait_max=_WAIT_MAX_S, wait_jitter=0.5, **often):
                with attempt, self._opened(method, url, content=content, headers=headers, **how) as response:
                    body = self._body(response, most_bytes, telling_bytes)
                    answer = Answer(response.status_code, body, dict(response.headers))
                    if not wanted(answer):
                        self.judge(answer, self.place(url))
                    return answer
        except LaterError as error:
            raise error.error from None
        raise AssertionError  # the last try raises what it met

    @contextmanager
    def lines(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[Iterator[str]]:
        """The lines of an answer that goes on. Tried once. Raises as `ask` does, also while it is read."""
        try:
            with self._opened(method, url, headers=headers) as response:
                if not response.is_success:
                    body = self._body(response, 0, TELLING_BYTES)
                    self.judge(Answer(response.status_code, body, dict(response.headers)), self.place(url))
                yield response.iter_lines()
        except LaterError as error:
            raise error.error from None

    @contextmanager
    def _opened(self, method: str, url: str, **sent: Any) -> Iterator[httpx.Response]:
        """An answer that begins. What may help later is a LaterError."""
        if self._client is None:
            raise RuntimeError("it isn't open: use it in a `with` block")
        with self._told(self.place(url)), self._client.stream(method, url, **sent) as response:
            yield response

    def told(self, answer: Answer) -> str:
        """The first line of what a server said, to be shown."""
        return self.hidden(_short(answer.body[:TELLING_BYTES].decode("utf-8", "replace")))

    def hidden(self, text: str) -> str:
        """The same text with whatever is secret of ours taken out, should a server or library repeat it."""
        for secret in self._auth.secrets():
            text = text.replace(secret, "***")
        return text

    def _raised(self, trouble: Trouble, what: str) -> AdumbraError | LaterError:
        """What is raised for trouble."""
        error = self.error(trouble, what, self.mends.get(trouble, _MENDS[trouble]))
        return LaterError(error) if trouble in _LATER else error

    @contextmanager
    def _told(self, place: str) -> Iterator[None]:
        """Turns what the network, or a token's file, does into errors."""
        try:
            yield
        except _TokenError as error:
            raise self._raised(Trouble.TOKEN, str(error)) from None
        except httpx.TimeoutException:
            raise self._raised(Trouble.LATE, f"{place} did not answer in time") from None
        except (httpx.RemoteProtocolError, httpx.DecodingError):
            raise self._raised(Trouble.BROKEN, f"{place} broke off, or does not speak HTTP") from None
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            what = self.hidden(_short(str(error)))
            untrusted = "certificate verify failed" in what.lower()
            told = f"{place} can't be {'trusted' if untrusted else 'reached'}: {what}"
            raise self._raised(Trouble.UNTRUSTED if untrusted else Trouble.AWAY, told) from None
        except httpx.InvalidURL:
            raise InputError(f"{place} is no address", "give one such as https://server.example:8642") from None

    def _body(self, response: httpx.Response, most_bytes: int, telling_bytes: int) -> bytes:
        """What was answered. Of errors the beginning is enough; of good answers that are longer nothing is any good."""
        place = self.place(str(response.request.url))
        if response.headers.get("content-encoding", "identity") != "identity":  # might become any length
            raise self._raised(Trouble.PACKED, f"{place} sends a compressed answer that was not asked for")
        good, pieces, size = response.is_success, list[bytes](), 0
        until = time.monotonic() + self.access.timeout_s
        for piece in response.iter_raw():
            pieces.append(piece)
            size += len(piece)
            if size > (most_bytes if good else telling_bytes):
                if good and most_bytes > TELLING_BYTES:
                    raise self._raised(Trouble.LONG, f"{place} answers with more than {most_bytes:,} bytes")
                break
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer takes too long")
        return b"".join(pieces)

    def _tls(self) -> ssl.SSLContext:
        access = self.access
        try:
            context = ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
            if access.cert is not None:
                context.load_cert_chain(access.cert, access.key)
        except (OSError, ssl.SSLError) as error:
            mend = self.mends.get(Trouble.FILES, _MENDS[Trouble.FILES])
            why = error.strerror or "no certificates"
            raise InputError(f"a certificate or key for {access.url} can't be read ({why})", mend) from None
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _TokenError(Exception):
    """The token's file can't be read, or holds none."""


class _Auth(httpx.Auth):
    """Adds what tells who we are to each request. Kept apart from the headers, which libraries may show."""

    def __init__(self, access: HttpAccess) -> None:
        self._access = access
        self._basic = httpx.BasicAuth(access.user, access.password) if access.user or access.password else None
        self._token = access.token
        self._seen: tuple[int, int] | None = None
        self._turn = threading.Lock()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._access.token_file is not None and not self._access.token:
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
                    self._token, self._seen = _token_in(file), seen
            except (OSError, _TokenError) as error:
                if self._token:  # it is being replaced; the one before may still do
                    return
                why = str(error) if isinstance(error, _TokenError) else f"can't be read ({error.strerror})"
                raise _TokenError(f"the token file {file} {why}") from None


def _token_in(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MOST_TOKEN_BYTES + 1)
    if len(data) > _MOST_TOKEN_BYTES:
        raise _TokenError("is too large to hold a token")
    token = data.decode("ascii", "replace").strip()
    if not is_token(token):
        raise _TokenError("holds what can't be a token")
    return token


def is_token(text: str) -> bool:
    """Whether a text may be a token: visible ASCII in one piece."""
    return text.isascii() and all(character.isprintable() and character != " " for character in text) and len(text) > 3


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return "".join(char if char.isprintable() else " " for char in line)[:200]
