"""The way to the archive, on real sockets at both ends: what goes through, what does not, and what is left open."""

import asyncio
import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
import requests
import uvicorn
from fastapi import FastAPI
from google.auth.exceptions import RefreshError
from monailabel.config import settings
from monailabel.endpoints import proxy as stock
from monailabel.endpoints.user.auth import RBAC

from apps.auth.access import serve_only
from apps.routes import dicomweb as proxy
from apps.web.headers import SecurityHeaders
from tests.archive import answer, raw_archive
from tests.server import free_port, wait_for

SILENCE = 0.6
"""Longest that the archive may be silent here, in seconds."""


@pytest.fixture
def archive(monkeypatch):
    with raw_archive() as archive:
        monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", archive.url)
        monkeypatch.setattr(proxy, "READ_SECONDS", SILENCE)
        yield archive


@contextmanager
def serving():
    """Our proxy instead of MONAI Label's, as in the server; yields its address."""
    app = FastAPI()
    app.add_middleware(SecurityHeaders)
    app.include_router(stock.router)
    serve_only(app, [proxy.router])

    @app.get("/alive")
    async def alive() -> str:
        return "yes"

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, 20)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def url(archive):
    with serving() as url:
        yield url


def raw(url: str, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None):
    """A request whose path nobody tidies up; status and body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_the_question_goes_on_and_nothing_of_the_reader_s(archive, url, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "server")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "own")
    secrets = {
        "Authorization": "Bearer reader",
        "Cookie": "active-learning=reader",
        "Proxy-Authorization": "Basic reader",
        "X-Api-Key": "reader",
        "Referer": "http://127.0.0.1/reader",
        "X-Forwarded-For": "reader",
        "Origin": "http://reader",
        "Forwarded": "for=reader",
    }
    archive.say = lambda connection: connection.sendall(
        answer(b'[{"a":1}]', more="Set-Cookie: archive=1\r\nWWW-Authenticate: Basic\r\nX-Server: secret\r\nETag: x\r\n")
    )
    query = "includefield=00081030&includefield=00080060&PatientName=A%26b%3Dc%20%C3%A9*"
    found = requests.get(
        f"{url}/proxy/dicom/qido/studies?{query}", headers={**secrets, "Accept": "application/dicom+json"}, timeout=30
    )
    assert (found.status_code, found.json()) == (200, [{"a": 1}])
    assert found.headers["ETag"] == "x"
    assert not {"Set-Cookie", "WWW-Authenticate", "X-Server"} & set(found.headers)
    (asked,) = archive.asked
    method, target, _ = asked.line.split(" ")
    path, got = target.split("?")
    assert (method, path) == ("GET", "/dicom-web/studies")
    assert requests.compat.unquote_plus(got).split("&", 2)[:2] == ["includefield=00081030", "includefield=00080060"]
    assert got.endswith(("A%26b%3Dc+%C3%A9%2A", "A%26b%3Dc%20%C3%A9*", "A%26b%3Dc+%C3%A9*"))
    assert asked.headers["accept"] == "application/dicom+json"
    assert asked.headers["authorization"] == "Basic c2VydmVyOm93bg=="
    assert "reader" not in str({**asked.headers, "host": ""})


GOOD = [
    ("qido/studies", "/dicom-web/studies"),
    ("qido/studies/1.2.840.1/series", "/dicom-web/studies/1.2.840.1/series"),
    ("qido/studies/1.2/series/1.3/metadata", "/dicom-web/wado/studies/1.2/series/1.3/metadata"),
    ("wado/studies/1/series/2/instances/3/frames/1,2", "/dicom-web/wado/studies/1/series/2/instances/3/frames/1,2"),
    ("wado/studies/1/series/2/instances/3/rendered", "/dicom-web/wado/studies/1/series/2/instances/3/rendered"),
    ("wado/studies/1.2/bulk/52009230/1/00480302", "/dicom-web/wado/studies/1.2/bulk/52009230/1/00480302"),
    ("wado/studies%2F1.2", "/dicom-web/wado/studies/1.2"),
]


def test_every_way_of_dicomweb_is_open(archive, url, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_WADO_PREFIX", "wado")
    for path, _ in GOOD:
        assert raw(url, f"/proxy/dicom/{path}")[0] == 200, path
    assert [asked.line.split(" ")[1] for asked in archive.asked] == [wanted for _, wanted in GOOD]


OUTSIDE = [
    *("..", "../system", "studies/../../system", "studies/..", "studies/./1", ".", "./studies", "...", "studies/1..2"),
    *("%2e%2e/system", "%2E%2E%2Fsystem", "studies/.%2e/x", "studies%2f..%2f..%2fsystem", "studies/%2e"),
    *("%252e%252e/system", "%252e%252e%252fsystem", "%25252e%25252e/system", "%2525252e%2525252e%2525252fsystem"),
    *("..;/system", "..%3b/system", "..;a=b/system", "studies;x=1", "studies/..%253b/x", "%2e%2e%3bx/system"),
    *("..%5csystem", "..\\system", "studies\\..\\..", "%255c..%255csystem", "studies/%5c"),
    *(
        "%00",
        "studies%00",
        "studies/1%0d%0aX-Evil:%201",
        "studies%0a",
        "studies%09",
        "studies/%7f",
        "studies%250d%250a",
    ),
    *("studies%3fx=1", "studies%253fx=1", "studies%23x", "studies%26x", "studies/%3f/../../system", "studies%3f"),
    *("http://evil.example/", "http:%2f%2fevil.example", "//evil.example/", "%2f%2fevil.example", "/etc/passwd"),
    *("studies//1", "studies/", "/studies", "", "studies/1%20", "%20", "studies/@evil.example", "user:pass@evil"),
    *("studies/%c0%ae%c0%ae/system", "studies/%ef%bc%8e%ef%bc%8e", "studies/%e2%80%a5", "studies/1%2", "%zz", "*", "~"),
]


@pytest.mark.parametrize("service", ["qido", "wado"])
def test_nothing_outside_of_the_archive_s_root_is_asked_for(archive, url, service):
    for path in OUTSIDE:
        status, said = raw(url, f"/proxy/dicom/{service}/{path}")
        assert (status, b'"detail"' in said) == (404, True), path
        status, _ = raw(url, f"/proxy/dicom/stow/{path}", "POST", {"Content-Type": "multipart/related"}, b"x")
        assert status == 404, path
    assert archive.asked == []


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "COPY")


def test_every_other_shape_and_method_ends_here(archive, url):
    """MONAI Label's own ways are closed."""
    shapes = [
        *("/proxy", "/proxy/", "/proxy/dicom", "/proxy/dicom/", "/proxy/dicom/studies", "/proxy/dicom/qido"),
        *("/proxy/dicom/qido/", "/proxy/dicom/system", "/proxy/dicom/nothing/studies", "/proxy/dicom//studies"),
        *("/proxy/dicom/%2e%2e", "/proxy/dicom/..", "/proxy/dicom/..;", "/proxy/dicom/%252e%252e", "/proxy/other"),
        *("/proxy/dicom/QIDO/studies", "/proxy/dicom/qido%2fstudies%2f..", "/proxy//dicom/wado/studies"),
    ]
    for shape in shapes:
        for method in METHODS:
            # A missing slash at the end leads to an address that ends here, too.
            assert raw(url, shape, method)[0] in (404, 405, 307), (method, shape)
    for method in METHODS:
        for service, allowed in (("qido", ["GET"]), ("wado", ["GET", "POST"]), ("stow", ["POST"])):
            if method not in allowed:
                assert raw(url, f"/proxy/dicom/{service}/studies", method)[0] in (404, 405), (method, service)
    for path in ("studies/x", "studies/1.2/series", "series", "instances", "studies/1.2/3"):
        assert raw(url, f"/proxy/dicom/stow/{path}", "POST")[0] == 404, path
    assert archive.asked == []


def test_storing_needs_an_annotator_and_reading_a_reader():
    roles = {
        (method, route.path): one.call.roles
        for route in proxy.router.routes
        for method in route.methods
        for one in route.dependant.dependencies
        if isinstance(one.call, RBAC)
    }
    assert roles["GET", "/proxy/dicom/{service}/{path:path}"] == settings.MONAI_LABEL_AUTH_ROLE_USER
    assert roles["POST", "/proxy/dicom/{service}/{path:path}"] == settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR


@pytest.mark.parametrize("service", ["stow", "wado"])
def test_instances_are_stored_as_they_come(archive, url, service, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STOW_PREFIX", "keep")
    body = bytes(range(256)) * 4096
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x', "Cookie": "a=reader"}
    for path in ("studies", "studies/1.2.840.1"):
        assert raw(url, f"/proxy/dicom/{service}/{path}", "POST", headers, body)[0] == 200
        asked = archive.asked[-1]
        assert asked.line == f"POST /dicom-web/keep/{path} HTTP/1.1"
        assert asked.body == body
        assert asked.headers["content-type"] == headers["Content-Type"]
        assert "reader" not in str(asked.headers)


RUN_BY_BROWSERS = ["text/html", "image/svg+xml", "application/javascript", "", "text/plain\tx", "application/xhtml+xml"]


@pytest.mark.parametrize("kind", RUN_BY_BROWSERS)
def test_an_archive_s_page_is_only_data_to_a_browser(archive, url, kind):
    archive.say = lambda connection: connection.sendall(answer(b"<script>alert(1)</script>", kind))
    got = requests.get(f"{url}/proxy/dicom/wado/studies/1.2/rendered", timeout=30)
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in got.headers["Content-Security-Policy"]


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "302 Found", "307 Temporary Redirect"])
def test_what_the_archive_says_to_the_server_is_not_said_to_the_reader(archive, url, status):
    archive.say = lambda connection: connection.sendall(
        answer(status=status, more="Location: http://evil.example/\r\n")
    )
    got = requests.get(f"{url}/proxy/dicom/qido/studies", timeout=30, allow_redirects=False)
    assert (got.status_code, status[:3] in got.json()["detail"], "Location" in got.headers) == (502, True, False)


def test_connections_are_used_again_and_closed_at_the_end(archive):
    with serving() as url:
        for _ in range(5):
            assert raw(url, "/proxy/dicom/qido/studies")[0] == 200
        assert (archive.connections, archive.open) == (1, 1)
    wait_for(lambda: archive.open == 0, 10)


def begin(connection: socket.socket) -> None:
    """The head of an answer and a part of its body."""
    connection.sendall(answer(b"x" * 100_000)[:50_000])


def test_an_archive_that_falls_silent_holds_nothing_and_nobody(archive, url):
    def ask(_: int) -> str:
        try:
            return str(len(requests.get(f"{url}/proxy/dicom/wado/studies/1", timeout=30).content))
        except requests.exceptions.ChunkedEncodingError:
            return "cut off"

    archive.say = begin
    with ThreadPoolExecutor(12) as readers:
        answers = readers.map(ask, range(12))
        wait_for(lambda: len(archive.asked) == 12, 10)
        assert requests.get(f"{url}/alive", timeout=30).json() == "yes"
        assert set(answers) == {"cut off"}
    wait_for(lambda: archive.open == 0, 10)
    archive.say = lambda connection: None
    status, said = raw(url, "/proxy/dicom/qido/studies")
    assert (status, b"does not answer" in said) == (503, True)
    wait_for(lambda: archive.open == 0, 10)
    archive.say = lambda connection: connection.sendall(answer())
    assert raw(url, "/proxy/dicom/qido/studies") == (200, b"[]")


def test_a_reader_who_goes_away_leaves_nothing_open(archive, url, monkeypatch):
    def drip(connection: socket.socket) -> None:
        begin(connection)
        while True:
            connection.sendall(b"x")  # until the server closes it
            time.sleep(0.02)

    archive.say = drip
    for _ in range(8):
        with requests.get(f"{url}/proxy/dicom/wado/studies/1", timeout=30, stream=True) as got:
            assert next(got.iter_content(1000))
    wait_for(lambda: archive.open == 0, 10)
    # and one who goes away in the middle of a question
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as reader:
        head = (
            b"POST /proxy/dicom/stow/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: a/b\r\n\r\n"
        )
        reader.sendall(head + b"only this")
        wait_for(lambda: archive.open == 1, 10)
    wait_for(lambda: archive.open == 0, 10)
    assert requests.get(f"{url}/alive", timeout=30).json() == "yes"


def test_a_reader_who_is_gone_before_the_first_byte_leaves_nothing_open(archive):
    """At the ASGI interface: whether the network tells so early is chance."""
    archive.say = begin

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def full(_: object) -> None:
        await asyncio.Event().wait()

    async def serve() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            found = await client.send(client.build_request("GET", archive.url), stream=True)
            await proxy.PassedBack(found)({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, full)
            assert found.is_closed
            await asyncio.to_thread(wait_for, lambda: archive.open == 0, 10)

    asyncio.run(serve())


class GoogleAccount:
    """Stands in for Google's credentials: a token that is good until it is not."""

    def __init__(self) -> None:
        self.valid, self.token, self.refreshed, self.threads, self.fails = False, "", 0, set(), False

    def refresh(self, ask) -> None:
        self.threads.add(threading.current_thread().name)
        assert ask.keywords["timeout"] > 0
        time.sleep(0.05)  # others ask meanwhile
        if self.fails:
            raise RefreshError("no network")
        self.refreshed += 1
        self.valid, self.token = True, f"token{self.refreshed}"


def test_google_s_archive_is_asked_with_a_token_that_is_kept_until_it_expires(archive, monkeypatch):
    account, opened = GoogleAccount(), []
    monkeypatch.setattr(proxy, "is_google", lambda studies: studies == archive.url)
    monkeypatch.setattr(proxy.google.auth, "default", lambda scopes: (opened.append(scopes) or account, "project"))
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "not")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "there")
    with serving() as url:
        ask = SimpleNamespace(status=lambda _: raw(url, "/proxy/dicom/qido/studies", headers={"Authorization": "x"})[0])
        with ThreadPoolExecutor(6) as readers:
            assert set(readers.map(ask.status, range(6))) == {200}
        assert {asked.headers["authorization"] for asked in archive.asked} == {"Bearer token1"}
        account.valid = False
        assert ask.status(0) == 200
        assert archive.asked[-1].headers["authorization"] == "Bearer token2"
        account.valid, account.fails = False, True
        assert ask.status(0) == 503
        assert (account.refreshed, len(opened), len(archive.asked)) == (2, 1, 7)
        assert all("AnyIO worker" in name for name in account.threads)  # not the one with the event loop


def test_without_an_archive_there_is_no_way_to_one(monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "/data/studies")
    with serving() as url:
        for path in ("qido/studies", "wado/studies", "studies", "../x"):
            assert raw(url, f"/proxy/dicom/{path}")[0] in (404, 307)
