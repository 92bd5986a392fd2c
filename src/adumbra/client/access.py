"""How a server is reached, and by which token. Checks addresses; opens nothing. No secret is in a repr or an error."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx

from adumbra.schema.errors import AccessError, InputError

TOKEN, TOKEN_FILE = "ADUMBRA_TOKEN", "ADUMBRA_TOKEN_FILE"
_MOST_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Access:
    """A server's address, and how it is asked.

    url: scheme, host, port, and perhaps a path. token: by which it knows us, or token_file: the file that holds it, read again
    whenever it changes. ca: a file of the authorities that are trusted in place of the system's. insist: to send the token to
    another host without TLS. timeout_s: how long an answer may take; give_up_s: for how long a server that is away, or too
    busy, is tried again. Raises InputError for an address that can't be one, or that isn't safe.
    """

    url: str
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca: Path | None = None
    insist: bool = False
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    give_up_s: float = 15.0

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InputError(
                f"the server's address {_shown(parts)} begins with neither http:// nor https:// and a host",
                "give one such as https://adumbra.example:8642",
            )
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise InputError(
                f"the address of {parts.hostname} has a user or a query in it", f"give the token by {TOKEN} or {TOKEN_FILE}"
            )
        if parts.scheme == "http" and not self.insist and not is_loopback(parts.hostname):
            raise InputError(
                f"http://{parts.hostname} is another host, and all that goes there, the token too, could be read on the way",
                "give an address with https://, or insist on it (ADUMBRA_SERVER_INSIST=1)",
            )
        if self.token and not is_token(self.token):
            raise InputError(f"{TOKEN} holds what can't be a token", "give what `adumbra token create` showed, whole")

    @property
    def base(self) -> str:
        """The address below which the routes are."""
        return f"{self.url.strip().rstrip('/')}/v1"


def token_of_environment() -> tuple[str, Path | None]:
    """The token that the environment names, or the file that holds it."""
    file = os.environ.get(TOKEN_FILE, "")
    return os.environ.get(TOKEN, "").strip(), Path(file) if file else None


def is_loopback(host: str) -> bool:
    """Whether a host is this one, by its name or address alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class TokenAuth(httpx.Auth):
    """Adds the token to each request. Kept apart from the headers, which libraries may show."""

    def __init__(self, access: Access) -> None:
        self._file, self._given = access.token_file, access.token
        self._known = {access.token} if access.token else set[str]()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self.token()
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        yield request

    def token(self) -> str:
        """The token as it is now, "" for none. Raises AccessError where its file can't be read."""
        if self._given or self._file is None:
            return self._given
        token = _read(self._file)
        self._known = {token} if token else set()
        return token

    def hidden(self, text: str) -> str:
        """The text without the token, should a server or library repeat it."""
        for secret in self._known:
            text = text.replace(secret, "***")
        return text


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MOST_TOKEN_BYTES:
            raise AccessError(f"the token file {file} is too large to hold a token", "it holds the token and nothing else")
        found = file.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise AccessError(f"the token file {file} can't be read ({error.strerror})", "check its path and rights") from None
    if not is_token(found):
        raise AccessError(f"the token file {file} holds what can't be a token", "it holds the token and nothing else")
    return found


def is_token(text: str) -> bool:
    """Whether a text may be a token: visible ASCII in one piece."""
    return text.isascii() and all(character.isprintable() and character != " " for character in text) and len(text) > 3


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port, parts.hostname
    except ValueError:
        raise InputError("the server's address is none", "give one such as https://adumbra.example:8642") from None
    return parts


def _shown(parts: SplitResult) -> str:
    return repr(f"{parts.scheme}:{parts.netloc.rpartition('@')[2] or parts.path.rpartition('@')[2]}"[:80])
