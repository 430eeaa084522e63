"""Which hosts are ours, and whose pages may send requests."""

import socket
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.websockets import WebSocketDisconnect

from apps.auth.origins import OwnHosts, OwnPages
from apps.server.app import JOB_PROCESS
from apps.server.options import ConfigurationError
from tests.apps.conftest import over_http
from tests.server import APP
from tests.tiny import write_volume

HOSTS = OwnHosts.of(
    ["a.example", "B.example:8443", "münchen.example"], ["https://viewer.example/", "http://10.0.0.9:3000"], "::"
)
DIRECT = "127.0.0.1:8000"


def refusal(*headers: tuple[str, str], method: str = "GET", path: str = "/info/", scheme: str = "http") -> int | None:
    """Status of the refusal, None if the request passes."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "scheme": scheme, "headers": raw}
    found = OwnPages(lambda *_: None, HOSTS).refusal(scope)
    return found.status if found else None


OWN_NAMES = ["localhost", "LOCALHOST:8000", "localhost.", socket.gethostname(), f"{socket.getfqdn()}:8000"]
ADDRESSES = [DIRECT, "127.0.0.1", "[::1]:8000", "[0:0::1]", "10.1.2.3:80", "[2001:db8::7]:443", "127.0.0.1."]
ALLOWED = ["a.example", "A.Example:443", "b.example", "b.example:9", "viewer.example", "xn--mnchen-3ya.example"]


@pytest.mark.parametrize("host", [*OWN_NAMES, *ADDRESSES, *ALLOWED])
def test_a_request_for_a_host_of_ours_passes(host):
    assert refusal(("Host", host), method="PUT") is None


FOREIGN_NAMES = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "a.example.evil"),
    *("testserver", "0x7f.1", "127.1", "2130706433", "xa.example", "example", "com"),
]
MALFORMED = [
    *("", " ", "a b", "user@127.0.0.1", "127.0.0.1/evil", "127.0.0.1,evil.example", "[::1", "::1", "[evil]", "[:::]"),
    *("127.0.0.1:99999", "127.0.0.1:80:80", "127.0.0.1:", "127.0.0.1:x", "..", ".", "a..example", "\xe9.example"),
    *("http://127.0.0.1", "127.0.0.1\t", "127.0.0.1#", "127.0.0.1:\xb2", "[fe80::1%25eth0]"),
]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_request_for_a_foreign_host_is_refused(method):
    assert {host: refusal(("Host", host), method=method) for host in FOREIGN_NAMES} == dict.fromkeys(FOREIGN_NAMES, 421)
    assert {host: refusal(("Host", host), method=method) for host in MALFORMED} == dict.fromkeys(MALFORMED, 400)
    assert refusal(method=method) == 400
    assert refusal(("Host", DIRECT), ("Host", DIRECT), method=method) == 400
    assert refusal(("Host", "evil.example"), ("X-Forwarded-Host", DIRECT), ("Forwarded", f"host={DIRECT}")) == 421


@pytest.mark.parametrize(
    ("host", "origin", "scheme"),
    [
        (DIRECT, f"http://{DIRECT}", "http"),
        ("127.0.0.1", "http://127.0.0.1", "http"),
        ("[::1]:8000", "http://[::1]:8000", "http"),
        ("localhost:8000", "HTTP://LocalHost:8000", "http"),
        ("a.example", "https://a.example", "http"),  # a proxy with TLS that sends its own name
        ("a.example", "https://a.example", "https"),
        ("a.example:443", "https://a.example", "https"),
        ("10.0.0.7", "https://10.0.0.7", "http"),
        (DIRECT, "https://a.example", "http"),  # a proxy that sends ours
        (DIRECT, "http://a.example", "http"),
        (DIRECT, "https://b.example:8443", "https"),
        (DIRECT, "https://xn--mnchen-3ya.example", "http"),
        (DIRECT, "https://viewer.example", "http"),  # another page that may
        ("a.example", "http://10.0.0.9:3000", "https"),
    ],
)
def test_pages_of_ours_may_send_anything(host, origin, scheme):
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert refusal(("Host", host), ("Origin", origin), method=method, scheme=scheme) is None
        old = ("Referer", f"{origin}/ohif/?a=http://x")
        assert refusal(("Host", host), old, method=method, scheme=scheme) is None


FOREIGN_ORIGINS = [
    *("null", "", "https://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1", "http://localhost:8000"),
    *("http://[::1]:8000", "https://a.example:8443", "https://b.example", "http://b.example:8444"),
    *("http://viewer.example", "https://viewer.example:444", "https://viewer.example.evil.example"),
    *("https://evil-viewer.example", "https://10.0.0.9:3000", "http://10.0.0.9", "file://", "chrome-extension://abc"),
    *(f"http://{DIRECT}@evil.example", f"http://evil.example#{DIRECT}", f"http://{DIRECT}/", f"ws://{DIRECT}", DIRECT),
    *(f"http://{DIRECT} http://evil.example", "https://", "https://a.example\x00", "https://a.example.evil.example"),
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_pages_of_others_may_send_nothing(origin):
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert refusal(("Host", DIRECT), ("Origin", origin), method=method) == 403
        forwarded = ("X-Forwarded-Host", origin.partition("://")[2])
        assert refusal(("Host", DIRECT), ("Origin", origin), forwarded, method=method) == 403
    own = ("Origin", f"http://{DIRECT}")
    assert refusal(("Host", DIRECT), own, ("Origin", origin), method="POST") == 403
    assert refusal(("Host", DIRECT), ("Origin", origin), ("Referer", f"http://{DIRECT}/"), method="POST") == 403


def test_a_page_without_tls_is_not_the_one_with_it():
    assert refusal(("Host", "a.example"), ("Origin", "http://a.example"), method="POST", scheme="https") == 403
    assert refusal(("Host", DIRECT), ("Origin", "http://a.example"), method="POST", scheme="https") == 403


LINK = (("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"))
ELSEWHERE = ("Referer", "https://evil.example/page")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        # no browser
        ("POST", "/train/", (), None),
        ("GET", "/datastore/dataset", (), None),
        # browsers that say where a request comes from
        ("POST", "/train/", (("Sec-Fetch-Site", "same-origin"),), None),
        ("GET", "/ohif/", (("Sec-Fetch-Site", "none"), *LINK), None),
        ("GET", "/ohif/", (("Sec-Fetch-Site", "cross-site"), *LINK), None),
        ("GET", "/al/grade", (("Sec-Fetch-Site", "same-site"), *LINK, ELSEWHERE), None),
        ("GET", "/datastore/dataset", (("Sec-Fetch-Site", "cross-site"), *LINK), 403),
        ("GET", "/proxy/dicom/qido/studies", (("Sec-Fetch-Site", "same-site"), *LINK), 403),
        ("GET", "/info/", (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")), 403),
        ("GET", "/ohif/", (("Sec-Fetch-Site", "cross-site"), LINK[0], ("Sec-Fetch-Dest", "iframe")), 403),
        ("POST", "/train/", (("Sec-Fetch-Site", "cross-site"), *LINK), 403),
        ("POST", "/train/", (("Sec-Fetch-Site", "same-site"),), 403),
        ("POST", "/train/", (("Sec-Fetch-Site", "made up"),), 403),
        ("GET", "/info/", (("Sec-Fetch-Site", "cross-site"), ("Referer", "https://viewer.example/x")), None),
        # browsers that do not
        ("POST", "/train/", (ELSEWHERE,), 403),
        ("DELETE", "/train/", (("Referer", "about:client"),), 403),
        ("PUT", "/session/", (("Referer", f"http://{DIRECT}.evil.example/"),), 403),
        ("PUT", "/session/", (("Referer", f"http://{DIRECT}@evil.example/"),), 403),
        ("PUT", "/session/", (("Referer", f"https:///{DIRECT}/"),), 403),
        ("GET", "/ohif/", (ELSEWHERE,), None),
        ("GET", "/datastore/dataset", (ELSEWHERE,), 403),
        ("GET", "/session/1", (ELSEWHERE,), 403),
    ],
)
def test_without_an_origin_what_else_a_browser_says_decides(method, path, headers, status):
    assert refusal(("Host", DIRECT), *headers, method=method, path=path) == status


def test_a_foreign_page_opens_no_socket():
    async def accept(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    client = TestClient(OwnPages(accept, HOSTS))
    with client.websocket_connect(f"ws://{DIRECT}/", headers={"Origin": f"http://{DIRECT}"}):
        pass
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "same-site"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://{DIRECT}/", headers=headers):
            pass


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        (["https://a.example"], []),
        (["*"], []),
        (["a.example/x"], []),
        (["::1"], []),
        ([], ["*"]),
        ([], ["viewer.example"]),
        ([], ["null"]),
        ([], ["https://viewer.example/path"]),
        ([], ["ftp://viewer.example"]),
    ],
)
def test_an_address_that_is_none_is_refused(hosts, origins):
    with pytest.raises(ValueError, match=r"not an? (host|origin)"):
        OwnHosts.of(hosts, origins)


def opened(folder: Path, **conf: str):
    write_volume(folder / "studies" / "image0.nii.gz", np.zeros((6, 5, 4)))
    return app_instance(str(APP), str(folder / "studies"), {"labels": "tumor", "auto_train": "false", **conf})


def test_the_server_answers_nobody_s_page_but_its_own_and_those_that_a_person_names(tmp_path, monkeypatch):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    monkeypatch.setattr(settings, "MONAI_LABEL_CORS_ORIGINS", ["https://portal.example/"])
    app = opened(tmp_path, hosts="annotate.example", origins="https://viewer.example")
    skip = {"image": "image0", "reason": "no"}
    with over_http(app, monkeypatch) as http:
        ask = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
        for origin in ("https://viewer.example", "https://portal.example"):
            allowed = http.options("/datastore/label", headers={"Origin": origin, **ask})
            assert allowed.status_code == 200
            assert allowed.headers["Access-Control-Allow-Origin"] == origin
            assert http.get("/info/", headers={"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin
        for origin in ("https://evil.example", "null"):
            for answer in (
                http.options("/datastore/label", headers={"Origin": origin, **ask}),
                http.post("/al/skip", json=skip, headers={"Origin": origin}),
                http.get("/info/", headers={"Origin": origin}),
            ):
                assert answer.status_code == 403
                assert "--conf hosts" in answer.json()["detail"]
                assert not [name for name in answer.headers if name.startswith("access-control")]
        assert http.get("/al/skipped").json() == []
        own = http.get("/info/", headers={"Origin": "http://127.0.0.1:8000"})
        assert (own.status_code, "Access-Control-Allow-Origin" in own.headers) == (200, False)
        assert "--conf hosts" in http.get("/info/", headers={"Host": "evil.example"}).json()["detail"]
        assert http.post("/al/skip", json=skip, headers={"Origin": "https://annotate.example"}).status_code == 200
    app.store.close()


def test_a_wrong_setting_of_monai_label_s_stops_the_start_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    monkeypatch.setattr(settings, "MONAI_LABEL_CORS_ORIGINS", ["https://portal.example/path"])
    app = opened(tmp_path)
    monkeypatch.setenv(JOB_PROCESS, "")  # set by the start, taken back after the test
    with pytest.raises(ConfigurationError, match=r"MONAI_LABEL_CORS_ORIGINS.*portal\.example/path"):
        app.on_init_complete()
    app.store.close()
