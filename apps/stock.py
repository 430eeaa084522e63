"""Routes of MONAI Label that are not safe, or answer what cannot be done with a server error, as they should be."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, BackgroundTasks, File, HTTPException, UploadFile
from monailabel.config import settings
from monailabel.endpoints import logs, session
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance

from apps.bodies import FormRoute
from apps.routes import ADMIN, READER

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)

LARGEST_UNPACKED = 8 << 30
"""Bytes of a session's files after unpacking."""


@router.post("/reload", include_in_schema=False)
def reload(user: User = ADMIN) -> None:
    """MONAI Label would forget the running app and build another one beside it, whoever asks."""
    raise HTTPException(status_code=404, detail="the app cannot be loaded again: restart the server")


@router.post("/infer/wsi/{model}", include_in_schema=False)
@router.post("/infer/wsi_v2/{model}", include_in_schema=False)
def whole_slides(model: str, user: User = READER) -> None:
    """No app here has models for whole slides."""
    raise HTTPException(status_code=404, detail="there are no models for whole slides")


@router.put("/model/{model}", tags=["Model"])
def replace_model(model: str, user: User = ADMIN) -> None:
    """Models are published by trainings: a file from elsewhere has no version, and may be code."""
    raise HTTPException(status_code=400, detail="models are published by trainings and cannot be uploaded")


@router.get("/logs/gpu", tags=["Others"])
async def gpu_info(user: User = ADMIN) -> Any:
    """What ``nvidia-smi`` says."""
    if shutil.which("nvidia-smi") is None:
        raise HTTPException(status_code=404, detail="nvidia-smi is not installed")
    return await logs.gpu_info(user)


@router.put("/session/", tags=["Session"])
def create_session(
    background_tasks: BackgroundTasks,
    uncompress: bool = False,
    expiry: int = 0,
    files: list[UploadFile] = File(...),  # noqa: B008
    user: User = READER,
) -> Any:
    """Keep an image for a while without adding it to the datastore; a ZIP file is unpacked on request."""
    if uncompress:
        for file in files:
            _check_zip(file)
    return session.create_session(background_tasks, uncompress, expiry, files)


@router.get("/session/{session_id}", tags=["Session"])
def read_session(session_id: str, update_ts: bool = False, image: bool = False, user: User = READER) -> Any:
    """A session's description, or its image."""
    found = app_instance().sessions().get_session(session_id) if app_instance().sessions() else None
    if image and found is not None and not Path(found.image).is_file():
        raise HTTPException(status_code=400, detail="the session has several files; ask for its description")
    return session.get_session(session_id, update_ts, image)


def _check_zip(file: UploadFile) -> None:
    try:
        with zipfile.ZipFile(file.file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise HTTPException(status_code=400, detail=f"only ZIP files are unpacked: {error}") from error
    if not (file.filename or "").lower().endswith(".zip"):
        raise HTTPException(status_code=400, detail="only files that end in .zip are unpacked")
    if sum(member.file_size for member in members) > LARGEST_UNPACKED:
        raise HTTPException(status_code=413, detail="the ZIP file unpacks to more than is taken")
    if any(member.filename.startswith("/") or ".." in member.filename.split("/") for member in members):
        raise HTTPException(status_code=400, detail="the ZIP file has names outside of its folder")
    file.file.seek(0)


@router.delete("/session/{session_id}", tags=["Session"])
def remove_session(session_id: str, user: User = READER) -> Any:
    """Forget a session and its files."""
    return session.remove_session(session_id)
