"""Trainers of images: continuing, weights of pseudo-labels, a validation split that stays, presets."""

import logging
import pickle
import types
from pathlib import Path

import pytest
import torch
import torchvision

from tasks.common.files import ImageError
from tasks.image_segmentation.model_masks import PSEUDO
from tasks.image_segmentation.presets import PRESETS
from tasks.image_segmentation.training import ImageTrainTask
from tasks.learning.groups import Grouping
from tasks.learning.training import TrainingError
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.store.label_names import LabelNames
from tests.tasks.image_segmentation.conftest import QUICK, label, write_picture
from tests.tiny import sync_images


def trainer(registry, members: int = 1, preset: str = "small", **options) -> ImageTrainTask:
    name = BOOTSTRAP if members > 1 else SINGLE
    return ImageTrainTask(name, "test", registry, PRESETS[preset], ("lesion",), members=members, **options)


def give_pseudo_labels(datastore, names) -> None:
    oracle = Path(datastore.get_image_uri("p0_00")).parents[1] / "oracle"
    info = {"model_version": "v", "score": 2.5}
    datastore.set_labels(PSEUDO, {name: (oracle / f"{name}.png", info) for name in names})


def split(task: ImageTrainTask, datastore, seed: int = 0, weight: float = 1.0):
    preset = PRESETS["small"].with_options({"pseudo_weight": weight})
    items, task._extra = task.gather(datastore, preset, seed)
    request = {"seed": seed, "member": 0, "members": 1}
    training, validation = task.partition_datalist(types.SimpleNamespace(datalist=items, request=request))
    return [item["id"] for item in training], [item["id"] for item in validation]


def test_twenty_epochs_at_first_and_five_in_each_round_continuing_from_the_last_model(registry, datastore):
    assert (PRESETS["paper"].max_epochs, PRESETS["paper"].epochs_per_round) == (20, 5)
    first = trainer(registry)({**QUICK, "learning_rate": 1e-9}, datastore)
    assert (first["total_epochs"], first["start"]) == (2, "random weights")
    before = registry.load(SINGLE).members[0]
    second = trainer(registry)({**QUICK, "learning_rate": 1e-9, "seed": 7}, datastore)
    assert (second["total_epochs"], second["start"]) == (1, "the current model")
    after = registry.load(SINGLE).members[0]
    assert all(torch.allclose(before[key], after[key], atol=1e-4) for key in before)
    third = trainer(registry)({**QUICK, "pretrained": False, "seed": 7}, datastore)
    assert (third["total_epochs"], third["start"]) == (2, "random weights")


def test_another_architecture_starts_from_scratch_unless_continuing_was_asked_for(registry, datastore):
    trainer(registry)(dict(QUICK), datastore)
    stats = trainer(registry)({**QUICK, "first_features": 8}, datastore)
    assert (stats["total_epochs"], stats["start"]) == (2, "random weights")
    with pytest.raises(TrainingError, match="another architecture"):
        trainer(registry)({**QUICK, "pretrained": True}, datastore)


def test_a_committee_continues_member_by_member(registry, datastore):
    trainer(registry, members=2)(dict(QUICK), datastore)
    stats = trainer(registry, members=2)({**QUICK, "max_epochs": 3}, datastore)
    assert (stats["members"], stats["total_epochs"]) == (2, 2)
    assert len(registry.load(BOOTSTRAP).members) == 2


def test_the_validation_split_stays_when_labels_are_added_and_the_seed_changes(registry, datastore):
    trained, validated = split(trainer(registry), datastore)
    assert split(trainer(registry), datastore, seed=9) == (trained, validated)
    for name in ("p4_08", "p4_09", "p5_10", "p5_11"):
        label(datastore, name)
    training, validation = split(trainer(registry), datastore)
    assert set(training) | set(validation) == {f"p{n // 2}_{n:02d}" for n in range(12)}
    assert set(trained) < set(training)
    assert set(validated) <= set(validation)
    others = [split(trainer(registry, seed=seed), datastore)[1] for seed in range(1, 6)]
    assert any(other != validation for other in others)


def test_pseudo_labels_are_trained_on_with_their_weight_and_never_validate(registry, datastore):
    give_pseudo_labels(datastore, ["p4_08", "p5_11"])
    training, validation = split(trainer(registry), datastore)
    assert {"p4_08", "p5_11"} < set(training)
    assert not {"p4_08", "p5_11"} & set(validation)
    task = trainer(registry)
    _, extra = task.gather(datastore, PRESETS["small"].with_options({"pseudo_weight": 0.25}), 0)
    assert [(item["id"], item["weight"]) for item in extra] == [("p4_08", 0.25), ("p5_11", 0.25)]
    assert {"p4_08", "p5_11"}.isdisjoint(split(trainer(registry), datastore, weight=0.0)[0])


def test_pseudo_labels_count_neither_as_labelled_nor_for_the_model(registry, datastore):
    give_pseudo_labels(datastore, ["p4_08", "p5_11"])
    stats = trainer(registry)(dict(QUICK), datastore)
    assert stats["pseudo_labels"] == {"used": 2, "weight": 1.0, "scores": [2.5, 2.5]}
    assert stats["labelled"] == 8
    row = registry.store.current_model(SINGLE)
    assert row.labelled_count == 8
    assert row.metrics["pseudo_labels"] == stats["pseudo_labels"]
    assert datastore.status()["completed"] == 8
    assert {Path(item["image"]).stem for item in datastore.datalist()}.isdisjoint({"p4_08", "p5_11"})
    off = trainer(registry)({**QUICK, "pseudo_weight": 0}, datastore)
    assert off["pseudo_labels"] == {"used": 0, "weight": 0.0}


def test_a_label_of_a_person_wins_over_a_pseudo_label(registry, datastore):
    give_pseudo_labels(datastore, ["p0_00", "p4_08"])  # the first one is labelled
    assert trainer(registry)(dict(QUICK), datastore)["pseudo_labels"]["used"] == 1


def test_pseudo_labels_of_a_patient_who_validates_are_left_out(registry, datastore):
    grouping = Grouping(pattern=r"^(p\d+)")
    datastore.remove_label("p0_01", "final")
    for seed in range(30):
        _, validation = split(trainer(registry, seed=seed, grouping=grouping), datastore)
        if "p0_00" in validation:
            break
    assert "p0_00" in validation
    give_pseudo_labels(datastore, ["p0_01", "p4_08"])
    training, validation = split(trainer(registry, seed=seed, grouping=grouping), datastore)
    assert "p0_00" in validation
    assert "p0_01" not in training
    assert "p4_08" in training


def test_an_unusable_pseudo_label_is_left_out_with_a_warning(registry, datastore, caplog):
    give_pseudo_labels(datastore, ["p4_08", "p5_11"])
    Path(datastore.get_label_uri("p4_08", PSEUDO)).write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        assert trainer(registry)(dict(QUICK), datastore)["pseudo_labels"]["used"] == 1
    assert "p4_08.png cannot be read" in caplog.text


def test_an_unusable_label_of_a_person_stops_the_training_and_is_named(registry, datastore):
    Path(datastore.get_label_uri("p2_04", "final")).write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"p2_04\.png cannot be read"):
        trainer(registry)(dict(QUICK), datastore)


def test_an_error_while_batches_are_prepared_ends_the_training(registry, datastore, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk gone")

    task = trainer(registry)
    monkeypatch.setattr(task, "check_item", lambda item: None)
    monkeypatch.setattr("tasks.geometry.slices.read_slice", fail)
    with pytest.raises(RuntimeError, match="applying transform"):
        task({**QUICK, "dataset": "Dataset"}, datastore)


@pytest.mark.parametrize("name", ["paper", "pcdal"])
def test_the_papers_presets_run_on_small_images(registry, datastore, name):
    small = {"image_size": 64, "max_epochs": 1, "train_batch_size": 4, "imagenet": False}
    small |= {"first_features": 4} if name == "paper" else {}
    stats = trainer(registry, preset=name)(small, datastore)
    assert stats["epoch"] == 1
    assert registry.load(SINGLE).architecture.network == PRESETS[name].network


def test_a_file_of_imagenet_weights_is_used_and_named(registry, datastore, tmp_path):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet.pth")
    task = trainer(registry, preset="pcdal", weights=str(tmp_path / "resnet.pth"))
    stats = task({"image_size": 64, "max_epochs": 1, "learning_rate": 1e-9}, datastore)
    assert stats["start"] == "weights of resnet.pth"
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match=r"other\.pth do not fit resnet34"):
        trainer(registry, preset="pcdal", weights=str(tmp_path / "other.pth"))({"pretrained": False}, datastore)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "vgg"}, "network must be one of unet, unet_resnet34, small"),
        ({"loss": "focal"}, "loss must be one of"),
        ({"image_size": 100}, "image_size must be a multiple of 16 and at least 32"),
        ({"pseudo_weight": -1}, "pseudo_weight must be between 0.0 and 1.0"),
        ({"epochs_per_round": 0}, "epochs_per_round must be between 1 and"),
    ],
)
def test_options_out_of_range_are_named(registry, datastore, change, words):
    with pytest.raises(TrainingError, match=words):
        trainer(registry)({**QUICK, "levels": 5, **change}, datastore)


def test_images_of_any_size_train_together(registry, datastore, tmp_path):
    rgb = torch.randint(0, 255, (50, 20, 3), dtype=torch.uint8).numpy()
    write_picture(tmp_path / "studies" / "p6_12.png", rgb)
    write_picture(tmp_path / "oracle" / "p6_12.png", (rgb[..., 0] > 200).astype("uint8"))
    datastore.refresh()
    label(datastore, "p6_12")
    assert trainer(registry)(dict(QUICK), datastore)["labelled"] == 9


def test_the_trainer_survives_being_sent_to_another_process(registry):
    assert pickle.loads(pickle.dumps(trainer(registry))).name == SINGLE


def test_masks_of_a_model_that_does_not_know_the_last_name_are_trained_on_for_the_others(registry, datastore):
    store = registry.store
    names = LabelNames(store)
    names.declare(["lesion"])
    names.declare(["lesion", "vessel"], add=True)
    sync_images(store, {name: now.label is not None for name, now in datastore.images_now().items()})
    store.add_model(SINGLE, "v", "gone.pt", 8, {"labels": 1})
    give_pseudo_labels(datastore, ["p4_08"])
    preset = PRESETS["small"].with_options({"pseudo_weight": 1.0})
    task = ImageTrainTask(SINGLE, "test", registry, preset, ("lesion", "vessel"))
    items, extra = task.gather(datastore, preset, 0)
    assert {item["known"] for item in items} == {2}
    assert [(item["id"], item["known"]) for item in extra] == [("p4_08", 1)]
    store.add_model(SINGLE, "v", "gone.pt", 8, {"labels": 2})
    assert [item["known"] for item in task.gather(datastore, preset, 0)[1]] == [2]
