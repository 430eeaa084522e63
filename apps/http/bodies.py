"""Bodies of requests: how large they may be, and JSON that is JSON.

Only forms with files, and what is passed on to the archive, may be large. Everything else is bounded before anything
parses it, and JSON is checked here once for all routes.
"""

from __future__ import annotations

import email.message
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from monailabel.config import settings
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.auth.access import TABLE, Body, Row, body_of
from apps.http.lanes import GONE
from apps.upstream import pattern_of_path
from tasks.common.strict_json import LARGEST, JSONError, parse_json

MOST_FIELDS = 16
"""Fields of a form that are not files, of up to 1 MiB each."""
MOST_FILES = 1000
"""Files of a form."""
_LARGE = (Body.FILE, Body.RAW)
_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "iso-8859-1")
_SMALL = 1 << 14
"""Bytes of JSON that are parsed in the event loop: parsing them takes less time than finding a thread."""


class StrictBodies:
    """ASGI middleware: bounds all bodies but those of uploads, and lets no JSON pass that is not valid.

    Args:
        app: what comes after.
        rows: of routes that are not in the table of this repository.
    """

    def __init__(self, app: ASGIApp, rows: Iterable[Row] = ()) -> None:
        self.app = app
        self._large = [
            (row.method, pattern_of_path(settings.MONAI_LABEL_API_STR + row.path))
            for row in (*TABLE, *rows)
            if row.body in _LARGE
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its body is one that the routes can take."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "")
        try:
            _check_charset(content_type)
            if not self._is_large(scope):
                receive = await _bounded(headers, receive, strict=not content_type or _is_json(content_type))
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code, error.headers)(scope, receive, send)
            return
        except _GoneError:
            return
        await self.app(scope, receive, send)

    def _is_large(self, scope: Scope) -> bool:
        path = scope["path"]
        return any(method == scope["method"] and pattern.match(path) for method, pattern in self._large)


class FormRoute(APIRoute):
    """A route whose form has a bounded number of fields: each of them is kept in memory."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, once the form has been read."""
        handler = super().get_route_handler()
        if body_of(self) is not Body.FILE:
            return handler

        async def bounded(request: Request) -> Response:
            try:
                form = await request.form(max_fields=MOST_FIELDS, max_files=MOST_FILES)  # the request keeps it
            except ClientDisconnect as error:
                raise HTTPException(GONE, "the client has gone") from error
            try:
                return await handler(request)
            finally:
                await form.close()

        return bounded


class _GoneError(Exception):
    """The client has gone before it had sent all."""


async def _bounded(headers: Headers, receive: Receive, strict: bool) -> Receive:
    """Read a body that must be small; returns what gives it again."""
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > LARGEST:
        raise _too_large()
    if announced == "0" and "transfer-encoding" not in headers:
        return receive
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST:
            raise _too_large()
    if body and strict:
        await _check(bytes(body))
    return _again(bytes(body), receive)


async def _check(body: bytes) -> None:
    try:
        if len(body) > _SMALL:
            await run_in_threadpool(parse_json, body, "the body")
        else:
            parse_json(body, "the body")
    except JSONError as error:
        raise HTTPException(400, str(error)) from error


def _again(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given


def _is_json(content_type: str) -> bool:
    """Whether FastAPI takes a body of this content type for JSON."""
    message = email.message.Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _check_charset(content_type: str) -> None:
    """Forms are decoded by the codec that they name: some make halves of surrogate pairs, one takes minutes."""
    kind, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"").decode("latin-1").lower()
    if kind == b"multipart/form-data" and charset not in _CHARSETS:
        raise HTTPException(400, "the charset of a form must be UTF-8")


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body of this request may have at most {LARGEST >> 10} KiB", {"Connection": "close"})
