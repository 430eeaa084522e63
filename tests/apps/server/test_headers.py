"""What browsers are told: which pages are pages, and that everything else is data."""

import re
from pathlib import Path

import numpy as np
import pytest
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from apps.routes.ohif import SHIPPED
from tests.server import APP
from tests.tiny import write_volume

PAGES = ("/", "/logs/", "/ohif/", "/ohif/monai-label", "/al/grade", "/al/sign-in")
ELSEWHERE = re.compile(
    r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""", re.I
)


@pytest.fixture
def app(tmp_path, monkeypatch):
    from apps.auth import sign_in
    from apps.routes import grading

    write_volume(tmp_path / "studies" / "image0.nii.gz", np.zeros((6, 5, 4)))
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_text("one\n<script>alert(1)</script>\nth\u00fcrd\n", encoding="utf-8")
    app = app_instance(str(APP), str(tmp_path / "studies"), {"labels": "tumor", "auto_train": "false"})
    app.routers = (*app.routers, grading.router, sign_in.router)
    yield app
    app.store.close()


def policy(answer) -> dict[str, str]:
    """A content policy by its directives."""
    directives = (part.strip().partition(" ") for part in answer.headers["Content-Security-Policy"].split(";"))
    return {name: values for name, _, values in directives}


def test_no_page_loads_anything_from_another_host_or_is_framed_by_one(http):
    for path in PAGES:
        answer = http.get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
        told = policy(answer)
        assert told["frame-ancestors"] == "'self'", path
        assert told["default-src"] == "'self'", path
        assert not [values for values in told.values() if "//" in values or "*" in values], path
        assert "'unsafe-inline'" not in told.get("script-src", told["default-src"]), path
        if not path.startswith("/ohif"):  # its page names fonts that the policy keeps it from asking for
            assert not ELSEWHERE.search(answer.text), path
            for file in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', answer.text):
                found = http.get(str(answer.url.join(file)))
                assert found.status_code == 200, file
                assert "html" not in found.headers["Content-Type"], file
    assert http.get("/docs", follow_redirects=False).headers["Location"] == "/"


def test_what_is_no_page_is_data_whoever_wrote_it(http, tmp_path):
    paths = ["/info/", "/openapi.json", "/datastore/?output=all", "/datastore/image?image=image0", "/al/history"]
    paths += [
        "/nothing",
        "/al/progress",
        "/logs/?text=true",
        "/logs/?lines=0",
        "/proxy/dicom/qido/studies",
        "/static/x",
    ]
    for path in paths:
        answer = http.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Referrer-Policy"] == "same-origin", path
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        told = policy(answer)
        assert (told["default-src"], told["frame-ancestors"], "sandbox" in told) == ("'none'", "'none'", True), path
        assert "html" not in answer.headers["Content-Type"], path
    assert "attachment" in http.get("/datastore/image?image=image0").headers["Content-Disposition"]


def test_scripts_inside_the_viewer_s_page_are_known_one_by_one(http):
    allowed = policy(http.get("/ohif/"))["script-src"].split()
    inside = re.findall(r"<script>(.+?)</script>", (SHIPPED / "index.html").read_text(encoding="utf-8"), re.S)
    assert len(inside) == len([value for value in allowed if value.startswith("'sha256-")]) > 0
    worker = next(SHIPPED.glob("*.js"))
    assert policy(http.get(f"/ohif/{worker.name}"))["script-src"].split() == allowed  # a worker has its own policy


def test_the_log_is_text(http, tmp_path):
    assert http.get("/logs/?text=true&lines=2").text == "<script>alert(1)</script>\nth\u00fcrd\n"
    assert http.get("/logs/?html=false&lines=1").headers["Content-Type"] == "text/plain; charset=utf-8"
    assert http.get("/logs/?lines=0").content == Path(tmp_path / "logs" / "app.log").read_bytes()
    page = http.get("/logs/?refresh=3")
    assert "alert(1)" not in page.text
    (tmp_path / "logs" / "app.log").unlink()
    missing = http.get("/logs/")
    assert missing.status_code == 404
    assert str(tmp_path) not in missing.text
