"""MONAI Label's OpenID Connect settings at work: tokens of the realm, and what its own code does wrong with them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jwt
import requests
from monailabel.config import settings
from monailabel.endpoints.user import auth

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


def accept_tokens() -> None:
    """Let valid tokens in.

    MONAI Label 0.8.5 calls ``jwt.decode`` without ``algorithms``; PyJWT 2, which it asks for, refuses every token
    then, so that with ``MONAI_LABEL_AUTH_ENABLE`` nobody could sign in.
    """
    auth.jwt = SimpleNamespace(decode=partial(jwt.decode, algorithms=list(ALGORITHMS)))


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
    try:
        answer = requests.post(
            _token_endpoint(),
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


def _token_endpoint() -> str:
    found = auth.token_uri()
    if not found:
        auth.open_id_configuration.cache.clear()  # the realm was perhaps not ready yet
        raise ValueError(f"{settings.MONAI_LABEL_AUTH_REALM_URI} names no token endpoint")
    return str(found)


def _words(answer: requests.Response) -> str:
    try:
        content: Any = answer.json()
    except ValueError:
        content = None
    said = content.get("error_description") or content.get("error") if isinstance(content, dict) else None
    return str(said or "user name or password is wrong")
