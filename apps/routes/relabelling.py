"""Images that were labelled before a label name was added: which they are, and giving them out again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel, Field

from apps.auth.readers import ADMIN, READER
from tasks.common.files import LONGEST_NAME
from tasks.store.label_names import LabelNames, SchemaError

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

PAGE = 100
"""Images in one answer."""


class Relabel(BaseModel, extra="forbid"):
    """Which label name, and who asks."""

    label: Annotated[str, Field(max_length=LONGEST_NAME)]
    client_id: Annotated[str, Field(max_length=LONGEST_NAME)] = ""


@router.get("/al/relabel", tags=["ActiveLearning"])
def not_annotated(
    label: Annotated[str, Query(max_length=LONGEST_NAME)] = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    user: User = READER,
) -> dict[str, Any]:
    """Images that are not annotated for a label name because they were labelled before there was one.

    Returns:
        ``labels``: name -> number of images; with ``label`` also ``images``, a page of ids from ``offset`` on.
    """
    found = LabelNames(app_instance().store).not_annotated()
    answer: dict[str, Any] = {"labels": {name: len(images) for name, images in found.items()}}
    if label:
        answer["images"] = found.get(label, [])[offset : offset + PAGE]
    return answer


@router.post("/al/relabel", tags=["ActiveLearning"])
def give_out_again(params: Relabel, user: User = ADMIN) -> dict[str, int]:
    """Give the images out again that are not annotated for a label name; their labels stay until new ones come.

    Returns:
        ``reopened``: how many images were put back into the pool.
    """
    app = app_instance()
    client_id = user.username if settings.MONAI_LABEL_AUTH_ENABLE else params.client_id
    try:
        count = LabelNames(app.store).reopen(params.label, client_id)
    except SchemaError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    app.rounds.forget_plans()
    return {"reopened": count}
