"""Make MONAI Label's authentication settings work with the PyJWT that it requires."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import jwt
from monailabel.endpoints.user import auth

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""The realm's key is an RSA key; naming the algorithms keeps a token from choosing another one."""


def accept_tokens() -> None:
    """Let valid tokens in.

    MONAI Label 0.8.5 calls ``jwt.decode`` without ``algorithms``; PyJWT 2, which it asks for, refuses every token
    then, so that with ``MONAI_LABEL_AUTH_ENABLE`` nobody could sign in.
    """
    auth.jwt = SimpleNamespace(decode=partial(jwt.decode, algorithms=list(ALGORITHMS)))
