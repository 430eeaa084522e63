"""Tokens: whose, for whom, how long; and a realm on its bad days. They are asked over HTTP, as clients do."""

import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from fastapi.security import OAuth2PasswordBearer
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.endpoints.user import auth

from apps.auth import realm as authentication
from apps.auth import sign_in
from apps.auth.realm import RealmKey, accept_tokens
from apps.auth.sign_in import SignedIn
from apps.http.errors import HANDLERS
from tests.realm import CLIENT, Realm, realm


@pytest.fixture(scope="module")
def running():
    with pytest.MonkeyPatch.context() as patch, realm(patch) as service:
        yield service


@pytest.fixture
def service(running, monkeypatch) -> Realm:
    for name, value in (("key", running.key), ("broken", False), ("about", None), ("asked", [])):
        monkeypatch.setattr(running, name, value)
    return running


@pytest.fixture
def http(service, monkeypatch):
    """A server with one route that asks for the user's role, and one for the admin's."""
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", service.url)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_TIMEOUT", 1)
    monkeypatch.setattr(auth, "from_token", auth.from_token)
    key = RealmKey()
    monkeypatch.setattr(authentication, "KEY", key)
    monkeypatch.setattr(sign_in, "KEY", key)
    authentication._token_endpoint.cache.clear()
    accept_tokens()
    server = FastAPI(exception_handlers=HANDLERS)
    server.add_middleware(SignedIn)

    scheme = OAuth2PasswordBearer(tokenUrl="/auth/token")

    async def user(token: str = Depends(scheme)) -> auth.User:
        return await auth.get_current_user(token)

    async def needs(role: str, user: auth.User) -> dict[str, object]:
        return (await auth.RBAC(role)(user)).model_dump()

    @server.get("/user")
    async def for_users(user: auth.User = Depends(user)) -> dict[str, object]:  # noqa: B008
        return await needs(settings.MONAI_LABEL_AUTH_ROLE_USER, user)

    @server.get("/admin")
    async def for_admins(user: auth.User = Depends(user)) -> dict[str, object]:  # noqa: B008
        return await needs(settings.MONAI_LABEL_AUTH_ROLE_ADMIN, user)

    server.include_router(sign_in.router)
    return TestClient(server)


def ask(http, token: str, path: str = "/user"):
    return http.get(path, headers={"Authorization": f"Bearer {token}"})


def minted(service: Realm, /, without: str = "", **changed) -> str:
    """A token with the realm's signature, whatever it says."""
    claims = {**service.claims("ada"), **changed}
    claims.pop(without, None)
    return jwt.PyJWS().encode(json.dumps(claims).encode(), service.key, algorithm="RS256")


def test_the_realm_s_own_token_names_its_user(http, service):
    answer = ask(http, service.token("ada"))
    assert answer.status_code == 200
    assert (answer.json()["username"], answer.json()["email"]) == ("ada", "ada@example.org")
    assert ask(http, service.token("ada"), "/admin").status_code == 403
    assert ask(http, service.token("root"), "/admin").status_code == 200


@pytest.mark.parametrize("slashes", ["", "/"])
@pytest.mark.parametrize("issued", ["", "/"])
def test_a_slash_at_the_end_of_the_realm_makes_no_difference(http, service, monkeypatch, slashes, issued):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", service.url + slashes)
    assert ask(http, minted(service, iss=service.url + issued)).status_code == 200
    form = {"username": "ada", "password": "secret"}
    assert http.post("/auth/token", data=form).status_code == 200
    assert "//.well-known" not in " ".join(service.asked)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": CLIENT, "azp": "another"},
        {"aud": ["account", CLIENT], "azp": None},
        {"aud": None},
        {"aud": "account", "azp": CLIENT},
        {"iat": 2_000_000_000},
        {"nbf": 0},
        {"typ": "Bearer"},
    ],
)
def test_a_token_for_us_is_taken_however_it_says_so(http, service, claims):
    assert ask(http, minted(service, **claims)).status_code == 200


NEVER = [
    {"exp": 1},
    {"exp": None},
    {"exp": "tomorrow"},
    {"exp": [2_000_000_000]},
    {"exp": float("inf")},
    {"exp": float("nan")},
    {"nbf": 4_000_000_000},
    {"nbf": "x"},
    {"iss": "https://elsewhere.example/realms/x"},
    {"iss": ["x"]},
    {"iss": None},
    {"azp": "another"},
    {"azp": None},
    {"azp": [CLIENT]},
    {"azp": "another", "aud": [CLIENT + "x"]},
    {"azp": "another", "aud": {CLIENT: True}},
    {"azp": "another", "aud": CLIENT[:-1]},
    {"typ": "ID"},
    {"typ": "Refresh"},
    {"without": "exp"},
    {"without": "iss"},
    {"without": "azp"},
]


@pytest.mark.parametrize("claims", NEVER, ids=str)
def test_a_token_that_is_not_for_us_or_not_for_now_is_a_401(http, service, claims):
    answer = ask(http, minted(service, **claims))
    assert answer.status_code == 401, answer.text
    assert answer.headers["WWW-Authenticate"] == "Bearer"


UNUSABLE = [
    {"without": "realm_access"},
    {"without": "preferred_username"},
    *({"realm_access": value} for value in (None, "monailabel-user", 1, [], ["monailabel-user"], {}, {"roles": None})),
    *({"realm_access": {"roles": value}} for value in ("monailabel-user", {"monailabel-user": 1}, [1], [["a"]], True)),
    *({"preferred_username": value} for value in (None, "", 5, ["ada"], {"a": "b"}, "x" * 201, "a\nb", True)),
]


@pytest.mark.parametrize("claims", UNUSABLE, ids=lambda claims: str(claims)[:60])
def test_a_token_that_does_not_say_who_it_is_or_in_what_roles_is_a_403(http, service, claims):
    answer = ask(http, minted(service, **claims))
    assert answer.status_code == 403, answer.text
    assert set(claims) & {answer.json()["detail"].split()[3].split(".")[0]} or "without" in claims


@pytest.mark.parametrize("claims", [{"email": 5, "name": ["Ada"]}, {"without": "email"}])
def test_what_only_describes_a_user_may_be_anything(http, service, claims):
    assert ask(http, minted(service, **claims)).json()["email"] is None


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(service: Realm) -> dict[str, str]:
    claims, pem = service.claims("root"), service.public_key()
    whole = f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = jwt.encode(claims, service.key, algorithm="RS256")
    head, body, signature = good.split(".")
    hs256 = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    macs = {
        name: part(hmac.new(key.encode(), hs256.encode(), hashlib.sha256).digest())
        for name, key in (("PEM", whole), ("base64", pem), ("PEM and line", whole + "\n"))
    }
    return {
        "none": jwt.encode(claims, None, algorithm="none"),
        "None": f"{part({'alg': 'None'})}.{part(claims)}.",
        "no algorithm": f"{part({'typ': 'JWT'})}.{part(claims)}.{signature}",
        "another key": jwt.encode(claims, other, algorithm="RS256"),
        "another key, named in the token": jwt.encode(
            claims, other, "RS256", headers={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(other.public_key()))}
        ),
        "another kind of key": jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        **{f"HS256 with the public key as {name}": f"{hs256}.{mac}" for name, mac in macs.items()},
        "changed": f"{head}.{part({**claims, 'preferred_username': 'root2'})}.{signature}",
        "cut off": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "words": "secret",
        "empty": "",
        "not text": f"{part({'alg': 'RS256'})}.{part(b'[1')}.{signature}",
        "deep": f"{part(b'[' * 20000)}.{body}.{signature}",
        "deep claims": jwt.PyJWS().encode(b"[" * 20000, service.key, algorithm="RS256"),
        "a list": jwt.PyJWS().encode(b"[1]", service.key, algorithm="RS256"),
        "critical": jwt.encode(claims, service.key, algorithm="RS256", headers={"crit": ["b64"], "b64": False}),
        "beyond ASCII": "\xe4.\xf6.\xfc",
    }


@pytest.mark.parametrize("warm", [False, True])
def test_a_token_that_the_realm_has_not_signed_is_a_401(http, service, warm):
    if warm:
        assert ask(http, service.token("ada")).status_code == 200
    for name, token in forged(service).items():
        answer = http.get("/user", headers={"Authorization": b"Bearer " + token.encode("latin-1")})
        assert answer.status_code == 401, (name, answer.text)


def test_the_key_is_asked_for_once_and_again_when_the_realm_has_a_new_one(http, service, monkeypatch):
    for _ in range(5):
        assert ask(http, service.token("ada")).status_code == 200
    assert service.asked == ["/"]
    service.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert ask(http, service.token("ada")).status_code == 401  # it was asked a moment ago
    assert len(service.asked) == 1
    monkeypatch.setattr(RealmKey, "AGAIN_SECONDS", 0.0)
    assert ask(http, service.token("ada")).status_code == 200
    assert len(service.asked) == 2


def test_a_realm_that_is_away_keeps_nobody_out_who_has_a_token_and_is_a_503_to_others(http, service, monkeypatch):
    service.broken = True
    answers = [ask(http, service.token("ada")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert len(service.asked) == 1  # and not again for each of them
    assert service.url not in answers[0].text
    monkeypatch.setattr(RealmKey, "AWAY_SECONDS", 0.0)
    assert http.post("/auth/token", data={"username": "ada", "password": "secret"}).status_code == 503
    service.broken = False
    assert ask(http, service.token("ada")).status_code == 200
    assert http.post("/auth/token", data={"username": "ada", "password": "secret"}).status_code == 200
    service.broken = True
    monkeypatch.setattr(RealmKey, "AGAIN_SECONDS", 0.0)
    assert ask(http, service.token("ada")).status_code == 200
    assert ask(http, "words").status_code == 401


class Hanging:
    """Takes connections and says nothing until it is told."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        released = self.go_on

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                released.wait(30)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_while_the_realm_hangs_everybody_else_is_answered(http, monkeypatch):
    hanging = Hanging()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", f"http://127.0.0.1:{hanging.server.server_port}")
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_TIMEOUT", 20)
    waiting = SimpleNamespace(status=0)

    with http:  # one event loop for both

        def wait() -> None:
            waiting.status = ask(http, "a.b.c").status_code

        thread = threading.Thread(target=wait)
        thread.start()
        while not authentication.KEY._lock.locked():
            time.sleep(0.01)
        assert http.get("/al/sign-in").status_code == 200
        assert waiting.status == 0
        hanging.go_on.set()
        thread.join()
    assert waiting.status == 503
    hanging.server.shutdown()
    hanging.server.server_close()


@pytest.mark.parametrize("content", [{}, {"public_key": 5}, {"public_key": "nonsense"}, [1], "text"])
def test_a_realm_that_speaks_nonsense_is_a_503(http, service, content):
    service.about = content
    answer = ask(http, service.token("ada"))
    assert (answer.status_code, "sign-in service" in answer.json()["detail"]) == (503, True)
