"""The page that shows and tries all routes; MONAI Label's loads its scripts from another host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from monailabel.config import settings

from apps.web.files import template
from apps.web.headers import STYLED_PAGE

_SHIPPED = files("fastapi_offline") / "static"
_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}

router = APIRouter()


@router.get("/", include_in_schema=False)
def page() -> HTMLResponse:
    """All routes."""
    page = template("api.html")
    text = page.substitute(prefix=f"{settings.MONAI_LABEL_API_STR}/al")
    return HTMLResponse(text, headers={"Content-Security-Policy": STYLED_PAGE, "Cache-Control": "no-cache"})


@router.get("/docs", include_in_schema=False)
def other_page() -> RedirectResponse:
    """MONAI Label's second page of that kind."""
    return RedirectResponse("/", 307)


@router.get("/openapi.json", include_in_schema=False)
def description(request: Request) -> JSONResponse:
    """All routes, as OpenAPI describes them."""
    return JSONResponse(request.app.openapi())


@router.get("/favicon.ico", include_in_schema=False)
def icon() -> Response:
    """What browsers show beside a page's title."""
    return page_file("favicon.png")


@router.get(f"{settings.MONAI_LABEL_API_STR}/al/api/{{name}}", include_in_schema=False)
def page_file(name: str) -> Response:
    """Swagger UI's files."""
    if name not in _FILES:
        raise HTTPException(status_code=404, detail=f"there is no {name!r}")
    return Response((_SHIPPED / name).read_bytes(), media_type=_FILES[name], headers={"Cache-Control": "no-cache"})
