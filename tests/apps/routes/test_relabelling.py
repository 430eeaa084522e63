"""A label name that is added: over HTTP, with a training in between."""

from pathlib import Path

import pytest
from monailabel.interfaces.utils.app import app_instance

from tests.apps.conftest import over_http
from tests.server import APP
from tests.tiny import QUICK


@pytest.fixture
def http(datastore, tmp_path, monkeypatch):
    """Six images labelled for ``tumor``, then ``edema`` was added."""
    apps = []
    for conf in ({"labels": "tumor"}, {"labels": "tumor,edema", "relabel": "true"}):
        monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
        conf |= {"preset": "small", "auto_train": "false", "batch_size": "10"}
        apps.append(app_instance(str(APP), str(tmp_path / "studies"), conf))
    monkeypatch.setattr("apps.routes.relabelling.app_instance", lambda: apps[-1])
    with over_http(apps[-1], monkeypatch) as client:
        client.app_behind = apps[-1]
        yield client
    for app in apps:
        app.store.close()


def test_images_are_listed_given_out_again_and_complete_once_they_have_a_new_label(http, tmp_path):
    app = http.app_behind
    old = [f"image{number}" for number in range(6)]
    assert http.get("/al/relabel").json() == {"labels": {"edema": 6}}
    assert http.get("/al/relabel", params={"label": "edema", "offset": 4}).json()["images"] == old[4:]
    given = [http.post("/activelearning/first", json={"client_id": name}).json()["id"] for name in ("ann", "bob")]
    assert given == ["image6", "image7"]
    app.train({"model": "segmentation", **QUICK})
    assert app.registry.load("segmentation").labels == ["tumor"]

    assert http.post("/al/relabel", json={"label": "edema", "client_id": "ann"}).json() == {"reopened": 6}
    assert http.get("/al/progress").json()["labelled"] == 0
    assert http.post("/activelearning/first", json={"client_id": "eve"}).json()["id"] == "image0"
    label = (tmp_path / "oracle" / "image0.nii.gz").read_bytes()
    sent = http.put("/datastore/label?image=image0", files={"label": ("a.nii.gz", label)}, data={"params": "{}"})
    assert sent.status_code == 200
    assert http.get("/al/relabel").json() == {"labels": {"edema": 5}}
    app.sync_images()
    assert http.get("/al/progress").json()["labelled"] == 1

    app.train({"model": "segmentation", **QUICK})
    assert app.registry.load("segmentation").labels == ["tumor", "edema"]
    assert app._trainers["segmentation"].stats()["partial_labels"] == 5


@pytest.mark.parametrize(
    ("body", "status"), [({"label": "cyst"}, 400), ({}, 422), ({"label": 1}, 422), ({"label": "edema", "x": 1}, 422)]
)
def test_wrong_requests_are_refused(http, body, status):
    answer = http.post("/al/relabel", json=body)
    assert (answer.status_code, "Traceback" in answer.text) == (status, False)
    assert http.get("/al/relabel").json() == {"labels": {"edema": 6}}


def test_the_old_labels_stay_where_they_are(http, tmp_path):
    http.post("/al/relabel", json={"label": "edema"})
    files = sorted(file.name for file in Path(tmp_path / "studies" / "labels" / "final").iterdir())
    assert files == [f"image{number}.nii.gz" for number in range(6)]
