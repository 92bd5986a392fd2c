"""TLS of a server: whether it may be bound so, and its certificate, read again when it changes. Binds and serves nothing.

Nothing is sent in the open beyond this host unless somebody insists: tokens and passwords travel in requests.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from adumbra.schema.errors import InputError
from adumbra.settings import ServeSettings

SOON_S = 14 * 86_400
"""A certificate that ends sooner is told of."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells whether the files are those that were read."""

    cert: tuple[int, int, int]
    key: tuple[int, int, int]


class Certificate:
    """A server's certificate and key, read when it is made. Raises InputError for files that don't do.

    context: for the server's sockets; connections that are made after `renew` get the new certificate.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._stamp = self._stamped()
        self.context = _context(cert, key)
        self.ends_s = _ends_s(self.context, cert)

    def renew(self) -> bool:
        """Reads the files again if they changed. Gives whether; raises InputError where they don't do, and keeps the old."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return False
        ends_s = _ends_s(_context(self._cert, self._key), self._cert)  # so that half of a new pair isn't taken
        self.context.load_cert_chain(self._cert, self._key, _no_password)
        self._stamp, self.ends_s = stamp, ends_s
        return True

    def sentences(self, now_ns: int) -> tuple[str, ...]:
        """What its keeper should know."""
        told = []
        days = (self.ends_s - now_ns / 1e9) / 86_400
        if days * 86_400 < SOON_S:
            told.append(
                f"the certificate {self._cert} ends in {days:.1f} days; put a new one in its place, it is read by itself"
            )
        if self._key.stat().st_mode & 0o007:
            told.append(f"everybody on this host may read the key {self._key}; chmod o= {self._key}")
        return tuple(told)

    def _stamped(self) -> _Stamp:
        return _Stamp(_stat(self._cert, "certificate"), _stat(self._key, "key"))


def check(settings: ServeSettings) -> tuple[str, ...]:
    """Whether a server may be bound so: with TLS, or to this host alone, or as somebody insists on.

    Gives sentences on what its keeper should know. Raises InputError saying how to mend it.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        has, lacks = ("key", "certificate") if settings.tls_cert is None else ("certificate", "key")
        raise InputError(f"TLS has a {has} and no {lacks}", "give both --tls-cert and --tls-key, or neither")
    if settings.tls_cert is not None or is_loopback(settings.host):
        return ()
    if not settings.insist:
        raise InputError(
            f"{settings.host or 'all addresses'} can be reached from other hosts, and without TLS tokens and passwords would "
            "travel in the open",
            "give --tls-cert and --tls-key, bind to 127.0.0.1, or insist with --insist (behind a proxy that does TLS)",
        )
    return (f"bound to {settings.host or 'all addresses'} without TLS: tokens and passwords travel in the open",)


def certificate(settings: ServeSettings) -> Certificate | None:
    """The server's certificate, None for none. Raises InputError for files that don't do."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def is_loopback(host: str) -> bool:
    """Whether only this host can reach what is bound to that. Raises InputError for a name that isn't known."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        pass
    if not host:
        return False  # all addresses
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"there is no address for {host[:253]!r}", "give an address of this host, such as 127.0.0.1") from None
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    try:
        context.load_cert_chain(cert, key, _no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").lower().replace("_", " ")
        raise InputError(
            f"the certificate {cert} and the key {key} don't do: {reason}", "give files in PEM that belong together"
        ) from None
    except OSError as error:
        raise InputError(f"{cert} or {key} can't be read: {error.strerror}", "let the server's user read both") from None
    return context


def _no_password() -> str:
    """Asked for where a key is encrypted: OpenSSL would wait at the terminal for it."""
    raise InputError("the key is encrypted", "decrypt it: openssl pkey -in KEY -out PLAIN_KEY, for the server's user alone")


def _stat(file: Path, what: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise InputError(f"the {what} {file} can't be read: {error.strerror}", "let the server's user read it") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _ends_s(server: ssl.SSLContext, cert: Path) -> float:
    """When the certificate ends, in seconds since the epoch: from a handshake in memory with a client who trusts it alone.

    Raises InputError for one that has ended or is yet to begin.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for each in (near, far, near):
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise InputError(f"clients would refuse the certificate {cert}: {error.verify_message}", "renew it") from None
    told = near.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(told["notAfter"])))
