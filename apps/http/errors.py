"""Clear answers to what goes wrong."""

from __future__ import annotations

import concurrent.futures
import errno
import logging
from collections.abc import Callable
from typing import Any

import requests
from fastapi import Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from apps.auth.realm import CredentialsError, RealmError
from apps.auth.sign_in import instead_of
from apps.http.words import without_paths
from tasks.common.files import ArchiveError, ImageError, LabelError, NotPutBackError
from tasks.common.memory import lacks_memory
from tasks.common.strict_json import JSONError
from tasks.learning.checkpoints import ModelError

logger = logging.getLogger(__name__)

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


def answer(status: int, words: str, **headers: str) -> Response:
    """An error as the clients get it, without a path of the server.

    Args:
        status: of HTTP.
        words: for people.
        **headers: besides.
    """
    return JSONResponse({"detail": without_paths(words)}, status, headers or None)


def _says(status: int, **headers: str) -> Callable[[Request, Exception], Response]:
    """A handler that answers with the error's own words."""
    return lambda _, error: answer(status, getattr(error, "msg", str(error)), **headers)


def _input(request: Request, error: Exception) -> Response:
    """A label or an image that cannot be used is the sender's, unless the machine cannot read it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            logger.error("%s", error)
            kept = str(error).partition("; it is kept ")[2]
            return answer(500, f"{_OWN_FILE}; what was sent is kept {kept}" if kept else _OWN_FILE)
        cause = cause.__cause__
    return answer(400, str(error))


def _refused(_: Request, error: Exception) -> Response:
    """MONAI Label's own errors: only some are the request's."""
    assert isinstance(error, MONAILabelException)
    if error.error == MONAILabelError.INVALID_INPUT:
        return answer(400, error.msg)
    logger.error("%s: %s", error.error, error.msg)
    return answer(500, "the server could not do it; its log says why")


def _realm_away(_: Request, error: Exception) -> Response:
    logger.error("the sign-in service does not answer: %s", error)
    return answer(503, "the sign-in service does not answer", **{"Retry-After": "10"})


def _too_slow(_: Request, error: Exception) -> Response:
    return answer(503, f"it took too long{f': {error}' if str(error) else ''}", **{"Retry-After": "60"})


def _too_little_memory(_: Request, error: Exception) -> Response:
    logger.error("too little memory: %s", error)
    return answer(503, "the server has too little memory for this now; try again later", **{"Retry-After": "60"})


def _runtime(request: Request, error: Exception) -> Response:
    """Torch's word for too little memory; whatever else it means is an error of ours."""
    if lacks_memory(error):
        return _too_little_memory(request, error)
    raise error


def _is_full(error: BaseException | None) -> bool:
    """Whether an error means that the disk is full."""
    if isinstance(error, OperationalError):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in _FULL


def _machine(_: Request, error: Exception) -> Response:
    """What the machine lacks."""
    if isinstance(error, NotPutBackError):
        logger.error("%s", error)
        return answer(500, "the server could not store it, nor take back what it had begun; its log says where")
    if _is_full(error):
        logger.error("%s", error)
        return answer(507, _DISK_FULL)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        logger.error("%s", error)
        return answer(503, f"{_OWN_FILE}: {error.strerror}", **{"Retry-After": "60"})
    raise error


def _database(_: Request, error: Exception) -> Response:
    """What keeps the database from being written; whatever else is wrong with it is an error of ours."""
    for words, (status, told) in _DATABASE.items():
        if words in str(error):
            logger.error("%s", error)
            return answer(status, told, **({"Retry-After": "10"} if status == 503 else {}))
    raise error


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _is_full(error.__cause__ or error.__context__):  # while the body was being received
        return answer(507, _DISK_FULL)
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
    ModelError: _says(503),
    OperationalError: _database,
    TimeoutError: _too_slow,
    concurrent.futures.TimeoutError: _too_slow,  # another kind in Python 3.10
    OSError: _machine,
    MemoryError: _too_little_memory,
    RuntimeError: _runtime,
    requests.RequestException: _realm_away,  # the archive's become ArchiveError
    HTTPException: _http,
}
"""Kind of error -> answer; the nearest kind counts.

What a request sends is parsed where it comes in: an error while a file of ours is read must not be its fault.
"""
