"""What is known of images and labels, and the models' checkpoints: MONAI Label's routes, run in threads."""

from __future__ import annotations

from typing import Any

import monailabel.endpoints.model as checkpoints
from fastapi import APIRouter, Form
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import datastore
from monailabel.endpoints.user.auth import User

from apps.routes.labels import ADMIN, ANNOTATOR, READER, update_label_info
from apps.server.bodies import FormRoute

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)


@router.get("/datastore/image/info", tags=["Datastore"])
def image_info(image: str, user: User = READER) -> dict[str, Any]:
    """What is kept with an image."""
    return dict(datastore.get_image_info(image))


@router.get("/datastore/label/info", tags=["Datastore"])
def label_info(label: str, tag: str, user: User = READER) -> dict[str, Any]:
    """What is kept with a label."""
    return dict(datastore.get_label_info(label, tag))


@router.put("/datastore/updatelabelinfo", include_in_schema=False)
def review(label: str, tag: str, params: str = Form("{}"), user: User = ANNOTATOR) -> dict[str, Any]:
    """Merge values into what is kept with a label, as 3D Slicer's Reviewer sends them."""
    return update_label_info(label, tag, params, user)


@router.get("/model/{model}", tags=["Model"])
def download_model(model: str, user: User = ADMIN) -> FileResponse:
    """The checkpoint of a model."""
    answer: FileResponse = checkpoints.download_model(model)
    return answer


@router.get("/model/info/{model}", tags=["Model"])
def model_info(model: str, user: User = ADMIN) -> dict[str, Any]:
    """Checksum, time and train stats of a model."""
    return dict(checkpoints.model_info(model))


@router.delete("/model/{model}", tags=["Model"])
def delete_model(model: str, user: User = ADMIN) -> dict[str, Any]:
    """Put a model's checkpoint aside; the one before it serves from now on."""
    return dict(checkpoints.delete_model(model))
