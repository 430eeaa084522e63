"""The app for images itself, as MONAI Label makes it: the loop with pseudo-labels, inference in every format."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from fastapi import HTTPException
from monailabel.interfaces.utils.app import app_instance
from PIL import Image

from apps.routes import pseudo_labels as route
from apps.server.options import ConfigurationError
from strategies.catalogue import CATALOGUE
from tasks.image_segmentation.model_masks import PSEUDO
from tests.server import ROOT
from tests.tasks.image_segmentation.conftest import QUICK

APP = ROOT / "apps" / "image_segmentation"


@pytest.fixture
def make(picture_studies, pictures, monkeypatch):
    """App over eighty pictures."""
    apps = []

    def build(**conf: str):
        monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
        conf = {"labels": pictures.label, "preset": "small", "auto_train": "false", "batch_size": "10"} | conf
        apps.append(app_instance(str(APP), str(picture_studies), conf))
        return apps[-1]

    yield build
    for app in apps:
        app.store.close()


def annotate(app, pictures, count: int, strategy: str = "ceal") -> list[dict]:
    samples = []
    for _ in range(count):
        samples.append(app.next_sample({"strategy": strategy, "client_id": "ann"}))
        name = samples[-1]["id"]
        label_id = app.datastore().save_label(name, str(pictures.masks[name]), "final", {"client_id": "ann"})
        app.on_save_label(name, label_id)
    return samples


def train_and_score(app, seed: int = 0) -> dict:
    stats = app.train({"model": "segmentation", **QUICK, "seed": seed})
    app.scoring({"method": "records"})
    app.loop.settle()
    return stats


def pseudo(app) -> set[str]:
    datastore = app.datastore()
    return {name for name in datastore.list_images() if PSEUDO in datastore.get_labels_by_image_id(name)}


def test_ceal_comes_first_and_the_whole_catalogue_is_offered(make):
    offered = list(make().info()["strategies"])
    assert offered[0] == "ceal"
    assert set(offered) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"weights": "/nowhere/weights.pth"}, "option weights: there is no file /nowhere/weights.pth"),
        ({"channels": "a,b"}, "unknown option 'channels'"),
        ({"strategy": "entropy"}, "strategy must be one of"),
    ],
)
def test_options_that_cannot_work_are_refused(make, conf, words):
    with pytest.raises(ConfigurationError, match=words):
        make(**conf)


def test_an_archive_is_refused_because_the_app_works_on_files(monkeypatch, tmp_path):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    with pytest.raises(ConfigurationError, match="must be a local folder"):
        app_instance(str(APP), "http://127.0.0.1:1/dicom-web", {})


def test_two_rounds_with_pseudo_labels(make, pictures):
    app = make()
    first = annotate(app, pictures, 10)
    assert {(s["reason"], s["group"]) for s in first} == {("cold_start", None)}
    assert train_and_score(app)["pseudo_labels"]["used"] == 0
    made = pseudo(app)
    assert len(made) == 5
    assert made.isdisjoint(s["id"] for s in first)

    second = annotate(app, pictures, 10)
    assert [s["group"] for s in second] == ["lowest"] * 2 + ["highest"] * 2 + ["confident"] * 6
    assert {s["reason"] for s in second} == {"scored"}
    assert made.isdisjoint(s["id"] for s in second)
    assert pseudo(app) == made
    info = app.info()["datastore"]
    assert (info["completed"], info["total"]) == (20, 80)
    assert len(app.datastore().datalist()) == 20

    stats = train_and_score(app, seed=1)
    assert (stats["pseudo_labels"]["used"], stats["start"], stats["labelled"]) == (5, "the current model", 20)
    assert len(pseudo(app)) == 10
    assert not app.task.unfinished_scoring()
    rounds = app.task.shelf.labels.summary()
    assert [(row["round"], row["made"]) for row in rounds] == [(2, 5), (3, 10)]  # the cold start was the first


def test_a_label_takes_the_pseudo_label_away_whoever_gave_it_and_however(make, pictures, picture_studies, monkeypatch):
    app = make()
    monkeypatch.setattr(route, "app_instance", lambda: app)
    annotate(app, pictures, 8)
    train_and_score(app)
    by_server, by_hand, *rest = sorted(pseudo(app))
    label_id = app.datastore().save_label(by_server, str(pictures.masks[by_server]), "final", {})
    app.on_save_label(by_server, label_id)
    assert pseudo(app) == {by_hand, *rest}
    shutil.copy(pictures.masks[by_hand], picture_studies / "labels" / "final" / f"{by_hand}.png")
    app.datastore().refresh()  # what the file watcher does
    assert pseudo(app) == set(rest)
    told = route.pseudo_labels()
    assert told["current"] == 3
    assert [(row["made"], row["compared"]) for row in told["rounds"]] == [(5, 2)]
    assert app.store.labelled_count() == 10


def test_a_label_is_kept_although_pseudo_labels_cannot_be_brought_in_line(make, pictures, monkeypatch, caplog):
    app = make()
    annotate(app, pictures, 8)
    train_and_score(app)
    monkeypatch.setattr(app.datastore(), "set_labels", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    name = sorted(pseudo(app))[0]
    label_id = app.datastore().save_label(name, str(pictures.masks[name]), "final", {})
    app.on_save_label(name, label_id)
    assert "disk full" in caplog.text
    assert app.store.labelled_count() == 9
    monkeypatch.undo()
    app.loop.settle()
    assert name not in pseudo(app)


def test_other_strategies_make_no_pseudo_labels_and_a_restart_with_one_takes_them_away(make, pictures):
    app = make()
    annotate(app, pictures, 8)
    train_and_score(app)
    assert pseudo(app)
    app = make(strategy="flip_consistency")
    assert pseudo(app) == set()
    result = app.scoring({"method": "records"})
    assert "pseudo_labels" not in result
    app = make()
    assert len(pseudo(app)) == 5


def test_a_restart_in_the_middle_of_a_round_goes_on_with_it(make, pictures):
    app = make()
    annotate(app, pictures, 8)
    train_and_score(app)
    before = annotate(app, pictures, 3)
    held = app.next_sample({"strategy": "ceal", "client_id": "ann"})
    made = pseudo(app)
    app = make()
    assert app.next_sample({"strategy": "ceal", "client_id": "ann"}) | {"lease_expires": ""} == held | {
        "lease_expires": ""
    }
    rest = annotate(app, pictures, 7)
    assert [s["rank"] for s in (*before, *rest)] == list(range(1, 11))
    assert pseudo(app) == made


def infer(app, name: str, **options) -> dict:
    return app.infer({"model": "segmentation", "image": name, "device": "cpu", **options})


def test_results_lie_on_the_image_in_every_format(make, pictures, tmp_path):
    app = make()
    annotate(app, pictures, 6)
    app.train({"model": "segmentation", **QUICK})
    name = sorted(pictures.images)[0]
    image = sitk.ReadImage(str(pictures.images[name]))
    masks = {}
    for ending in (".nrrd", ".nii.gz", ".png", ".tif"):
        result = infer(app, name, result_extension=ending)
        mask = sitk.ReadImage(result["file"])
        assert mask.GetSize()[:2] == image.GetSize()
        assert mask.GetPixelID() == sitk.sitkUInt8
        for ours, theirs in (
            (mask.GetOrigin()[:2], image.GetOrigin()),
            (mask.GetSpacing()[:2], image.GetSpacing()),
            (mask.GetDirection()[:2], (1.0, 0.0)),
        ):
            assert ours == pytest.approx(theirs, abs=1e-6)
        masks[ending] = sitk.GetArrayFromImage(mask).reshape(image.GetSize()[::-1])
        stored = app.datastore().save_label(name, result["file"], "final", {})
        assert stored == name
        Path(result["file"]).unlink()
    assert all(np.array_equal(mask, masks[".nrrd"]) for mask in masks.values())
    assert infer(app, name)["file"].endswith(".png")
    with pytest.raises(HTTPException, match=r"result_extension must be one of .nrrd, .*; got '.jpg'") as caught:
        infer(app, name, result_extension=".jpg")
    assert caught.value.status_code == 400


def test_a_nifti_slice_gets_a_nifti_mask_in_its_own_geometry(make, pictures, picture_studies):
    affine = np.array([[0, -0.5, 0, 10.0], [0.7, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    grey = np.asarray(Image.open(next(iter(pictures.images.values()))).convert("L"))
    nibabel.save(nibabel.Nifti1Image(grey.T[:, :, None].astype(np.float32), affine), picture_studies / "a_slice.nii.gz")
    app = make()
    for name in sorted(pictures.images)[:6]:
        app.datastore().save_label(name, str(pictures.masks[name]), "final", {})
    app.sync_images()
    app.train({"model": "segmentation", **QUICK})
    result = nibabel.load(infer(app, "a_slice")["file"])
    assert result.shape == (*grey.T.shape, 1)
    assert np.allclose(result.affine, affine, atol=1e-4)
    assert app.datastore().save_label("a_slice", str(result.get_filename()), "final", {}) == "a_slice"


def test_inference_of_a_broken_image_is_a_bad_request_that_names_it(make, pictures, picture_studies):
    app = make()
    annotate(app, pictures, 5)
    app.train({"model": "segmentation", **QUICK})
    (picture_studies / "broken.png").write_bytes(b"nonsense")
    app.datastore().refresh()
    with pytest.raises(HTTPException, match=r"broken\.png cannot be read"):
        infer(app, "broken")
    result = app.scoring({"method": "records"})
    assert (result["failed"], result["scored"]) == (1, 80)
