"""Routes of every app that stand before MONAI Label's own: the next sample, and a label."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, HTTPException, Request, UploadFile
from monailabel.config import settings
from monailabel.endpoints import datastore
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from strategies.next_sample import ANONYMOUS
from tasks.files import LONGEST_NAME, ImageError, LabelError

READER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)


def client_of(given: Any, user: User, request: Request) -> str:
    """The annotator: the ``client_id`` given, else the authenticated user, else one anonymous name per address."""
    address = request.client.host if request.client else "unknown"
    signed_in = user.username if settings.MONAI_LABEL_AUTH_ENABLE else None
    return str(given or signed_in or f"{ANONYMOUS}@{address}")


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_sample(
    strategy: str, request: Request, params: dict[str, Any] | None = None, user: User = READER
) -> dict[str, Any]:
    """Lease the next image of a strategy.

    Stands before MONAI Label's own route, which would block all other requests while it works, walk the datastore
    twice and rewrite its index. The annotator is ``client_id``, else the authenticated user, else one anonymous name
    per client address.
    """
    options = dict(params or {})
    client_id = client_of(options.get("client_id"), user, request)
    try:
        sample: dict[str, Any] = app_instance().next_sample({**options, "strategy": strategy, "client_id": client_id})
    except MONAILabelException as error:
        raise HTTPException(status_code=404, detail=error.msg) from error
    return sample


@router.put("/datastore/label", tags=["Datastore"])
def save_label(
    background_tasks: BackgroundTasks,
    image: str,
    params: str = Form("{}"),
    tag: str = DefaultLabelTag.FINAL.value,
    label: UploadFile = File(...),  # noqa: B008
    user: User = ANNOTATOR,
) -> dict[str, Any]:
    """Store a label of an image.

    MONAI Label's own function behind checks: an unknown image is a 404, and a label or ``params`` that cannot be used
    a 400 with the reason. It runs in a thread, so that storing a large label does not hold up other requests.
    """
    info = _json_object(params)
    for name in ("client_id", "answer_id"):
        if not isinstance(info.get(name, ""), str) or len(info.get(name, "")) > LONGEST_NAME:
            raise HTTPException(status_code=400, detail=f"{name} must be text of at most {LONGEST_NAME} characters")
    if settings.MONAI_LABEL_AUTH_ENABLE:
        info.setdefault("client_id", user.username)
    try:
        saved: dict[str, Any] = datastore.save_label(
            background_tasks, image, json.dumps(info), tag, label, user.username
        )
    except LabelError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    except ImageNotFoundException as error:
        raise HTTPException(status_code=404, detail=f"there is no image {image!r}") from error
    return saved


@router.put("/datastore/image", tags=["Datastore"])
def add_image(
    background_tasks: BackgroundTasks,
    image: str | None = None,
    params: str = Form("{}"),
    file: UploadFile = File(...),  # noqa: B008
    user: User = ANNOTATOR,
) -> dict[str, Any]:
    """Add an image to the datastore.

    MONAI Label's own function behind checks: an id or a file name that cannot be the name of an image is a 400.
    """
    info = json.dumps(_json_object(params))
    try:
        added: dict[str, Any] = datastore.add_image(background_tasks, image, info, file, user.username)
    except ImageError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    return added


def _json_object(params: str) -> dict[str, Any]:
    try:
        info = json.loads(params or "{}")
    except ValueError as error:
        raise HTTPException(status_code=400, detail=f"params is no JSON: {error}") from error
    if not isinstance(info, dict):
        raise HTTPException(status_code=400, detail="params must be a JSON object")
    return info
