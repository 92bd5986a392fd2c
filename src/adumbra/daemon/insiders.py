"""Tokens of the server's own children. In memory only: no other server and no later one accepts them, and none is stored.

A child talks to the server that began it and to nobody else, so its token need not be in the state store: it is checked
here, is good for one network, and is gone when its child is, or the server.
"""

from __future__ import annotations

import hashlib
import secrets
import threading

from adumbra.schema.access import Principal, Role, Through

PREFIX = "adi_"
"""What these begin with: no other token does."""
NAME = "server"


class Insiders:
    """Those who are known by a token of the server's own. Threads may share it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._known: dict[str, Principal] = {}

    def admit(self, network: str, name: str = NAME) -> str:
        """A new token's secret: it may do what an operator may, to that network."""
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._turn:
            self._known[_hash(secret)] = Principal(name, Role.OPERATOR, (network,), Through.LOCAL)
        return secret

    def dismiss(self, secret: str) -> None:
        """It is accepted no more."""
        with self._turn:
            self._known.pop(_hash(secret), None)

    def dismiss_all(self) -> None:
        """None is accepted any more."""
        with self._turn:
            self._known.clear()

    def known(self, secret: str) -> Principal | None:
        """Whoever has that token; None for one that isn't of these."""
        if not secret.startswith(PREFIX):
            return None
        with self._turn:
            return self._known.get(_hash(secret))  # by its hash, so that how long it takes tells nothing of the secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
