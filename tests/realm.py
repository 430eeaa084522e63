"""A small OpenID Connect realm."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

USER, ANNOTATOR, ADMIN = (f"monailabel-{role}" for role in ("user", "annotator", "admin"))
CLIENT = "monailabel-app"
ROLES = {"ada": [USER, ANNOTATOR], "rita": [USER], "root": [USER, ANNOTATOR, ADMIN]}
"""Whoever can sign in, all with the password ``secret``."""


class Realm(ThreadingHTTPServer):
    """Gives its public key, and tokens for a password or a refresh token.

    Args:
        seconds: how long an access token is good for.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seconds = seconds
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.renewals = 0
        self.closed = False
        """Whether it gives no more tokens for a refresh token, as after its longest session."""
        self.broken = False
        self.about: Any = None
        """What it says about itself instead of its key."""
        self.asked: list[str] = []

    def public_key(self) -> str:
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = self.key.public_key().public_bytes(serialization.Encoding.PEM, kind)
        return "".join(pem.decode().strip().splitlines()[1:-1])

    def claims(self, name: str) -> dict[str, Any]:
        """What Keycloak says in an access token for a client with its default scopes."""
        now = int(time.time())
        return {
            "exp": time.time() + self.seconds,
            "iat": now,
            "jti": f"onrtro:{uuid.uuid4()}",
            "iss": self.url,
            "aud": "account",
            "sub": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
            "typ": "Bearer",
            "azp": CLIENT,
            "sid": str(uuid.uuid4()),
            "acr": "1",
            "realm_access": {"roles": [*ROLES[name], "offline_access", "default-roles-monailabel"]},
            "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
            "scope": "email profile",
            "email_verified": False,
            "name": name.title(),
            "preferred_username": name,
            "email": f"{name}@example.org",
        }

    def token(self, name: str) -> str:
        return jwt.encode(self.claims(name), self.key, algorithm="RS256")

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        name, refused = form.get("username", ""), (401, {"error_description": "Invalid user credentials"})
        if self.broken:
            return 502, {}
        if form["grant_type"] == "refresh_token":
            if self.closed:
                return 400, {"error": "invalid_grant"}
            self.renewals += 1
            name = form["refresh_token"].removeprefix("refresh-")
        elif form.get("password") != "secret" or name not in ROLES:
            return refused
        tokens = {"access_token": self.token(name), "refresh_token": f"refresh-{name}", "token_type": "bearer"}
        return 200, {**tokens, "expires_in": self.seconds}


class _Handler(BaseHTTPRequestHandler):
    server: Realm

    def reply(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        about = {"realm": "monailabel", "public_key": self.server.public_key()}
        if self.server.broken:
            self.reply(502, {})
        elif self.path.endswith("openid-configuration"):
            self.reply(200, {"issuer": self.server.url, "token_endpoint": f"{self.server.url}/token"})
        else:
            self.reply(200, about if self.server.about is None else self.server.about)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.reply(*self.server.answer({name: values[0] for name, values in form.items()}))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def realm(patch: pytest.MonkeyPatch, seconds: float = 3600) -> Iterator[Realm]:
    """A realm that servers started in it ask for."""
    service = Realm(seconds)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    patch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    patch.setenv("MONAI_LABEL_AUTH_REALM_URI", service.url)
    yield service
    service.shutdown()
    service.server_close()
