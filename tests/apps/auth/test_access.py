"""One table of routes: what is served is in it, with its role and body, and nothing else is served."""

import pytest
from fastapi import APIRouter, FastAPI, File, Form, UploadFile
from fastapi.routing import APIRoute
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from apps.auth import access, sign_in
from apps.auth.access import TABLE, AccessError, Body, Role, Row, body_of, role_of, serve_only
from apps.auth.readers import ADMIN, READER
from apps.routes import every, grading, learning, ohif, pseudo_labels

OURS = (*every.routers(), *(module.router for module in (sign_in, grading, pseudo_labels, ohif)))


def all_routes() -> list[APIRoute]:
    return [route for router in OURS for route in router.routes]


def router(role=READER) -> APIRouter:
    """A router with one route, which is not in the table."""
    own = APIRouter()

    @own.post("/own/{name}")
    def act(name: str, label: UploadFile = File(...), user=role) -> None:  # noqa: B008
        """Does nothing."""

    return own


def test_every_route_agrees_with_its_row_and_every_row_has_its_route():
    rows = {(row.method, row.path): row for row in TABLE}
    assert len(rows) == len(TABLE)
    served = {(method, route.path): route for route in all_routes() for method in route.methods}
    assert set(served) == set(rows)
    for key, route in served.items():
        if rows[key].role is not Role.NOBODY:
            assert role_of(route) is rows[key].role, key
        assert rows[key].body in (body_of(route), Body.RAW), key


def test_what_changes_something_needs_more_than_a_reader():
    """But for sessions, which are the reader's own, inference, the next image, and a viewer's report."""
    own = {"/session/", "/session/{session_id}", "/infer/{model}", "/activelearning/{strategy}", "/al/viewer"}
    for row in TABLE:
        if row.method in ("PUT", "POST", "DELETE") and row.path not in own and row.role is not Role.ANYBODY:
            assert row.role is not Role.READER, row


def test_monai_label_s_own_routes_are_gone_and_an_unknown_one_is_named(caplog):
    server = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    upstream = APIRouter(prefix="/new")

    @upstream.get("/{thing}")
    @upstream.put("/{thing}")
    def something(thing: str) -> None:
        """A route of a newer version."""

    server.include_router(upstream)
    server.include_router(upstream, prefix="/info")
    server.mount("/files", StaticFiles(directory="."))

    @server.get("/info/")
    def info() -> None:
        """One that is replaced."""

    serve_only(server, [learning.router])
    assert server.router.routes == list(learning.router.routes)
    named = [record.getMessage() for record in caplog.records]
    assert [line.split("route ")[1].split(" is")[0] for line in named] == [
        *("GET /info/new/{thing}", "GET /new/{thing}", "MOUNT /files"),
        *("PUT /info/new/{thing}", "PUT /new/{thing}"),
    ]


def test_every_route_that_monai_label_has_today_is_known(caplog):
    from monailabel.app import app as server

    before = list(server.router.routes)
    try:
        serve_only(server, [learning.router])
    finally:
        server.router.routes[:] = before
    assert not caplog.records


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "POST /own/{name} has no row"),
        ((Row("GET", "/own/{name}", Role.READER, Body.FILE),), "POST /own/{name} has no row"),
        ((Row("POST", "/own/{name}", Role.ADMIN, Body.FILE),), "asks for the role READER, its row says ADMIN"),
        ((Row("POST", "/own/{name}", Role.READER),), "takes a form with files, its row says nothing"),
    ],
)
def test_a_route_of_an_app_outside_must_declare_its_row(rows, words):
    with pytest.raises(AccessError) as refused:
        serve_only(FastAPI(), [router()], rows)
    assert words in str(refused.value)


def test_a_declared_route_is_served():
    server = FastAPI()
    serve_only(server, [router(role=ADMIN)], [Row("POST", "/own/{name}", Role.ADMIN, Body.FILE)])
    assert [route.path for route in server.router.routes] == ["/own/{name}"]


def test_a_mount_cannot_be_served():
    own = APIRouter()
    own.routes.append(Mount("/files", StaticFiles(directory=".")))
    with pytest.raises(AccessError, match="/files cannot be checked"):
        serve_only(FastAPI(), [own])


def test_the_body_is_what_a_route_takes():
    own = APIRouter()

    @own.post("/a")
    def form(x: str = Form("")) -> None:
        """A form."""

    @own.post("/b")
    def json(x: dict | None = None) -> None:
        """JSON."""

    @own.get("/c")
    def nothing(x: str = "") -> None:
        """A query."""

    assert [body_of(route) for route in own.routes] == [Body.FORM, Body.JSON, Body.NONE]
    assert access.role_of(own.routes[0]) is Role.ANYBODY
