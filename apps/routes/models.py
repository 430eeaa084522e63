"""The models' checkpoints: MONAI Label's routes, run in threads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from apps import upstream
from apps.auth.readers import ADMIN
from apps.http.bodies import FormRoute

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)


@router.get("/model/{model}", tags=["Model"])
def download_model(model: str, user: User = ADMIN) -> FileResponse:
    """The checkpoint of a model."""
    answer: FileResponse = upstream.download_model(model)
    return answer


@router.get("/model/info/{model}", tags=["Model"])
def model_info(model: str, user: User = ADMIN) -> dict[str, Any]:
    """Checksum, time and train stats of a model."""
    return upstream.model_info(model)


@router.delete("/model/{model}", tags=["Model"])
def delete_model(model: str, user: User = ADMIN) -> dict[str, Any]:
    """Put a model's checkpoint aside; the one before it serves from now on."""
    return upstream.delete_model(model)
