"""What stands between the network and the routes: a limit on uploads, and clear answers to what goes wrong."""

from __future__ import annotations

import argparse
import concurrent.futures
import errno
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import requests
from fastapi import APIRouter, FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.access import Row, serve_only
from apps.authentication import CredentialsError, RealmError
from apps.bodies import StrictBodies
from apps.metrics import Measured
from apps.sign_in import SignedIn, instead_of
from apps.words import without_paths
from tasks.files import ArchiveError, ImageError, LabelError
from tasks.strict_json import JSONError

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL = "the server's disk is full: nothing was stored; try again once there is space"


class UploadLimit:
    """ASGI middleware: a request body larger than the limit is a 413.

    Args:
        app: what comes after.
        largest: bytes.
    """

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self.app = app
        self.largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as long as it is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.largest:
            await _answer(413, self._words(), Connection="close")(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.largest:
                raise HTTPException(413, self._words())
            return message

        await self.app(scope, counted, send)

    def _words(self) -> str:
        return f"the request is larger than {self.largest >> 20} MB, the option max_upload_mb"


def protect(server: FastAPI, routers: Sequence[APIRouter], rows: Iterable[Row], largest_upload: int) -> None:
    """Serve our routes and no others, limit uploads, and turn errors into clear answers.

    Args:
        server: MONAI Label's application, about to start.
        routers: ours.
        rows: of routes that are not in the table of this repository.
        largest_upload: bytes of a request's body.
    """
    serve_only(server, routers, rows)
    server.middleware_stack = None  # was built to tell the application that it starts; the first request builds ours
    server.add_middleware(StrictBodies, rows=rows)
    server.add_middleware(UploadLimit, largest=largest_upload)
    if settings.MONAI_LABEL_AUTH_ENABLE:
        server.add_middleware(SignedIn)
    server.add_middleware(Measured)
    for kind, handler in HANDLERS.items():
        server.add_exception_handler(kind, handler)


def warn_if_open(arguments: Sequence[str]) -> None:
    """Say plainly that everybody can use the server, where that is so.

    Args:
        arguments: of the command that started it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default="0.0.0.0")
    host = parser.parse_known_args(list(arguments))[0].host
    try:
        private = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = False
    if not private and not settings.MONAI_LABEL_AUTH_ENABLE:
        logger.warning(
            "the server listens on %s WITHOUT AUTHENTICATION: everybody who can reach it can see all images and change "
            "all labels. Start it with --host 127.0.0.1, or see docs/security.md",
            host,
        )


def _answer(status: int, words: str, **headers: str) -> Response:
    return JSONResponse({"detail": without_paths(words)}, status, headers or None)


def _says(status: int, **headers: str) -> Callable[[Request, Exception], Response]:
    """A handler that answers with the error's own words."""
    return lambda _, error: _answer(status, getattr(error, "msg", str(error)), **headers)


def _realm_away(_: Request, error: Exception) -> Response:
    logger.error("the sign-in service does not answer: %s", error)
    return _answer(503, "the sign-in service does not answer", **{"Retry-After": "10"})


def _too_slow(_: Request, error: Exception) -> Response:
    return _answer(503, f"it took too long{f': {error}' if str(error) else ''}", **{"Retry-After": "60"})


def _is_full(error: BaseException | None) -> bool:
    """Whether an error means that the disk is full."""
    if isinstance(error, OperationalError):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in _FULL


def _machine(_: Request, error: Exception) -> Response:
    if not _is_full(error):
        raise error
    logger.error("%s", error)
    return _answer(507, _DISK_FULL)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _is_full(error.__cause__ or error.__context__):  # while the body was being received
        return _answer(507, _DISK_FULL)
    if error.status_code == 401 and (page := instead_of(request)) is not None:
        return page
    if isinstance(error.detail, str):
        error.detail = without_paths(error.detail)
    return await http_exception_handler(request, error)


HANDLERS: dict[type[Exception], Callable[..., Any]] = {
    JSONError: _says(400),
    LabelError: _says(400),
    ImageError: _says(400),
    ArchiveError: _says(503, **{"Retry-After": "10"}),
    CredentialsError: _says(401),
    RealmError: _says(503, **{"Retry-After": "10"}),
    ImageNotFoundException: _says(404),
    LabelNotFoundException: _says(404),
    MONAILabelException: _says(400),
    OperationalError: _machine,
    TimeoutError: _too_slow,
    concurrent.futures.TimeoutError: _too_slow,  # another kind in Python 3.10
    OSError: _machine,
    requests.RequestException: _realm_away,  # the archive's become ArchiveError
    HTTPException: _http,
}
"""Kind of error -> answer; the nearest kind counts."""
