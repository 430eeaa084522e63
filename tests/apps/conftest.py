"""MONAI Label's own FastAPI application with one of our apps behind it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient


@contextmanager
def over_http(app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    from monailabel.app import app as server

    routes = list(server.router.routes)
    monkeypatch.setattr("monailabel.app.app_instance", lambda: app)
    for name, module in list(sys.modules.items()):
        if name.startswith(("apps.", "monailabel.endpoints.")) and hasattr(module, "app_instance"):
            monkeypatch.setattr(module, "app_instance", lambda: app)
    monkeypatch.setattr(app.loop, "start", lambda: None)
    before = list(server.user_middleware), dict(server.exception_handlers)
    with TestClient(server, base_url="http://127.0.0.1:8000") as client:
        yield client
    server.router.routes[:] = routes
    server.user_middleware[:], server.exception_handlers = before
    server.middleware_stack = None


@pytest.fixture
def http(app, monkeypatch):
    """A client of the module's ``app``."""
    with over_http(app, monkeypatch) as client:
        yield client
