"""Who asks: the roles that routes ask for, and the name that history and leases know a reader by."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from fastapi import Depends, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from strategies.next_sample import ANONYMOUS
from tasks.common.files import LONGEST_NAME

READER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

REMOVER: ContextVar[str] = ContextVar("remover", default="")
"""Who removes an image or a label, for what the datastore tells meanwhile."""


def client_of(given: Any, user: User, request: Request) -> str:
    """The annotator: the authenticated user, else the ``client_id`` given, else one anonymous name per address."""
    if settings.MONAI_LABEL_AUTH_ENABLE:
        return user.username
    address = request.client.host if request.client else "unknown"
    return str(given or f"{ANONYMOUS}@{address}")


def check_names(values: dict[str, Any]) -> None:
    """Refuse a reader's name, or the id of an answer, that is not short text.

    Raises:
        HTTPException: 400.
    """
    for name in ("client_id", "answer_id"):
        if not isinstance(values.get(name, ""), str) or len(values.get(name, "")) > LONGEST_NAME:
            raise HTTPException(status_code=400, detail=f"{name} must be text of at most {LONGEST_NAME} characters")
