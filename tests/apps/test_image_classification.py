"""The classification app over HTTP, without the subprocesses: labels, page, pixels, skips, undo."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.interfaces.utils.app import app_instance

from apps.routes.grading import for_the_screen
from apps.server.options import ConfigurationError
from tasks.geometry.images import read_image
from tasks.store.tables import Event
from tests.server import ROOT
from tests.tasks.classification.conftest import QUICK, write_discs

APP = ROOT / "apps" / "image_classification"


@pytest.fixture
def truth(tmp_path) -> dict[str, str]:
    return write_discs(tmp_path / "studies")


@pytest.fixture
def make(truth, tmp_path, monkeypatch):
    apps = []

    def build(**conf: str):
        monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
        conf = {"labels": "clear,disc", "preset": "small", "auto_train": "false", "batch_size": "3"} | conf
        apps.append(app_instance(str(APP), str(tmp_path / "studies"), conf))
        return apps[-1]

    yield build
    for app in apps:
        app.store.close()


@pytest.fixture
def app(make):
    return make()


def grade(http, image: str, label: str = "disc", reader: str = "ann", file: bytes = b"", **params):
    fields = {"label": label, "client_id": reader, **params} if label else {"client_id": reader, **params}
    return http.put(
        "/datastore/label",
        params={"image": image},
        data={"params": json.dumps(fields)},
        files={"label": ("label.json", file)},
    )


def lease(http, reader: str, strategy: str = "first") -> str:
    return http.post(f"/activelearning/{strategy}", json={"client_id": reader}).json()["id"]


def progress(http, reader: str = "ann") -> dict:
    return http.get("/al/progress", params={"client_id": reader}).json()


# The app


def test_strategies_trainers_and_models(app):
    info = app.info()
    assert next(iter(info["strategies"])) == "entropy_kl"
    assert {"entropy_kl_band", "entropy_kl_top", "entropy_kl_representative", "flip_consistency", "random"} <= set(
        info["strategies"]
    )
    assert not {"dropout_variance", "ceal", "bootstrap_variance"} & set(info["strategies"])
    assert set(info["trainers"]) == {"classifier_committee", "classifier"}
    assert info["labels"] == ["clear", "disc"]


@pytest.mark.parametrize(
    ("strategy", "trainer"),
    [("entropy_kl", "classifier_committee"), ("entropy_kl_band", "classifier_committee"), ("margin", "classifier")],
)
def test_the_loop_trains_what_the_default_strategy_needs(make, strategy, trainer):
    assert make(strategy=strategy).task.loop_trainers() == (trainer,)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"labels": "disc"}, "labels must be at least 2 names, got disc"),
        ({"preset": "huge"}, "preset must be one of paper, small, pcdal"),
        ({"weights": "/no/such.pth"}, "weights: there is no file /no/such.pth"),
        ({"group_by": "ward"}, "is no column .labels.csv has the columns file, label, patient"),
        ({"channels": "a,b"}, "unknown option 'channels'"),
        ({"strategy": "dropout_variance"}, "strategy must be one of"),
    ],
)
def test_options_that_cannot_work_are_refused(make, conf, words):
    with pytest.raises(ConfigurationError, match=words):
        make(**conf)


def test_a_dicomweb_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    with pytest.raises(ConfigurationError, match="must be a local folder"):
        app_instance(str(APP), "http://127.0.0.1:1/dicom-web", {})


def test_trained_scored_and_served_without_the_ends(make, truth):
    app = make(batch_size="6", group_by="patient")
    for name in list(truth)[:6]:
        app.on_save_label(name, app.datastore().save_class(name, truth[name], "final", {"client_id": "ann"}))
    stats = app.train({"model": "classifier_committee", **QUICK, "learning_rates": "0.01,0.003,0.001"})
    assert stats["members"] == 3
    app.scoring({"method": "records"})
    version = app.store.serving_version()
    scores = {r.image_id: r.scores["entropy_kl"] for r in app.store.records(version)}
    pool = sorted(app.store.image_ids(labelled=False), key=lambda name: (-scores[name], name))
    assert len(pool) == 10
    served = [app.next_sample({"client_id": f"reader{i}", "strategy": "entropy_kl"}) for i in range(6)]
    assert all(sample["reason"] == "scored" for sample in served)
    assert not {pool[0], pool[-1]} & {sample["id"] for sample in served}
    band = [app.next_sample({"client_id": f"bob{i}", "strategy": "entropy_kl_band"}) for i in range(2)]
    assert {sample["id"] for sample in band} <= set(pool)


# Labels over HTTP


def test_a_class_comes_as_json_file_or_in_the_parameters(http, app):
    assert grade(http, "p0_0", "disc").status_code == 200
    assert grade(http, "p0_1", "", file=b'{"label": "clear"}').status_code == 200
    for name, label in (("p0_0", "disc"), ("p0_1", "clear")):
        file = Path(app.datastore().get_label_uri(name, "final"))
        assert file.parent.name == "final"
        assert json.loads(file.read_text()) == {"label": label}
    assert progress(http)["mine"] == 2


@pytest.mark.parametrize(
    ("image", "label", "file", "params", "status", "words"),
    [
        ("p0_0", "HGG", b"", None, 400, "unknown class 'HGG'; the classes are clear, disc"),
        ("p0_0", "", b'{"label": "x"}', None, 400, "the classes are clear, disc"),
        ("p0_0", "", b"", None, 400, "no class given"),
        ("p0_0", "", b"\x00\xff", None, 400, "not valid JSON"),
        ("p0_0", "disc", b"", "{", 400, "params is not valid JSON"),
        ("p0_0", "disc", b"", "[]", 400, "params must be a JSON object"),
        ("p0_0", "disc", b"", '{"label": "disc", "client_id": {}}', 400, "client_id must be text"),
        ("p0_0", "disc", b"", '{"label": "disc", "answer_id": 7}', 400, "answer_id must be text"),
        ("nonsense", "disc", b"", None, 404, "there is no image 'nonsense'"),
        ("../p0_0", "disc", b"", None, 404, "there is no image"),
    ],
)
def test_what_cannot_be_a_label_is_explained_and_changes_nothing(http, app, image, label, file, params, status, words):
    fields = params if params is not None else json.dumps({"label": label} if label else {})
    answer = http.put(
        "/datastore/label", params={"image": image}, data={"params": fields}, files={"label": ("a.json", file)}
    )
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert app.datastore().get_labeled_images() == []
    assert app.store.labelled_count() == 0


def test_an_answer_sent_again_is_counted_once_and_a_late_one_is_kept(http, app):
    image = lease(http, "ann")
    for _ in range(2):
        assert grade(http, image, answer_id="one").status_code == 200
    assert progress(http)["labelled"] == 1
    assert grade(http, image, "clear", reader="bob", answer_id="two").status_code == 200
    with app.store.reading() as session:
        events = session.query(Event).filter(Event.event == "labelled").order_by(Event.id).all()
    assert [(event.client_id, event.details["label"]) for event in events] == [("ann", "disc"), ("bob", "clear")]


# The page and what it asks for


def test_the_page_and_its_files_come_from_this_server_only(http):
    page = http.get("/al/grade")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for name in ("grade.css", "grade.js", "server.js", "viewer.js"):
        file = http.get(f"/al/web/{name}")
        assert file.status_code == 200
        assert "http://" not in file.text
        assert "https://" not in file.text
    for name in ("nonsense.js", "..%2Fgrading.py", "%2e%2e%2fgrading.py"):
        assert http.get(f"/al/web/{name}").status_code == 404


def test_the_session_tells_classes_and_strategies(http):
    session = http.get("/al/session").json()
    assert session["classes"] == ["clear", "disc"]
    assert session["strategies"][0]["name"] == "entropy_kl"
    assert session["user"] == ""


def test_pixels_of_an_eight_bit_image_are_its_bytes(http, app):
    answer = http.get("/al/pixels", params={"image": "p0_0"})
    header = json.loads(answer.headers["X-Image"])
    assert (header["width"], header["height"], header["channels"], header["bits"]) == (24, 24, 1, 8)
    assert answer.content == read_image(app.datastore().get_image_uri("p0_0")).tobytes()
    assert http.get("/al/pixels", params={"image": "nonsense"}).status_code == 404
    Path(app.datastore().get_image_uri("p0_0")).write_bytes(b"no image")
    broken = http.get("/al/pixels", params={"image": "p0_0"})
    assert broken.status_code == 422
    assert "p0_0.png cannot be read" in broken.json()["detail"]


def test_pixels_of_other_images_give_their_values_back():
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(-200, 300, (30, 20)), rng.random((30, 20)), np.full((30, 20), 4.0)]).astype(np.float32)
    stored, header = for_the_screen(image)
    assert stored.dtype == np.dtype("<u2")
    values = stored * np.reshape(header["slope"], (3, 1, 1)) + np.reshape(header["intercept"], (3, 1, 1))
    np.testing.assert_allclose(values, image, atol=0.02)
    assert all(low <= high for low, high in zip(header["low"], header["high"], strict=True))


def test_a_huge_image_is_reduced_for_the_screen(monkeypatch):
    monkeypatch.setattr("apps.routes.grading.LARGEST_SIDE", 50)
    stored, header = for_the_screen(np.full((1, 200, 100), 7, np.uint8))
    assert stored.shape == (1, 50, 25)
    assert set(stored.ravel().tolist()) == {7}
    assert (header["width"], header["height"]) == (25, 50)


def test_a_nifti_slice_is_shown(http, app, tmp_path):
    voxels = np.random.default_rng(0).normal(1000, 300, (20, 30, 1, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "studies" / "slice.nii.gz")
    app.datastore().refresh()
    header = json.loads(http.get("/al/pixels", params={"image": "slice"}).headers["X-Image"])
    assert (header["width"], header["height"], header["channels"], header["bits"]) == (20, 30, 3, 16)


# Skip and undo


def test_skip_list_and_restore(http):
    image = lease(http, "ann")
    body = {"image": image, "reason": "blurred", "client_id": "ann"}
    for _ in range(2):
        assert http.post("/al/skip", json=body).status_code == 200
    assert lease(http, "ann") != image
    assert progress(http)["skipped"] == 1
    (row,) = http.get("/al/skipped").json()
    assert (row["image"], row["reason"], row["client_id"]) == (image, "blurred", "ann")
    assert http.post("/al/restore", json={"image": image}).status_code == 200
    assert http.post("/al/restore", json={"image": image}).status_code == 409
    assert http.post("/al/skip", json={**body, "image": "nonsense"}).status_code == 409
    assert http.post("/al/skip", json={"image": image}).status_code == 422


def test_undo_takes_the_label_file_away_and_gives_the_image_back(http, app):
    image = lease(http, "ann")
    grade(http, image)
    other = lease(http, "ann")
    undone = http.post("/al/undo", json={"client_id": "ann"}).json()
    assert (undone["id"], undone["undone"], undone["rank"]) == (image, "labelled", 1)
    assert app.datastore().get_labeled_images() == []
    assert progress(http)["labelled"] == 0
    assert lease(http, "bob") not in (image, other)
    assert grade(http, image, "clear").status_code == 200
    nothing = http.post("/al/undo", json={"client_id": "eve"})
    assert (nothing.status_code, nothing.json()["detail"]) == (409, "there is nothing to undo")


def test_an_undo_never_takes_somebody_else_s_label(http, app):
    image = lease(http, "ann")
    grade(http, image, "disc", "ann")
    grade(http, image, "clear", "bob")
    refused = http.post("/al/undo", json={"client_id": "ann"})
    assert refused.status_code == 409
    assert "by bob since" in refused.json()["detail"]
    assert app.datastore().get_labeled_images() == [image]
