"""TLS by certificate files: what is refused, what is told, how a new certificate is taken, and what cookies are under it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.guarding import certificate, guarded_server

from adumbra.api.app import make_app
from adumbra.api.context import Care, Server
from adumbra.schema.access import NewUser, Role
from adumbra.schema.errors import InputError
from adumbra.service import access, tls
from adumbra.service.workspace import Workspace
from adumbra.settings import ServeSettings

PASSWORD = "correct horse battery staple"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_server_of_this_host_alone_needs_no_tls(host: str) -> None:
    assert tls.check(ServeSettings(host=host)) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_binding_wider_needs_tls_or_somebody_who_insists(host: str) -> None:
    with pytest.raises(InputError, match=r"would travel in the open; give --tls-cert and --tls-key, bind to 127\.0\.0\.1"):
        tls.check(ServeSettings(host=host))
    assert "travel in the open" in tls.check(ServeSettings(host=host, insist=True))[0]
    assert tls.check(ServeSettings(host=host, tls_cert=Path("c"), tls_key=Path("k"))) == ()


def test_what_is_half_said_is_refused() -> None:
    with pytest.raises(InputError, match="TLS has a certificate and no key"):
        tls.check(ServeSettings(tls_cert=Path("c")))
    with pytest.raises(InputError, match="TLS has a key and no certificate"):
        tls.check(ServeSettings(tls_key=Path("k")))
    with pytest.raises(InputError, match="there is no address for"):
        tls.check(ServeSettings(host="no-such-host.invalid"))
    assert tls.certificate(ServeSettings()) is None


def _encrypted(folder: Path) -> tuple[Path, Path]:
    cert, key = certificate(folder, "plain")
    locked = folder / "locked.key"
    subprocess.run(["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked], check=True)
    return cert, locked


def _of_another(folder: Path) -> tuple[Path, Path]:
    return certificate(folder, "one")[0], certificate(folder, "two")[1]


def _ended(folder: Path) -> tuple[Path, Path]:
    cert, key = certificate(folder, "old")
    request = folder / "old.csr"
    subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=old", "-out", request], check=True)
    subprocess.run(
        ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-out", cert, "-days", "-1"],
        check=True,
        capture_output=True,
    )
    return cert, key


def _written(content: bytes) -> Callable[[Path], tuple[Path, Path]]:
    def files(folder: Path) -> tuple[Path, Path]:
        cert, key = certificate(folder, "right")
        cert.write_bytes(content)
        return cert, key

    return files


@pytest.mark.parametrize(
    ("files", "told"),
    [(_encrypted, "the key is encrypted; decrypt it"), (_of_another, "don't do: key values mismatch"),
     (_ended, "clients would refuse the certificate .*: certificate has expired"), (_written(b""), "don't do"),
     (_written(b"\0" * 1_000), "don't do"), (_written(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "do"),
     (lambda folder: (folder / "none", certificate(folder, "x")[1]), "none can't be read: No such file")],
)  # fmt: skip
def test_files_that_do_not_do_are_refused_in_a_line(files: Any, told: str, tmp_path: Path) -> None:
    cert, key = files(tmp_path)
    with pytest.raises(InputError, match=told) as refusal:
        tls.certificate(ServeSettings(tls_cert=cert, tls_key=key))
    assert "\n" not in str(refusal.value)
    assert "ssl.c" not in str(refusal.value)


def test_what_its_keeper_should_know_is_told(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "soon", days=5)
    key.chmod(0o600)
    found = tls.Certificate(cert, key)
    now = time.time_ns()
    assert len(found.sentences(now)) == 1
    assert "ends in 5.0 days" in found.sentences(now)[0]
    key.chmod(0o644)
    assert "everybody on this host may read the key" in found.sentences(now)[1]
    assert len(found.sentences(now - 100 * 86_400 * 10**9)) == 1


def _shown(port: int) -> bytes:
    """The certificate that the server shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as client:
        found = client.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_a_server_with_tls_signs_in_renews_and_speaks_nothing_older(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    kept = tls.Certificate(cert, key)
    trusted = ssl.create_default_context(cafile=str(cert))
    with Workspace(tmp_path) as workspace:
        access.add_user(workspace, NewUser("ada", Role.VIEWER), PASSWORD, time.time_ns())
        care = Care(requests_per_s=1e6, burst=10**6)
        app = make_app(Server(workspace, time.time_ns, care, secure=True))
        with guarded_server(app, care, tls=kept.context) as port:
            url = f"https://127.0.0.1:{port}"
            with httpx.Client(base_url=url, verify=trusted, trust_env=False, timeout=60.0) as client:
                made = client.post("/v1/sessions", json={"name": "ada", "password": PASSWORD})
                assert "Secure" in made.headers["set-cookie"].split("; ")
                assert client.get("/v1/sessions/current").json()["name"] == "ada"
                assert "strict-transport-security" not in made.headers  # it has no name of its own here
                named = client.get("/healthz", headers={"Host": "adumbra.test:8642"})
                assert named.headers["strict-transport-security"] == "max-age=31536000"
            _refuses_what_is_old(port)
            _renews(kept, port, tmp_path, cert, key)


def _refuses_what_is_old(port: int) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        plain.settimeout(30)
        try:
            told = plain.recv(1_000)
        except ConnectionResetError:
            told = b""
        assert not told.startswith(b"HTTP")


def _renews(kept: tls.Certificate, port: int, folder: Path, cert: Path, key: Path) -> None:
    before = _shown(port)
    assert kept.renew() is False
    new_cert, new_key = certificate(folder, "second")
    shutil.copy(new_cert, cert)  # half of the pair
    with pytest.raises(InputError, match="don't do: key values mismatch"):
        kept.renew()
    assert _shown(port) == before
    os.replace(new_key, key)
    assert kept.renew() is True
    assert _shown(port) != before
    assert kept.renew() is False
