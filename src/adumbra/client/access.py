"""How a server is reached, and by which token. Checks addresses; opens nothing. No secret is in a repr or an error."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from adumbra.http_asking import HttpAccess, is_token
from adumbra.schema.addresses import is_loopback
from adumbra.schema.errors import InputError

TOKEN, TOKEN_FILE = "ADUMBRA_TOKEN", "ADUMBRA_TOKEN_FILE"


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
        parts = self.http.parts
        if parts.scheme == "http" and not self.insist and not is_loopback(parts.hostname or ""):
            raise InputError(
                f"http://{parts.hostname} is another host, and all that goes there, the token too, could be read on the way",
                "give an address with https://, or insist on it (ADUMBRA_SERVER_INSIST=1)",
            )
        if self.token and not is_token(self.token):
            raise InputError(f"{TOKEN} holds what can't be a token", "give what `adumbra token create` showed, whole")

    @property
    def http(self) -> HttpAccess:
        """The same, as any server is asked."""
        return HttpAccess(
            self.url, token=self.token, token_file=self.token_file, ca=self.ca, connect_timeout_s=self.connect_timeout_s,
            timeout_s=self.timeout_s, give_up_s=self.give_up_s,
        )  # fmt: skip

    @property
    def base(self) -> str:
        """The address below which the routes are."""
        return f"{self.url.strip().rstrip('/')}/v1"


def token_of_environment() -> tuple[str, Path | None]:
    """The token that the environment names, or the file that holds it."""
    file = os.environ.get(TOKEN_FILE, "")
    return os.environ.get(TOKEN, "").strip(), Path(file) if file else None
