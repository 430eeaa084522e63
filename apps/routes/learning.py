"""What reading pages of any app need: their files, who and what, skips and undos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel, Field

from apps.routes.labels import ANNOTATOR, READER, answers, client_of
from apps.server.headers import PAGE
from strategies.next_sample import reply
from tasks.common.files import LONGEST_NAME
from tasks.rounds.answers import AnswerError

WEB = Path(__file__).resolve().parents[1] / "web"
ONLY_OURS = {"Content-Security-Policy": PAGE, "Cache-Control": "no-cache"}

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/al", tags=["ActiveLearning"])

Name = Annotated[str, Field(max_length=LONGEST_NAME)]


class SkipRequest(BaseModel):
    """An image that cannot be graded."""

    image: Name
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    client_id: Name = ""


class RestoreRequest(BaseModel):
    """A skipped image that can be graded after all."""

    image: Name
    client_id: Name = ""


class UndoRequest(BaseModel):
    """The reader whose last answer is taken back; a request sent again with its ``undo_id`` takes back nothing more."""

    client_id: Name = ""
    undo_id: Name = ""


@router.get("/web/{name}", include_in_schema=False)
def page_file(name: str) -> FileResponse:
    """Scripts and styles of the pages."""
    if name not in {file.name for file in WEB.iterdir()}:
        raise HTTPException(status_code=404, detail=f"there is no {name!r}")
    return FileResponse(WEB / name, headers=ONLY_OURS)


@router.get("/session")
def session(user: User = READER) -> dict[str, Any]:
    """What a reader works with: ``name``, ``classes``, ``strategies`` (the default first) and ``user``."""
    app = app_instance()
    return {
        "name": app.name,
        "classes": list(app.options.labels),
        "strategies": [{"name": row.name, "description": row.description} for row in app.query_strategies],
        "user": user.username if settings.MONAI_LABEL_AUTH_ENABLE else "",
    }


@router.post("/skip")
def skip(body: SkipRequest, request: Request, user: User = ANNOTATOR) -> dict[str, str]:
    """Take an image out of the pool, with the reason; asked again, nothing changes."""
    try:
        answers().skip(body.image, client_of(body.client_id, user, request), body.reason)
    except AnswerError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    app_instance().loop.wake()
    return {"image": body.image}


@router.get("/skipped")
def skipped(user: User = READER) -> list[dict[str, str]]:
    """Skipped images with reader, reason and time, the latest first."""
    return answers().skipped()


@router.post("/restore")
def restore(body: RestoreRequest, request: Request, user: User = ANNOTATOR) -> dict[str, str]:
    """Put a skipped image back into the pool."""
    try:
        answers().restore(body.image, client_of(body.client_id, user, request))
    except AnswerError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    return {"image": body.image}


@router.post("/undo")
def undo(body: UndoRequest, request: Request, user: User = ANNOTATOR) -> dict[str, Any]:
    """Take back a reader's last label or skip; the image is theirs again.

    Returns:
        ``id`` of the image, ``undone`` (``labelled`` or ``skipped``), and its place in the round where it has one.
    """
    try:
        undone = app_instance().undo(client_of(body.client_id, user, request), body.undo_id)
    except AnswerError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    place = reply(undone.assignment) if undone.assignment else {}
    return {"id": undone.image_id, "undone": undone.event, **place}
