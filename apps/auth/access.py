"""Every route of the server with its role and its body, in one table that is checked when the server starts.

Nothing else is served: a route of MONAI Label that is not in the table is closed and named in the log, so that an
upgrade of MONAI Label cannot open one unnoticed, and a route of an app outside of this repository must declare its row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from fastapi import FastAPI, params
from fastapi.routing import APIRoute, APIRouter
from monailabel.config import settings

from apps import upstream

logger = logging.getLogger(__name__)


class Role(Enum):
    """Who may use a route where authentication is on."""

    NOBODY = "nobody"
    """The route is closed, whoever asks."""
    ANYBODY = "anybody"
    """Pages without data, and what one signs in with."""
    READER = settings.MONAI_LABEL_AUTH_ROLE_USER
    ANNOTATOR = settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    ADMIN = settings.MONAI_LABEL_AUTH_ROLE_ADMIN


class Body(Enum):
    """What a request brings."""

    NONE = "nothing"
    JSON = "JSON"
    FORM = "a form"
    FILE = "a form with files"
    RAW = "bytes that are passed on"


@dataclass(frozen=True)
class Row:
    """One route.

    Attributes:
        method: of HTTP.
        path: with its parameters in braces, without the prefix ``MONAI_LABEL_API_STR``.
        role: the least that its user must have.
        body: what its requests bring.
    """

    method: str
    path: str
    role: Role
    body: Body = Body.NONE


def _rows(role: Role, *lines: str) -> tuple[Row, ...]:
    """Rows from lines of a method, a path, and a body where there is one."""
    rows = []
    for line in lines:
        method, path, *body = line.split()
        rows.append(Row(method, path, role, Body[body[0]] if body else Body.NONE))
    return tuple(rows)


TABLE: tuple[Row, ...] = (
    *_rows(
        Role.ANYBODY,
        "GET /",
        "GET /docs",
        "GET /openapi.json",
        "GET /favicon.ico",
        "GET /auth/",
        "POST /auth/token FORM",
        "GET /al/sign-in",
        "POST /al/sign-in FORM",
        "POST /al/sign-out",
        "GET /al/grade",
        "GET /al/web/{name}",
        "GET /al/api/{name}",
    ),
    *_rows(
        Role.READER,
        "GET /auth/token/valid",
        "GET /info/",
        "POST /activelearning/{strategy} JSON",
        "POST /infer/{model} FILE",
        "GET /batch/infer",
        "GET /train/",
        "GET /scoring/",
        "GET /datastore/",
        "GET /datastore/image",
        "HEAD /datastore/image",
        "GET /datastore/image/info",
        "GET /datastore/label",
        "HEAD /datastore/label",
        "GET /datastore/label/info",
        "PUT /session/ FILE",
        "GET /session/{session_id}",
        "DELETE /session/{session_id}",
        "GET /al/session",
        "GET /al/progress",
        "GET /al/problems",
        "GET /al/relabel",
        "GET /al/skipped",
        "GET /al/pixels",
        "GET /al/pseudo_labels",
        "POST /al/viewer JSON",
        "GET /ohif/app-config.js",
        "GET /ohif/{path:path}",
        "GET /proxy/dicom/{service}/{path:path}",
    ),
    *_rows(
        Role.ANNOTATOR,
        "PUT /datastore/ FILE",
        "PUT /datastore/image FILE",
        "PUT /datastore/image/info FORM",
        "PUT /datastore/label FILE",
        "PUT /datastore/label/info FORM",
        "PUT /datastore/updatelabelinfo FORM",
        "GET /datastore/dataset",
        "POST /al/refresh",
        "POST /al/skip JSON",
        "POST /al/restore JSON",
        "POST /al/undo JSON",
        "POST /al/problems JSON",
        "POST /proxy/dicom/{service}/{path:path} RAW",
    ),
    *_rows(
        Role.ADMIN,
        "POST /train/ JSON",
        "POST /train/{model} JSON",
        "DELETE /train/",
        "POST /scoring/ JSON",
        "POST /scoring/{method} JSON",
        "DELETE /scoring/",
        "POST /batch/infer/{model} JSON",
        "DELETE /batch/infer",
        "DELETE /datastore/",
        "DELETE /datastore/image",
        "DELETE /datastore/label",
        "GET /model/{model}",
        "GET /model/info/{model}",
        "DELETE /model/{model}",
        "GET /logs/",
        "GET /logs/gpu",
        "GET /al/history",
        "POST /al/relabel JSON",
        "GET /metrics",
    ),
    *_rows(
        Role.NOBODY,
        "PUT /model/{model}",
        "POST /infer/wsi/{model}",
        "POST /infer/wsi_v2/{model}",
        "POST /reload",
    ),
)
"""All routes that any app of this repository has; closed ones answer why."""

REPLACED = frozenset(
    {
        "MOUNT /static",  # OHIF's files are served under /ohif
        "HEAD /docs",
        "HEAD /openapi.json",
        *(
            f"{method} /proxy/dicom/{service}{{path:path}}"
            for method in ("GET", "POST")
            for service in ("", "wado/", "qido/", "stow/")
        ),
    }
)
"""Routes of MONAI Label that ours answer under another pattern, or that nobody needs."""


class AccessError(RuntimeError):
    """A route and its row do not agree; the message names the route."""


def serve_only(server: FastAPI, routers: Sequence[APIRouter], rows: Iterable[Row] = ()) -> None:
    """Let the server have our routes and no others, once each agrees with its row.

    Args:
        server: MONAI Label's application.
        routers: of the app.
        rows: of routes that an app outside of this repository has.

    Raises:
        AccessError: a route without a row, or one whose role or body is another than its row says.
    """
    table = {(row.method, _address(row.path)): row for row in (*TABLE, *rows)}
    ours = [route for router in routers for route in router.routes]
    for route in ours:
        if not isinstance(route, APIRoute):
            raise AccessError(f"{getattr(route, 'path', route)} cannot be checked: only plain routes can be served")
        for method in sorted(route.methods or ()):
            _check(route, method, table.get((method, route.path)))
    known = {f"{method} {path}" for method, path in table} | REPLACED
    for name in sorted(upstream.names_of_routes(server)):
        if name not in known:
            logger.warning("MONAI Label's route %s is not known and stays closed", name)
    upstream.serve(server, ours)


def _address(path: str) -> str:
    """Where a route of the table lies: pages of the whole server have no prefix."""
    return path if path in _WITHOUT_PREFIX else settings.MONAI_LABEL_API_STR + path


_WITHOUT_PREFIX = ("/", "/docs", "/openapi.json", "/favicon.ico")


def _check(route: APIRoute, method: str, row: Row | None) -> None:
    name = f"{method} {route.path}"
    if row is None:
        raise AccessError(f"{name} has no row in the table of routes: declare one with its role and body")
    role, body = role_of(route), body_of(route)
    if row.role is not Role.NOBODY and role is not row.role:
        raise AccessError(f"{name} asks for the role {role.name}, its row says {row.role.name}")
    if body is not row.body and row.body is not Body.RAW:
        raise AccessError(f"{name} takes {body.value}, its row says {row.body.value}")


def role_of(route: APIRoute) -> Role:
    """The role that a route asks for."""
    asked = upstream.roles_of(route)
    return Role(asked[0]) if asked else Role.ANYBODY


def body_of(route: APIRoute) -> Body:
    """What the requests of a route bring."""
    kinds = upstream.parts_of_body(route)
    if not kinds:
        return Body.NONE
    if any(issubclass(kind, params.File) for kind in kinds):
        return Body.FILE
    return Body.FORM if any(issubclass(kind, params.Form) for kind in kinds) else Body.JSON
