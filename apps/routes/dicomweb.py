"""The way from the browser to the archive: OHIF reads DICOM through the server.

It is the only one: MONAI Label's own passes on the reader's credentials, lets readers store, and works in the event
loop, so that an archive that hangs stops the server.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncGenerator
from functools import partial

import anyio
import google.auth
import google.auth.transport.requests
import httpx
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from apps.auth.readers import ANNOTATOR, READER
from tasks.common.files import reason
from tasks.dicom.client import CONNECT_SECONDS, credentials, is_google, is_remote

logger = logging.getLogger(__name__)

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/proxy")

READ_SECONDS = 15.0
"""Longest silence of the archive while the browser waits."""
CONNECTIONS = 64
"""To the archive at once; a browser opens six."""
_PASSED_ON = ("accept", "accept-encoding", "content-type", "content-length")
_PASSED_BACK = ("content-type", "content-encoding", "content-length", "etag", "last-modified", "warning")
_PREFIXES = {"qido": "MONAI_LABEL_QIDO_PREFIX", "wado": "MONAI_LABEL_WADO_PREFIX", "stow": "MONAI_LABEL_STOW_PREFIX"}
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_,-]|\.(?!\.))*", re.ASCII)
"""One step of a DICOMweb path: a resource, a UID, a tag, or a list of frames."""
_STORE = re.compile(r"studies(?:/[0-9.]+)?", re.ASCII)
_KINDS = re.compile(
    r"(?:application/(?:dicom(?:\+json|\+xml)?|json|octet-stream|pdf|xml)|multipart/related|text/plain"
    r"|image/(?:jpeg|jls|jp2|jpx|jphc|jxl|png|gif|x-dicom-rle|dicom-rle)|video/(?:mpeg2?|mp4|H26[45]))\s*(?:;.*)?",
    re.ASCII | re.IGNORECASE,
)
"""What an archive's answers may be: nothing that a browser would run."""
_GOOGLE = "https://www.googleapis.com/auth/cloud-platform"


class GoogleSignIn(httpx.Auth):
    """Signs requests in at Google's archive as the server's own account; a token is kept until it expires."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {await run_in_threadpool(self._token)}"
        yield request

    def _token(self) -> str:
        with self._lock:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[_GOOGLE])
            if not self._credentials.valid:
                ask = google.auth.transport.requests.Request()
                self._credentials.refresh(partial(ask, timeout=READ_SECONDS))
            return str(self._credentials.token)


class ArchiveClient:
    """One HTTP client for the life of the server, so that connections to the archive are used again."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._keeper: asyncio.Task[None] | None = None

    def get(self) -> httpx.AsyncClient:
        """The client of the running event loop."""
        if self._client is None or self._client.is_closed:
            name_and_password = credentials(settings)
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS // 4),
                auth=GoogleSignIn() if is_google(settings.MONAI_LABEL_STUDIES) else name_and_password,
                trust_env=False,  # the environment's proxies and .netrc are for other servers
            )
            self._keeper = asyncio.create_task(self._close_at_the_end(self._client))
        return self._client

    async def _close_at_the_end(self, client: httpx.AsyncClient) -> None:
        """Wait for the end of the event loop, which cancels what is still waiting."""
        try:
            await asyncio.Event().wait()
        finally:
            await client.aclose()


CLIENT = ArchiveClient()


class PassedBack(StreamingResponse):
    """The archive's answer as it arrives; the connection is given back whatever becomes of it."""

    def __init__(self, answer: httpx.Response) -> None:
        headers = {key: value for key, value in answer.headers.items() if key in _PASSED_BACK}
        if not _KINDS.fullmatch(headers.get("content-type", "")):
            headers["content-type"] = "application/octet-stream"
        super().__init__(answer.aiter_raw(), answer.status_code, headers)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; if the archive falls silent, the browser sees that the answer is cut off."""
        try:
            await super().__call__(scope, receive, send)
        except httpx.HTTPError as error:
            logger.warning("the archive broke off in an answer: %s", reason(error))
        finally:
            with anyio.CancelScope(shield=True):
                await self.answer.aclose()


@router.get("/dicom/{service}/{path:path}", include_in_schema=False)
async def read(request: Request, service: str, path: str, user: User = READER) -> Response:
    """Search and retrieve; the answer is passed on as it arrives, and a slow archive holds up nobody else."""
    url = archive_url(service, _whole(request, path))
    if service == "stow":
        raise HTTPException(405, "nothing can be read there", {"Allow": "POST"})
    return await _pass_on(request, url)


@router.post("/dicom/{service}/{path:path}", include_in_schema=False)
async def store(request: Request, service: str, path: str, user: User = ANNOTATOR) -> Response:
    """Store instances, as OHIF does when it exports a segmentation; it does so where it retrieves."""
    archive_url(service, _whole(request, path))
    if service == "qido":
        raise HTTPException(405, "nothing can be stored there", {"Allow": "GET"})
    if not _STORE.fullmatch(path):
        raise HTTPException(404, "instances are stored in studies or studies/UID")
    return await _pass_on(request, archive_url("stow", path))


def _whole(request: Request, path: str) -> str:
    """A route's path with the end of line that the matching of routes cuts off."""
    return path + "\n" if str(request.scope["path"]).endswith("\n") else path


async def _pass_on(request: Request, url: str) -> Response:
    headers = {key: value for key, value in request.headers.items() if key in _PASSED_ON}
    headers.setdefault("accept-encoding", "identity")
    stores = request.method == "POST"
    if not stores:
        headers.pop("content-type", None)
        headers.pop("content-length", None)
    client = CLIENT.get()
    passed_on = client.build_request(
        request.method,
        url,
        params=tuple(request.query_params.multi_items()) or None,
        headers=headers,
        content=request.stream() if stores else None,
    )
    try:
        answer = await client.send(passed_on, stream=True)
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended too early") from error
    except (httpx.HTTPError, GoogleAuthError) as error:
        logger.warning("the archive does not answer: %s", reason(error))
        raise HTTPException(503, f"the archive does not answer: {reason(error)}", {"Retry-After": "10"}) from error
    if answer.status_code in (401, 403) or 300 <= answer.status_code < 400:  # meant for the server, not for the reader
        await answer.aclose()
        logger.warning("the archive answers %s with %d", request.method, answer.status_code)
        raise HTTPException(502, f"the archive answers {answer.status_code}: its address or the server's name is wrong")
    return PassedBack(answer)


def archive_url(service: str, path: str) -> str:
    """Where in the archive a request of the browser goes.

    Args:
        service: ``qido``, ``wado`` or ``stow``.
        path: decoded once, as the server's routes get it.

    Raises:
        HTTPException: 404 for a service that is none, or a path that is no DICOMweb path: one that leaves the root,
            or that the archive or a proxy before it could read in another way than we do.
    """
    if service not in _PREFIXES or not is_remote(settings.MONAI_LABEL_STUDIES):
        raise HTTPException(404, "there is no such archive")
    if not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
        raise HTTPException(404, "there is nothing outside of the archive")
    # OHIF asks for metadata under the prefix of searches.
    kind = "wado" if service == "qido" and path.endswith("metadata") else service
    prefix = getattr(settings, _PREFIXES[kind]) or ""
    return "/".join(part.strip("/") for part in (settings.MONAI_LABEL_STUDIES, prefix, path) if part)
