"""Routes of MONAI Label that are not safe, or answer what cannot be done with a server error, as they should be."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, File, HTTPException, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type

from apps.auth.readers import ADMIN, READER
from apps.http.bodies import FormRoute
from apps.http.sessions import QuotaError, Sessions
from apps.http.transfers import save
from apps.http.unpacking import unpack
from tasks.common.values import of_kind, within

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)

logger = logging.getLogger(__name__)


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


@router.put("/session/", tags=["Session"])
def create_session(
    uncompress: bool = False,
    expiry: str = "0",
    files: list[UploadFile] = File(...),  # noqa: B008
    user: User = READER,
) -> dict[str, Any]:
    """Keep an image for a while without adding it to the datastore; a ZIP file is unpacked on request.

    ``expiry``: seconds that it is kept without use; 0 for the longest time, ``MONAI_LABEL_SESSION_EXPIRY``.
    """
    sessions = _sessions()
    try:
        seconds = of_kind("expiry", expiry, int)
        within("expiry", seconds, 0, sessions.longest)
        with sessions.room() as room, tempfile.TemporaryDirectory(prefix="session-") as name:
            folder = Path(name) / "files"
            folder.mkdir()
            for number, file in enumerate(files, start=1):
                if uncompress:
                    unpack(file.file, folder, room.take)
                else:
                    room.take(file.size or 0)
                    save(file, folder, "image" if len(files) == 1 else f"image{number}")
            session = sessions.add(folder, seconds)
    except QuotaError as error:
        raise HTTPException(status_code=507, detail=str(error)) from error
    except ValueError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    logger.info("%s keeps a session of %d MB", user.username, session.size >> 20)
    return {"session_id": session.id, "session_info": session.shown()}


@router.get("/session/{session_id}", tags=["Session"])
def read_session(session_id: str, update_ts: bool = False, image: bool = False, user: User = READER) -> Any:
    """A session's description, or its image."""
    session = _sessions().get(session_id, touch=update_ts)
    if session is None:
        raise HTTPException(status_code=404, detail="there is no such session, or it has expired")
    if not image:
        return session.shown()
    if not session.image.is_file():
        raise HTTPException(status_code=400, detail="the session has several files; ask for its description")
    return FileResponse(session.image, media_type=get_mime_type(str(session.image)), filename=session.image.name)


@router.delete("/session/{session_id}", tags=["Session"])
def remove_session(session_id: str, user: User = READER) -> dict[str, Any]:
    """Forget a session and its files."""
    session = _sessions().get(session_id, touch=False)
    if session is None or not _sessions().remove(session_id):
        raise HTTPException(status_code=404, detail="there is no such session, or it has expired")
    return session.shown()


def _sessions() -> Sessions:
    found: Sessions | None = app_instance().sessions()
    if found is None:
        raise HTTPException(status_code=404, detail="sessions are switched off: MONAI_LABEL_SESSIONS")
    return found
