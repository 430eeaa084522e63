"""OHIF as it ships with MONAI Label, with our panel in it."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.utils.others.generic import get_mime_type
from pydantic import BaseModel, Field

from apps.auth.readers import READER
from apps.upstream import OHIF as SHIPPED
from apps.web.headers import viewer_policy

logger = logging.getLogger(__name__)

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

CONFIG = "app-config.js"
PAGE = "index.html"
NOT_KEPT = {"Cache-Control": "no-cache"}
_ASSIGNMENT = "window.config ="
_PANEL = """
// The configuration as a function: OHIF gives it its services, and our panel works through them.
(() => {
  const shipped = window.config;
  window.config = async ({ servicesManager }) => {
    try {
      (await import('/al/web/ohif.js')).start(servicesManager);
    } catch (error) {
      console.error('The active-learning panel could not be loaded:', error);
    }
    return shipped;
  };
})();
"""


@cache
def policy(shipped: Path) -> dict[str, str]:
    """The content policy of a shipped OHIF, as a header."""
    text = (shipped / PAGE).read_text(encoding="utf-8")
    # Browsers hash a script after they have made all ends of lines the same.
    scripts = re.findall(r"<script(?:\s(?![^>]*\ssrc=)[^>]*)?>(.+?)</script>", text.replace("\r\n", "\n"), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return {"Content-Security-Policy": viewer_policy(tuple(digests))}


class ViewerReport(BaseModel):
    """What the viewer could not do."""

    problem: Annotated[str, Field(max_length=1000)]


def configuration() -> str:
    """The viewer's configuration with our panel, or as it is shipped where that is not what we know."""
    text = (SHIPPED / CONFIG).read_text(encoding="utf-8")
    if _ASSIGNMENT not in text:
        logger.warning("this OHIF is configured in a way we do not know: it is served as it is, without our panel")
        return text
    return text + _PANEL


@router.get(f"/ohif/{CONFIG}", include_in_schema=False)
def app_config(user: User = READER) -> Response:
    """Configuration of the viewer."""
    return Response(configuration(), media_type="application/javascript", headers=NOT_KEPT)


@router.get("/ohif/{path:path}", include_in_schema=False)
def viewer(path: str, user: User = READER) -> FileResponse:
    """A file of the viewer; any other address is one of its pages."""
    file = _file(path)
    if file == SHIPPED / PAGE:  # a kept page would be shown to who is not signed in any longer
        return FileResponse(file, headers={**NOT_KEPT, **policy(SHIPPED)})
    return FileResponse(file, media_type=get_mime_type(str(file)), headers=policy(SHIPPED))  # workers have their own


def _file(path: str) -> Path:
    """The file at an address, or the page that all other addresses show.

    Raises:
        HTTPException: 404 for an address outside of the viewer, or one that cannot be the name of a file.
    """
    try:
        file = (SHIPPED / path).resolve()
        is_file = file.is_file()
    except (OSError, ValueError) as error:  # too long, or with a NUL character
        raise HTTPException(status_code=404, detail="there is no such file") from error
    if not file.is_relative_to(SHIPPED.resolve()):
        raise HTTPException(status_code=404, detail="there is no such file")
    return file if is_file and file.name != PAGE else SHIPPED / PAGE


@router.post("/al/viewer", include_in_schema=False)
def report(body: ViewerReport, user: User = READER) -> dict[str, str]:
    """A viewer says what it could not do; the log keeps it."""
    logger.warning("OHIF runs without our panel: %s", "".join(c if c.isprintable() else " " for c in body.problem))
    return {}
