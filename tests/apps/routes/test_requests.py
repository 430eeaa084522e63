"""Requests that a person should not send: each has its answer, and the studies folder stays as it was."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from monailabel.interfaces.utils.app import app_instance
from PIL import Image

from apps.http.lanes import DECODES
from tasks.geometry.sizes import LIMITS
from tests import bombs
from tests.server import ROOT
from tests.tasks.image_segmentation.conftest import QUICK, write_picture

APP = ROOT / "apps" / "image_segmentation"


def png(shape=(24, 36), value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(6):
        write_picture(tmp_path / "studies" / f"image{number}.png", rng.integers(0, 255, (24, 36), dtype=np.uint8))
    return tmp_path / "studies"


@pytest.fixture
def app(folder, monkeypatch):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    app = app_instance(
        str(APP), str(folder), {"labels": "lesion", "preset": "small", "auto_train": "false", "tags": "draft-2"}
    )
    yield app
    app.store.close()


def files(folder: Path) -> set[str]:
    """Everything in and around the studies folder but the database."""
    found = {str(path) for path in folder.parent.rglob("*") if path.is_file()}
    return {name for name in found if "sqlite" not in name and not name.endswith(".lock")}


def put_label(http, image: str = "image0", content: bytes | None = None, name: str = "label.png", **query):
    data = png() if content is None else content
    return http.put("/datastore/label", params={"image": image, **query}, files={"label": (name, data)})


def put_image(http, image: str | None = "new", content: bytes | None = None, name: str = "new.png", params="{}"):
    data = png() if content is None else content
    query = {"image": image} if image else {}
    return http.put("/datastore/image", params=query, data={"params": params}, files={"file": (name, data)})


def test_what_a_person_should_send_is_taken(http, app, folder):
    assert put_label(http).status_code == 200
    assert put_label(http, "image1", tag="draft-2").status_code == 200
    assert put_image(http).json() == {"image": "new"}
    assert put_image(http, None, name="second.png").json() == {"image": "second"}
    assert put_image(http, "a..b c-é").status_code == 200
    assert {"new", "second", "a..b c-é"} < set(app.store.image_ids())
    assert (folder / "new.png").is_file()


@pytest.mark.parametrize("tag", ["../../evil", "a/b", "..", ".", "a\\b", "pseudo", "x" * 65, "a b", "\x00"])
def test_tags_that_cannot_be_folders_are_refused(http, folder, tag):
    before = files(folder)
    answer = put_label(http, tag=tag)
    assert answer.status_code == 400, answer.text
    assert "tag" in answer.json()["detail"]
    assert files(folder) == before


@pytest.mark.parametrize("image", ["../evil", "/etc/passwd", "a/b", "..", "a\\b", "x" * 201, "new\n"])
def test_ids_that_cannot_be_file_names_are_refused(http, app, folder, image):
    before = files(folder)
    answer = put_image(http, image)
    assert answer.status_code == 400, answer.text
    assert "cannot be a file name" in answer.json()["detail"]
    assert put_label(http, image).status_code == 404
    assert files(folder) == before
    assert len(app.store.image_ids()) == 6


@pytest.mark.parametrize("name", ["script.py", "image.svg", "noending", "image.png.exe"])
def test_files_that_are_no_images_are_refused(http, folder, name):
    before = files(folder)
    answer = put_image(http, None, name=name)
    assert answer.status_code == 400, answer.text
    assert "is no image" in answer.json()["detail"]
    assert files(folder) == before


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "label.png", "cannot be read"),
        (b"nonsense", "label.nii.gz", "cannot be read"),
        (b"nonsense", "label.nrrd", "cannot be read"),
        (png((5, 5)), "label.png", "5x5 pixels, its image 36x24"),
        (png((60_000, 4)), "label.png", "4x60000 pixels, its image 36x24"),
        (bombs.nifti((2000, 2000, 2000)), "label.nii.gz", "claims 2000x2000x2000 voxels"),
        (bombs.nifti((36, 24, 2)), "label.nii.gz", "the declared labels allow 1 layer"),
        (png(value=9), "label.png", "values 9; declared are 0 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_reason(http, app, folder, content, name, words):
    before = files(folder)
    answer = put_label(http, content=content, name=name)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]
    assert "/tmp" not in answer.json()["detail"]
    (kept,) = (folder / "rejected").glob("*/label.*")
    assert kept.read_bytes() == content
    assert files(folder) - before == {str(kept), str(kept.with_name("reason.json"))}
    assert app.store.labelled_count() == 0


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (png((200, 151)), "a.png", "a new image.png claims 151x200 pixels; the option max_pixels allows 30000"),
        (png((100, 101, 3)), "a.png", "claims 101x100x3 voxels; the option max_voxels allows 30000"),
        (bombs.nifti((100, 90, 1)), "a.nii.gz", None),
        (bombs.nifti((2000, 2000, 2000)), "a.nii.gz", "claims 2000x2000x2000 voxels"),
        (bombs.nifti((10, 9, 1, 2)), "a.nii.gz", "2 channels"),
        (bombs.nifti((10, 9, 2)), "a.nii.gz", "one voxel in the third axis"),
        (b"nonsense", "a.png", "a new image.png cannot be read"),
        (b"", "a.nii.gz", "a new image.nii.gz cannot be read"),
    ],
)
def test_uploaded_images_are_opened_before_they_are_taken(http, app, folder, monkeypatch, content, name, words):
    monkeypatch.setattr(LIMITS, "max_pixels", 30_000)
    monkeypatch.setattr(LIMITS, "max_voxels", 30_000)
    before = files(folder)
    answer = put_image(http, "a new image", content, name)
    if words is None:
        assert answer.status_code == 200, answer.text
        return
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]
    assert "/tmp" not in answer.json()["detail"]
    assert files(folder) == before
    assert len(app.store.image_ids()) == 6


def test_who_would_wait_behind_many_decodes_is_told_to_come_again_and_loses_nothing(http, app, folder):
    before = files(folder)
    with contextlib.ExitStack() as taken:
        for _ in range(2):
            taken.enter_context(DECODES.turn())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DECODES, "longest", 0)
            for answer in (put_label(http), put_image(http)):
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
    assert files(folder) == before
    assert put_label(http).status_code == 200


@pytest.mark.parametrize("params", ["{", "[1]", '"text"', "\x00"])
def test_params_that_are_no_json_object_are_refused(http, folder, params):
    before = files(folder)
    answers = [
        put_image(http, params=params),
        http.put("/datastore/label", params={"image": "image0"}, data={"params": params}, files={"label": png()}),
    ]
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert "params" in answer.json()["detail"]
    assert files(folder) == before


@pytest.fixture
def trained(app, folder):
    for number in range(4):
        mask = np.zeros((24, 36), np.uint8)
        mask[5:15, 5 + number : 20] = 1
        file = write_picture(folder.parent / "masks" / f"image{number}.png", mask)
        app.datastore().save_label(f"image{number}", str(file), "final", {})
    app.sync_images()
    app.train({"model": "segmentation", **QUICK})
    return app


def infer(http, name: str, /, **params):
    return http.post("/infer/segmentation", params={"image": name}, data={"params": json.dumps(params)})


def test_inference_reads_images_of_the_datastore_and_uploads_and_no_other_file(http, trained, folder):
    assert infer(http, "image5").status_code == 200
    upload = http.post("/infer/segmentation", files={"file": ("mine.png", png((30, 30)))}, data={"params": "{}"})
    assert upload.status_code == 200, upload.text
    secret = str(ROOT / "docs" / "grading.png")
    for answer in (infer(http, secret), infer(http, "image5", image=secret), infer(http, "nothing")):
        assert answer.status_code == 404, answer.text
        assert "there is no image" in answer.json()["detail"]


def test_a_model_s_result_is_never_stored_as_a_person_s_label(http, trained, folder):
    before = files(folder)
    answer = infer(http, "image5", save_label=True, label_tag="final")
    assert answer.status_code == 400
    assert "no final label" in answer.json()["detail"]
    for tag in ("../../evil", "pseudo"):
        assert infer(http, "image5", save_label=True, label_tag=tag).status_code == 400
    assert files(folder) == before
    assert infer(http, "image5", save_label=True).status_code == 200
    assert set(trained.datastore().get_labels_by_image_id("image5")) == {"original"}
    assert trained.store.labelled_count() == 4
