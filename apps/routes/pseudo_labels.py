"""What the model labelled itself, for people who want to keep an eye on it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance

from apps.auth.readers import READER

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/al", tags=["ActiveLearning"])


@router.get("/pseudo_labels")
def pseudo_labels(user: User = READER) -> dict[str, Any]:
    """Pseudo-labels round by round: how many, their scores, and their Dice with labels that people gave later."""
    shelf = app_instance().task.shelf
    return {"current": len(shelf.labels.current()) if shelf.wanted else 0, "rounds": shelf.labels.summary()}
