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
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.auth.access import Row, serve_only
from apps.auth.origins import OwnHosts, OwnPages
from apps.auth.realm import CredentialsError, RealmError
from apps.auth.sign_in import SignedIn, instead_of
from apps.routes.metrics import Measured
from apps.server.bodies import StrictBodies
from apps.server.headers import SecurityHeaders
from apps.server.words import without_paths
from tasks.common.files import ArchiveError, ImageError, LabelError, NotPutBackError
from tasks.common.strict_json import JSONError

logger = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
"""What pages of allowed origins may send."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_DISK_FULL = "the server's disk is full: the request was not carried out; try again once there is space"
_DATABASE = {
    "disk is full": (507, _DISK_FULL),
    "is locked": (503, "the server's database is in use by another program: try again in a moment"),
    "readonly database": (503, "the server's database cannot be written: the request was not carried out"),
    "unable to open": (503, "the server's database cannot be opened: the request was not carried out"),
    "disk I/O error": (503, "the server's database cannot be read or written: the request was not carried out"),
}
"""What the database says -> the answer; SQLite has no other way to tell these apart here."""
_OWN_FILE = "the server cannot read or write one of its own files; its log says which"


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


def protect(
    server: FastAPI, routers: Sequence[APIRouter], rows: Iterable[Row], largest_upload: int, hosts: OwnHosts
) -> None:
    """Serve our routes and no others, refuse foreign pages, limit uploads, and turn errors into clear answers.

    Args:
        server: MONAI Label's application, about to start.
        routers: ours.
        rows: of routes that are not in the table of this repository.
        largest_upload: bytes of a request's body.
        hosts: whose requests are answered.
    """
    serve_only(server, routers, rows)
    server.middleware_stack = None  # was built to tell the application that it starts; the first request builds ours
    # MONAI Label's lets every website in.
    server.user_middleware[:] = [kind for kind in server.user_middleware if kind.cls is not CORSMiddleware]  # type: ignore[comparison-overlap]
    server.add_middleware(StrictBodies, rows=rows)
    server.add_middleware(UploadLimit, largest=largest_upload)
    if settings.MONAI_LABEL_AUTH_ENABLE:
        server.add_middleware(SignedIn)
    if hosts.friends:
        friends = [str(origin) for origin in hosts.friends]
        server.add_middleware(
            CORSMiddleware, allow_origins=friends, allow_credentials=True, allow_methods=METHODS, allow_headers=["*"]
        )
    server.add_middleware(OwnPages, hosts=hosts)
    server.add_middleware(SecurityHeaders)
    server.add_middleware(Measured)  # the last one added sees a request first
    for kind, handler in HANDLERS.items():
        server.add_exception_handler(kind, handler)


def listens_on(arguments: Sequence[str]) -> str:
    """The host of the command that started the server.

    Args:
        arguments: of that command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default="0.0.0.0")
    return str(parser.parse_known_args(list(arguments))[0].host)


def warn_if_open(arguments: Sequence[str]) -> None:
    """Say plainly that everybody can use the server, where that is so.

    Args:
        arguments: of the command that started it.
    """
    host = listens_on(arguments)
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


def _input(request: Request, error: Exception) -> Response:
    """A label or an image that cannot be used is the sender's, unless the machine cannot read it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            logger.error("%s", error)
            kept = str(error).partition("; it is kept ")[2]
            return _answer(500, f"{_OWN_FILE}; what was sent is kept {kept}" if kept else _OWN_FILE)
        cause = cause.__cause__
    return _answer(400, str(error))


def _refused(_: Request, error: Exception) -> Response:
    """MONAI Label's own errors: only some are the request's."""
    assert isinstance(error, MONAILabelException)
    if error.error == MONAILabelError.INVALID_INPUT:
        return _answer(400, error.msg)
    logger.error("%s: %s", error.error, error.msg)
    return _answer(500, "the server could not do it; its log says why")


def _realm_away(_: Request, error: Exception) -> Response:
    logger.error("the sign-in service does not answer: %s", error)
    return _answer(503, "the sign-in service does not answer", **{"Retry-After": "10"})


def _too_slow(_: Request, error: Exception) -> Response:
    return _answer(503, f"it took too long{f': {error}' if str(error) else ''}", **{"Retry-After": "60"})


def _too_little_memory(_: Request, error: Exception) -> Response:
    logger.error("too little memory: %s", error)
    return _answer(503, "the server has too little memory for this now; try again later", **{"Retry-After": "60"})


def _is_full(error: BaseException | None) -> bool:
    """Whether an error means that the disk is full."""
    if isinstance(error, OperationalError):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in _FULL


def _machine(_: Request, error: Exception) -> Response:
    """What the machine lacks."""
    if isinstance(error, NotPutBackError):
        logger.error("%s", error)
        return _answer(500, "the server could not store it, nor take back what it had begun; its log says where")
    if _is_full(error):
        logger.error("%s", error)
        return _answer(507, _DISK_FULL)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        logger.error("%s", error)
        return _answer(503, f"{_OWN_FILE}: {error.strerror}", **{"Retry-After": "60"})
    raise error


def _database(_: Request, error: Exception) -> Response:
    """What keeps the database from being written; whatever else is wrong with it is an error of ours."""
    for words, (status, answer) in _DATABASE.items():
        if words in str(error):
            logger.error("%s", error)
            return _answer(status, answer, **({"Retry-After": "10"} if status == 503 else {}))
    raise error


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
    LabelError: _input,
    ImageError: _input,
    ArchiveError: _says(503, **{"Retry-After": "10"}),
    CredentialsError: _says(401),
    RealmError: _says(503, **{"Retry-After": "10"}),
    ImageNotFoundException: _says(404),
    LabelNotFoundException: _says(404),
    MONAILabelException: _refused,
    OperationalError: _database,
    TimeoutError: _too_slow,
    concurrent.futures.TimeoutError: _too_slow,  # another kind in Python 3.10
    OSError: _machine,
    MemoryError: _too_little_memory,
    requests.RequestException: _realm_away,  # the archive's become ArchiveError
    HTTPException: _http,
}
"""Kind of error -> answer; the nearest kind counts.

What a request sends is parsed where it comes in: an error while a file of ours is read must not be its fault.
"""
