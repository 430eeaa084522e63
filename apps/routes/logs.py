"""The server's log and the state of its graphics cards; MONAI Label's page loads scripts from other hosts."""

from __future__ import annotations

import shutil
import subprocess
from collections import deque
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from apps.auth.readers import ADMIN
from apps.web.files import ONLY_OURS, template

GPU_SECONDS = 30.0
"""Longest wait for ``nvidia-smi``."""

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/logs", tags=["Others"])


@router.get("/")
def log(lines: int = 300, html: bool = True, text: bool = False, refresh: int = 0, user: User = ADMIN) -> Response:
    """The last lines of the log, as a page or as text; ``lines=0`` is the whole file.

    Args:
        lines: how many.
        html: a page that asks for the text.
        text: the text itself.
        refresh: the page asks again after so many seconds, at least 3.
    """
    file = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
    if not file.is_file():
        raise HTTPException(status_code=404, detail="there is no log file")
    if lines <= 0:
        return FileResponse(file, media_type="text/plain")
    if html and not text:
        page = template("logs.html")
        return HTMLResponse(page.substitute(prefix=f"{settings.MONAI_LABEL_API_STR}/al"), headers=ONLY_OURS)
    with file.open(encoding="utf-8", errors="replace") as content:
        return PlainTextResponse("".join(deque(content, min(lines, 1_000_000))))


@router.get("/gpu")
def graphics_cards(user: User = ADMIN) -> Response:
    """What ``nvidia-smi`` says."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise HTTPException(status_code=404, detail="nvidia-smi is not installed")
    try:
        said = subprocess.run([program], capture_output=True, text=True, timeout=GPU_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise HTTPException(status_code=503, detail="nvidia-smi does not answer") from error
    return PlainTextResponse(said.stdout)
