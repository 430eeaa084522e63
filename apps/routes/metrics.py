"""How the server is doing, in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.auth.readers import ADMIN
from apps.http.lanes import INFERENCES
from tasks.jobs.queue import KINDS

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

_REGISTRY = CollectorRegistry()
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
REQUESTS = Counter(
    "active_learning_requests", "Requests by route and status.", ("method", "route", "status"), registry=_REGISTRY
)
LATENCY = Histogram(
    "active_learning_request_seconds",
    "Time from a request's first byte to the last byte of its answer.",
    ("method", "route"),
    buckets=_SECONDS,
    registry=_REGISTRY,
)
UNKNOWN = "none"
"""The route of requests that fit no route."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


class Measured:
    """ASGI middleware: counts and times requests by the pattern of their route, never by what readers ask for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it went."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, noted)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", UNKNOWN)
            REQUESTS.labels(method, route, status).inc()
            LATENCY.labels(method, route).observe(time.perf_counter() - started)


class _State(Collector):
    """What the app knows of images, labels and jobs, asked for when somebody looks."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The values of this moment."""
        app = app_instance()
        status = app.datastore().status()
        yield _gauge("images", "Images in the datastore.", {(): status["total"]})
        yield _gauge("labels", "Labels by tag.", {(tag,): n for tag, n in status["label_tags"].items()}, "tag")
        running = {(kind,): int(app.jobs.running(kind) is not None) for kind in KINDS}
        yield _gauge("jobs_running", "Running jobs by kind.", running, "kind")
        waiting = {(kind,): len(app.jobs.waiting(kind)) for kind in KINDS}
        yield _gauge("jobs_waiting", "Waiting jobs by kind.", waiting, "kind")
        yield _gauge("inferences_running", "Running inferences.", {(): INFERENCES.running})
        yield _gauge("inferences_waiting", "Waiting inferences.", {(): INFERENCES.waiting})


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"active_learning_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


ProcessCollector(registry=_REGISTRY)
_REGISTRY.register(_State())


@router.get("/metrics", tags=["Others"])
def metrics(user: User = ADMIN) -> Response:
    """Requests, latencies, queues, labels, jobs, memory and open files of the server."""
    return Response(generate_latest(_REGISTRY), media_type=CONTENT_TYPE_LATEST)
