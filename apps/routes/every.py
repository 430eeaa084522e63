"""The routes that every app has."""

from __future__ import annotations

from fastapi import APIRouter
from monailabel.config import settings

from apps.auth import sign_in
from apps.routes import (
    api_page,
    dicomweb,
    inference,
    jobs,
    labels,
    learning,
    logs,
    metrics,
    models,
    problems,
    progress,
    relabelling,
    sessions,
    web,
)

_MODULES = (
    learning,
    labels,
    inference,
    models,
    jobs,
    progress,
    problems,
    relabelling,
    sessions,
    dicomweb,
    metrics,
    logs,
    api_page,
    web,
)


def routers() -> list[APIRouter]:
    """All of them; those to sign in only with authentication."""
    found = [module.router for module in _MODULES]
    return [*found, sign_in.router] if settings.MONAI_LABEL_AUTH_ENABLE else found
