"""The app object itself, as MONAI Label makes it: several channels, presets, inference with resampling."""

import pickle
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import sqlalchemy as sa
from fastapi import HTTPException
from monailabel.endpoints.model import delete_model
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from apps.server.options import ConfigurationError
from strategies.catalogue import CATALOGUE
from tasks.store.claims import Claims
from tasks.store.tables import LabelSchema
from tests.server import APP
from tests.tiny import QUICK, history_of, write_volume


def make_app(studies: Path, monkeypatch, **conf: str):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "batch_size": "3"} | conf
    return app_instance(str(APP), str(studies), conf)


@pytest.fixture
def make(datastore, tmp_path, monkeypatch):
    """App over the six labelled tiny volumes."""
    apps = []

    def build(**conf: str):
        apps.append(make_app(tmp_path / "studies", monkeypatch, **conf))
        return apps[-1]

    yield build
    for app in apps:
        app.store.close()


def test_the_default_strategy_comes_first_and_all_that_can_be_served_are_offered(make):
    offered = list(make(strategy="bald").info()["strategies"])
    assert offered[0] == "bald"
    assert set(offered) == set(CATALOGUE) - {"ceal"}


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"preset": "huge"}, "preset must be one of paper, small, pcdal; got 'huge'"),
        ({"strategy": "ceal"}, "strategy must be one of"),
        ({"store": "nosuchdialect://x"}, "cannot be opened"),
    ],
)
def test_options_that_cannot_work_are_refused(make, conf, words):
    with pytest.raises(ConfigurationError, match=words):
        make(**conf)


def test_labels_that_are_already_there_count(make):
    app = make()
    assert app.store.image_ids(labelled=False) == ["image6", "image7"]
    assert app.next_sample({"strategy": "first", "client_id": "ann"})["id"] == "image6"


def test_an_unknown_strategy_is_refused_with_those_offered(make):
    with pytest.raises(MONAILabelException, match="unknown strategy 'nonsense'; offered are dropout_variance"):
        make().next_sample({"strategy": "nonsense"})


def test_inference_without_a_model_is_a_bad_request(make):
    with pytest.raises(HTTPException, match="no trained model 'segmentation' yet") as caught:
        make().infer({"model": "segmentation", "image": "image0"})
    assert caught.value.status_code == 400


def test_training_scoring_and_inference_resample_and_the_result_has_the_image_s_geometry(make, datastore):
    app = make()
    app.train({"model": "segmentation", **QUICK, "spacing": 1.5})
    result = app.scoring({"method": "records"})
    assert (result["scored"], result["failed"]) == (8, 0)
    for extension in (".nii.gz", ".nrrd"):
        answer = app.infer({"model": "segmentation", "image": "image7", "result_extension": extension})
        assert answer["file"].endswith(extension)
        assert answer["params"]["label_names"] == {"tumor": 1}
    image = nibabel.load(datastore.get_image_uri("image7"))
    answer = app.infer({"model": "segmentation", "image": "image7", "result_extension": ".nii.gz"})
    mask = nibabel.load(answer["file"])
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine)


def test_the_committee_gives_scores_of_its_own_and_its_mean_segments(make):
    app = make()
    app.train({"model": "segmentation", **QUICK})
    app.train({"model": "segmentation_bootstrap", **QUICK, "members": 2})
    app.scoring({"method": "records"})
    assert set(app.store.records(app.store.serving_version())[0].scores) == set(app.task.scores)
    for strategy in ("bootstrap_variance", "entropy_kl"):
        assert app.next_sample({"strategy": strategy, "client_id": strategy})["reason"] == "scored"
    assert app.infer({"model": "segmentation_bootstrap", "image": "image7", "result_extension": ".nii.gz"})["file"]


def test_channels_missing_or_of_another_shape_become_error_records_and_are_never_served(make, tmp_path):
    folder = tmp_path / "studies" / "channels" / "t2"
    for number in range(8):
        shape = (5, 5, 5) if number == 6 else (12, 12, 8)
        write_volume(folder / f"image{number}.nii.gz", np.random.default_rng(number).random(shape).astype(np.float32))
    (folder / "image7.nii.gz").unlink()
    app = make(channels="t1c,t2")
    app.train({"model": "segmentation", **QUICK})
    assert app.registry.load("segmentation").architecture.in_channels == 2
    assert app.scoring({"method": "records"})["failed"] == 2
    errors = app.store.errors(app.store.serving_version())
    assert "channels/t2/image6.nii.gz has the shape 5x5x5, the first channel 12x12x8" in errors["image6"]
    assert "channels/t2/image7.nii.gz is missing" in errors["image7"]
    assert app.next_sample({"strategy": "dropout_variance", "client_id": "ann"}) == {}
    with pytest.raises(HTTPException, match=r"channels/t2/image7\.nii\.gz is missing"):
        app.infer({"model": "segmentation", "image": "image7", "result_extension": ".nii.gz"})
    write_volume(folder / "image7.nii.gz", np.ones((12, 12, 8), np.float32))
    again = app.scoring({"method": "records"})
    assert (again["scored"], again["failed"], again["skipped"]) == (1, 0, 7)
    assert app.next_sample({"strategy": "dropout_variance", "client_id": "ann"})["id"] == "image7"


def test_a_new_image_with_other_channels_than_the_model_is_an_error_record(make, tmp_path):
    app = make()
    app.train({"model": "segmentation", **QUICK})
    write_volume(tmp_path / "studies" / "image7.nii.gz", np.ones((12, 12, 8, 3), np.float32))
    app.scoring({"method": "records"})
    assert "has 3 channels, the model takes 1" in app.store.errors(app.store.serving_version())["image7"]


def test_an_unreadable_image_is_an_error_record_and_the_rest_is_scored(make, tmp_path):
    app = make()
    app.train({"model": "segmentation", **QUICK})
    (tmp_path / "studies" / "image6.nii.gz").write_bytes(b"not an image")
    assert app.scoring({"method": "records"}) | {"model_version": ""} == {
        "model_version": "",
        "scored": 7,
        "skipped": 0,
        "failed": 1,
    }
    assert "image6.nii.gz cannot be read" in app.store.errors(app.store.serving_version())["image6"]


def test_a_final_label_closes_the_lease_and_another_tag_does_not(make, tmp_path):
    app = make(tags="draft")
    sample = app.next_sample({"strategy": "random", "client_id": "ann"})
    label = str(tmp_path / "oracle" / f"{sample['id']}.nii.gz")
    app.on_save_label(sample["id"], app.datastore().save_label(sample["id"], label, "draft", {"client_id": "ann"}))
    assert app.next_sample({"strategy": "random", "client_id": "ann"})["id"] == sample["id"]
    app.on_save_label(sample["id"], app.datastore().save_label(sample["id"], label, "final", {"client_id": "ann"}))
    assert app.next_sample({"strategy": "random", "client_id": "ann"})["id"] != sample["id"]
    assert app.store.labelled_count() == 7


def test_its_trainers_can_be_sent_to_the_processes_of_several_gpus(make):
    task = pickle.loads(pickle.dumps(make()._trainers["segmentation"]))
    task.registry.store.close()


def test_the_store_lies_with_the_studies_so_that_they_move_together(make, tmp_path):
    app = make()
    app.train({"model": "segmentation", **QUICK})
    app.scoring({"method": "records"})
    version = app.store.serving_version()
    app.store.close()
    shutil.move(tmp_path / "studies", tmp_path / "elsewhere")
    (tmp_path / "studies").symlink_to(tmp_path / "elsewhere")
    moved = make()
    assert moved.store.serving_version() == version
    assert moved.registry.load("segmentation") is not None


@pytest.mark.parametrize("labels", ["edema,tumor", "tumor", "tumor,necrosis", "tumor,edema,cyst"])
def test_a_restart_with_other_label_names_is_refused_in_one_line(make, labels):
    make(labels="tumor,edema")
    with pytest.raises(ConfigurationError, match='start with --conf labels "tumor,edema') as refused:
        make(labels=labels)
    assert "\n" not in str(refused.value)
    make(labels="tumor,edema")
    assert make(labels="tumor,edema,cyst", relabel="true").options.labels == ("tumor", "edema", "cyst")


def test_a_checkpoint_of_a_store_without_names_does_not_serve_swapped_ones(make):
    app = make(labels="tumor,edema")
    app.train({"model": "segmentation", **QUICK})
    with app.store.transaction() as session:
        session.execute(sa.delete(LabelSchema))  # as a store of an earlier version
    swapped = make(labels="edema,tumor")
    assert swapped.current_model() is None
    (problem,) = swapped.registry.problems().values()
    assert "was trained for the labels tumor, edema; declared are edema, tumor" in problem
    with pytest.raises(HTTPException, match="no trained model 'segmentation' yet"):
        swapped.infer({"model": "segmentation", "image": "image0"})
    with pytest.raises(ValueError, match="no trained model to score with"):
        swapped.scoring({"method": "records"})


def test_a_model_that_an_admin_deletes_gives_way_to_the_one_before_everywhere(make, monkeypatch):
    app = make()
    monkeypatch.setattr("monailabel.endpoints.model.app_instance", lambda: app)
    old = app.train({"model": "segmentation", **QUICK})["model_version"]
    new = app.train({"model": "segmentation", **QUICK, "seed": 1})["model_version"]
    app.scoring({"method": "records"})
    assert app.store.serving_version() == new
    delete_model("segmentation")
    assert app.current_model().version == old
    assert list(app.registry.problems().values()) == ["is gone"]
    app.scoring({"method": "records"})
    assert app.store.serving_version() == old
    assert app.infer({"model": "segmentation", "image": "image7", "result_extension": ".nii.gz"})["file"]
    continued = app.train({"model": "segmentation", **QUICK, "pretrained": True, "learning_rate": 1e-9})
    assert continued["epoch"] == 2
    delete_model("segmentation")
    delete_model("segmentation")
    assert app.current_model() is None
    with pytest.raises(HTTPException, match="no trained model 'segmentation' yet"):
        app.infer({"model": "segmentation", "image": "image0"})


@pytest.mark.parametrize("running", [True, False])
def test_a_label_that_is_changed_by_hand_is_a_change(make, tmp_path, running):
    app = make()
    before = app.store.label_revision()
    app.datastore().refresh()
    app.sync_images()
    make()
    assert app.store.label_revision() == before
    shutil.copy(tmp_path / "oracle" / "image1.nii.gz", tmp_path / "studies" / "labels" / "final" / "image0.nii.gz")
    if running:
        lines = len([*history_of(app.store)])
        app.datastore().refresh()
        (line,) = [*history_of(app.store)][lines:]
        assert (line["image_id"], line["client_id"]) == ("image0", "")
    else:
        make()
    assert app.store.labels_changed_since(before) == 1
    app.datastore().refresh()
    make()
    assert app.store.labels_changed_since(before) == 1


def test_the_running_trainer_comes_first_in_the_statistics(make):
    app = make()
    assert list(app.info()["train_stats"]) == ["segmentation", "segmentation_bootstrap"]
    with Claims(app.store).claimed("train/segmentation_bootstrap"):
        assert list(app.info()["train_stats"]) == ["segmentation_bootstrap", "segmentation"]
