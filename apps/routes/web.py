"""Scripts and styles of the pages."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse
from monailabel.config import settings

from apps.web.files import FILES, ONLY_OURS

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/al/web")


@router.get("/{name}", include_in_schema=False)
def page_file(name: str) -> FileResponse:
    """One file."""
    if name not in FILES:
        raise HTTPException(status_code=404, detail=f"there is no {name!r}")
    return FileResponse(FILES[name], headers=ONLY_OURS)
