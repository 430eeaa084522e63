"""The way from the browser to the archive: OHIF reads DICOM through the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from urllib.parse import unquote

import httpx
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.proxy import proxy_dicom
from monailabel.endpoints.user.auth import User
from starlette.background import BackgroundTask

from apps.options import is_remote
from apps.routes import ANNOTATOR, READER
from tasks.dicom.client import CONNECT_SECONDS, credentials
from tasks.files import reason

logger = logging.getLogger(__name__)

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/proxy/dicom")

READ_SECONDS = 15.0
"""Longest silence of the archive while the browser waits."""
_PASSED_BACK = ("content-type", "content-encoding", "content-length", "etag", "last-modified", "warning")
_PASSED_ON = ("accept", "content-type")
_PREFIXES = {"qido": "MONAI_LABEL_QIDO_PREFIX", "wado": "MONAI_LABEL_WADO_PREFIX", "stow": "MONAI_LABEL_STOW_PREFIX"}


@router.get("/{service}/{path:path}", include_in_schema=False)
async def read(request: Request, service: str, path: str, user: User = READER) -> Response:
    """Search and retrieve; the answer is passed on as it arrives, and a slow archive holds up nobody else."""
    return await _pass_on(request, service, path)


@router.post("/{service}/{path:path}", include_in_schema=False)
async def store(request: Request, service: str, path: str, user: User = ANNOTATOR) -> Response:
    """Store instances, as OHIF does when it exports a segmentation."""
    return await _pass_on(request, service, path)


async def _pass_on(request: Request, service: str, path: str) -> Response:
    url = archive_url(service, path)
    if "googleapis.com" in url:
        return await proxy_dicom(request, service, path)  # knows how to sign in there
    # The environment's proxies and .netrc are for other servers.
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        auth=credentials(settings),
        trust_env=False,
    )
    headers = {key: value for key, value in request.headers.items() if key in _PASSED_ON}
    if request.method == "GET":
        headers.pop("content-type", None)
    body = await request.body() if request.method == "POST" else None
    passed_on = client.build_request(request.method, url, params=request.query_params, headers=headers, content=body)
    try:
        answer = await client.send(passed_on, stream=True)
    except httpx.HTTPError as error:
        await client.aclose()
        logger.warning("the archive does not answer: %s", reason(error))
        raise HTTPException(503, f"the archive does not answer: {reason(error)}", {"Retry-After": "10"}) from error

    async def close() -> None:
        await answer.aclose()
        await client.aclose()

    back = {key: value for key, value in answer.headers.items() if key in _PASSED_BACK}
    return StreamingResponse(_content(answer), answer.status_code, back, background=BackgroundTask(close))


async def _content(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for part in answer.aiter_raw():
        yield part


def archive_url(service: str, path: str) -> str:
    """Where in the archive a request of the browser goes.

    Raises:
        HTTPException: 404 for a service that is none, or a path that leaves the DICOMweb root.
    """
    parts = unquote(unquote(path)).split("/")
    if service not in _PREFIXES or not is_remote(settings.MONAI_LABEL_STUDIES):
        raise HTTPException(404, "there is no such archive")
    if ".." in parts or "\\" in path or "?" in path or "#" in path:
        raise HTTPException(404, "there is nothing outside of the archive")
    # OHIF asks for metadata under the prefix of searches.
    kind = "wado" if service == "qido" and path.endswith("metadata") else service
    prefix = getattr(settings, _PREFIXES[kind]) or ""
    return "/".join(part.strip("/") for part in (settings.MONAI_LABEL_STUDIES, prefix, path) if part)
