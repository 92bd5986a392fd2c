"""An OIDC provider for tests, on this host: it signs in whom it is told to, and can be told to lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT, SECRET = "adumbra", "the provider knows it"


@dataclass
class Provider:
    """What it says, and what it was asked. claims: of whoever signs in; lies: claims to put in their place in the ID token;
    told: of discovery, in place of the truth; codes: that may be exchanged once, and for what."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    lies: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"
    key: Any = None
    published: Any = None
    iss_in_answer: str | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def new_key(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})
        self.published = self.key

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"], **self.told,
        }  # fmt: skip

    def id_token(self, of: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": of["nonce"], **self.claims, **self.lies,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.algorithm == "none":
            parts = ({"alg": "none"}, claims)
            return ".".join(_b64(json.dumps(each).encode()) for each in parts) + "."
        if isinstance(self.key, bytes):  # by hand: no library signs so
            header = {"alg": self.algorithm, "kid": self.published.kid}
            said = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
            return f"{said}.{_b64(hmac.digest(self.key, said.encode(), 'sha256'))}"
        header = {"alg": self.algorithm, "kid": self.key.kid} if self.key.kid else {"alg": self.algorithm}
        return jwt.encode(header, claims, self.key, algorithms=[self.algorithm])

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """What the token endpoint answers: it asks for the client's secret, the code, once, and what proves the browser's."""
        basic = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '+')}".encode()).decode()
        plain = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        of = self.codes.pop(form.get("code", ""), None)
        if authorization not in {f"Basic {basic}", f"Basic {plain}"} or of is None:
            return 401, {"error": "invalid_client" if of else "invalid_grant"}
        challenge = _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if challenge != of["code_challenge"] or form.get("redirect_uri") != of["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "at", "token_type": "Bearer", "id_token": self.id_token(of)}


@contextmanager
def provider() -> Iterator[Provider]:
    """Runs a provider."""
    made = Provider()
    made.new_key()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            made.asked.append(parts.path)
            if parts.path == "/authorize":
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                assert asked["client_id"] == CLIENT
                assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
                code = secrets.token_urlsafe(16)
                made.codes[code] = asked
                back = {"code": code, "state": asked["state"]}
                if made.iss_in_answer is not None:
                    back["iss"] = made.iss_in_answer
                self.send_response(302)
                self.send_header("Location", f"{asked['redirect_uri']}?{urlencode(back)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            known = {
                "/.well-known/openid-configuration": made.discovery,
                "/jwks": lambda: {"keys": [made.published.as_dict(private=False)]},
                "/userinfo": lambda: made.userinfo,
            }.get(parts.path)
            self._say(200 if known else 404, known() if known else {})

        def do_POST(self) -> None:
            made.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._say(*made.token(form, self.headers.get("Authorization", "")))

        def _say(self, status: int, told: dict[str, Any]) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is written."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.issuer = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def other_key(kind: str) -> Any:
    """A key that isn't the provider's."""
    if kind == "EC":
        return ECKey.generate_key("P-256", {"kid": "other"})
    if kind == "oct":
        return OctKey.import_key(SECRET, {"kid": "other"})
    return RSAKey.generate_key(2048, {"kid": "other"})


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
