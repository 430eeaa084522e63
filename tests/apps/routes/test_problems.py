"""What needs a person: listed by kind, page by page, in short with the progress, and acted on by POST."""

import datetime as dt

import numpy as np
import pytest
from monailabel.interfaces.utils.app import app_instance

from apps.routes import problems
from tasks.store.store import ImageRecord
from tasks.store.tables import Training
from tests.apps.server.test_protection import SHAPE, put
from tests.server import APP
from tests.tiny import write_volume

NOW = dt.datetime(2026, 1, 2, 3, 4, 5)
COUNTS = {"training": 1, "model": 0, "image": 12, "label": 1, "segmentation": 0, "file": 2}


@pytest.fixture
def app(tmp_path, monkeypatch):
    studies = tmp_path / "studies"
    for number in range(14):
        write_volume(studies / f"image{number:02}.nii.gz", np.random.default_rng(number).random(SHAPE))
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    monkeypatch.setattr(problems, "KEPT_SECONDS", -1.0)
    app = app_instance(str(APP), str(studies), {"labels": "tumor", "preset": "small", "auto_train": "false"})
    yield app
    app.store.close()


@pytest.fixture
def troubled(http, app):
    """A failed training, twelve unusable images, a refused label and two files that fit nothing."""
    app.store.add_training(
        Training(name="segmentation", started_at=NOW, finished_at=NOW, label_revision=1, error="/tmp/x/a.nii.gz is odd")
    )
    for number in range(12):
        app.store.add_record(ImageRecord(f"image{number:02}", "v", "f", {}, {}, None, error="it is empty"))
    app.store.complete_scoring("v")
    assert http.request(**put(image="image13", content=b"nonsense")).status_code == 400
    for name in ("stranger.nii.gz", "image01.docx"):
        (app.datastore().labels_folder / "final" / name).write_bytes(b"x")
    assert http.post("/al/refresh").status_code == 200
    return app


def test_all_is_listed_page_by_page_and_the_first_ten_with_the_progress(http, troubled):
    first = http.get("/al/problems", params={"limit": 10}).json()
    assert first["counts"] == COUNTS
    assert first["problems"][0] == {
        **{"kind": "training", "id": "segmentation"},
        **{"reason": "a.nii.gz is odd", "at": "2026-01-02T03:04:05Z"},
    }
    second = http.get("/al/problems", params={"offset": first["next"]}).json()
    assert second["next"] is None
    listed = [(problem["kind"], problem["id"]) for problem in [*first["problems"], *second["problems"]]]
    assert len(listed) == len(set(listed)) == sum(COUNTS.values())
    assert {name for kind, name in listed if kind == "file"} == {"stranger.nii.gz", "image01.docx"}
    of_kind = http.get("/al/problems", params={"kind": "image", "offset": 2, "limit": 3}).json()
    assert [problem["id"] for problem in of_kind["problems"]] == ["image02", "image03", "image04"]
    assert of_kind["next"] == 5
    (label,) = http.get("/al/problems", params={"kind": "label"}).json()["problems"]
    assert (label["image"], label["tag"]) == ("image13", "final")
    summary = http.get("/al/progress").json()["problems"]
    assert summary == {"counts": COUNTS, "first": first["problems"]}


def test_acting_on_a_problem_tries_again(http, troubled):
    assert "scored again" in http.post("/al/problems", json={"kind": "image", "id": "image03"}).json()["done"]
    assert "image03" not in troubled.store.errors("v")
    (troubled.datastore().labels_folder / "final" / "stranger.nii.gz").unlink()
    assert http.post("/al/problems", json={"kind": "file", "id": "stranger.nii.gz"}).status_code == 200
    assert http.post("/al/problems", json={"kind": "training", "id": "segmentation"}).status_code == 200
    counts = http.get("/al/problems").json()["counts"]
    assert (counts["image"], counts["file"]) == (11, 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "image", "id": "image13"}, 404),
        ({"kind": "nonsense", "id": "x"}, 422),
        ({"kind": "image", "id": "x" * 1000}, 422),
        ({"kind": "image", "id": "image03", "do": "it"}, 422),
    ],
)
def test_what_is_no_problem_cannot_be_acted_on(http, troubled, body, status):
    assert http.post("/al/problems", json=body).status_code == status


def test_where_nothing_can_be_done_it_is_said(http, troubled):
    (label,) = http.get("/al/problems", params={"kind": "label"}).json()["problems"]
    answer = http.post("/al/problems", json={"kind": "label", "id": label["id"]})
    assert (answer.status_code, "nothing can be done" in answer.text) == (409, True)
    assert http.get("/al/problems", params={"offset": -1}).status_code == 422
