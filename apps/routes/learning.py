"""What to label next, skips and undos, and the history."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel, Field

from apps.auth.readers import ADMIN, ANNOTATOR, READER, check_names, client_of
from strategies.next_sample import reply
from tasks.common.files import LONGEST_NAME
from tasks.rounds.answers import AnswerError, Answers
from tasks.store.store import Store

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

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


def answers() -> Answers:
    """Skips and undos of the running app."""
    return Answers(app_instance().rounds)


@router.get("/info/", tags=["App"])
def info(user: User = READER) -> Any:
    """What MONAI Label's clients want to know of the app."""
    return app_instance().info()


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_sample(
    strategy: str, request: Request, params: dict[str, Any] | None = None, user: User = READER
) -> dict[str, Any]:
    """Lease the next image of a strategy.

    MONAI Label's own would walk the datastore twice and rewrite its index. The annotator is the authenticated user,
    else ``client_id``, else one anonymous name per client address.
    """
    options = dict(params or {})
    check_names(options)
    client_id = client_of(options.get("client_id"), user, request)
    try:
        return dict(app_instance().next_sample({**options, "strategy": strategy, "client_id": client_id}))
    except MONAILabelException as error:
        raise HTTPException(status_code=404, detail=error.msg) from error


@router.get("/al/session", tags=["ActiveLearning"])
def session(user: User = READER) -> dict[str, Any]:
    """What a reader works with: ``name``, ``classes``, ``strategies`` (the default first) and ``user``."""
    app = app_instance()
    return {
        "name": app.name,
        "classes": list(app.options.labels),
        "strategies": [{"name": row.name, "description": row.description} for row in app.query_strategies],
        "user": user.username if settings.MONAI_LABEL_AUTH_ENABLE else "",
    }


@router.post("/al/skip", tags=["ActiveLearning"])
def skip(body: SkipRequest, request: Request, user: User = ANNOTATOR) -> dict[str, str]:
    """Take an image out of the pool, with the reason; asked again, nothing changes."""
    try:
        answers().skip(body.image, client_of(body.client_id, user, request), body.reason)
    except AnswerError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    app_instance().loop.wake()
    return {"image": body.image}


@router.get("/al/skipped", tags=["ActiveLearning"])
def skipped(user: User = READER) -> list[dict[str, str]]:
    """Skipped images with reader, reason and time, the latest first."""
    return answers().skipped()


@router.post("/al/restore", tags=["ActiveLearning"])
def restore(body: RestoreRequest, request: Request, user: User = ANNOTATOR) -> dict[str, str]:
    """Put a skipped image back into the pool."""
    try:
        answers().restore(body.image, client_of(body.client_id, user, request))
    except AnswerError as error:
        raise HTTPException(status_code=409, detail=str(error)) from error
    return {"image": body.image}


@router.post("/al/undo", tags=["ActiveLearning"])
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


@router.get("/al/history", tags=["ActiveLearning"])
def history(user: User = ADMIN) -> Response:
    """Who was given, labelled, skipped or took back which image, when, under which model: a CSV file."""
    headers = {"Content-Disposition": 'attachment; filename="history.csv"'}
    return StreamingResponse(_rows(app_instance().store), media_type="text/csv; charset=utf-8", headers=headers)


def _rows(store: Store) -> Iterator[str]:
    for part in itertools.chain([[store.history_columns]], store.history()):
        text = io.StringIO()
        csv.writer(text).writerows([_for_a_table(value) for value in row] for row in part)
        yield text.getvalue()


def _for_a_table(value: Any) -> str:
    """A value as a spreadsheet should show it: what looks like a formula stays text."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
