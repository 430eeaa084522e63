"""Bodies of requests are bounded, and JSON is checked in one place for all routes."""

import json
import re

import pytest
import sqlalchemy as sa
from monailabel.interfaces.utils.app import app_instance

from apps.auth.access import TABLE, Body
from apps.http.bodies import MOST_FILES
from tests.apps.conftest import over_http
from tests.apps.server.test_protection import add, folder, infer, put  # noqa: F401
from tests.server import APP


@pytest.fixture
def app(folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "max_upload_mb": "4"}
    app = app_instance(str(APP), str(folder), conf)
    yield app
    app.store.close()


INVALID = {
    "a surrogate": rb'{"client_id": "\ud800"}',
    "NaN": b'{"x": NaN}',
    "infinity": b'{"x": -Infinity}',
    "a number that becomes infinity": b'{"x": 1e999}',
    "digits": b'{"x": ' + b"1" * 10_000 + b"}",
    "NUL": rb'{"client_id": "\u0000"}',
    "a key twice": b'{"client_id": "a", "client_id": "b"}',
    "brackets": b'{"x": ' + b"[" * 100_000,
    "no UTF-8": b'{"client_id": "\xff"}',
    "UTF-16": '{"client_id": "a"}'.encode("utf-16"),
    "no JSON": b"{",
}
JSON_ROUTES = [row for row in TABLE if row.body is Body.JSON and "/al/viewer" not in row.path]


def address(row) -> str:
    return re.sub(r"{\w+(:path)?}", "segmentation", row.path)


@pytest.mark.parametrize("name", INVALID)
def test_json_that_is_not_valid_is_refused_by_every_route(http, name):
    wrong = []
    for row in JSON_ROUTES:
        for kind in ("application/json", "application/vnd.x+json; charset=utf-16", "Application/JSON"):
            answer = http.request(row.method, address(row), content=INVALID[name], headers={"Content-Type": kind})
            if answer.status_code != 400 or "the body" not in answer.json()["detail"]:
                wrong.append((row.path, kind, answer.status_code, answer.text[:200]))
    assert not wrong, "\n".join(map(str, wrong))
    assert len(JSON_ROUTES) > 8


@pytest.mark.parametrize("name", INVALID)
def test_json_in_forms_is_as_strict(http, name):
    content = INVALID[name].decode("latin-1")
    wrong = []
    info = {"image": {"image": "image0"}, "label": {"label": "image0", "tag": "final"}}
    for request in (
        put(params=content),
        add(params=content),
        infer(params=content),
        *(
            {"method": "PUT", "url": f"/datastore/{of}/info", "params": query, "data": {"info": content}}
            for of, query in info.items()
        ),
        {"method": "PUT", "url": "/datastore/updatelabelinfo", "params": info["label"], "data": {"params": content}},
    ):
        answer = http.request(**request)
        if name not in ("no UTF-8", "UTF-16") and answer.status_code != 400:
            wrong.append((request["url"], answer.status_code, answer.text[:200]))
        if answer.status_code >= 500:
            wrong.append((request["url"], answer.status_code))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
def test_only_uploads_may_be_large(http, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    large = b'{"client_id": "' + b"a" * (1 << 20) + b'"}'
    for row in TABLE:
        if row.method in ("GET", "HEAD") or row.body in (Body.FILE, Body.RAW):
            continue
        for content in (large, iter([large])):  # with its length, and in chunks
            answer = http.request(row.method, address(row), content=content, headers=headers)
            assert answer.status_code == 413, (row, answer.text)
            assert "1024 KiB" in answer.json()["detail"]
    assert http.get("/info/").status_code == 200


def test_a_form_has_a_bounded_number_of_fields(http):
    many = {f"field{number}": "x" for number in range(100)}
    answer = http.put("/datastore/label?image=image0", data=many, files={"label": ("a.nii", b"x")})
    assert (answer.status_code, "Too many fields" in answer.text) == (400, True)
    answer = http.put("/datastore/label?image=image0", data=many)
    assert answer.status_code == 400
    for count in (MOST_FILES, MOST_FILES + 1):
        files = [("files", (f"{number}.nii", b"x")) for number in range(count)]
        answer = http.put("/session/?expiry=-1", files=files)  # nothing is kept
        assert (answer.status_code, "Too many files" in answer.text) == (400, count > MOST_FILES)


@pytest.mark.parametrize("charset", ["utf-7", "punycode", "unicode_escape", "raw_unicode_escape", '"utf-16"'])
def test_a_form_that_names_an_odd_codec_is_refused(http, charset):
    body = b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{"client_id": "+2AA-"}\r\n--x--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = http.put("/datastore/label?image=image0", content=body, headers=headers)
    assert answer.status_code == 400
    assert "must be UTF-8" in answer.json()["detail"]


def test_valid_json_of_any_spelling_of_the_content_type_reaches_the_route(http):
    for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/problem+json"):
        answer = http.post("/activelearning/random", content=b'{"client_id": "ann"}', headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
    assert http.post("/activelearning/random").status_code == 200
    assert http.request(**put(params='{"client_id": "\u00e9\U0001f600"}')).status_code == 200


def test_what_older_versions_stored_does_not_break_lists(folder, monkeypatch):  # noqa: F811
    """An index with what Python's JSON took: NaN, infinity, half a surrogate pair."""
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false"}
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    first = app_instance(str(APP), str(folder), conf)
    with over_http(first, monkeypatch) as client:
        assert client.request(**put()).status_code == 200
    first.store.close()
    first.datastore().close()
    bad = json.dumps({"x": float("nan"), "y": [float("-inf")], "client_id": "\ud800", "\udc00": {"deep": "\ud83d"}})
    engine = sa.create_engine(f"sqlite:///{folder / 'active_learning' / 'store.sqlite'}")
    with engine.begin() as connection:
        for table in ("index_images", "index_labels"):
            connection.exec_driver_sql(f"UPDATE {table} SET info = ? WHERE image_id = 'image0'", (bad,))
    engine.dispose()
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    second = app_instance(str(APP), str(folder), conf)
    with over_http(second, monkeypatch) as client:
        for path in (
            "/datastore/?output=all",
            "/datastore/?output=train",
            "/datastore/image/info?image=image0",
            "/datastore/label/info?label=image0&tag=final",
            "/al/history",
            "/info/",
        ):
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)
        info = client.get("/datastore/?output=all").json()
        assert "\ufffd" in json.dumps(info, ensure_ascii=False)
        assert client.put("/datastore/label/info?label=image0&tag=final", data={"info": '{"a": 1}'}).status_code == 200
    second.store.close()
