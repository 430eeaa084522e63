"""MONAI Label's OpenID Connect settings at work: whom the realm's tokens name, and how one gets them."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import jwt
import requests
from cachetools import cached
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import HTTPException
from jwt.exceptions import InvalidAudienceError, InvalidIssuerError, InvalidTokenError
from jwt.types import Options
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from apps import upstream
from tasks.common.files import LONGEST_NAME

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""The realm's key is an RSA key; naming the algorithms keeps a token from choosing another one."""
_LIFETIME_SECONDS = 60
"""Of a token whose realm does not say how long it is good for."""


class CredentialsError(Exception):
    """The realm does not let this user in, or no longer."""


class RealmError(Exception):
    """The realm does not answer, or not as OpenID Connect says."""


@dataclass(frozen=True)
class Tokens:
    """What the realm gives for a password.

    Attributes:
        access: what requests carry.
        refresh: what the next tokens are given for, empty if the realm gives none.
        renew_at: when it is time for that, by ``time.monotonic``.
        expire_at: when ``access`` is no longer good, by ``time.monotonic``.
    """

    access: str
    refresh: str
    renew_at: float
    expire_at: float


class RealmKey:
    """The key with which the realm signs: fetched once, and again when a token does not fit it.

    A realm changes its key now and then, and anybody can send a token with a wrong signature: so it is asked at most
    once in :attr:`AGAIN_SECONDS`, and after a failure not for :attr:`AWAY_SECONDS`.
    """

    AGAIN_SECONDS = 60.0
    AWAY_SECONDS = 5.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: RSAPublicKey | None = None
        self._asked_at = -math.inf
        self._failure = ""

    def kept(self) -> RSAPublicKey:
        """The key.

        Raises:
            RealmError: it has not been fetched.
        """
        if self._key is None:
            raise RealmError(self._failure or "the sign-in service was not asked for its key")
        return self._key

    def is_good_for(self, token: str) -> bool:
        """Whether asking the realm would change nothing about a token."""
        if self._key is None:
            return False
        if time.monotonic() - self._asked_at < self.AGAIN_SECONDS:
            return True
        return _is_signed(token, self._key)

    def fetch(self) -> None:
        """Ask the realm; a key that is there stays if it does not answer.

        Raises:
            RealmError: it does not answer, and there is no key.
        """
        with self._lock:  # of many requests that come at once one asks
            wait = self.AWAY_SECONDS if self._key is None else self.AGAIN_SECONDS
            if time.monotonic() - self._asked_at >= wait:
                try:
                    self._key = _public_key()
                    self._failure = ""
                except RealmError as error:
                    self._failure = str(error)
                self._asked_at = time.monotonic()
            self.kept()


KEY = RealmKey()


def accept_tokens() -> None:
    """Let valid tokens in, and no others.

    MONAI Label 0.8.5 calls ``jwt.decode`` without ``algorithms``; PyJWT 2, which it asks for, refuses every token
    then. It does not look for whom a token was made, needs no expiry, and fails on claims of other types.
    """
    upstream.ask_about_tokens(user_of)


def user_of(token: str) -> User:
    """Whom a token names.

    Raises:
        InvalidTokenError: it is not the realm's, not for us, or not valid now.
        HTTPException: 403 if it does not say who it is or in what roles.
        RealmError: the realm has not been asked for its key.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return upstream.nobody_in_particular()
    claims = _claims(token, KEY.kept())
    name = claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise _unusable(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME, f"a name of at most {LONGEST_NAME} characters")
    roles: Any = claims
    for part in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(part) if isinstance(roles, dict) else None
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise _unusable(settings.MONAI_LABEL_AUTH_TOKEN_ROLES.replace("#", "."), "a list of roles")
    email, full_name = (
        value if isinstance(value := claims.get(claim), str) else None
        for claim in (settings.MONAI_LABEL_AUTH_TOKEN_EMAIL, settings.MONAI_LABEL_AUTH_TOKEN_NAME)
    )
    return User(username=name, email=email, name=full_name, roles=roles)


def _unusable(claim: str, what: str) -> HTTPException:
    return HTTPException(403, f"the token's claim {claim} must be {what}")


def _claims(token: str, key: RSAPublicKey) -> dict[str, Any]:
    """What a valid token says.

    Raises:
        InvalidTokenError: it is not valid.
    """
    options: Options = {"require": ["exp", "iss"], "verify_aud": False, "verify_iss": False, "verify_iat": False}
    try:
        claims = jwt.decode(token, key, algorithms=ALGORITHMS, options=options)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # odd types in its parts
        raise InvalidTokenError(f"the token cannot be understood: {type(error).__name__}") from error
    issuer, client = claims["iss"], settings.MONAI_LABEL_AUTH_CLIENT_ID
    if not isinstance(issuer, str) or issuer.rstrip("/") != _realm():
        raise InvalidIssuerError(f"the token is not from {_realm()}")
    audience = claims.get("aud")
    if client not in (audience if isinstance(audience, list) else [audience]) and claims.get("azp") != client:
        raise InvalidAudienceError(f"the token was not made for {client}")
    if claims.get("typ", "Bearer") != "Bearer":  # Keycloak signs others with the same key
        raise InvalidTokenError("the token is not an access token")
    return claims


def _is_signed(token: str, key: RSAPublicKey) -> bool:
    """Whether the realm's key signed it, whatever it says."""
    try:
        jwt.PyJWS().decode(token, key, algorithms=list(ALGORITHMS))
    except (InvalidTokenError, ValueError, TypeError, RecursionError):
        return False
    return True


def sign_in(username: str, password: str) -> Tokens:
    """Tokens for a password.

    Raises:
        CredentialsError: wrong user or password.
        RealmError: the realm does not answer.
    """
    return _ask_realm(grant_type="password", username=username, password=password)


def renewed(tokens: Tokens) -> Tokens:
    """The next tokens.

    Raises:
        CredentialsError: the realm gives no more of them.
        RealmError: the realm does not answer.
    """
    if not tokens.refresh:
        raise CredentialsError("the realm does not renew tokens")
    return _ask_realm(grant_type="refresh_token", refresh_token=tokens.refresh)


def _ask_realm(**grant: str) -> Tokens:
    endpoint = _token_endpoint()
    try:
        answer = requests.post(
            endpoint,
            data={"client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, **grant},
            timeout=settings.MONAI_LABEL_AUTH_TIMEOUT,
        )
        if answer.status_code in (400, 401, 403):
            raise CredentialsError(_words(answer))
        answer.raise_for_status()
        content = answer.json()
        access, lifetime = str(content["access_token"]), float(content.get("expires_in") or _LIFETIME_SECONDS)
    except (requests.RequestException, KeyError, TypeError, ValueError) as error:
        raise RealmError(f"the sign-in service does not answer as it should: {error}") from error
    now = time.monotonic()
    return Tokens(access, str(content.get("refresh_token") or ""), now + lifetime / 2, now + lifetime)


def _realm() -> str:
    """The realm's address, as its tokens name it, without a slash at the end."""
    return settings.MONAI_LABEL_AUTH_REALM_URI.rstrip("/")


def _about(path: str, name: str) -> str:
    """One value of what the realm says about itself.

    Raises:
        RealmError: it does not answer, or has no such value.
    """
    try:
        answer = requests.get(f"{_realm()}{path}", timeout=settings.MONAI_LABEL_AUTH_TIMEOUT)
        answer.raise_for_status()
        value = answer.json()[name]
    except (requests.RequestException, KeyError, TypeError, ValueError) as error:
        raise RealmError(f"the sign-in service does not answer as it should: {type(error).__name__}") from error
    if not isinstance(value, str):
        raise RealmError(f"the sign-in service does not answer as it should: its {name} is not text")
    return value


def _public_key() -> RSAPublicKey:
    text = _about("", "public_key")
    try:
        key = load_pem_public_key(f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RealmError("the sign-in service does not answer as it should: its key cannot be read") from error
    if not isinstance(key, RSAPublicKey):
        raise RealmError("the sign-in service signs with a key that is not an RSA key")
    return key


@cached(cache={}, key=_realm, lock=threading.Lock())
def _token_endpoint() -> str:
    """Where the realm gives tokens; kept once it has said so."""
    return _about("/.well-known/openid-configuration", "token_endpoint")


def _words(answer: requests.Response) -> str:
    try:
        content: Any = answer.json()
    except ValueError:
        content = None
    said = content.get("error_description") or content.get("error") if isinstance(content, dict) else None
    return str(said or "user name or password is wrong")
