"""Every use that the apps make of the inside of MONAI Label, FastAPI and Starlette, so that an upgrade fails here.

What they offer to everybody (settings, base classes to inherit from, ``app_instance``, exceptions, ``User`` and
``RBAC``) is used where it is needed. ``tests/test_upstream.py`` names everything that is relied on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from re import Pattern
from typing import Any

import monailabel.endpoints.model as _models
import monailabel.endpoints.ohif
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.routing import APIRoute
from monailabel.endpoints import datastore as _datastore
from monailabel.endpoints.datastore import ResultType as Listing
from monailabel.endpoints.infer import ResultType as InferenceOutput
from monailabel.endpoints.user import auth as _auth
from monailabel.endpoints.user.auth import RBAC, User
from starlette.routing import BaseRoute, compile_path

__all__ = ["InferenceOutput", "Listing"]

COMMAND = "monailabel.main"
"""Name of MONAI Label's command as a module."""
JOB = "monailabel.interfaces.utils.app"
"""Name of the module that runs a job."""
OHIF = Path(monailabel.endpoints.ohif.__file__).parent / "static" / "ohif"
"""The viewer that ships with MONAI Label."""


def program() -> str:
    """Name of the module that this process runs, empty for a script."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "" if main is None else main.name


def application() -> FastAPI:
    """The application that MONAI Label serves."""
    from monailabel.app import app  # builds it: not before the server starts

    return app


# Routes


def serve(server: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Serve these routes and no others.

    Args:
        server: the application.
        routes: ours.
    """
    server.router.routes[:] = routes


def names_of_routes(server: FastAPI) -> set[str]:
    """Method and path of all routes of the application, those of included routers and mounts too."""
    return set(_names(server.router.routes))


def _names(routes: Iterable[BaseRoute]) -> Iterator[str]:
    for route in routes:
        if hasattr(route, "effective_candidates"):  # a router that FastAPI has included
            yield from _names(route.effective_candidates())
            continue
        path = getattr(route, "path", "") or getattr(route, "path_format", "")
        methods = getattr(route, "methods", None)
        for method in sorted(methods) if methods else ["MOUNT"]:
            yield f"{method} {path}"


def roles_of(route: APIRoute) -> list[str]:
    """The roles that a route asks for."""
    return [one.call.roles for one in route.dependant.dependencies if isinstance(one.call, RBAC)]


def parts_of_body(route: APIRoute) -> list[type]:
    """The kinds of parameters that a route takes from the body of a request."""
    own = [type(field.field_info) for field in route.dependant.body_params]
    return own + [type(field.field_info) for one in route.dependant.dependencies for field in one.body_params]


def pattern_of_path(path: str) -> Pattern[str]:
    """Matches the addresses of a route.

    Args:
        path: with its parameters in braces.
    """
    return compile_path(path)[0]


def share_threads(count: int) -> None:
    """Answer this many requests at once; Starlette takes 40, and the others wait. In the server's event loop only.

    Args:
        count: of threads that all routes share.
    """
    current_default_thread_limiter().total_tokens = count


# Middleware


def middleware_can_be_added(server: FastAPI) -> None:
    """Let a server that is about to start take more middleware.

    Its stack was built to tell the application that it starts; the first request builds it anew.
    """
    server.middleware_stack = None


def remove_middleware(server: FastAPI, kind: type) -> None:
    """Take out what MONAI Label has put between the network and the routes.

    Args:
        server: the application.
        kind: of middleware.
    """
    server.user_middleware[:] = [one for one in server.user_middleware if one.cls is not kind]  # type: ignore[comparison-overlap]


# Authentication


def ask_about_tokens(user_of: Callable[[str], User]) -> None:
    """Have MONAI Label's routes and ours ask this function whom a token names.

    Args:
        user_of: the user of a token.
    """
    _auth.from_token = user_of


def nobody_in_particular() -> User:
    """The user of every request without authentication."""
    return _auth.DEFAULT_USER


# What MONAI Label's routes do


def contents(output: Listing | None) -> Any:
    """Counts, the list of labelled images, or everything."""
    return _datastore.datastore(output)


def download_image(image: str, check_only: bool = False) -> Any:
    """An image's file, or whether there is one."""
    return _datastore.download_image(image, check_only=check_only)


def download_label(label: str, tag: str, check_only: bool = False) -> Any:
    """A label's file, or whether there is one."""
    return _datastore.download_label(label, tag, check_only=check_only)


def image_info(image: str) -> dict[str, Any]:
    """What is kept with an image."""
    return dict(_datastore.get_image_info(image))


def label_info(label: str, tag: str) -> dict[str, Any]:
    """What is kept with a label."""
    return dict(_datastore.get_label_info(label, tag))


def download_model(model: str) -> Any:
    """A model's checkpoint."""
    return _models.download_model(model)


def model_info(model: str) -> dict[str, Any]:
    """Checksum, time and train stats of a model."""
    return dict(_models.model_info(model))


def delete_model(model: str) -> dict[str, Any]:
    """Put a model's checkpoint aside."""
    return dict(_models.delete_model(model))
