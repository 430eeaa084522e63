"""Trainers: what is checked first, how the labelled images are split, what is published."""

import json
import pickle
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.common.files import ImageError
from tasks.learning.progress import MemberProgress
from tasks.learning.training import TrainingError
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.store.claims import Claims
from tasks.store.label_names import LabelNames
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.training import VolumeTrainTask
from tests.tiny import QUICK, change_images, label_image, sync_images, write_volume


def trainer(registry, members: int = 1, labels=("tumor",), **options) -> VolumeTrainTask:
    name = BOOTSTRAP if members > 1 else SINGLE
    return VolumeTrainTask(name, "test", registry, PRESETS["small"], labels, members=members, **options)


def split(task: VolumeTrainTask, count: int, seed: int = 0, member: int = 0, members: int = 1):
    request = {"seed": seed, "member": member, "members": members}
    items = [{"id": number, "group": number} for number in range(count)]
    context = types.SimpleNamespace(datalist=items, request=request)
    return tuple([item["id"] for item in part] for part in task.partition_datalist(context))


@pytest.mark.parametrize(("count", "held_out"), [(2, 0), (4, 0), (5, 1), (10, 2), (60, 12)])
def test_a_fifth_is_held_out_for_validation_from_five_labels_on(registry, count, held_out):
    training, validation = split(trainer(registry), count)
    assert len(validation) == held_out
    assert sorted(training + validation) == list(range(count))


def test_the_split_depends_on_the_seed_only(registry):
    assert split(trainer(registry), 20, seed=1) == split(trainer(registry), 20, seed=1)
    assert split(trainer(registry), 20, seed=1) != split(trainer(registry), 20, seed=2)


def test_members_draw_with_replacement_from_the_same_training_part(registry):
    task = trainer(registry, members=3)
    single, validation = split(trainer(registry), 20)
    drawn = [split(task, 20, member=member, members=3) for member in range(3)]
    for training, held_out in drawn:
        assert held_out == validation
        assert len(training) == len(single)
        assert set(training) < set(single)
    assert len({tuple(training) for training, _ in drawn}) == 3


def test_a_training_publishes_its_model_and_tells_its_statistics(registry, datastore):
    stats = trainer(registry)(dict(QUICK), datastore)
    row = registry.store.current_model(SINGLE)
    assert (stats["epoch"], stats["total_epochs"], stats["labelled"]) == (2, 2, 6)
    assert stats["model_version"] == row.version
    assert row.labelled_count == 6
    assert stats["validation"] == "1 of 6 labelled images"
    assert set(stats["dice"]) == {"tumor"}
    assert 0 <= stats["best_metric"] <= 1
    checkpoint = registry.load(SINGLE)
    assert (checkpoint.architecture.levels, checkpoint.architecture.out_channels) == (2, 2)
    assert json.loads((registry.folder / SINGLE / "train_stats.json").read_text()) == stats


def test_below_five_labels_there_is_no_validation_and_the_statistics_say_so(registry, datastore):
    for number in range(2, 6):
        datastore.remove_label(f"image{number}", "final")
    stats = trainer(registry)(dict(QUICK), datastore)
    assert stats["validation"] == "none: too few labels or groups to hold any out"
    assert stats["best_metric"] == 0.0


def test_what_a_killed_training_left_behind_is_removed(registry, datastore):
    left = registry.folder / SINGLE / "work" / "cache_20260101_000000"
    left.mkdir(parents=True)
    trainer(registry)(dict(QUICK), datastore)
    assert not left.exists()


def test_the_same_seed_gives_the_same_weights(registry, datastore):
    versions = [trainer(registry)({**QUICK, "seed": seed}, datastore)["model_version"] for seed in (1, 1, 2)]
    assert versions[0] == versions[1] != versions[2]


def test_a_committee_is_one_checkpoint_with_different_members(registry, datastore):
    stats = trainer(registry, members=4)({**QUICK, "members": "2"}, datastore)
    assert (stats["members"], stats["total_epochs"]) == (2, 4)
    first, second = registry.load(BOOTSTRAP).members
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert registry.store.current_model(SINGLE) is None


def test_training_goes_on_from_the_current_model_where_asked(registry, datastore):
    task = trainer(registry)
    task(dict(QUICK), datastore)
    before = registry.load(SINGLE).members[0]
    task({**QUICK, "pretrained": True, "learning_rate": 1e-9, "seed": 5}, datastore)
    after = registry.load(SINGLE).members[0]
    assert all(torch.allclose(before[key], after[key], atol=1e-4) for key in before)
    with pytest.raises(TrainingError, match="another architecture"):
        task({**QUICK, "pretrained": True, "first_features": 8}, datastore)


def test_the_best_weights_are_kept_not_the_last(registry, tmp_path):
    def state(**values) -> types.SimpleNamespace:
        return types.SimpleNamespace(state=types.SimpleNamespace(**values))

    network = torch.nn.Linear(1, 1, bias=False)
    trainer = state(epoch=1, max_epochs=3, output={"loss": 0.5})
    request = {"member": 0, "members": 1, "failed_members": {}}
    context = types.SimpleNamespace(
        network=network,
        trainer=trainer,
        request=request,
        start_ts=0,
        datalist=[0],
        val_datalist=[1],
        evaluator=object(),
    )
    task = VolumeTrainTask(SINGLE, "test", registry, PRESETS["small"], ("tumor",))
    progress = MemberProgress(task, context, tmp_path / "stats.json", tmp_path / "best.pt")
    for epoch, dice in ((1, 0.2), (2, 0.9), (3, 0.1)):
        trainer.state.epoch = epoch
        torch.nn.init.constant_(network.weight, epoch)
        key = VolumeTrainTask.VAL_METRIC_MEAN_DICE
        progress.validated(state(metrics={key: dice, "dice_per_label": [dice]}))
    progress.save(trainer)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["weight"].item() == 2
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["best_metric"], stats["best_epoch"], stats["dice"]) == (0.9, 2, {"tumor": 0.1})


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("max_epochs", "0", "max_epochs must be between"),
        ("patch_size", "9x8x8", "patch_size must be multiples of 2"),
        ("seed", "x", "seed must be a whole number, got 'x'"),
        ("seed", -1, "seed must be between 0 and"),
    ],
)
def test_wrong_options_stop_before_training(registry, datastore, option, value, words):
    with pytest.raises(TrainingError, match=words):
        trainer(registry)({**QUICK, option: value}, datastore)


def test_too_few_labels(registry, datastore):
    for number in range(1, 6):
        datastore.remove_label(f"image{number}", "final")
    with pytest.raises(TrainingError, match="at least 2 labelled images, there are 1"):
        trainer(registry)(dict(QUICK), datastore)


def test_unusable_labels_are_named_before_training(registry, datastore, tmp_path):
    image_shape = (12, 12, 8)
    label_image(datastore, "image6", write_volume(tmp_path / "a.nii.gz", np.full(image_shape, 9, np.uint8)))
    with pytest.raises(ImageError, match=r"image6\.nii\.gz contains the values 9; declared are 0 to 1"):
        trainer(registry)(dict(QUICK), datastore)
    label_image(datastore, "image6", write_volume(tmp_path / "b.nii.gz", np.zeros((3, 3, 3), np.uint8)))
    with pytest.raises(ImageError, match=r"image6\.nii\.gz has the shape 3x3x3, its image 12x12x8"):
        trainer(registry)(dict(QUICK), datastore)
    label_image(datastore, "image6")
    Path(datastore.get_label_uri("image6", "final")).write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"image6\.nii\.gz cannot be read"):
        trainer(registry)(dict(QUICK), datastore)
    assert registry.store.current_model(SINGLE) is None


def test_images_with_different_channels_are_named(registry, datastore, tmp_path):
    path = Path(datastore.get_image_uri("image3"))
    write_volume(path, np.ones((12, 12, 8, 2), np.float32))
    with pytest.raises(ImageError, match=r"image3\.nii\.gz has 2 channels, .*image0\.nii\.gz has 1"):
        trainer(registry)(dict(QUICK), datastore)


@pytest.mark.parametrize("name", PRESETS)
def test_every_hyper_parameter_is_shown_to_the_viewers(registry, name):
    task = VolumeTrainTask(SINGLE, "test", registry, PRESETS[name], ("tumor",))
    shown = task.config()
    for option, value in PRESETS[name].as_dict().items():
        assert shown[option] == value if option != "dataset" else shown[option][0] == value
    assert {"pretrained", "seed", "device"} <= set(shown)


@pytest.mark.parametrize("change", [{"schedule": "cosine_restarts"}, {"schedule": "cosine"}, {"optimizer": "adamw"}])
def test_schedules_and_optimisers_run(registry, datastore, change):
    task = trainer(registry)
    stats = task({**QUICK, "spacing": 1.5, "augmentation": True, **change}, datastore)
    assert stats["epoch"] == 2


@pytest.mark.parametrize("name", ["paper", "pcdal"])
def test_the_papers_presets_run_with_small_patches(registry, datastore, name):
    task = VolumeTrainTask(SINGLE, "test", registry, PRESETS[name], ("tumor",))
    options = {"patch_size": "16x16x16", "roi_size": "16x16x16", "first_features": 8, "levels": 3, "max_epochs": 2}
    stats = task(options, datastore)
    assert (stats["epoch"], stats["total_epochs"]) == (2, 2)
    architecture = registry.load(SINGLE).architecture
    assert (architecture.norm, architecture.activation) == ("group", "relu")
    assert registry.load(SINGLE).preprocessing["spacing"] == 1.0


def test_a_trainer_can_be_sent_to_the_processes_of_several_gpus(registry, datastore):
    task = pickle.loads(pickle.dumps(trainer(registry)))
    assert task.registry.store.current_model(SINGLE) is None
    task.registry.store.close()


def test_the_statistics_start_at_epoch_0_with_the_real_total(registry, datastore, monkeypatch):
    task = trainer(registry, members=2)
    first = task({**QUICK, "members": 2}, datastore)
    seen = []
    check = task.check_item
    monkeypatch.setattr(task, "check_item", lambda item: seen.append(task.stats()) or check(item))
    task({**QUICK, "max_epochs": 3, "members": 2}, datastore)
    assert (first["epoch"], first["total_epochs"]) == (4, 4)
    assert {(stats["epoch"], stats["total_epochs"], "total_time" in stats) for stats in seen} == {(0, 6, False)}


def test_what_a_training_saw_and_what_came_of_it_is_noted(registry, datastore):
    store = registry.store
    sync_images(store, {name: now.label is not None for name, now in datastore.images_now().items()})
    task = trainer(registry)
    stats = task(dict(QUICK), datastore)
    change_images(store, {"image6": True})
    again = task(dict(QUICK), datastore)
    with pytest.raises(TrainingError, match="another architecture"):
        task({**QUICK, "pretrained": True, "levels": 3}, datastore)
    failed, unchanged, first = store.trainings(SINGLE)
    version = stats["model_version"]
    assert [row.label_revision for row in (first, unchanged, failed)] == [1, 2, 2]
    assert [row.model_version for row in (first, unchanged, failed)] == [version, version, None]
    assert first.started_at <= first.finished_at <= unchanged.started_at
    assert "another architecture" in failed.error
    assert (stats["unchanged"], again["unchanged"]) == (False, True)
    assert len(store.models(SINGLE)) == 1
    assert "another architecture" in task.stats()["error"]
    assert task.stats()["best_metric"] == again["best_metric"]


def test_a_job_saw_the_labels_that_its_datastore_shows_and_none_that_came_since(registry, datastore):
    sync_images(registry.store, {name: now.label is not None for name, now in datastore.images_now().items()})
    registry.shown_revision = registry.store.label_revision()
    change_images(registry.store, {"image6": True})
    trainer(registry)(dict(QUICK), datastore)
    assert registry.store.labels_changed_since(registry.store.trained_revision(SINGLE)) == 1


def test_another_server_that_trains_the_same_is_left_to_it(registry, datastore, monkeypatch):
    monkeypatch.setenv("ACTIVE_LEARNING_OWNER", "the other")
    with Claims(registry.store).claimed(f"train/{SINGLE}"):
        monkeypatch.setenv("ACTIVE_LEARNING_OWNER", "this")
        with pytest.raises(TrainingError, match="segmentation is being trained by another server"):
            trainer(registry)(dict(QUICK), datastore)
    assert registry.store.trainings() == []
    assert trainer(registry)(dict(QUICK), datastore)["epoch"] == 2


@pytest.mark.parametrize("gone", ["label", "image"])
def test_what_is_removed_before_it_is_read_is_left_out_and_named(registry, datastore, monkeypatch, caplog, gone):
    task = trainer(registry)
    check = task.check_item

    def removed_meanwhile(item):
        if item["id"] == "image3":
            Path(item[gone]).unlink()
        return check(item)

    monkeypatch.setattr(task, "check_item", removed_meanwhile)
    stats = task(dict(QUICK), datastore)
    assert (stats["labelled"], stats["left_out"]) == (5, {"image3": "image3.nii.gz was removed"})
    assert registry.store.trainings(SINGLE)[0].left_out == stats["left_out"]
    assert registry.store.current_model(SINGLE).labelled_count == 5
    assert "image3 is left out" in caplog.text


def test_too_few_labels_that_are_left_end_the_training(registry, datastore, monkeypatch):
    task = trainer(registry)
    check = task.check_item
    monkeypatch.setattr(task, "check_item", lambda item: Path(item["label"]).unlink() or check(item))
    with pytest.raises(TrainingError, match="at least 2 labelled images, there are 0"):
        task(dict(QUICK), datastore)
    assert registry.store.trainings(SINGLE)[0].error.startswith("training needs at least 2")


def test_labels_removed_in_the_middle_of_a_training_do_not_end_it(registry, datastore, monkeypatch):
    task = trainer(registry)
    together = task.check_together

    def remove_all(items):
        together(items)
        for image_id in list(datastore.get_labeled_images()):
            datastore.remove_label(image_id, "final")

    monkeypatch.setattr(task, "check_together", remove_all)
    stats = task({**QUICK, "dataset": "Dataset"}, datastore)
    assert (stats["epoch"], stats["labelled"], stats["left_out"]) == (2, 6, {})
    assert not (registry.folder / SINGLE / "labels").exists()


@pytest.mark.parametrize("dataset", ["Dataset", "CacheDataset"])
@pytest.mark.parametrize("removed", [("image3",), ("image1", "image4")])
def test_images_removed_in_the_middle_of_a_training_are_left_out_and_named(
    registry, datastore, monkeypatch, caplog, dataset, removed
):
    task = trainer(registry)
    epochs = []
    finished = MemberProgress._epoch

    def remove_after_the_first(self, engine):
        finished(self, engine)
        if not epochs:
            for image_id in removed:
                datastore.remove_image(image_id)
        epochs.append(engine.state.epoch)

    monkeypatch.setattr(MemberProgress, "_epoch", remove_after_the_first)
    stats = task({**QUICK, "dataset": dataset, "max_epochs": 6}, datastore)
    if dataset == "CacheDataset":  # has read them all before
        assert (stats["left_out"], epochs) == ({}, [1, 2, 3, 4, 5, 6])
        return
    assert stats["left_out"] == {image_id: f"{image_id}.nii.gz was removed" for image_id in removed}
    assert (stats["epoch"], stats["labelled"]) == (6, 6 - len(removed))
    assert registry.store.current_model(SINGLE).labelled_count == 6 - len(removed)
    assert registry.store.trainings(SINGLE)[0].left_out == stats["left_out"]
    assert "Traceback" not in caplog.text


def test_an_error_that_is_not_of_a_missing_file_ends_a_training_as_before(registry, datastore, monkeypatch):
    task = trainer(registry)

    def fail(context):
        raise RuntimeError("no such loss")

    monkeypatch.setattr(task, "loss_function", fail)
    with pytest.raises(RuntimeError, match="no such loss"):
        task(dict(QUICK), datastore)


def known_names(store, datastore, before: tuple[str, ...], after: tuple[str, ...], relabelled: int) -> None:
    """Label names were added after all but the first ``relabelled`` images had their label."""
    names = LabelNames(store)
    names.declare(before)
    sync_images(store, {name: now.label is not None for name, now in datastore.images_now().items()})
    names.declare(after, add=True)
    change_images(store, dict.fromkeys([f"image{number}" for number in range(relabelled)], False))
    change_images(store, dict.fromkeys([f"image{number}" for number in range(relabelled)], True))


def test_a_name_that_no_image_is_annotated_for_is_not_learnt(registry, datastore, caplog):
    known_names(registry.store, datastore, ("tumor",), ("tumor", "edema"), 0)
    stats = trainer(registry, labels=("tumor", "edema"))(dict(QUICK), datastore)
    checkpoint = registry.load(SINGLE)
    assert (checkpoint.labels, checkpoint.architecture.out_channels) == (["tumor"], 2)
    assert (set(stats["dice"]), stats["partial_labels"]) == ({"tumor"}, 0)
    assert "no image is annotated for edema yet" in caplog.text


def test_labels_of_before_a_name_was_added_train_the_other_names_and_do_not_validate(registry, datastore, monkeypatch):
    known_names(registry.store, datastore, ("tumor",), ("tumor", "edema"), 3)
    task = trainer(registry, labels=("tumor", "edema"))
    seen = []
    loss_function = task.loss_function

    class Spy(torch.nn.Module):
        def __init__(self, loss) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, logits, label):
            seen.extend(logits.detach().softmax(1)[:, 2].amax((1, 2, 3)).tolist())
            return self.loss(logits, label)

    monkeypatch.setattr(task, "loss_function", lambda context: Spy(loss_function(context)))
    stats = task({**QUICK, "iterations_per_epoch": 6}, datastore)
    assert stats["partial_labels"] == 3
    assert registry.load(SINGLE).labels == ["tumor", "edema"]
    assert min(seen) == 0 < max(seen)  # what the loss sees of edema: nothing in images not annotated for it
    items, _ = task.gather(datastore, PRESETS["small"], 0)
    for seed in range(10):
        request = {"seed": seed, "member": 0, "members": 1}
        training, validation = task.partition_datalist(types.SimpleNamespace(datalist=items, request=request))
        assert all(item["known"] == 2 for item in validation)
        assert len(training) == 5
