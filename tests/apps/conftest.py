"""MONAI Label's own FastAPI application with one of our apps behind it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from apps.shared import JOB_PROCESS

ENDPOINTS = ("apps.routes", "apps.pages", "apps.grading", "apps.pseudo_labels", "apps.stock")
ENDPOINTS += tuple(f"monailabel.endpoints.{name}" for name in ("datastore", "infer", "session"))


@contextmanager
def over_http(app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    from monailabel.app import app as server

    routes = list(server.router.routes)
    monkeypatch.setattr("monailabel.app.app_instance", lambda: app)
    for module in ENDPOINTS:
        monkeypatch.setattr(f"{module}.app_instance", lambda: app)
    monkeypatch.setattr(app.loop, "start", lambda: None)
    monkeypatch.setenv(JOB_PROCESS, "")  # set by the server, taken back after the test
    monkeypatch.delenv(JOB_PROCESS)
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
