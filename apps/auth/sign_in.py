"""Signing in with a browser: it keeps a cookie, the server keeps the realm's tokens and renews them.

MONAI Label asks for the header ``Authorization: Bearer …``, which browsers send with no page and OHIF with none of its
requests, and which is good for some minutes only. A request with our cookie gets that header here, so that every route,
ours and MONAI Label's, asks for the same roles whoever calls.
"""

from __future__ import annotations

import html
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.auth.readers import READER
from apps.auth.realm import KEY, CredentialsError, RealmError, Tokens, renewed, sign_in
from apps.web.files import ONLY_OURS, template

COOKIE = "active-learning"
UNUSED_SECONDS = 24 * 3600.0
"""A session that nobody uses is forgotten after this time."""
_PAGE = f"{settings.MONAI_LABEL_API_STR}/al/sign-in"

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)


@dataclass
class Session:
    """One browser that has signed in."""

    tokens: Tokens
    used_at: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """Browsers that have signed in, by the secret in their cookie.

    Kept in memory only: after a restart they sign in again.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def add(self, tokens: Tokens) -> str:
        """Keep tokens; returns the secret for the cookie."""
        old = time.monotonic() - UNUSED_SECONDS
        for key in [key for key, session in list(self._sessions.items()) if session.used_at < old]:
            self.drop(key)
        key = secrets.token_urlsafe(32)
        self._sessions[key] = Session(tokens)
        return key

    def drop(self, key: str) -> None:
        """Forget a session."""
        self._sessions.pop(key, None)

    def fresh(self, key: str) -> str | None:
        """A session's access token if it need not be renewed yet."""
        session = self._sessions.get(key)
        if session is None:
            return None
        session.used_at = time.monotonic()
        return session.tokens.access if session.used_at < session.tokens.renew_at else None

    def renewed(self, key: str) -> str | None:
        """A session's access token, renewed if that is due; None if there is no such session, or no longer.

        Raises:
            RealmError: the token has expired and the realm does not answer.
        """
        session = self._sessions.get(key)
        if session is None:
            return None
        with session.lock:  # a page asks for many things at once: one of them renews
            if time.monotonic() >= session.tokens.renew_at:
                try:
                    session.tokens = renewed(session.tokens)
                except CredentialsError:
                    if time.monotonic() >= session.tokens.expire_at:
                        self.drop(key)
                        return None
                except RealmError:
                    if time.monotonic() >= session.tokens.expire_at:
                        raise
            return session.tokens.access


SESSIONS = Sessions()


class SignedIn:
    """ASGI middleware: a request with our cookie gets the token of its session.

    What pages of other sites send has been refused before. The realm's key is at hand when a token is to be checked,
    which happens in the event loop.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header where it is missing."""
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            key, given = connection.cookies.get(COOKIE), connection.headers.get("authorization")
            try:
                if key and given is None:
                    token = SESSIONS.fresh(key) or await run_in_threadpool(SESSIONS.renewed, key)
                    if token:
                        given = f"Bearer {token}"
                        scope = {**scope, "headers": [*scope["headers"], (b"authorization", given.encode())]}
                token = (given or "").partition(" ")[2]
                if token and not KEY.is_good_for(token):
                    await run_in_threadpool(KEY.fetch)
            except RealmError as error:
                await JSONResponse({"detail": str(error)}, 503, {"Retry-After": "10"})(scope, receive, send)
                return
        await self.app(scope, receive, send)


def instead_of(request: Request) -> Response | None:
    """Where somebody is sent who wants to see a page and is not signed in; None for any other request."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return None
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{_PAGE}?next={quote(wanted, safe='')}", 303)


@router.get("/al/sign-in", include_in_schema=False)
def page(next: str = "/") -> HTMLResponse:
    """The page to sign in."""
    return _page(next, "", 200)


@router.post("/al/sign-in", include_in_schema=False)
def enter(
    request: Request,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Sign in, and go on to the page that was wanted."""
    try:
        tokens = sign_in(username, password)
    except CredentialsError as error:
        return _page(next, f"That did not work: {error}.", 401)
    except RealmError as error:
        return _page(next, f"{error}. Try again later.", 503)
    response = RedirectResponse(_inside(next), 303)
    SESSIONS.drop(request.cookies.get(COOKIE, ""))
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, SESSIONS.add(tokens), httponly=True, samesite="lax", secure=secure)
    return response


@router.post("/al/sign-out", include_in_schema=False)
def leave(request: Request) -> Response:
    """Sign out."""
    SESSIONS.drop(request.cookies.get(COOKIE, ""))
    response = Response(status_code=204)
    response.delete_cookie(COOKIE)
    return response


@router.post("/auth/token", tags=["Auth"])
def token(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> dict[str, Any]:
    """An access token for a password, as 3D Slicer asks for it; MONAI Label's own answers a wrong one with a 500."""
    return {"access_token": sign_in(form.username, form.password).access, "token_type": "bearer"}


@router.get("/auth/", tags=["Auth"])
def authentication() -> dict[str, Any]:
    """That authentication is on, and with which realm; 3D Slicer asks."""
    return {
        "enabled": settings.MONAI_LABEL_AUTH_ENABLE,
        "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID,
        "realm": settings.MONAI_LABEL_AUTH_REALM_URI,
    }


@router.get("/auth/token/valid", tags=["Auth"])
def valid_token(user: User = READER) -> dict[str, Any]:
    """The user of a token."""
    return user.model_dump()


def _page(next: str, problem: str, status: int) -> HTMLResponse:
    page = template("sign-in.html")
    text = page.substitute(next=html.escape(_inside(next)), problem=html.escape(problem))
    return HTMLResponse(text, status, {**ONLY_OURS, "Cache-Control": "no-store"})


def _inside(address: str) -> str:
    """An address of this server; anything else is its first page."""
    plain = address.startswith("/") and not address.startswith("//") and "\\" not in address
    return address if plain and address.isprintable() else "/"
